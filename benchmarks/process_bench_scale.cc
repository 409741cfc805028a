// The program `defib daemon` with one service and with a hundred: what it costs, and how long the
// death of the supervisor leaves them without one.
//
//   adopted_N        the supervisor is killed; its successor watches all N services: from its
//                    first instructions (their adoption), and from the kill (the gap)
//   kill_to_port     the service is killed until a client's connection is accepted, beside main()
//   footprint_N      proportional memory of supervisor, guardian and shims
//   wakeups_N        voluntary context switches of all of them while the services rest, with the
//                    default sampling, and with nothing armed
//   idle_processor   their processor time in the same seconds
//   scrape_N         processor time of one page /metrics and of one {"op":"metrics"}
//
// The HTTP helper runs for the scrapes alone: it is a program that one may do without.

#include <fcntl.h>
#include <fmt/core.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <string>
#include <vector>

#include "benchmarks/process_bench.h"
#include "defib/daemon/control.h"
#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/os/process.h"

namespace {

using namespace defib;

constexpr int kMany = 100;
constexpr std::int64_t kMillisecond = 1'000'000;

std::int64_t now_ns() {
  return os::real_clock().mono_ns();
}

std::string read_proc(pid_t pid, const char* what) {
  auto text = os::read_file(os::real_files(), fmt::format("/proc/{}/{}", pid, what), 1 << 20);
  return text ? std::move(*text) : std::string();
}

std::int64_t number_after(std::string_view text, std::string_view word) {
  const std::size_t at = text.find(word);
  if (at == std::string_view::npos) return 0;
  text.remove_prefix(at + word.size());
  text.remove_prefix(std::min(text.find_first_not_of(" \t"), text.size()));
  std::int64_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

double pss_kib(pid_t pid) {
  return static_cast<double>(os::process_pss_bytes(pid)) / 1024;
}

std::int64_t voluntary_switches(const std::vector<pid_t>& pids) {
  std::int64_t sum = 0;
  for (const pid_t pid : pids) {
    sum += number_after(read_proc(pid, "status"), "\nvoluntary_ctxt_switches:");
  }
  return sum;
}

// Of all threads; the first number of schedstat.
double processor_ms(const std::vector<pid_t>& pids) {
  std::int64_t ns = 0;
  for (const pid_t pid : pids) {
    const auto threads = os::real_files().list(fmt::format("/proc/{}/task", pid));
    if (!threads) continue;
    for (const std::string& thread : *threads) {
      ns += number_after(read_proc(pid, fmt::format("task/{}/schedstat", thread).c_str()), "");
    }
  }
  return static_cast<double>(ns) / 1e6;
}

struct Setting {
  int services = 1;
  bool armed = true;   // the limits that are sampled by default
  int http_port = 0;   // 0: without the helper
  int first_port = 0;  // where the first service listens; 0: none does
};

int free_port() {
  const os::Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in any{};
  any.sin_family = AF_INET;
  any.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof any;
  DEFIB_ASSERT(::bind(fd.get(), reinterpret_cast<sockaddr*>(&any), size) == 0);
  DEFIB_ASSERT(::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&any), &size) == 0);
  return ntohs(any.sin_port);
}

// A byte from the other side says that somebody accepted.
os::Fd connect_to(int port) {
  os::Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  to.sin_port = htons(static_cast<std::uint16_t>(port));
  if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&to), sizeof to) != 0) return {};
  return fd;
}

// On one connection: the helper's thread of it is there before and after, so that its processor
// time can be read.
void fetch_page(const os::Fd& connection) {
  constexpr std::string_view kRequest = "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
  DEFIB_ASSERT(::send(connection.get(), kRequest.data(), kRequest.size(), MSG_NOSIGNAL) ==
               static_cast<ssize_t>(kRequest.size()));
  std::string answer;
  std::size_t whole = SIZE_MAX;
  while (answer.size() < whole) {
    char buffer[1 << 16];
    const ssize_t got = ::recv(connection.get(), buffer, sizeof buffer, 0);
    DEFIB_ASSERT(got > 0);
    answer.append(buffer, static_cast<std::size_t>(got));
    const std::size_t head = answer.find("\r\n\r\n");
    if (whole != SIZE_MAX || head == std::string::npos) continue;
    const std::int64_t length = number_after(answer, "Content-Length:");
    DEFIB_ASSERT(length > 0);
    whole = head + 4 + static_cast<std::size_t>(length);
  }
}

