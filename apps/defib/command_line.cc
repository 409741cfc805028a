#include "apps/defib/command_line.h"

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <optional>
#include <string_view>

#include "defib/conf/conf.h"

namespace defib::cli {
namespace {

constexpr std::string_view kFooter =
    "Exit codes: 0 done; 1 the thing asked about failed; 2 wrong usage or configuration;\n"
    "3 refused (a gate, a lock, a missing approval); 4 interrupted.\n"
    "`defib COMMAND --help` has an example for each command.";

// Programs that are started on demand, so that the supervising one stays small.
struct HelperVerb {
  const char* name;
  const char* description;
};
constexpr HelperVerb kHelperVerbs[] = {
    {"analyze", "A postmortem of a hung process or a core file, without a supervisor"},
    {"symbolize", "Functions, files and lines for a report or addresses without them"},
    {"store", "Load, dump, inspect, verify, recover and repair a store"},
    {"recover", "Recover a trading service's state and resume it"},
    {"reconcile", "Compare the ledger with the venues"},
    {"approve", "Approve a recovery plan"},
    {"checklist", "Check that a trading service may resume"},
    {"db", "Check a database: what its driver can do, latency, self-test"},
    {"kill", "Stop sending and cancel everything, at once and verified"},
    {"alert", "List alerts, take notice of one, test a receiver"},
    {"export", "An incident and its bundle as one file (as `incident export`)"},
    {"dbn", "The records of a DBN market data file as JSON lines"},
    {"report", "An incident for people: one page of HTML, PDF or text, secrets redacted"},
    {"call", "Call a native library that may crash, in a process of its own"},
};

// A setting of the service: the option's name is the configuration key with dashes.
struct RunSetting {
  const char* flag;
  const char* type;
  const char* description;
};
constexpr RunSetting kRunSettings[] = {
    {"--restart", "WHEN", "always, on-failure or never (default on-failure)"},
    {"--restart-when", "WHEN",
     "gone: when the dead process has freed its memory, locks and ports; dying: at once (default "
     "gone)"},
    {"--standby", "BOOL", "true: keep a second process ready, which is promoted (default false)"},
    {"--sockets", "LIST",
     "Sockets to keep over restarts and to pass as LISTEN_FDS: tcp:127.0.0.1:8080,unix:/path"},
    {"--max-restarts", "N", "Restarts within the window before giving up (default 10)"},
    {"--restart-window", "D", "The window of --max-restarts (default 1h)"},
    {"--restart-delay", "D",
     "Delay of the second restart in a row, doubling from there; the first is at once (default "
     "30s)"},
    {"--success-exit-codes", "LIST", "Ends that are no failure, such as 143,SIGTERM"},
    {"--restart-exit-codes", "LIST", "Ends that are always followed by a restart"},
    {"--no-restart-exit-codes", "LIST", "Ends that are never followed by a restart"},
    {"--on-crash-loop", "WHAT", "stop (until a human resets it) or slow (default stop)"},
    {"--slow-lane-interval", "D", "Time between starts in the slow lane (default 5m)"},
    {"--same-crash-limit", "N", "Equal crashes in a row that are a crash loop (default 3)"},
    {"--start-in", "MODE",
     "monitoring: each start finds DEFIB_START_MODE=monitoring and shall do nothing outside "
     "(default "
     "normal)"},
    {"--monitoring-after", "N", "The N-th restart in the window and those after it start so"},
    {"--max-downtime", "D", "Give up after so much lost time in the window (default: no limit)"},
    {"--heartbeat-timeout", "D",
     "Restart when a heartbeat stage stands still for so long (default: each stage's own)"},
    {"--health-url", "URL", "Restart when GET on this http:// address fails three times"},
    {"--health-check-interval", "D", "Time between two health checks (default 30s)"},
    {"--max-memory", "MB", "Alert when the service uses more memory (default 1024; 0: no limit)"},
    {"--max-cpu", "PERCENT",
     "Alert when it uses more of all processors it may use, for a minute (default 90; 0: no "
     "limit)"},
    {"--max-descriptors", "N", "Alert when a process of it has more descriptors; or 90%"},
    {"--max-threads", "N", "Alert when it has more threads"},
    {"--log-pattern", "REGEX", "Open an incident when a line of output matches"},
    {"--log-rate", "RATE", "Drop output beyond this rate, such as 10MiB/s (default: no limit)"},
    {"--log-max-size", "SIZE", "Begin a new log file at this size (default 16MiB)"},
    {"--log-max-age", "D", "Begin a new log file at this age (default: no limit)"},
    {"--log-files", "N", "Rotated log files to keep (default 4)"},
    {"--log-journal", "BOOL", "true: also hand each line of output to journald"},
    {"--capture", "HOW", "live, ptrace, core or none (default live)"},
    {"--stop-timeout", "D", "Time to stop gracefully before SIGKILL (default 10s)"},
    {"--stop-signal", "SIGNAL", "The signal that asks for a stop (default SIGTERM)"},
};

class Parser {
 public:
  Parser() {
    app_.description(
        "Brings crashed stateful services back: detects, captures, restarts, recovers, verifies.");
    app_.footer(std::string(kFooter));
    app_.require_subcommand(1);
    app_.fallthrough();
    app_.set_help_all_flag("--help-all", "Help for every command");
    app_.add_flag("--json", line_.json, "One JSON document on stdout, for machines");
    app_.add_option("--state-dir", line_.state_dir,
                    "Where defib keeps all that it writes (default: $DEFIB_STATE_DIR)")
        ->type_name("DIR");
    add_supervising();
    add_control();
    add_incidents();
    for (const HelperVerb& helper : kHelperVerbs) add_helper(helper);
    CLI::App* version = verb("version", Verb::kVersion, "The version of this program", "version");
    version->alias("--version");
  }

