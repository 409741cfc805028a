// What the classifier's files share. Internal to the classifier. Thread rule: pure.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/postmortem/classify.h"

namespace defib::postmortem {

Classification verdict(Cause cause, std::string subtype, double confidence,
                       std::vector<std::string> evidence);

// By facts.signal, with registers and maps where there are some.
Classification segmentation_fault(const CrashFacts& facts);

// Of a process that lives.
Classification hang(const CrashFacts& facts);

// A signal that comes from the kernel without an address (x86: general protection).
inline constexpr int kFromKernel = 128;

}  // namespace defib::postmortem
