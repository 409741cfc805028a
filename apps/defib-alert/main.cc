// defib-alert: `defib alert list`, `ack` and `test`, and the sender that a supervising process
// starts (`send`). docs/alerts.md is its page.

#include <fcntl.h>
#include <fmt/core.h>
#include <pwd.h>
#include <stdlib.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>

#include "apps/defib/output.h"
#include "defib/alert/send.h"
#include "defib/daemon/control.h"
#include "defib/obs/log.h"
#include "defib/os/random.h"
#include "defib/process/state_dir.h"

namespace defib::alert_app {
namespace {

using namespace std::chrono_literals;

constexpr os::Duration kControlTime = 5s;
constexpr os::Duration kLookPeriod = 20ms;

struct Arguments {
  std::string state_dir;
  std::string subject;
  std::string by;
  bool json = false;
};

std::string default_dir() {
  return process::default_state_dir(geteuid() == 0 && getenv("DEFIB_STATE_DIR") == nullptr);
}

// ---- send

Result<int> send_command(int argc, char** argv) {
  alert::SendOptions options;
  for (int i = 2; i + 1 < argc; i += 2) {
    const std::string_view key = argv[i], value = argv[i + 1];
    if (key == "--state-dir") {
      options.state_dir = value;
    } else if (key == "--extra-fd" || key == "--memory-fd") {
      int& fd = key == "--extra-fd" ? options.extra_fd : options.memory_fd;
      std::from_chars(value.data(), value.data() + value.size(), fd);
    } else {
      return Error(Code::kWrongUsage, fmt::format("unknown option '{}'", key));
    }
  }
  if (options.state_dir.empty()) options.state_dir = default_dir();
  obs::LogFile log;
  log.path = os::join_path(alert::alerts_dir(options.state_dir), "sender.log");
  log.max_bytes = 1 << 20;
  DEFIB_TRY(os::real_files().create_dirs(alert::alerts_dir(options.state_dir)));
  DEFIB_TRY(obs::set_log_file(log));
  return alert::run_sender(options);
}

// ---- what all others look at

// The book with what the queue has beyond it.
Result<alert::Book> present_book(const Arguments& arguments) {
  os::Files& files = os::real_files();
  DEFIB_TRY_ASSIGN(alert::Book book, alert::load_book(files, arguments.state_dir));
  DEFIB_TRY_ASSIGN(auto receivers, alert::load_receivers(files, arguments.state_dir));
  book.set_receivers(std::move(receivers));
  const alert::Queue queue(files, alert::queue_path(arguments.state_dir));
  DEFIB_TRY_ASSIGN(const alert::Queue::Batch batch, queue.read(book.position));
  const std::int64_t now = os::real_clock().wall_ns();
  for (const alert::Event& event : batch.events) book.apply(event, now);
  book.prune(now);
  return book;
}

std::string_view status_of(const alert::Alert& one) {
  if (one.notice) return "notice";
  if (one.resolved) return "resolved";
  return one.acknowledged_by.empty() ? "firing" : "acknowledged";
}

wire::Json time_or_null(std::int64_t ns) {
  return ns == 0 || ns == INT64_MAX ? wire::Json() : wire::Json(os::format_time(ns));
}

wire::Json text_or_null(const std::string& text) {
  return text.empty() ? wire::Json() : wire::Json(text);
}

wire::Json to_json(const alert::Alert& one) {
  wire::Json deliveries = wire::Json::array();
  for (const auto& [receiver, delivery] : one.deliveries) {
    const bool waits = delivery.outgoing.has_value();
    deliveries.push(wire::Json::object(
        {{"receiver", receiver},
         {"messages", delivery.messages - (waits ? 1 : 0)},
         {"last_sent_at", time_or_null(delivery.told_ns)},
         {"waiting", waits},
         {"attempts", waits ? delivery.outgoing->attempts : 0},
         {"last_error", waits ? text_or_null(delivery.outgoing->last_error) : wire::Json()}}));
  }
  return wire::Json::object({{"id", one.id},
                             {"status", status_of(one)},
                             {"severity", to_string(one.severity)},
                             {"service", one.service},
                             {"cause", one.cause},
                             {"message", one.text},
                             {"count", one.count},
                             {"incident", text_or_null(one.incident)},
                             {"first_at", time_or_null(one.first_ns)},
                             {"last_at", time_or_null(one.last_ns)},
                             {"ended_at", time_or_null(one.ended_ns)},
                             {"acknowledged_by", text_or_null(one.acknowledged_by)},
                             {"acknowledged_at", time_or_null(one.acknowledged_ns)},
                             {"deliveries", std::move(deliveries)}});
}

std::string short_time(std::int64_t ns) {
  std::string text = os::format_time(ns).substr(0, 19);
  text[10] = ' ';
  return text;
}

Result<int> list_command(const Arguments& arguments) {
  DEFIB_TRY_ASSIGN(const alert::Book book, present_book(arguments));
  if (arguments.json) {
    wire::Json alerts = wire::Json::array(), receivers = wire::Json::array(),
               recent = wire::Json::array();
    for (const alert::Alert& one : book.alerts()) alerts.push(to_json(one));
    for (const alert::Receiver& one : book.receivers()) {
      receivers.push(wire::Json::object({{"name", one.name}, {"waiting", book.waiting(one.name)}}));
    }
    for (const auto& one : book.finished()) {
      recent.push(wire::Json::object({{"id", one.id},
                                      {"receiver", one.receiver},
                                      {"outcome", one.outcome},
                                      {"at", os::format_time(one.at_ns)},
                                      {"error", text_or_null(one.error)}}));
    }
    cli::print_json(wire::Json::object({{"schema", "defib.alerts/1"},
                                        {"alerts", std::move(alerts)},
                                        {"receivers", std::move(receivers)},
                                        {"recent", std::move(recent)},
                                        {"dropped", book.dropped()}}));
    return cli::kDone;
  }
  if (book.alerts().empty()) {
    cli::print(fmt::format("no alerts in {}\n", arguments.state_dir));
    return cli::kDone;
  }
  cli::Table table({"ALERT", "SEVERITY", "SERVICE", "CAUSE", "COUNT", "LAST (UTC)", "STATUS"});
  for (const alert::Alert& one : book.alerts()) {
    const bool grave = one.severity == alert::Severity::kCritical;
    table.add(
        {{one.id, cli::Style::kBold},
         {std::string(to_string(one.severity)), grave ? cli::Style::kBad : cli::Style::kWarning},
         {one.service},
         {one.cause},
         {fmt::format("{}", one.count)},
         {short_time(one.last_ns)},
         {std::string(status_of(one))}});
  }
  cli::print(table.to_text());
  for (const alert::Receiver& one : book.receivers()) {
    if (const std::uint64_t waiting = book.waiting(one.name); waiting > 0) {
      cli::print(fmt::format("{}: {} not delivered yet\n", one.name, waiting));
    }
  }
  return cli::kDone;
}

// ---- ack

std::string user_name() {
  const passwd* entry = getpwuid(getuid());
  return entry != nullptr ? entry->pw_name : fmt::format("uid {}", getuid());
}

// The alert of that id (or the beginning of one), or all of an incident.
Result<std::vector<const alert::Alert*>> find_alerts(const alert::Book& book,
                                                     const std::string& subject) {
  std::vector<const alert::Alert*> found;
  for (const alert::Alert& one : book.alerts()) {
    const bool fits = one.id.starts_with(subject) || one.incident == subject;
    if (fits && !subject.empty()) found.push_back(&one);
  }
  if (found.empty()) {
    return Error(Code::kNotFound, fmt::format("there is no alert '{}'", subject))
        .suggest("`defib alert list` shows those that there are");
  }
  const bool one_incident =
      std::ranges::all_of(found, [&](const alert::Alert* one) { return one->incident == subject; });
  if (found.size() > 1 && !one_incident) {
    return Error(Code::kInvalidArgument, fmt::format("'{}' fits {} alerts", subject, found.size()))
        .suggest("give more digits of the id");
  }
  return found;
}

Result<int> ack_command(const Arguments& arguments) {
  DEFIB_TRY_ASSIGN(const alert::Book book, present_book(arguments));
  DEFIB_TRY_ASSIGN(const auto found, find_alerts(book, arguments.subject));
  alert::Queue queue(os::real_files(), alert::queue_path(arguments.state_dir));
  std::vector<alert::Event> events;
  wire::Json acknowledged = wire::Json::array();
  for (const alert::Alert* one : found) {
    acknowledged.push(one->id);
    if (!one->acknowledged_by.empty()) continue;
    alert::Event event;
    event.type = alert::EventType::kAcknowledged;
    event.id = "ack-" + os::random_hex(8);
    event.service = one->service;
    event.cause = one->cause;
    event.alert = one->id;
    event.by = arguments.by.empty() ? user_name() : arguments.by;
    event.wall_ns = os::real_clock().wall_ns();
    events.push_back(std::move(event));
  }
  if (!events.empty()) DEFIB_TRY(queue.append(events));
  if (arguments.json) {
    cli::print_json(wire::Json::object({{"schema", "defib.alert_ack/1"},
                                        {"ok", true},
                                        {"acknowledged", std::move(acknowledged)}}));
    return cli::kDone;
  }
  for (const alert::Alert* one : found) {
    cli::print(fmt::format("{}: {}\n", one->id,
                           one->acknowledged_by.empty()
                               ? "acknowledged"
                               : "was acknowledged already by " + one->acknowledged_by));
  }
  return cli::kDone;
}

// ---- test

// Asks a supervising process to start its sender, which has the secrets' environment.
bool ask_supervisor(const std::string& state_dir) {
  os::Files& files = os::real_files();
  std::vector<std::string> sockets = {os::join_path(state_dir, daemon::kControlSocket)};
  const std::string services = os::join_path(state_dir, "services");
  if (auto names = files.list(services)) {
    for (const std::string& name : *names) {
      sockets.push_back(os::join_path(os::join_path(services, name), daemon::kControlSocket));
    }
  }
  const wire::Json request = wire::Json::object({{"op", "alerts"}});
  return std::ranges::any_of(sockets, [&](const std::string& socket) {
    return files.exists(socket) && daemon::call_control(socket, request, kControlTime).has_value();
  });
}

Result<alert::Book::Finished> outcome_of(const Arguments& arguments, const std::string& message,
                                         os::Duration limit) {
  const os::Clock& clock = os::real_clock();
  const std::int64_t deadline = clock.mono_ns() + limit.count();
  while (clock.mono_ns() < deadline) {
    if (const auto book = alert::load_book(os::real_files(), arguments.state_dir)) {
      const auto& finished = book->finished();
      const auto found = std::ranges::find(finished, message, &alert::Book::Finished::id);
      if (found != finished.end()) return *found;
    }
    clock.sleep_for(kLookPeriod);
  }
  return Error(Code::kTimeout, "no sender has told what became of the test message")
      .suggest("look at STATE/alerts/sender.log");
}

Result<int> test_command(const Arguments& arguments) {
  os::Files& files = os::real_files();
  DEFIB_TRY_ASSIGN(const auto receivers, alert::load_receivers(files, arguments.state_dir));
  const auto receiver = std::ranges::find(receivers, arguments.subject, &alert::Receiver::name);
  if (receiver == receivers.end()) {
    std::string names;
    for (const alert::Receiver& one : receivers) names += (names.empty() ? "" : ", ") + one.name;
    return Error(Code::kNotFound, fmt::format("there is no receiver '{}'", arguments.subject))
        .with("state_dir", arguments.state_dir)
        .suggest(names.empty() ? "add [alert.NAME] to the configuration, and start the daemon"
                               : "one of: " + names);
  }
  alert::Event event;
  event.type = alert::EventType::kTest;
  event.id = "test-" + os::random_hex(8);
  event.service = "defib";
  event.cause = "test";
  event.severity = alert::Severity::kInfo;
  event.message = fmt::format("A test message for the receiver '{}'", receiver->name);
  event.wall_ns = os::real_clock().wall_ns();
  event.receiver = receiver->name;
  alert::Queue queue(files, alert::queue_path(arguments.state_dir));
  DEFIB_TRY(queue.append({event}));
  if (!ask_supervisor(arguments.state_dir)) {
    alert::SendOptions options;
    options.state_dir = arguments.state_dir;
    if (isatty(STDERR_FILENO) == 0) obs::set_log_level(obs::Level::kError);
    DEFIB_TRY(alert::run_sender(options));
  }
  DEFIB_TRY_ASSIGN(const auto outcome,
                   outcome_of(arguments, alert_id_of(event) + "-1", receiver->timeout + 10s));
  if (outcome.outcome != "delivered") {
    return Error(Code::kUnavailable,
                 fmt::format("the receiver '{}' did not take the test message", receiver->name))
        .because(Error(Code::kUnavailable, outcome.error));
  }
  if (arguments.json) {
    cli::print_json(wire::Json::object({{"schema", "defib.alert_test/1"},
                                        {"ok", true},
                                        {"receiver", receiver->name},
                                        {"message", outcome.id}}));
  } else {
    cli::print(fmt::format("{}: delivered\n", receiver->name));
  }
  return cli::kDone;
}

// ---- the command line

using Command = Result<int> (*)(const Arguments&);

int run(int argc, char** argv) {
  Arguments arguments;
  Command chosen = nullptr;
  CLI::App app("Alerts: what was told to whom, taking notice, and testing a receiver.",
               "defib alert");
  app.require_subcommand(1);
  app.fallthrough();
  app.add_flag("--json", arguments.json, "One JSON document on stdout, for machines");
  app.add_option("--state-dir", arguments.state_dir, "Where defib keeps all that it writes")
      ->type_name("DIR");
  const auto verb = [&](const char* name, const char* description, const char* example,
                        Command command) {
    CLI::App* sub = app.add_subcommand(name, description);
    sub->fallthrough();
    sub->footer(fmt::format("Example:\n  defib alert {}", example));
    sub->callback([&chosen, command] { chosen = command; });
    return sub;
  };
  verb("list", "Alerts that are open, or were lately", "list --json", &list_command);
  CLI::App* ack = verb("ack", "Take notice of an alert: no more repeats and no escalation of it",
                       "ack 1a2b3c4d5e6f --by alice", &ack_command);
  ack->add_option("ID", arguments.subject, "The alert's id, its beginning, or an incident's id")
      ->required()
      ->type_name("");
  ack->add_option("--by", arguments.by, "Who takes notice (default: you)")->type_name("NAME");
  verb("test", "Send a test message to one receiver", "test oncall", &test_command)
      ->add_option("NAME", arguments.subject, "The receiver: NAME of [alert.NAME]")
      ->required()
      ->type_name("");
  const bool json = std::any_of(argv + 1, argv + argc, [](const char* argument) {
    return std::string_view(argument) == "--json";
  });
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& mistake) {
    return cli::print_error(
        Error(Code::kWrongUsage, mistake.what()).suggest("`defib alert --help`"), json);
  }
  if (arguments.state_dir.empty()) arguments.state_dir = default_dir();
  const Result<int> done = chosen(arguments);
  return done ? *done : cli::print_error(done.error(), json);
}

}  // namespace
}  // namespace defib::alert_app

int main(int argc, char** argv) {
  using namespace defib;
  if (argc >= 2 && std::string_view(argv[1]) == "send") {
    const Result<int> sent = alert_app::send_command(argc, argv);
    return sent ? *sent : cli::print_error(sent.error(), false);
  }
  return alert_app::run(argc, argv);
}