// A daemon with its guardian, and services that rest.
class Daemon {
 public:
  Daemon(const std::string& dir, const std::string& victim, Setting setting)
      : dir_(dir), setting_(setting) {
    std::filesystem::create_directories(dir);
    std::string config;
    if (setting.http_port != 0) {
      config += fmt::format("[http]\nlisten = \"127.0.0.1:{}\"\n", setting.http_port);
    }
    for (int i = 0; i < setting.services; ++i) {
      config +=
          fmt::format("[service.s{0}]\ncommand = [\"{1}\", \"{2}/stamps{0}\"", i, victim, dir);
      if (i == 0 && setting.first_port != 0) config += fmt::format(", \"{}\"", setting.first_port);
      config += "]\nmax_restarts = 100000\nrestart_delay = \"0s\"\n";
      if (!setting.armed) config += "max_memory = 0\nmax_cpu = 0\n";
    }
    const std::string path = dir + "/defib.toml";
    must(os::write_file_atomically(os::real_files(), path, config));
    os::SpawnOptions options;
    options.argv = {
        os::own_program_dir() + "/defib", "daemon", "-c", path, "--state-dir", dir + "/state"};
    options.env = {{"LOG_LEVEL", "error"}};
    options.fds = {{2, 1}, {2, 2}};
    guardian_ = must(os::spawn(options));
    wait_for("all services", [&] {
      const wire::Json status = ask("status");
      shims_.clear();
      for (const wire::Json& one : status["services"].items()) {
        if (one["state"].as_string() != "running") return false;
        shims_.push_back(static_cast<pid_t>(one["shim_pid"].as_int()));
      }
      return static_cast<int>(shims_.size()) == setting.services;
    });
    supervisor_ = static_cast<pid_t>(ask("about")["pid"].as_int());
  }
  ~Daemon() {
    static_cast<void>(guardian_.signal(SIGTERM).has_value());
    guardian_.wait();
  }

  // The answer, or null where nobody answers.
  wire::Json ask(const char* op) const {
    auto answer = daemon::call_control(dir_ + "/state/control.sock",
                                       wire::Json::object({{"op", op}}), std::chrono::seconds(10));
    return answer ? std::move(*answer) : wire::Json();
  }
  pid_t supervisor() const { return supervisor_; }
  pid_t guardian() const { return guardian_.pid(); }
  const std::vector<pid_t>& shims() const { return shims_; }
  std::vector<pid_t> all() const {
    std::vector<pid_t> pids = shims_;
    pids.insert(pids.end(), {supervisor_, guardian_.pid()});
    return pids;
  }
  pid_t service_pid() const {
    return static_cast<pid_t>(ask("status")["services"].items().at(0)["pid"].as_int());
  }
  pid_t http_helper() const {
    const std::string children =
        read_proc(supervisor_, fmt::format("task/{0}/children", supervisor_).c_str());
    pid_t found = 0;
    std::size_t at = 0;
    while (at < children.size()) {
      const auto pid = static_cast<pid_t>(number_after(children.substr(at), ""));
      if (read_proc(pid, "comm") == "defib-http\n") found = pid;
      at = std::min(children.find(' ', at), children.size() - 1) + 1;
    }
    return found;
  }
  struct Gap {
    double adoption_ms = 0, from_kill_ms = 0;
  };
  // Kills the supervisor, and waits for one that watches all.
  Gap kill_supervisor() {
    const std::int64_t killed = now_ns();
    ::kill(supervisor_, SIGKILL);
    wire::Json about;
    wait_for("the next supervisor", [&] {
      about = ask("about");
      return about["supervising_mono_ns"].as_int() > killed;
    });
    supervisor_ = static_cast<pid_t>(about["pid"].as_int());
    const auto ms = [](std::int64_t ns) { return static_cast<double>(ns) / kMillisecond; };
    return {ms(about["supervising_mono_ns"].as_int() - about["started_mono_ns"].as_int()),
            ms(about["supervising_mono_ns"].as_int() - killed)};
  }

