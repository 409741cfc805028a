// A Document as PDF, A4, by cairo: text that can be searched and copied, charts as drawings.
// Thread rule: one thread a call.

#pragma once

#include <string>

#include "defib/base/error.h"
#include "defib/report/document.h"

namespace defib::report {

// Past this, what follows is left out, and the last page says so.
inline constexpr int kMaxPages = 200;

// The file's bytes. Unavailable where there is no font, or cairo refuses.
Result<std::string> to_pdf(const Document& document);

}  // namespace defib::report
