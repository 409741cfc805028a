#include "apps/defib-call/call.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

#include "defib/base/visible_text.h"
#include "defib/call/client_json.h"
#include "defib/call/dynamic.h"
#include "defib/call/recovering.h"
#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/wire/json.h"

namespace defib::cli {
namespace {

using call::DynamicClient;
using call::DynamicMethod;
using call::Signature;
using call::Type;
using call::TypeKind;
using wire::Json;

constexpr std::uint64_t kMaxArguments = 64 << 20;
// A backtrace takes a tenth of a second where symbols are cold.
constexpr call::Milliseconds kReportTimeout{5000};

FILE* own_stdout = stdout;

Json with_schema(std::string_view schema, const Json& rest) {
  Json json = Json::object({{"schema", schema}});
  for (const auto& [name, value] : rest.members()) json.set(name, value);
  return json;
}

bool takes_text(const Type& type) {
  const Type& asked = type.kind == TypeKind::kOptional ? type.parts[0] : type;
  return asked.kind == TypeKind::kText || asked.kind == TypeKind::kSecret;
}

// Where a text is wanted, everything that is no JSON text is the text itself.
Result<Json> argument_json(const Signature& signature, std::size_t place, const std::string& text) {
  const auto json = Json::parse(text);
  const bool known = place < signature.parameters.size();
  if (known && takes_text(signature.parameters[place])) {
    const bool none =
        json && json->is_null() && signature.parameters[place].kind == TypeKind::kOptional;
    const bool bytes = json && json->is_object() && json->has("hex");
    return json && (json->is_string() || none || bytes) ? *json : Json(text);
  }
  if (json) return *json;
  return Error(Code::kInvalidArgument,
               fmt::format(
                   "argument {} of {} is no JSON{}", place + 1, signature.name,
                   known ? fmt::format(": {} is expected", in_words(signature.parameters[place]))
                         : ""))
      .with("signature", to_text(signature))
      .because(json.error());
}

Result<std::string> standard_input() {
  std::string text;
  char piece[64 << 10];
  for (;;) {
    const std::size_t got = std::fread(piece, 1, sizeof piece, stdin);
    if (got == 0) return text;
    text.append(piece, got);
    if (text.size() > kMaxArguments) {
      return Error(Code::kInvalidArgument,
                   fmt::format("the arguments take more than {} bytes", kMaxArguments));
    }
  }
}

Result<Json> arguments_of(const CallCommand& command, const Signature& signature) {
  if (command.arguments_file.empty()) {
    Json arguments = Json::array();
    for (std::size_t i = 0; i < command.arguments.size(); ++i) {
      DEFIB_TRY_ASSIGN(Json argument, argument_json(signature, i, command.arguments[i]));
      arguments.push(std::move(argument));
    }
    return arguments;
  }
  std::string text;
  if (command.arguments_file == "-") {
    DEFIB_TRY_ASSIGN(text, standard_input());
  } else {
    DEFIB_TRY_ASSIGN(text, os::read_file(os::real_files(), command.arguments_file, kMaxArguments));
  }
  auto json = Json::parse(text);
  if (json) return json;
  return Error(Code::kInvalidArgument,
               fmt::format("the arguments in {} are no JSON", command.arguments_file))
      .because(json.error());
}

std::string described(const Signature& signature) {
  std::string text = to_text(signature) + "\n";
  for (std::size_t i = 0; i < signature.parameters.size(); ++i) {
    text += fmt::format("  argument {}: {}\n", i + 1, in_words(signature.parameters[i]));
  }
  const std::string result = signature.result
                                 ? in_words(*signature.result)
                                 : fmt::format("{{\"hex\": {} bytes}}", signature.record_size);
  return text + fmt::format("  {}: {}\n", signature.is_stream ? "each record" : "gives", result);
}

int list_methods(const CallCommand& command, const DynamicClient& client) {
  if (command.json) {
    print(with_schema("defib.call_methods/1", call::methods_json(client)).dump(2) + "\n");
    return kDone;
  }
  if (!command.method.empty()) {
    const auto signature = client.find(command.method);
    if (!signature) return print_error(signature.error(), false);
    print(described(**signature));
    return kDone;
  }
  std::string text = fmt::format("{} version {}\n", client.plugin_name(), client.plugin_version());
  for (const DynamicMethod& method : client.methods()) {
    text += fmt::format("  {}{}\n", method.text,
                        method.unreadable ? "   (cannot be read by this version)" : "");
  }
  print(text);
  return kDone;
}

void print_backtrace(const call::FaultReport& report) {
  if (report.backtrace.empty()) {
    fmt::print(stderr, "no backtrace: {}\n", report.no_backtrace_because);
    return;
  }
  fmt::print(stderr, "backtrace:\n");
  const Json fault = call::fault_json(report);
  for (const Json& frame : fault["backtrace"].items()) {
    fmt::print(stderr, "  {}\n", visible_text(frame.as_string()));
  }
  if (!report.no_backtrace_because.empty()) {
    fmt::print(stderr, "names are missing: {}\n", visible_text(report.no_backtrace_because));
  }
}

// An error of a call, with all that is known of the crash.
int failed(const CallCommand& command, const DynamicClient& client, const Error& error) {
  if (!call::is_fault(error)) return print_error(error, command.json);
  const auto report = client.report(kReportTimeout);
  if (!command.json) {
    print_error(error, false);
    if (report) print_backtrace(*report);
    return kFailed;
  }
  Json json = Json::object({{"schema", "defib.error/1"}, {"error", wire::to_json(error)}});
  if (report) json.set("fault", call::fault_json(*report));
  print(json.dump(2) + "\n");
  return kFailed;
}

int call_method(const CallCommand& command, DynamicClient& client, const Json& arguments) {
  const std::int64_t started = os::real_clock().mono_ns();
  const auto value = client.call(command.method, arguments);
  if (!value) return failed(command, client, value.error());
  const std::int64_t took = os::real_clock().mono_ns() - started;
  if (!command.json) {
    print(value->dump() + "\n");
    return kDone;
  }
  print(Json::object({{"schema", "defib.call/1"},
                      {"plugin", client.plugin_name()},
                      {"method", command.method},
                      {"took_ns", took},
                      {"result", *value}})
            .dump(2) +
        "\n");
  return kDone;
}

int read_stream(const CallCommand& command, DynamicClient& client, const Json& arguments) {
  auto reader = client.open(command.method, arguments);
  if (!reader) return failed(command, client, reader.error());
  for (std::uint64_t number = 0; command.limit == 0 || number < command.limit; ++number) {
    const auto record = reader->next(command.client.call_timeout);
    if (!record) return failed(command, client, record.error());
    if (!*record) break;
    const Json line =
        command.json
            ? Json::object(
                  {{"schema", "defib.call_record/1"}, {"number", number}, {"record", **record}})
            : **record;
    print(line.dump() + "\n");
  }
  return kDone;
}

}  // namespace

void take_stdout() {
  const int copy = dup(STDOUT_FILENO);
  if (copy < 0) return;
  FILE* file = fdopen(copy, "w");
  if (file == nullptr) return;
  own_stdout = file;
  dup2(STDERR_FILENO, STDOUT_FILENO);
}

void print(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), own_stdout);
  std::fflush(own_stdout);
}

int print_error(const Error& error, bool json) {
  if (json) {
    const Json document =
        Json::object({{"schema", "defib.error/1"}, {"error", wire::to_json(error)}});
    print(document.dump(2) + "\n");
  } else {
    fmt::print(stderr, "{}\n", error.to_text());
  }
  switch (error.code()) {
    case Code::kWrongUsage:
    case Code::kInvalidArgument:
    case Code::kNotFound:
    case Code::kFileNotFound:
    case Code::kWorkerUnavailable:
      return kWrongUsage;
    default:
      return kFailed;
  }
}

int run_call(const CallCommand& command) {
  auto client = DynamicClient::create(command.plugin, command.client);
  if (!client) return print_error(client.error(), command.json);
  if (command.list) return list_methods(command, *client);
  const auto signature = client->find(command.method);
  if (!signature) return print_error(signature.error(), command.json);
  const auto arguments = arguments_of(command, **signature);
  if (!arguments) return print_error(arguments.error(), command.json);
  return (*signature)->is_stream ? read_stream(command, *client, *arguments)
                                 : call_method(command, *client, *arguments);
}

}  // namespace defib::cli
