// The error table for people: what `defib explain` answers, and the page docs/errors.md.

#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace defib::recovery {

// Kind, number, class, what happened and a `try:` line, for "-73", "73" or "DatabaseLocked" (in any
// case); nullopt where there is no such code.
std::optional<std::string> explain_code(std::string_view code_or_name);

// The whole of docs/errors.md, from the table.
std::string errors_page();

}  // namespace defib::recovery
