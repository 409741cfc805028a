// The output of services through real shims: indexed, rotated, limited, forwarded, and none of it
// lost or torn by kills.

#include <dirent.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "defib/os/random.h"
#include "defib/process/log_index.h"
#include "defib/process/supervisor_test_util.h"

namespace defib::process {
namespace {

std::vector<std::string> split_lines(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

class ServiceOutput : public SupervisorTest {
 protected:
  std::string log_file(int number) const {
    return service_dir() + "/logs/current" + (number > 0 ? fmt::format(".{}", number) : "");
  }
  static std::string slurp(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  std::uint64_t bytes_on_disk() const {
    std::uint64_t total = 0;
    DIR* dir = ::opendir((service_dir() + "/logs").c_str());
    while (const dirent* entry = ::readdir(dir)) {
      struct stat info{};
      if (::stat((service_dir() + "/logs/" + entry->d_name).c_str(), &info) == 0 &&
          S_ISREG(info.st_mode)) {
        total += static_cast<std::uint64_t>(info.st_size);
      }
    }
    ::closedir(dir);
    return total;
  }
  // Every log file has its own index, whose records cover it from its first byte on.
  void expect_indexed() const {
    for (int number = 0;; ++number) {
      struct stat info{};
      if (::stat(log_file(number).c_str(), &info) != 0) return;
      if (info.st_size == 0) continue;
      const auto index = LogIndex::open(log_file(number) + shim::kLogIndexSuffix, info.st_ino);
      ASSERT_TRUE(index) << log_file(number);
      shim::LogIndexRecord record;
      ASSERT_EQ(index->record(0, record), LogIndex::Read::kRecord);
      EXPECT_EQ(record.offset, 0u) << log_file(number);
    }
  }
};

TEST_F(ServiceOutput, RotationBoundsTheDiskAndKeepsIndexesWithTheirLogs) {
  ServiceSpec spec = victim({"log", "30000", "100"});
  spec.log_max_bytes = 64 << 10;
  spec.log_files = 3;
  start(spec);
  run_until([&] { return !seen_->exits.empty(); });
  run_until([&] { return all_logs().find("line 29999 ") != std::string::npos; });
  EXPECT_LE(bytes_on_disk(), 4u * (spec.log_max_bytes + 4096));
  EXPECT_GE(bytes_on_disk(), 2u * spec.log_max_bytes);
  expect_indexed();
  int first = -1, expected = -1;
  for (const std::string& line : split_lines(all_logs())) {
    ASSERT_EQ(line.size(), 99u);
    const int number = std::atoi(line.c_str() + 5);
    if (first < 0) expected = first = number;
    ASSERT_EQ(number, expected++);
  }
  EXPECT_GT(first, 0);  // the oldest are gone
  EXPECT_EQ(expected, 30000);
}

TEST_F(ServiceOutput, TheTotalBoundIsTheStricterOne) {
  ServiceSpec spec = victim({"log", "30000", "100"});
  spec.log_max_bytes = 64 << 10;
  spec.log_files = 50;
  spec.log_total_bytes = 256 << 10;
  start(spec);
  run_until([&] { return all_logs().find("line 29999 ") != std::string::npos; });
  EXPECT_LE(bytes_on_disk(), spec.log_total_bytes + 8192);
}

TEST_F(ServiceOutput, AnOldFileIsRotatedAndNoLineIsLost) {
  ServiceSpec spec = victim({"chat"});
  spec.log_max_age = std::chrono::milliseconds(20);
  spec.log_files = 100;
  start(spec);
  run_until([&] { return ::access(log_file(5).c_str(), F_OK) == 0; });
  stop_all();
  expect_indexed();
  std::set<int> numbers;
  for (const std::string& line : split_lines(all_logs())) {
    int generation = 0, number = -1;
    ASSERT_EQ(std::sscanf(line.c_str(), "%d %d", &generation, &number), 2) << line;
    EXPECT_TRUE(numbers.insert(number).second) << line;
  }
  EXPECT_EQ(static_cast<int>(numbers.size()), *numbers.rbegin() + 1);
}

TEST_F(ServiceOutput, TheIndexTellsStreamAndTimeOfEveryLine) {
  start(victim({"chat"}));
  const std::int64_t before = os::real_clock().wall_ns();
  run_until([&] { return split_lines(all_logs()).size() > 100; });
  stop_all();
  struct stat info{};
  ASSERT_EQ(::stat(log_file(0).c_str(), &info), 0);
  const auto index = LogIndex::open(log_file(0) + shim::kLogIndexSuffix, info.st_ino);
  ASSERT_TRUE(index);
  const std::string text = slurp(log_file(0));
  std::int64_t last = before - 60'000'000'000;
  std::size_t number = 0;
  for (shim::LogIndexRecord record, next; index->record(number, record) == LogIndex::Read::kRecord;
       ++number) {
    EXPECT_GE(record.wall_ns, last);
    last = record.wall_ns;
    const bool more = index->record(number + 1, next) == LogIndex::Read::kRecord;
    const std::size_t end = more ? next.offset : text.size();
    for (const std::string& line : split_lines(text.substr(record.offset, end - record.offset))) {
      const int count = std::atoi(line.c_str() + line.find(' '));
      EXPECT_EQ(record.stream, count % 3 == 0 ? 2 : 1) << line;
    }
  }
  EXPECT_GT(number, 10u);
  EXPECT_LE(last, os::real_clock().wall_ns());
}

TEST_F(ServiceOutput, AFloodIsCutToItsRateAndNeitherMemoryNorDiskGrow) {
  const std::string line = "0123456789abcdefghijklmnopqrstuvwxyz";
  ServiceSpec spec = victim({});
  spec.argv = {"/usr/bin/yes", line};
  spec.log_max_bytes = 256 << 10;
  spec.log_files = 2;
  spec.log_rate = 1 << 20;
  spec.log_burst = 128 << 10;
  start(spec);
  constexpr std::uint64_t kFlood = 300 << 20;  // so much was not kept
  std::uint64_t largest = 0;
  run_until([&] {
    largest = std::max(largest, bytes_on_disk());
    const auto counters = read_log_counters(service_dir());
    return counters && counters->dropped_by_rate > kFlood &&
           ::access(log_file(1).c_str(), F_OK) == 0;
  });
  EXPECT_LE(largest, 3u * (spec.log_max_bytes + 128 * 1024));
  const ServiceStatus now = status();
  EXPECT_GT(now.log_dropped_by_rate, kFlood);
  EXPECT_EQ(now.log_bytes_dropped, now.log_dropped_by_rate);
  const auto usage = os::process_usage(status().shim_pid);
  ASSERT_TRUE(usage);
  EXPECT_LT(usage->rss_bytes, 2u << 20);
  stop_all();
  // Whole lines were dropped: what is kept is whole lines.
  std::uint64_t kept = 0, torn = 0;
  for (const std::string& one : split_lines(all_logs())) {
    ++kept;
    torn += one != line;
  }
  EXPECT_GT(kept, 1000u);
  EXPECT_LE(torn, 1u);  // the last one, which the kill of the service cut
  // A notice for each time that the bucket was empty, not for each chunk.
  std::uint64_t notices = 0;
  for (int number = 0; number <= spec.log_files; ++number) {
    struct stat info{};
    if (::stat(log_file(number).c_str(), &info) != 0) continue;
    const auto index = LogIndex::open(log_file(number) + shim::kLogIndexSuffix, info.st_ino);
    shim::LogIndexRecord record;
    for (std::uint64_t i = 0; index && index->record(i, record) == LogIndex::Read::kRecord; ++i) {
      notices += record.kind == shim::LogRecordKind::kDroppedByRate;
    }
  }
  EXPECT_GE(notices, 1u);
  EXPECT_LE(notices, 100u);
}

TEST_F(ServiceOutput, OutputWithinItsRateIsKeptWhole) {
  ServiceSpec spec = victim({"log", "2000", "100"});
  spec.log_rate = 4096;
  spec.log_burst = 1 << 20;
  start(spec);
  run_until([&] { return split_lines(all_logs()).size() == 2000; });
  EXPECT_EQ(status().log_bytes_dropped, 0u);
}

TEST_F(ServiceOutput, AFullDiskDropsAndCountsAndTheServiceGoesOn) {
  // The limit stands for the disk: the shim inherits it, and a write beyond it fails.
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit small = before;
  small.rlim_cur = 200'000;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  struct sigaction ignore{};
  ignore.sa_handler = SIG_IGN;
  ::sigaction(SIGXFSZ, &ignore, nullptr);
  start(victim({"log", "50000", "100"}));  // 5 MB
  run_until([&] { return !seen_->exits.empty(); });
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_TRUE(seen_->exits.at(0).status.success());
  run_until([&] { return status().log_bytes_dropped > 4'000'000; });
  EXPECT_EQ(status().log_dropped_by_rate, 0u);
  EXPECT_LE(slurp(log_file(0)).size(), 200'000u);
  // The disk has room again: the log goes on with whole lines.
  rlimit none = before;
  ASSERT_EQ(::prlimit(status().shim_pid, RLIMIT_FSIZE, &none, nullptr), 0);
  ASSERT_TRUE(supervisor_->start("victim"));
  run_until([&] { return all_logs().find("line 49999 ") != std::string::npos; });
  const std::string text = slurp(log_file(0));
  std::size_t torn = 0;
  for (const std::string& line : split_lines(text)) torn += line.size() != 99;
  EXPECT_LE(torn, 1u);  // where the disk took only a part
}

TEST_F(ServiceOutput, AFloodThroughRotationsAndKillsLosesNoLine) {
  const std::uint64_t seed = os::random_seed();
  SCOPED_TRACE(fmt::format("seed {}", seed));
  os::Random random(seed);
  const char* more = std::getenv("DEFIB_OUTPUT_LINES");
  const int lines = more != nullptr ? std::atoi(more) : 400'000;
  ServiceSpec spec = victim({"log", std::to_string(lines), "100"});
  spec.log_max_bytes = static_cast<std::uint64_t>(lines) * 100 / 60;
  spec.log_files = 100;
  start(spec);
  run_until([&] { return status().pid > 0; });
  const pid_t service = status().pid;
  int shims = 0, supervisors = 0;
  while (seen_->exits.empty() && kill_one(service, 0)) {
    const auto record = read_status(os::real_files(), service_dir());
    ASSERT_TRUE(record && *record);
    if ((*record)->phase != shim::Phase::kRunning) break;
    if (random.below(3) == 0) {
      abandon_supervisor();
      seen_ = std::make_unique<Recorder>();
      make_supervisor();
      ASSERT_TRUE(supervisor_->add(spec));
      ++supervisors;
    }
    const pid_t shim = status().shim_pid;
    if (shim > 0 && kill_one(shim, SIGKILL)) ++shims;
    run_until([&] { return status().shim_pid != shim || !seen_->exits.empty(); });
    ::usleep(static_cast<useconds_t>(random.below(3000)));
  }
  run_until([&] { return !seen_->exits.empty(); });
  EXPECT_TRUE(seen_->exits.at(0).status.success());  // and not SIGPIPE
  run_until(
      [&] { return all_logs().find(fmt::format("line {} ", lines - 1)) != std::string::npos; });
  int expected = 0;
  for (const std::string& line : split_lines(all_logs())) {
    ASSERT_EQ(line.size(), 99u) << line;
    ASSERT_EQ(std::atoi(line.c_str() + 5), expected) << line;
    ++expected;
  }
  EXPECT_EQ(expected, lines);
  expect_indexed();
  std::printf("%d lines, %d shims and %d supervisors killed\n", lines, shims, supervisors);
  EXPECT_GT(shims, 3);
}

// Stands in for journald.
class JournalStandIn {
 public:
  struct Entry {
    std::map<std::string, std::string> fields;
    bool by_file = false;
  };
  explicit JournalStandIn(const std::string& path) : path_(path) { open(); }
  void open() {
    ::unlink(path_.c_str());
    fd_ = os::Fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path_.copy(address.sun_path, sizeof address.sun_path - 1);
    EXPECT_EQ(::bind(fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  }
  void close() { fd_ = os::Fd(); }
  void take() {
    static char buffer[1 << 18];
    while (fd_.valid()) {
      iovec part = {buffer, sizeof buffer};
      alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
      msghdr message{};
      message.msg_iov = &part;
      message.msg_iovlen = 1;
      message.msg_control = control;
      message.msg_controllen = sizeof control;
      const ssize_t size = ::recvmsg(fd_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
      if (size < 0) return;
      Entry entry;
      std::string bytes(buffer, static_cast<std::size_t>(size));
      if (const cmsghdr* attached = CMSG_FIRSTHDR(&message); attached != nullptr) {
        int file = -1;
        std::memcpy(&file, CMSG_DATA(attached), sizeof file);
        const os::Fd memory(file);
        EXPECT_EQ(::fcntl(file, F_GET_SEALS) & F_SEAL_WRITE, F_SEAL_WRITE);
        struct stat info{};
        ::fstat(file, &info);
        bytes.resize(static_cast<std::size_t>(info.st_size));
        EXPECT_EQ(::pread(file, bytes.data(), bytes.size(), 0), info.st_size);
        entry.by_file = true;
      }
      for (const std::string& line : split_lines(bytes)) {
        const std::size_t equals = line.find('=');
        entry.fields[line.substr(0, equals)] = line.substr(equals + 1);
      }
      entries.push_back(std::move(entry));
    }
  }
  std::vector<Entry> entries;

 private:
  std::string path_;
  os::Fd fd_;
};

TEST_F(ServiceOutput, LinesGoToJournaldLargeOnesAsFiles) {
  JournalStandIn journal(dir_ + "/journal");
  ServiceSpec spec = victim({});
  spec.argv = {"/bin/sh", "-c",
               "echo one; echo '<3>bad' >&2; head -c 300000 /dev/zero | tr '\\0' x; echo; "
               "printf last; echo ' line'"};
  spec.env.emplace_back("DEFIB_JOURNAL_SOCKET", dir_ + "/journal");
  spec.log_journal = true;
  start(spec);
  run_until([&] {
    journal.take();
    return journal.entries.size() == 4;
  });
  std::map<std::string, JournalStandIn::Entry> by_message;
  for (auto& entry : journal.entries) by_message[entry.fields["MESSAGE"]] = entry;
  EXPECT_EQ(by_message["one"].fields["PRIORITY"], "6");
  EXPECT_EQ(by_message["one"].fields["SYSLOG_IDENTIFIER"], "victim");
  EXPECT_EQ(by_message["one"].fields["DEFIB_STREAM"], "stdout");
  EXPECT_EQ(by_message["bad"].fields["PRIORITY"], "3");
  EXPECT_EQ(by_message["bad"].fields["DEFIB_STREAM"], "stderr");
  EXPECT_TRUE(by_message[std::string(300000, 'x')].by_file);
  EXPECT_TRUE(by_message.contains("last line"));
  run_until([&] { return status().journal_sent == 4; });
  EXPECT_EQ(status().journal_dropped, 0u);
}

TEST_F(ServiceOutput, JournaldMayBeSlowAwayOrItsShimKilledAndGetsEveryLine) {
  JournalStandIn journal(dir_ + "/journal");
  constexpr int kLines = 3000;
  ServiceSpec spec = victim({"log", std::to_string(kLines), "40"});
  spec.env.emplace_back("DEFIB_JOURNAL_SOCKET", dir_ + "/journal");
  spec.log_journal = true;
  spec.restart = RestartPolicy::kNever;
  start(spec);
  // Nobody reads: the service ends all the same.
  run_until([&] { return !seen_->exits.empty(); });
  for (int round = 0; round < 5; ++round) {
    run_until([&] {
      journal.take();
      return static_cast<int>(journal.entries.size()) > 400 * (round + 1);
    });
    if (round == 1) {
      journal.close();
      journal.open();
    }
    const pid_t shim = status().shim_pid;
    kill_one(shim, SIGKILL);
    run_until([&] { return status().shim_pid != shim; });
    // What it has to forward it learns with the configuration, as before a start.
    ASSERT_TRUE(supervisor_->update(spec));
  }
  run_until([&] {
    journal.take();
    const auto counters = read_log_counters(service_dir());
    return counters && counters->journal_sent >= kLines;
  });
  journal.take();
  std::map<std::string, std::string> seen;  // offset to message
  for (auto& entry : journal.entries) {
    const std::string& message = entry.fields["MESSAGE"];
    const auto [place, fresh] = seen.emplace(entry.fields["DEFIB_LOG_OFFSET"], message);
    EXPECT_EQ(place->second, message);  // twice only with the same offset
  }
  std::set<int> numbers;
  for (const auto& [offset, message] : seen) numbers.insert(std::atoi(message.c_str() + 5));
  // What lay unread in the socket that was closed is lost with it.
  EXPECT_GE(static_cast<int>(numbers.size()), kLines - 600);
  EXPECT_EQ(seen.size(), numbers.size());
  EXPECT_LE(journal.entries.size(), seen.size() + 5);  // at most one line a kill
}

}  // namespace
}  // namespace defib::process