  // `arguments` without the program's name, up to "--".
  CommandLine parse(std::vector<std::string> arguments) {
    std::reverse(arguments.begin(), arguments.end());  // the library takes them from the back
    app_.parse(arguments);
    return line_;
  }
  CLI::App& app() { return app_; }

 private:
  CLI::App* verb(const char* name, Verb value, const char* description, const char* example,
                 CLI::App* under = nullptr) {
    CLI::App* command = (under != nullptr ? under : &app_)->add_subcommand(name, description);
    command->fallthrough();
    command->footer(fmt::format("Example:\n  defib {}", example));
    command->callback([this, value] { line_.verb = value; });
    return command;
  }

  void add_supervising() {
    CLI::App* run = verb("run", Verb::kRun,
                         "Supervise one command in the foreground: defib run [OPTIONS] -- COMMAND",
                         "run --name engine --heartbeat-timeout 2s -- ./engine --live");
    run->add_option("-c,--config", line_.config, "Take the service's settings from this file")
        ->type_name("FILE");
    run->add_option("--name", line_.run.name, "The service's name (default: the command's)")
        ->type_name("NAME");
    run->add_flag("-q,--quiet", line_.run.quiet, "Do not pass the command's output through");
    run->add_option("--env", line_.run.env, "KEY=VALUE for the command; may be repeated")
        ->type_name("KEY=VALUE")
        ->allow_extra_args(false);
    run->add_option("--working-directory", line_.run.working_directory,
                    "Start the command there (default: here)")
        ->type_name("DIR");
    run->add_option("--log-level", line_.log_level, "debug, info, warn or error")->type_name("L");
    for (const RunSetting& setting : kRunSettings) add_setting(run, setting);
    add_survival(run);

    CLI::App* daemon = verb("daemon", Verb::kDaemon, "Supervise the services of a configuration",
                            "daemon -c /etc/defib/defib.toml");
    daemon->add_option("-c,--config", line_.config, "The configuration (default: defib.toml)")
        ->type_name("FILE");
    daemon->add_option("--log-level", line_.log_level, "debug, info, warn or error")
        ->type_name("L");
    add_survival(daemon);
  }

  void add_survival(CLI::App* command) {
    command->add_flag("--no-guardian", line_.no_guardian,
                      "Without the small process that starts the supervisor again when it dies");
    command->add_flag("--check", line_.check, "Only tell whether this command would start");
  }

  void add_setting(CLI::App* run, const RunSetting& setting) {
    std::string key = std::string(setting.flag).substr(2);
    std::replace(key.begin(), key.end(), '-', '_');
    run->add_option_function<std::string>(
           setting.flag,
           [this, key](const std::string& value) { line_.run.settings.emplace_back(key, value); },
           setting.description)
        ->type_name(setting.type);
  }

