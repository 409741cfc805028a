#include "defib/call/client_json.h"

#include <fmt/format.h>

#include <array>
#include <limits>

#include "defib/base/text.h"
#include "defib/base/visible_text.h"
#include "defib/os/clock.h"
#include "defib/os/process.h"

namespace defib::call {
namespace {

using wire::Json;

constexpr std::uint64_t kMostBytes = std::uint64_t{1} << 32;
// 24 days; a longer one would be none.
constexpr std::uint64_t kMostMilliseconds = std::numeric_limits<std::int32_t>::max();

struct NumberMember {
  std::string_view name;
  std::uint64_t least, most;
  void (*set)(ClientOptions& options, std::uint64_t value);
};
constexpr std::array kNumbers = {
    NumberMember{"call_timeout_ms", 1, kMostMilliseconds,
                 [](ClientOptions& o, std::uint64_t v) { o.call_timeout = Milliseconds(v); }},
    NumberMember{"hang_timeout_ms", 0, kMostMilliseconds,
                 [](ClientOptions& o, std::uint64_t v) { o.hang_timeout = Milliseconds(v); }},
    NumberMember{"start_timeout_ms", 1, kMostMilliseconds,
                 [](ClientOptions& o, std::uint64_t v) { o.start_timeout = Milliseconds(v); }},
    NumberMember{"max_request", 1, kMostBytes,
                 [](ClientOptions& o, std::uint64_t v) { o.max_request = v; }},
    NumberMember{"max_reply", 1, kMostBytes,
                 [](ClientOptions& o, std::uint64_t v) { o.max_reply = v; }},
    NumberMember{
        "max_streams", 0, kMaxRings,
        [](ClientOptions& o, std::uint64_t v) { o.max_streams = static_cast<std::uint32_t>(v); }},
    NumberMember{"stream_bytes", 1, kMostBytes,
                 [](ClientOptions& o, std::uint64_t v) { o.stream_bytes = v; }},
    NumberMember{"memory_bytes", 0, std::numeric_limits<std::int64_t>::max(),
                 [](ClientOptions& o, std::uint64_t v) { o.isolation.memory_bytes = v; }},
    NumberMember{"cpu_seconds", 0, std::numeric_limits<std::int32_t>::max(),
                 [](ClientOptions& o, std::uint64_t v) {
                   o.isolation.cpu_seconds = static_cast<std::uint32_t>(v);
                 }},
    NumberMember{"descriptors", 0, std::numeric_limits<std::int32_t>::max(),
                 [](ClientOptions& o, std::uint64_t v) {
                   o.isolation.descriptors = static_cast<std::uint32_t>(v);
                 }},
};

struct SwitchMember {
  std::string_view name;
  bool& (*of)(ClientOptions& options);
};
constexpr std::array kSwitches = {
    SwitchMember{"backtrace", [](ClientOptions& o) -> bool& { return o.backtrace; }},
    SwitchMember{"no_processes",
                 [](ClientOptions& o) -> bool& { return o.isolation.no_processes; }},
    SwitchMember{"no_network", [](ClientOptions& o) -> bool& { return o.isolation.no_network; }},
    SwitchMember{"read_only_files",
                 [](ClientOptions& o) -> bool& { return o.isolation.read_only_files; }},
    SwitchMember{"strict_system_calls",
                 [](ClientOptions& o) -> bool& { return o.isolation.strict_system_calls; }},
    SwitchMember{"drop_capabilities",
                 [](ClientOptions& o) -> bool& { return o.isolation.drop_capabilities; }},
};
constexpr std::string_view kWritable = "writable";

Error wrong(std::string_view name, std::string expected, const Json& value) {
  return Error(Code::kInvalidArgument, fmt::format("the option {} is {}, not {}", name,
                                                   std::move(expected), value.dump().substr(0, 64)))
      .with("option", name);
}

Error unknown(std::string_view name) {
  std::string known;
  for (const auto& member : kNumbers) known += fmt::format("{}, ", member.name);
  for (const auto& member : kSwitches) known += fmt::format("{}, ", member.name);
  return Error(Code::kInvalidArgument,
               fmt::format("there is no option '{}'", visible_text(name.substr(0, 64))))
      .suggest(fmt::format("the options are: {}{}", known, kWritable));
}

Result<> set_member(ClientOptions& options, const std::string& name, const Json& value) {
  for (const auto& member : kNumbers) {
    if (member.name != name) continue;
    const std::uint64_t number = value.as_uint(std::numeric_limits<std::uint64_t>::max());
    if (!value.is_whole() || number < member.least || number > member.most) {
      return wrong(name, fmt::format("a whole number from {} to {}", member.least, member.most),
                   value);
    }
    member.set(options, number);
    return {};
  }
  for (const auto& member : kSwitches) {
    if (member.name != name) continue;
    if (!value.is_bool()) return wrong(name, "true or false", value);
    member.of(options) = value.as_bool();
    return {};
  }
  if (name != kWritable) return unknown(name);
  options.isolation.writable.clear();
  if (!value.is_array()) return wrong(name, "a list of paths", value);
  for (const Json& path : value.items()) {
    if (!path.is_string()) return wrong(name, "a list of paths", value);
    options.isolation.writable.emplace_back(path.as_string());
  }
  return {};
}

}  // namespace

Result<ClientOptions> client_options_from_json(const Json& json) {
  ClientOptions options;
  if (json.is_null()) return options;
  if (!json.is_object()) {
    return Error(Code::kInvalidArgument, "a client's options are a JSON object");
  }
  for (const auto& [name, value] : json.members()) DEFIB_TRY(set_member(options, name, value));
  return options;
}

Json methods_json(const DynamicClient& client) {
  Json methods = Json::array();
  for (const DynamicMethod& method : client.methods()) {
    Json one = Json::object({{"name", method.name()},
                             {"signature", method.text},
                             {"stream", method.signature && method.signature->is_stream}});
    if (method.unreadable) one.set("unreadable", wire::to_json(*method.unreadable));
    methods.push(std::move(one));
  }
  return Json::object({{"plugin", client.plugin_name()},
                       {"version", client.plugin_version()},
                       {"methods", std::move(methods)}});
}

Json fault_json(const FaultReport& report) {
  const Fault& fault = report.fault;
  Json json = Json::object({{"failure", to_string(fault.kind)},
                            {"cause", incident_cause(fault.kind)},
                            {"method", fault.method},
                            {"arguments", fault.arguments},
                            {"at", os::format_time(fault.at_wall_ns)}});
  if (fault.signal != 0) {
    json.set("signal", os::signal_name(fault.signal));
    json.set("fault_address", fmt::format("{:#x}", fault.address));
  }
  if (!fault.place.empty()) json.set("place", fault.place);
  if (!fault.message.empty()) json.set("text", fault.message);
  if (fault.kind == FaultKind::kExit) json.set("exit_code", fault.exit_code);
  json.set("error", wire::to_json(report.error));
  Json frames = Json::array();
  for (std::string_view text = report.backtrace; !text.empty();) frames.push(next_line(text));
  json.set("backtrace", std::move(frames));
  if (!report.no_backtrace_because.empty())
    json.set("no_backtrace_because", report.no_backtrace_because);
  return json;
}

}  // namespace defib::call
