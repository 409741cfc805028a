#include "defib/postmortem/signature.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>

#include "defib/base/bytes.h"
#include "defib/base/text.h"

namespace defib::postmortem {
namespace {

constexpr std::size_t kFunctions = 5;
// Of a thread that runs round in circles only what is outside of the circle is the same each time.
constexpr std::size_t kOuterFunctions = 4;
// A stack that overflowed is told by the functions that return on it again and again.
constexpr std::size_t kOverflowFrames = 64;
constexpr std::size_t kRecursions = 3;
constexpr std::size_t kMaxFrames = 256;
constexpr std::size_t kMaxFunction = 200;
constexpr std::size_t kIdDigits = 16;

constexpr std::array<std::string_view, 13> kRuntimeModules = {
    "libc.so",    "libm.so",      "libpthread.so", "libstdc++.so", "libgcc_s.so",
    "libc++.so",  "libc++abi.so", "libdl.so",      "librt.so",     "ld-linux",
    "libasan.so", "libubsan.so",  "libdefib-agent"};
// They stand in the program itself where that is linked statically, or with the crash hook.
constexpr std::array<std::string_view, 14> kRuntimeFunctions = {
    "abort",          "raise",
    "gsignal",        "_start",
    "__libc_",        "__assert_fail",
    "std::terminate", "__cxa_",
    "__cxxabiv1::",   "__gnu_cxx::__verbose_",
    "__stack_chk_",   "__fortify_",
    "__chk_fail",     "defib::postmortem::"};

// "std::sort<...>(...)", "void std::__introsort_loop<...>(...)": which of them is at work depends
// on the data.
bool is_standard_library(std::string_view function) {
  const std::string_view head = function.substr(0, function.find_first_of("(<"));
  return head.starts_with("std::") || head.find(" std::") != head.npos;
}

bool is_runtime(const SignatureFrame& frame) {
  if (is_runtime_module(frame.module) || is_standard_library(frame.function)) return true;
  return std::ranges::any_of(
      kRuntimeFunctions, [&](std::string_view name) { return frame.function.starts_with(name); });
}

// "libx.so.1.2.3" of the next release is the same library.
std::string_view plain_module(std::string_view path) {
  const std::string_view name = base_name(path);
  const std::size_t so = name.find(".so.");
  return so == name.npos ? name : name.substr(0, so + 3);
}

// Empty: it says nothing that would be the same the next time.
std::string place_of(const SignatureFrame& frame) {
  if (!frame.function.empty()) return plain_function(frame.function);
  if (frame.module.empty()) return {};
  return fmt::format("{}+{:#x}", plain_module(frame.module), frame.offset);
}

using Places = std::vector<std::string>;

// Each function once, where it stands first: how deep a recursion went says nothing.
Places places_of(const std::vector<SignatureFrame>& frames, bool of_runtime) {
  Places places;
  for (std::size_t i = 0; i < std::min(frames.size(), kMaxFrames); ++i) {
    if (is_runtime(frames[i]) != of_runtime) continue;
    std::string place = place_of(frames[i]);
    if (!place.empty() && std::ranges::find(places, place) == places.end()) {
      places.push_back(std::move(place));
    }
  }
  return places;
}

// The program's own functions; where there are none, those of the runtime.
Places own_places(const std::vector<SignatureFrame>& frames) {
  Places places = places_of(frames, false);
  return places.empty() ? places_of(frames, true) : places;
}

// Where it ran full is chance: in any function of the circle, or in one that they call.
Places circle_of(const std::vector<SignatureFrame>& frames) {
  std::map<std::string, std::size_t> counts;
  for (std::size_t i = 0; i < std::min(frames.size(), kOverflowFrames); ++i) {
    if (std::string place = place_of(frames[i]); !place.empty()) ++counts[std::move(place)];
  }
  Places places;
  for (const auto& [place, count] : counts) {
    if (count >= kRecursions) places.push_back(place);
  }
  return places;
}

std::string joined(const Places& places, std::size_t limit) {
  std::string text;
  for (std::size_t i = 0; i < std::min(places.size(), limit); ++i) {
    text += fmt::format("{}{}", text.empty() ? "" : " < ", places[i]);
  }
  return text;
}

// What a bad pointer happens to hold decides between these, not the bug.
std::string_view kind_of(std::string_view cause) {
  return cause == "null_dereference" ? "segmentation_fault" : cause;
}

// "engine: book.cc:41: void f(): Assertion `x > 0' failed." -> "x > 0"
std::string_view assertion_of(std::string_view message) {
  const std::size_t begin = message.find("Assertion `");
  const std::size_t end = message.rfind("' failed");
  if (begin == message.npos || end == message.npos || end < begin + 11) return {};
  return message.substr(begin + 11, end - begin - 11);
}

std::string stacks_text(const SignatureFacts& facts) {
  if (facts.cause == "stack_overflow" && !facts.stacks.empty()) {
    if (const Places circle = circle_of(facts.stacks.front()); !circle.empty()) {
      return joined(circle, circle.size());
    }
  }
  Places threads;  // in an order that does not depend on their numbers
  for (const auto& stack : facts.stacks) {
    Places places = own_places(stack);
    if (facts.cause == "busy_loop" && places.size() > kOuterFunctions) {
      places.erase(places.begin(), places.end() - kOuterFunctions);
    }
    if (!places.empty()) threads.push_back(joined(places, kFunctions));
  }
  std::ranges::sort(threads);
  std::string text;
  for (const std::string& thread : threads) {
    text += fmt::format("{}{}", text.empty() ? "" : " | ", thread);
  }
  return text;
}

// Without "[clone .part.0]", "[abi:cxx11]", and the numbers of lambdas and unnamed types.
void drop_between(std::string& text, std::string_view open, char close) {
  for (std::size_t at = text.find(open); at != text.npos; at = text.find(open, at)) {
    const std::size_t end = text.find(close, at);
    if (end == text.npos) return;
    text.erase(at, end + 1 - at);
  }
}

}  // namespace

bool is_runtime_module(std::string_view path) {
  const std::string_view name = base_name(path);
  if (path == "[vdso]") return true;
  return std::ranges::any_of(kRuntimeModules,
                             [&](std::string_view module) { return name.starts_with(module); });
}

std::string plain_function(std::string_view function) {
  std::string text(function.substr(0, function.find("@@")));
  drop_between(text, " [clone", ']');
  drop_between(text, "[abi:", ']');
  for (const std::string_view suffix : {".part.", ".constprop.", ".isra.", ".cold", ".lto_priv."}) {
    if (const std::size_t at = text.find(suffix); at != text.npos && at > 0) text.erase(at);
  }
  if (text.ends_with("@plt")) text.erase(text.size() - 4);
  for (std::size_t at = text.find('#'); at != text.npos; at = text.find('#', at + 1)) {
    std::size_t end = at + 1;
    while (end < text.size() && text[end] >= '0' && text[end] <= '9') ++end;
    text.erase(at + 1, end - at - 1);
  }
  if (text.size() > kMaxFunction) text.resize(kMaxFunction);
  return text;
}

Signature sign(const SignatureFacts& facts) {
  if (facts.cause.empty()) return {};
  const std::string stacks = stacks_text(facts);
  // Any two ends of which nothing is known would be one bug.
  const bool tells = !stacks.empty() || !facts.subtype.empty() || !facts.detail.empty() ||
                     facts.cause != "unknown";
  if (!tells) return {};
  std::string tail;
  if (const std::string_view assertion = assertion_of(facts.message); !assertion.empty()) {
    tail += fmt::format(" ({})", assertion.substr(0, kMaxFunction));
  }
  if (facts.cause == "uncaught_exception" && !facts.subtype.empty()) {
    tail += fmt::format(" ({})", facts.subtype);
  }
  if (stacks.empty()) {
    if (facts.cause != "uncaught_exception" && !facts.subtype.empty()) {
      tail += fmt::format(" ({})", facts.subtype);
    }
    if (!facts.detail.empty()) tail += fmt::format(": {}", facts.detail);
  } else {
    tail += fmt::format(" in {}", stacks);
  }
  Signature signature;
  signature.text = facts.cause + tail;
  signature.id = sha256_hex(std::string(kind_of(facts.cause)) + tail).substr(0, kIdDigits);
  return signature;
}

}  // namespace defib::postmortem
