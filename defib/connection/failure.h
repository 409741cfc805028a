// From a driver's diagnostic records to an Error: the one place where codes, messages and fields of
// failed database calls are made.
//
// Thread rule: pure functions.

#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/connection/backend.h"

namespace defib::connection {

struct FailedCall {
  Failure failure;  // its `records` point into `records` below
  std::vector<Diagnostic> records;
  std::string what;     // "the statement 'SELECT 1'", "connecting to 127.0.0.1:5432"
  std::string backend;  // "libpq"
  std::string server;
  std::string target;    // where that server has sent the driver on to; empty: nowhere
  std::string password;  // to be taken out of the driver's words
};

// Fields: class, why, phase, backend, engine, driver, server, target, sqlstate, native, transient,
// records.
Error make_error(FailedCall call, const Classifier& classifier);

// `text` with every occurrence of the password replaced by "***". A password of up to three
// characters is replaced where it stands alone as a word.
std::string without_password(std::string_view text, std::string_view password);

// "SELECT name FROM t WHERE ..." cut to 60 characters, on one line, with literals replaced by ?,
// for messages: what stands in literals may be secret. So is what stands in "...", and the rest
// where engines differ in what is a literal.
std::string shown_sql(std::string_view sql);

}  // namespace defib::connection