  void add_control() {
    name(verb("start", Verb::kStart, "Start a service", "start engine"), true);
    name(verb("stop", Verb::kStop, "Stop a service, or all", "stop engine"), false);
    name(verb("restart", Verb::kRestart, "Stop a service and start it again", "restart engine"),
         true);
    name(verb("reset", Verb::kReset, "Forget a service's failures and start it again",
              "reset engine"),
         true);
    name(verb("upgrade", Verb::kUpgrade,
              "Put the supervisor's program on disk in the place of the running one", "upgrade"),
         false);
    verb("reload", Verb::kReload, "Apply the changed configuration", "reload --restart")
        ->add_flag("--restart", line_.restart,
                   "Restart what runs with settings that only a start can change");
    verb("check", Verb::kCheck, "Say what is wrong with a configuration, and touch nothing",
         "check -c /etc/defib/defib.toml")
        ->add_option("-c,--config", line_.config, "The configuration (default: defib.toml)")
        ->type_name("FILE");
    CLI::App* status = verb("status", Verb::kStatus, "The state of all services, or of one",
                            "status engine --json");
    name(status, false);
    status->add_flag("-w,--watch", line_.watch, "Show again every second");
    CLI::App* logs = verb("logs", Verb::kLogs, "A service's output", "logs engine --since 10m -f");
    name(logs, true);
    logs->add_flag("-f,--follow", line_.follow, "Go on with what is written from now on");
    logs->add_option("--since", line_.since, "From this time on, or from so long ago")
        ->type_name("T");
    logs->add_option("--until", line_.until, "Up to this time")->type_name("T");
    logs->add_option("--stream", line_.stream, "Only stdout, or only stderr")->type_name("S");
    logs->add_flag("-t,--timestamps", line_.timestamps,
                   "Before each line its time and stream (as on a terminal)");
    logs->add_flag("--no-timestamps", line_.no_timestamps, "The lines alone, also on a terminal");
    logs->add_option("--around", line_.around, "The lines near this time")->type_name("T");
    logs->add_option("--window", line_.window, "How near --around is (default 5s)")->type_name("D");
    logs->add_option("-n,--lines", line_.lines, "Only the last N lines")
        ->type_name("N")
        ->check(CLI::PositiveNumber);
  }

  void name(CLI::App* command, bool required) {
    command->add_option("NAME", line_.name, "The service")->required(required)->type_name("");
  }

  void add_incidents() {
    verb("incidents", Verb::kIncidents, "All incidents, newest first", "incidents --json")
        ->add_flag("--group", line_.group,
                   "Equal failures as one, with their number, first and last time");
    CLI::App* incident = app_.add_subcommand("incident", "One incident");
    incident->fallthrough();
    incident->require_subcommand(1);
    subject(verb("show", Verb::kIncidentShow, "All that is known of an incident",
                 "incident show latest", incident),
            "ID", "The incident: its id, the id's beginning, or \"latest\"");
    CLI::App* exported = verb("export", Verb::kIncidentExport,
                              "An incident and its bundle as one file, secrets redacted",
                              "incident export latest --out incident.tar.zst", incident);
    subject(exported, "ID", "The incident: its id, the id's beginning, or \"latest\"");
    exported->add_option("--out", line_.out, "The file (default ID.tar.zst)")->type_name("FILE");
    CLI::App* verify = verb("verify", Verb::kVerify, "Check an incident's hash chain",
                            "verify latest --head 5f3c...");
    subject(verify, "ID", "The incident: its id, the id's beginning, or \"latest\"");
    verify->add_option("--head", line_.head, "The head hash that went out with the alert")
        ->type_name("HASH");
    CLI::App* explain = verb("explain", Verb::kExplain, "What a code, a cause or a verdict means",
                             "explain DatabaseLocked");
    subject(explain, "CODE",
            "An error's number or name, a cause, a decision's id or rule, or gates");
    explain->add_option("--from", line_.from, "A saved decision, or an incident's file: offline")
        ->type_name("FILE");
    explain->add_option("-c,--config", line_.config, "For the thresholds of `gates`")
        ->type_name("FILE");
  }

  void subject(CLI::App* command, const char* what, const char* description) {
    command->add_option(what, line_.subject, description)->required()->type_name("");
  }

  void add_helper(const HelperVerb& helper) {
    CLI::App* command = app_.add_subcommand(helper.name, helper.description);
    command->prefix_command();
    command->fallthrough(false);
    command->set_help_flag();  // the helper program has its own help
    command->set_help_all_flag();
    command->callback([this, command, name = std::string(helper.name)] {
      line_.verb = Verb::kHelper;
      line_.verb_name = name;
      line_.helper_arguments = command->remaining();
    });
  }

  CLI::App app_;
  CommandLine line_;
};

Error usage_error(const CLI::App& app, const std::string& text) {
  std::string command = "defib";
  for (const CLI::App* sub = &app; sub != nullptr;) {
    const auto used = sub->get_subcommands();
    sub = used.empty() ? nullptr : used.front();
    if (sub != nullptr) command += " " + sub->get_name();
  }
  std::string message = text.substr(0, text.find('\n'));
  while (!message.empty() && message.back() == '.') message.pop_back();
  return Error(Code::kWrongUsage, message).suggest(fmt::format("`{} --help`", command));
}

// The words of the command that was begun, and how they could be meant.
std::vector<std::string> option_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* at = &app; at != nullptr;) {
    for (const CLI::Option* option : at->get_options()) {
      for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
    }
    const auto used = at->get_subcommands();
    at = used.empty() ? nullptr : used.front();
  }
  return names;
}

