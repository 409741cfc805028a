// defib-call: calls a native library that may crash, from a terminal. Started by `defib call`.

#include <fmt/format.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <thread>

#include "apps/defib-call/call.h"
#include "defib/conf/conf.h"
#include "defib/os/clock.h"

namespace defib::cli {
namespace {

constexpr std::string_view kFooter =
    "An argument is JSON; where the method takes a text, the text itself will do. Results are "
    "JSON,\n"
    "streams a line a record. What each type looks like: docs/formats/call.md.\n"
    "Exit codes: 0 done; 1 the call failed; 2 wrong usage; 4 interrupted.\n"
    "Examples:\n"
    "  defib call ./prices.so --list\n"
    "  defib call ./prices.so price ESM4 30\n"
    "  defib call ./prices.so ticks ESM4 0 --limit 10 --memory 256MiB --no-network";

// Texts as they were given, which are checked together.
struct Texts {
  std::string timeout, hang_timeout, start_timeout, cpu_time, memory;
  bool allow_processes = false;
  bool keep_capabilities = false;
  bool no_backtrace = false;
};

// "-5" is an argument and no option, and "[1,2]" is one and not two: they are kept from the parser.
constexpr char kProtected = '\x01';

void protect(std::vector<std::string>& arguments) {
  for (std::string& argument : arguments) {
    const bool negative =
        argument.size() > 1 && argument[0] == '-' && argument[1] >= '0' && argument[1] <= '9';
    if (negative || argument.starts_with('[')) argument.insert(0, 1, kProtected);
  }
}

void unprotect(std::string& argument) {
  if (argument.starts_with(kProtected)) argument.erase(0, 1);
}

void add_options(CLI::App& app, CallCommand& command, Texts& texts) {
  app.add_option("PLUGIN", command.plugin, "The plugin (.so)")->required()->type_name("");
  app.add_option("METHOD", command.method, "Its method or stream")->type_name("");
  app.add_option("ARGUMENTS", command.arguments, "Its arguments")->type_name("");
  app.add_flag("--list", command.list, "Show the methods; with a METHOD, what it takes");
  app.add_option("--args", command.arguments_file,
                 "Take the arguments from this file (a JSON array; - is standard input): they are "
                 "not seen in the list of processes")
      ->type_name("FILE");
  app.add_option("--limit", command.limit, "Of a stream: end after so many records")
      ->type_name("N");
  app.add_flag("--json", command.json, "One JSON document, of a stream one a record");
  app.add_option("--timeout", texts.timeout,
                 "Of the call, or from one record to the next (default 30s)")
      ->type_name("D");
  app.add_option(
         "--hang-timeout", texts.hang_timeout,
         "The call or stream is hung when it tells no progress for so long (default: never)")
      ->type_name("D");
  app.add_option("--start-timeout", texts.start_timeout, "Of loading the plugin (default 10s)")
      ->type_name("D");
  app.add_flag("--no-backtrace", texts.no_backtrace, "Do not explain a crash");
  call::Isolation& isolation = command.client.isolation;
  app.add_option("--memory", texts.memory, "Memory that the library may take, such as 256MiB")
      ->type_name("SIZE");
  app.add_option("--cpu-time", texts.cpu_time, "Processor time that it may take, in whole seconds")
      ->type_name("D");
  app.add_option("--descriptors", isolation.descriptors, "Descriptors it may open (default 256)")
      ->type_name("N");
  app.add_flag("--no-network", isolation.no_network, "It can open no socket but UNIX ones");
  app.add_flag("--read-only", isolation.read_only_files, "It can write no files");
  app.add_option("--writable", isolation.writable, "With --read-only: but below this directory")
      ->type_name("DIR")
      ->allow_extra_args(false);
  app.add_flag("--strict", isolation.strict_system_calls,
               "System calls that computing does not need end it");
  app.add_flag("--allow-processes", texts.allow_processes, "It may start processes");
  app.add_flag("--keep-capabilities", texts.keep_capabilities, "It keeps root's capabilities");
}

Result<call::Milliseconds> duration(const char* option, const std::string& text,
                                    call::Milliseconds otherwise) {
  if (text.empty()) return otherwise;
  const os::Duration parsed = os::parse_duration(text);
  if (parsed < std::chrono::milliseconds(1)) {
    return Error(Code::kWrongUsage, fmt::format("{}: '{}' is no duration", option, text))
        .suggest("write it as 250ms, 30s or 5m");
  }
  return std::chrono::duration_cast<call::Milliseconds>(parsed);
}

Result<> check(CallCommand& command, const Texts& texts) {
  call::ClientOptions& client = command.client;
  DEFIB_TRY_ASSIGN(client.call_timeout, duration("--timeout", texts.timeout, client.call_timeout));
  DEFIB_TRY_ASSIGN(client.hang_timeout,
                   duration("--hang-timeout", texts.hang_timeout, client.hang_timeout));
  DEFIB_TRY_ASSIGN(client.start_timeout,
                   duration("--start-timeout", texts.start_timeout, client.start_timeout));
  DEFIB_TRY_ASSIGN(const call::Milliseconds cpu_time,
                   duration("--cpu-time", texts.cpu_time, call::Milliseconds(0)));
  client.isolation.cpu_seconds = static_cast<std::uint32_t>((cpu_time.count() + 999) / 1000);
  if (!texts.memory.empty() && !conf::parse_size(texts.memory, client.isolation.memory_bytes)) {
    return Error(Code::kWrongUsage, fmt::format("--memory: '{}' is no size", texts.memory))
        .suggest("write it as 256MiB");
  }
  client.isolation.no_processes = !texts.allow_processes;
  client.isolation.drop_capabilities = !texts.keep_capabilities;
  client.backtrace = !texts.no_backtrace;
  if (command.method.empty() && !command.list) {
    return Error(Code::kWrongUsage, "the method is missing")
        .suggest(fmt::format("`defib call {} --list` shows the methods", command.plugin));
  }
  if (!command.arguments_file.empty() && !command.arguments.empty()) {
    return Error(Code::kWrongUsage,
                 "the arguments are given twice, in --args and behind the method");
  }
  if (!client.isolation.writable.empty() && !client.isolation.read_only_files) {
    return Error(Code::kWrongUsage, "--writable is an exception to --read-only, which is missing");
  }
  return {};
}

// The worker ends with this process.
void end_when_interrupted(const sigset_t& signals) {
  std::thread([signals] {
    int signal = 0;
    sigwait(&signals, &signal);
    _exit(kInterrupted);
  }).detach();
}

int run(int argc, char** argv) {
  CLI::App app("Calls a native library that may crash, in a process of its own.");
  app.name("defib call");
  app.footer(std::string(kFooter));
  CallCommand command;
  Texts texts;
  add_options(app, command, texts);
  std::vector<std::string> arguments(argv + 1, argv + argc);
  command.json = std::ranges::find(arguments, "--json") != arguments.end();
  protect(arguments);
  std::reverse(arguments.begin(), arguments.end());  // the library takes them from the back
  try {
    app.parse(arguments);
  } catch (const CLI::Success& success) {
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    return print_error(Error(Code::kWrongUsage, error.what()).suggest("`defib call --help`"),
                       command.json);
  }
  std::ranges::for_each(command.arguments, unprotect);
  for (std::string* text : {&command.plugin, &command.method, &command.arguments_file}) {
    unprotect(*text);
  }
  if (const auto checked = check(command, texts); !checked) {
    return print_error(checked.error(), command.json);
  }
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  end_when_interrupted(signals);
  take_stdout();
  return run_call(command);
}

}  // namespace
}  // namespace defib::cli

int main(int argc, char** argv) {
  return defib::cli::run(argc, argv);
}