 private:
  template <typename Condition>
  static void wait_for(const char* what, Condition condition) {
    const std::int64_t until = now_ns() + 60'000 * kMillisecond;
    while (!condition()) {
      if (now_ns() > until) {
        fmt::print(stderr, "waited in vain for {}\n", what);
        std::exit(1);
      }
      ::usleep(20'000);  // Seldom: the waiting must not take the processor from what is measured.
    }
  }
  std::string dir_;
  Setting setting_;
  os::Child guardian_;
  pid_t supervisor_ = 0;
  std::vector<pid_t> shims_;
};

void row(std::string_view name, std::string_view metric, std::string_view unit, double value,
         std::optional<double> limit, int runs = 1) {
  print_row(name, metric, unit, value, "", std::nullopt, limit, runs);
}

void bench_adoption(Daemon& daemon, int services) {
  constexpr int kRounds = 15;
  std::vector<double> adoptions, gaps;
  for (int round = 0; round < kRounds; ++round) {
    const Daemon::Gap gap = daemon.kill_supervisor();
    adoptions.push_back(gap.adoption_ms);
    gaps.push_back(gap.from_kill_ms);
    ::usleep(300'000);
  }
  const std::string name = fmt::format("adopted_{}_services", services);
  const auto limit = services == kMany ? std::optional<double>(20) : std::nullopt;
  row(name, "from_main_p50", "ms", percentile(adoptions, 0.5), limit, kRounds);
  row(name, "from_kill_p50", "ms", percentile(gaps, 0.5), std::nullopt, kRounds);
  row(name, "from_kill_worst", "ms", percentile(gaps, 1), std::nullopt, kRounds);
}

void bench_footprint(const Daemon& daemon, int services) {
  // What the start needed is given back after two seconds, and the first sample is taken by then.
  ::usleep(6'000'000);
  double shims = 0;
  for (const pid_t pid : daemon.shims()) shims += pss_kib(pid);
  const double supervisor = pss_kib(daemon.supervisor()), guardian = pss_kib(daemon.guardian());
  const std::string name = fmt::format("footprint_{}_services", services);
  row(name, "supervisor_pss", "KiB", supervisor, std::nullopt);
  row(name, "guardian_pss", "KiB", guardian, std::nullopt);
  row(name, "shims_pss", "KiB", shims, std::nullopt);
  row(name, "all_pss", "KiB", supervisor + guardian + shims, services == 1 ? 4096 : 12 * 1024);
}

void bench_rest(const Daemon& daemon, int services, bool armed) {
  constexpr double kSeconds = 20;
  const std::vector<pid_t> all = daemon.all();
  const std::int64_t switches = voluntary_switches(all);
  const double used = processor_ms(all);
  ::usleep(static_cast<useconds_t>(kSeconds * 1e6));
  const std::string name =
      fmt::format("wakeups_{}_services{}", services, armed ? "" : "_nothing_armed");
  row(name, "voluntary_switches", "1/s",
      static_cast<double>(voluntary_switches(all) - switches) / kSeconds, armed ? 1 : 0);
  if (!armed) return;
  row(fmt::format("idle_processor_{}_services", services), "share", "%",
      (processor_ms(all) - used) / kSeconds / 10, 1);
}

void bench_scrapes(const Daemon& daemon, const Setting& setting) {
  constexpr int kScrapes = 20;
  constexpr useconds_t kApart = 300'000;  // longer than one answer of the daemon is shown again
  const std::vector<pid_t> both = {daemon.supervisor(), daemon.http_helper()};
  const os::Fd connection = connect_to(setting.http_port);
  fetch_page(connection);
  double used = processor_ms(both);
  for (int i = 0; i < kScrapes; ++i) {
    ::usleep(kApart);
    fetch_page(connection);
  }
  const std::string name = fmt::format("scrape_{}_services", setting.services);
  row(name, "page_processor_time", "ms", (processor_ms(both) - used) / kScrapes,
      setting.services == kMany ? std::optional<double>(4) : std::nullopt, kScrapes);
  used = processor_ms({daemon.supervisor()});
  for (int i = 0; i < kScrapes; ++i) {
    ::usleep(kApart);
    daemon.ask("metrics");
  }
  row(name, "op_metrics_processor_time", "ms",
      (processor_ms({daemon.supervisor()}) - used) / kScrapes, std::nullopt, kScrapes);
}

// Until a client of the service is answered, beside the main() of the replacement.
void bench_port(const Daemon& daemon, const std::string& dir, int port) {
  constexpr int kRounds = 50;
  std::vector<double> to_main, to_port;
  for (int round = 0; round < kRounds; ++round) {
    ::usleep(50'000);
    const pid_t pid = daemon.service_pid();
    const std::int64_t killed = now_ns();
    ::kill(pid, SIGKILL);
    char answer = 0;
    while (true) {
      const os::Fd fd = connect_to(port);
      // The dead process may still have taken the connection.
      if (fd.valid() && ::recv(fd.get(), &answer, 1, 0) == 1) break;
      ::usleep(50);
    }
    to_port.push_back(static_cast<double>(now_ns() - killed) / 1e3);
    const auto stamps = os::read_file(os::real_files(), dir + "/stamps0");
    std::int64_t last = 0;
    std::memcpy(&last, stamps->data() + stamps->size() - sizeof last, sizeof last);
    to_main.push_back(static_cast<double>(last - killed) / 1e3);
  }
  for (const double fraction : {0.5, 0.99}) {
    const std::string suffix = fmt::format("p{:.0f}", fraction * 100);
    row("kill_to_port", "main_" + suffix, "us", percentile(to_main, fraction), std::nullopt,
        kRounds);
    row("kill_to_port", "answered_" + suffix, "us", percentile(to_port, fraction), std::nullopt,
        kRounds);
  }
}

}  // namespace

void bench_scale(const std::string& dir, const std::string& victim) {
  for (const int services : {1, kMany}) {
    const std::string own = fmt::format("{}/scale-{}", dir, services);
    const Setting setting = {.services = services, .first_port = services == 1 ? free_port() : 0};
    Daemon daemon(own, victim, setting);
    bench_footprint(daemon, services);
    bench_rest(daemon, services, true);
    bench_adoption(daemon, services);
    if (setting.first_port != 0) bench_port(daemon, own, setting.first_port);
  }
  {
    const Daemon daemon(dir + "/scale-unarmed", victim, {.services = kMany, .armed = false});
    ::usleep(4'000'000);  // until the start's own timers are done
    bench_rest(daemon, kMany, false);
  }
  const Setting with_http = {.services = kMany, .http_port = free_port()};
  const Daemon daemon(dir + "/scale-http", victim, with_http);
  bench_scrapes(daemon, with_http);
}
