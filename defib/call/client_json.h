// A client's options, methods and fault as JSON, for everything that is not C++.
//
// Options are an object with any of these members, each with the meaning and the default that
// ClientOptions and Isolation (session.h, isolation.h) tell:
//
//   call_timeout_ms hang_timeout_ms start_timeout_ms max_request max_reply max_streams stream_bytes
//   backtrace memory_bytes cpu_seconds descriptors no_processes no_network read_only_files writable
//   strict_system_calls drop_capabilities
//
// Thread rule: pure functions.

#pragma once

#include "defib/base/error.h"
#include "defib/call/dynamic.h"
#include "defib/call/session.h"
#include "defib/wire/json.h"

namespace defib::call {

// InvalidArgument names the member and what is expected, also for one that is not known. Null: all
// defaults.
Result<ClientOptions> client_options_from_json(const wire::Json& json);

// {"plugin","version","methods":[{"name","signature","stream"}]}
wire::Json methods_json(const DynamicClient& client);

// {"failure","cause","method","arguments","signal","fault_address","place","text","exit_code","at",
// "error","backtrace","no_backtrace_because"}; what is not known is left out.
wire::Json fault_json(const FaultReport& report);

}  // namespace defib::call