Error unknown_word(const std::string& what, const std::string& word,
                   const std::vector<std::string>& known, std::string_view help) {
  const std::string_view meant = conf::nearest_word(word, known);
  return Error(Code::kWrongUsage,
               fmt::format("there is no {} '{}'{}", what, word,
                           meant.empty() ? "" : fmt::format("; did you mean '{}'?", meant)))
      .suggest(fmt::format("`{}`", help));
}

// A word that nobody knows, by what it is: a command, an option, or something too much.
std::optional<Error> unknown_word(const CLI::App& app, const std::vector<std::string>& arguments,
                                  std::string_view command) {
  std::vector<std::string> commands;
  for (const CLI::App* sub : app.get_subcommands([](const CLI::App*) { return true; })) {
    commands.push_back(sub->get_name());
  }
  const std::string word(command);
  if (!word.empty() && std::ranges::find(commands, word) == commands.end()) {
    return unknown_word("command", word, commands, "defib --help");
  }
  const std::vector<std::string> options = option_names(app);
  for (const std::string& argument : arguments) {
    const std::string name = argument.substr(0, argument.find('='));
    if (!name.starts_with("--") || std::ranges::find(options, name) != options.end()) continue;
    return unknown_word("option", name, options, fmt::format("defib {} --help", command));
  }
  return std::nullopt;
}

// The first word that is not an option: the command.
std::string_view command_word(const std::vector<std::string>& arguments) {
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i] == "--state-dir") {
      ++i;
    } else if (!arguments[i].starts_with('-')) {
      return arguments[i];
    }
  }
  return {};
}

// "explain -73": the number is no option.
void protect_negative_code(std::vector<std::string>& arguments) {
  if (command_word(arguments) != "explain") return;
  for (std::string& argument : arguments) {
    const bool number =
        argument.size() > 1 && argument[0] == '-' && argument[1] >= '0' && argument[1] <= '9';
    if (number) argument.erase(0, 1);
  }
}

Result<CommandLine> check(CommandLine line, const std::vector<std::string>& command,
                          bool has_separator) {
  if (line.verb != Verb::kRun && has_separator) {
    return Error(Code::kWrongUsage, "only `defib run` takes a command after --");
  }
  if (line.verb == Verb::kRun && command.empty() && line.config.empty()) {
    return Error(Code::kWrongUsage, "there is no command to run")
        .suggest("`defib run [OPTIONS] -- COMMAND [ARGUMENTS...]`");
  }
  line.run.command = command;
  return line;
}

}  // namespace

ParseOutcome parse_command_line(int argc, char** argv) {
  std::vector<std::string> arguments(argv + 1, argv + argc);
  std::vector<std::string> command;
  ParseOutcome outcome;
  const std::string_view word = command_word(arguments);
  const bool helper = std::any_of(std::begin(kHelperVerbs), std::end(kHelperVerbs),
                                  [&](const HelperVerb& verb) { return word == verb.name; });
  const auto separator = helper ? arguments.end() : std::ranges::find(arguments, "--");
  const bool has_separator = separator != arguments.end();
  if (has_separator) command.assign(separator + 1, arguments.end());
  arguments.erase(separator, arguments.end());
  outcome.json = std::ranges::find(arguments, "--json") != arguments.end();
  protect_negative_code(arguments);

  Parser parser;
  try {
    if (arguments.empty()) {
      outcome.help = parser.app().help();
      outcome.error = Error(Code::kWrongUsage, "a command is missing").suggest("`defib --help`");
      return outcome;
    }
    auto line = check(parser.parse(arguments), command, has_separator);
    if (line) {
      outcome.command = std::move(*line);
    } else {
      outcome.error = std::move(line.error());
    }
  } catch (const CLI::CallForHelp&) {
    outcome.help = parser.app().help();
  } catch (const CLI::CallForAllHelp&) {
    outcome.help = parser.app().help("", CLI::AppFormatMode::All);
  } catch (const CLI::ParseError& error) {
    outcome.error = unknown_word(parser.app(), arguments, word)
                        .value_or(usage_error(parser.app(), error.what()));
  }
  return outcome;
}

}  // namespace defib::cli
