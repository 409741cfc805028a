// Every way of failing, by a victim plugin that is named for it.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <set>
#include <thread>

#include "defib/call/client.h"
#include "defib/call/testcases/victims_api.h"
#include "defib/call/zygote_protocol.h"

namespace defib::call {
namespace {

using testcases::EchoApi;
using testcases::VictimApi;
using ::testing::AnyOf;
using ::testing::HasSubstr;

const std::string kPlugins = DEFIB_PLUGINS "/";

struct Case {
  std::string victim;
  Code code;
  std::string failure;  // the Error's field; empty: an error that faults nothing
  std::string text;     // part of the Error's whole text
};

void PrintTo(const Case& one, std::ostream* out) {
  *out << one.victim;
}

ClientOptions quick() {
  ClientOptions options;
  options.call_timeout = Milliseconds(3000);
  options.backtrace = false;
  return options;
}

class Victims : public ::testing::TestWithParam<Case> {};

TEST_P(Victims, BecomeTheirError) {
  const Case& one = GetParam();
  ClientOptions options = quick();
  const bool waits = one.failure == "time_limit" || one.failure == "hang";
  if (waits) options.call_timeout = Milliseconds(300);
  if (one.victim.starts_with("memory_eater")) options.isolation.memory_bytes = 64 << 20;
  if (one.victim == "descriptor_eater") options.isolation.descriptors = 40;
  if (one.victim == "socket_opener") options.isolation.no_network = true;
  if (one.victim == "file_writer") options.isolation.read_only_files = true;
  if (one.victim == "system_call") options.isolation.strict_system_calls = true;
  auto client = Client<VictimApi>::create(kPlugins + "victim_" + one.victim + ".so", options);
  ASSERT_TRUE(client) << client.error().to_text();
  EXPECT_EQ(client->call<VictimApi::Add>(2, 3).value(), 5);

  const auto broken = client->call<VictimApi::Break>("ESM4", 0);
  ASSERT_FALSE(broken);
  EXPECT_EQ(broken.error().code(), one.code) << broken.error().to_text();
  EXPECT_EQ(broken.error().field("failure"), one.failure) << broken.error().to_text();
  EXPECT_THAT(broken.error().to_text(), HasSubstr(one.text));
  EXPECT_EQ(broken.error().field("method"), "break");
  EXPECT_EQ(broken.error().field("arguments"), "\"ESM4\", 0");
  if (one.failure.empty()) {
    EXPECT_EQ(client->call<VictimApi::Add>(2, 3).value(), 5);
    return;
  }
  EXPECT_THAT(broken.error().message(), HasSubstr("This client instance is no longer usable. "
                                                  "Please create a new client instance to"));
  const auto later = client->call<VictimApi::Add>(2, 3);
  ASSERT_FALSE(later);
  EXPECT_EQ(later.error().code(), Code::kClientFaulted);
  EXPECT_THAT(later.error().message(), HasSubstr("has faulted due to a previous native crash and "
                                                 "cannot be reused"));
  EXPECT_THAT(later.error().message(), HasSubstr("break"));
  auto fresh = Client<VictimApi>::create(kPlugins + "victim_" + one.victim + ".so", options);
  ASSERT_TRUE(fresh) << fresh.error().to_text();
  EXPECT_EQ(fresh->call<VictimApi::Add>(20, 22).value(), 42);
}

constexpr auto kCrash = Code::kNativeCrash;
INSTANTIATE_TEST_SUITE_P(
    Catalogue, Victims,
    ::testing::Values(
        Case{"null_read", kCrash, "null_dereference", "SIGSEGV"},
        Case{"null_write", kCrash, "null_dereference", "victim_null_write.so+0x"},
        Case{"null_call", kCrash, "null_dereference", "at 0x0"},
        Case{"wild_read", kCrash, "segmentation_fault", "at 0x5a5a5a5a5000"},
        Case{"non_canonical", kCrash, "segmentation_fault", "SIGSEGV"},
        Case{"write_to_text", kCrash, "segmentation_fault", "SIGSEGV"},
        Case{"use_after_unmap", kCrash, "segmentation_fault", "SIGSEGV"},
        Case{"stack_overflow", kCrash, "stack_overflow", "a stack overflow"},
        Case{"bus_error", kCrash, "bus_error", "SIGBUS"},
        Case{"illegal_instruction", kCrash, "illegal_instruction", "SIGILL"},
        Case{"division", kCrash, "arithmetic_fault", "SIGFPE"},
        Case{"trap", kCrash, "trap", "SIGTRAP"}, Case{"abort", kCrash, "abort", "SIGABRT"},
        Case{"assertion", kCrash, "assertion_failure", "the book is sorted"},
        Case{"exception_in_thread", kCrash, "uncaught_exception", "runtime_error': no such symbol"},
        Case{"throw_in_noexcept", kCrash, "uncaught_exception", "logic_error': out of order"},
        Case{"double_free", kCrash, "heap_corruption", "double free"},
        Case{"heap_overrun", kCrash, "heap_corruption", "SIGABRT"},
        Case{"free_of_stack", kCrash, "heap_corruption", "invalid"},
        Case{"pure_virtual", kCrash, "uncaught_exception", "terminate"},
        Case{"exit", Code::kNativeExit, "exit", "with code 7"},
        Case{"exit_at_once", Code::kNativeExit, "exit", "with code 9"},
        Case{"kill_itself", Code::kWorkerKilled, "killed_externally", "SIGKILL"},
        Case{"terminated", Code::kWorkerKilled, "killed_externally", "SIGTERM"},
        Case{"endless_loop", Code::kNativeTimeLimit, "time_limit", "did not end within 300 ms"},
        Case{"deadlock", Code::kNativeHang, "hang", "no progress"},
        Case{"sleep", Code::kNativeHang, "hang", "no progress"},
        Case{"memory_eater", Code::kNativeOutOfMemory, "", "break got no memory"},
        Case{"memory_eater_in_c", Code::kNativeLimit, "out_of_memory", "its limit of memory"},
        Case{"descriptor_eater", Code::kMethodThrew, "", "no descriptor is left"},
        Case{"fork_bomb", Code::kMethodThrew, "", "fork was refused"},
        Case{"socket_opener", Code::kMethodThrew, "", "no socket"},
        Case{"file_writer", Code::kMethodThrew, "", "no file"},
        Case{"system_call", kCrash, "bad_system_call", "SIGSYS"},
        Case{"crash_in_thread", kCrash, "null_dereference", "SIGSEGV"},
        Case{"crash_in_destructor", kCrash, "null_dereference", "SIGSEGV"},
        Case{"handler_of_its_own", Code::kNativeExit, "exit", "with code 11"},
        Case{"long_jump", kCrash, "null_dereference", "SIGSEGV"}),
    [](const auto& one) { return one.param.victim; });

TEST(Victims, ThatCrashWhileTheyAreLoadedAreErrorsOfCreation) {
  const auto client = Client<VictimApi>::create(kPlugins + "victim_crash_at_load.so", quick());
  ASSERT_FALSE(client);
  EXPECT_EQ(client.error().code(), Code::kNativeCrash) << client.error().to_text();
  EXPECT_EQ(client.error().field("method"), "loading the plugin");
}

TEST(Victims, ThatCannotBeLoadedAreErrorsOfCreation) {
  const auto missing = Client<VictimApi>::create(kPlugins + "victim_missing_symbol.so", quick());
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code(), Code::kPluginUnloadable);
  EXPECT_THAT(missing.error().message(), HasSubstr("a_function_that_no_library_has"));
  const auto none = Client<VictimApi>::create(kPlugins + "victim_no_plugin.so", quick());
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code(), Code::kPluginUnloadable);
  EXPECT_THAT(none.error().message(), HasSubstr("is not a plugin"));
}

// On a machine that is overloaded a capture may come too late for the names: it is tried again.
constexpr int kReportAttempts = 10;

template <typename Report>
std::string backtrace_with(std::string_view wanted, const Report& make_report) {
  std::string backtrace;
  for (int i = 0; i < kReportAttempts && backtrace.find(wanted) == std::string::npos; ++i) {
    const std::optional<FaultReport> report = make_report();
    backtrace = report ? report->backtrace + report->no_backtrace_because : "no report";
  }
  return backtrace;
}

TEST(Fault, TheReportHasTheWorkersBacktrace) {
  ClientOptions options = quick();
  options.backtrace = true;
  const std::string backtrace = backtrace_with("break_it", [&] {
    auto client = Client<VictimApi>::create(kPlugins + "victim_null_write.so", options).value();
    EXPECT_FALSE(client.call<VictimApi::Break>("x", 1));
    const auto report = client.report(Milliseconds(20'000));
    EXPECT_TRUE(report && report->fault.kind == FaultKind::kNullDereference);
    return report;
  });
  EXPECT_THAT(backtrace, HasSubstr("break_it"));
  EXPECT_THAT(backtrace, HasSubstr("victim_null_write.cc:"));
}

TEST(Fault, AHungCallsReportShowsWhereItWaits) {
  ClientOptions options = quick();
  options.backtrace = true;
  options.call_timeout = Milliseconds(200);
  const std::string backtrace = backtrace_with("break_it", [&] {
    auto client = Client<VictimApi>::create(kPlugins + "victim_deadlock.so", options).value();
    EXPECT_FALSE(client.call<VictimApi::Break>("x", 1));
    return client.report(Milliseconds(20'000));
  });
  EXPECT_THAT(backtrace, HasSubstr("break_it"));
}

TEST(Fault, AMethodThatTellsOfItsProgressIsNotHung) {
  ClientOptions options = quick();
  options.hang_timeout = Milliseconds(100);
  auto client = Client<EchoApi>::create(kPlugins + "echo.so", options).value();
  EXPECT_TRUE(client.call<EchoApi::Wait>(400, true));
  const auto started = std::chrono::steady_clock::now();
  const auto hung = client.call<EchoApi::Wait>(2500, false);
  const auto took = std::chrono::steady_clock::now() - started;
  ASSERT_FALSE(hung);
  EXPECT_EQ(hung.error().code(), Code::kNativeHang) << hung.error().to_text();
  EXPECT_LT(took, std::chrono::milliseconds(1000));
}

TEST(Fault, AStreamThatStandsStillIsHungAndOneThatOnlyIsSlowIsNot) {
  ClientOptions options = quick();
  options.hang_timeout = Milliseconds(200);
  auto client = Client<EchoApi>::create(kPlugins + "echo.so", options).value();
  auto slow = client.open<EchoApi::BadEnd>(2, "slow").value();
  for (int i = 0; i < 3; ++i) ASSERT_EQ(slow.next().value()->number, i);
  EXPECT_FALSE(slow.next().value());
  options.backtrace = true;
  const std::string backtrace = backtrace_with("bad_end", [&] {
    auto standing = Client<EchoApi>::create(kPlugins + "echo.so", options).value();
    auto ticks = standing.open<EchoApi::BadEnd>(2, "stand").value();
    for (int i = 0; i < 2; ++i) EXPECT_EQ(ticks.next().value()->number, i);
    // Also for a reader that never waits so long at a time.
    auto end = ticks.next(Milliseconds(10));
    for (int i = 0; i < 1000 && !end && end.error().code() == Code::kTimeout; ++i) {
      end = ticks.next(Milliseconds(10));
    }
    EXPECT_EQ(end.error().code(), Code::kNativeHang) << end.error().to_text();
    EXPECT_EQ(end.error().field("method"), "bad_end");
    EXPECT_EQ(standing.call<EchoApi::Double>(1).error().code(), Code::kClientFaulted);
    return standing.report(Milliseconds(20'000));
  });
  EXPECT_THAT(backtrace, HasSubstr("bad_end"));
  EXPECT_FALSE(client.fault());
}

TEST(Fault, RecordsDeliveredBeforeTheCrashStayValidAndComeFirst) {
  auto client = Client<EchoApi>::create(kPlugins + "echo.so", quick()).value();
  for (const std::string how : {"crash", "exit"}) {
    auto fresh = Client<EchoApi>::create(kPlugins + "echo.so", quick()).value();
    auto ticks = fresh.open<EchoApi::BadEnd>(1000, how).value();
    for (int i = 0; i < 1000; ++i) {
      const auto tick = ticks.next();
      ASSERT_TRUE(tick) << i << " " << tick.error().to_text();
      ASSERT_EQ((*tick)->number, i);
    }
    const auto end = ticks.next();
    ASSERT_FALSE(end);
    EXPECT_EQ(end.error().code(), how == "crash" ? Code::kNativeCrash : Code::kNativeExit);
    EXPECT_EQ(end.error().field("method"), "bad_end");
    EXPECT_EQ(fresh.call<EchoApi::Double>(1).error().code(), Code::kClientFaulted);
    EXPECT_EQ(ticks.next().error().code(), end.error().code());
  }
  EXPECT_EQ(client.call<EchoApi::Double>(1).value(), 2) << "another client notices nothing";
}

TEST(Fault, AStackOverflowOfAStreamsThreadIsTold) {
  auto client = Client<EchoApi>::create(kPlugins + "echo.so", quick()).value();
  auto ticks = client.open<EchoApi::BadEnd>(1, "overflow").value();
  ASSERT_TRUE(ticks.next());
  const auto end = ticks.next();
  ASSERT_FALSE(end);
  EXPECT_EQ(end.error().field("failure"), "stack_overflow") << end.error().to_text();
}

TEST(Fault, EveryPendingCallAndStreamOfTheClientFailsAtOnce) {
  auto client = Client<EchoApi>::create(kPlugins + "echo.so", quick()).value();
  // Of those who wait for the end of a process, the kernel wakes one.
  auto one = client.open<EchoApi::BadEnd>(0, "stand").value();
  auto another = client.open<EchoApi::BadEnd>(0, "stand").value();
  std::vector<std::jthread> callers;
  std::atomic<int> faulted{0}, crashed{0};
  const auto count = [&](const Error& error) {
    (error.code() == Code::kClientFaulted ? faulted : crashed) += 1;
  };
  callers.emplace_back([&] { count(client.call<EchoApi::Wait>(2500, false).error()); });
  const auto& phase = client.session().mapping()->channel().notes.phase;
  while (phase.load() != static_cast<std::uint32_t>(Phase::kCalling)) std::this_thread::yield();
  for (int i = 0; i < 3; ++i) {
    callers.emplace_back([&] { count(client.call<EchoApi::Double>(1).error()); });
  }
  callers.emplace_back([&] { count(one.next().error()); });
  callers.emplace_back([&] { count(another.next().error()); });
  while (client.worker_pid() < 0) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  const auto started = std::chrono::steady_clock::now();
  kill(client.worker_pid(), SIGKILL);
  callers.clear();
  EXPECT_LT(std::chrono::steady_clock::now() - started, std::chrono::milliseconds(1000));
  EXPECT_EQ(crashed, 1);
  EXPECT_EQ(faulted, 5);
}

TEST(Fault, AnIdleClientIsFaultedToo) {
  auto client = Client<EchoApi>::create(kPlugins + "echo.so", quick()).value();
  while (client.worker_pid() < 0) std::this_thread::yield();
  kill(client.worker_pid(), SIGKILL);
  ASSERT_TRUE(client.report(Milliseconds(5000)));
  EXPECT_EQ(client.call<EchoApi::Double>(1).error().code(), Code::kClientFaulted);
}

// Nobody calls, so only the host's thread hears of it.
TEST(Fault, ACrashWhoseExplanationIsRefusedIsReportedAllTheSame) {
  std::atomic<int> told{0};
  ClientOptions options = quick();
  options.backtrace = true;
  options.host = Host::start({.max_captures = 0}).value();
  options.on_fault = [&](const FaultReport& report) {
    EXPECT_EQ(report.fault.kind, FaultKind::kNullDereference);
    ++told;
  };
  auto client = Client<VictimApi>::create(kPlugins + "victim_crash_later.so", options).value();
  ASSERT_EQ(client.call<VictimApi::Break>("x", 1).value(), 1);
  const auto report = client.report(Milliseconds(2000));
  ASSERT_TRUE(report);
  EXPECT_EQ(report->error.code(), Code::kNativeCrash) << report->error.to_text();
  EXPECT_THAT(report->no_backtrace_because, HasSubstr("other crashes are being explained"));
  // The end of the worker tells nobody a second time.
  for (int i = 0; i < 5000 && (told == 0 || options.host->workers() > 0); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_EQ(options.host->workers(), 0U);
  EXPECT_EQ(told, 1);
}

TEST(Host, AZygoteThatDiesIsReplacedAndItsClientsAreFaulted) {
  ClientOptions options = quick();
  options.host = Host::start().value();
  auto client = Client<EchoApi>::create(kPlugins + "echo.so", options).value();
  kill(options.host->zygote_pid(), SIGKILL);
  ASSERT_TRUE(client.report(Milliseconds(5000)));
  EXPECT_TRUE(client.fault());
  auto fresh = Client<EchoApi>::create(kPlugins + "echo.so", options);
  ASSERT_TRUE(fresh) << fresh.error().to_text();
  EXPECT_EQ(fresh->call<EchoApi::Double>(4).value(), 8);
}

int end_at_once(int, int) {
  return 0;
}

// Orders that are not taken before the host has read what it is told: both would wait for ever.
TEST(Host, AZygoteTakesOrdersWhileNobodyReadsWhatItTells) {
  constexpr std::uint64_t kOrders = 100;
  int fds[2] = {-1, -1};
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
  os::Fd ours(fds[0]), theirs(fds[1]);
  const int few = 1;  // bytes: the kernel makes it its least, which is some packets
  for (const int fd : fds) setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &few, sizeof few);
  const pid_t zygote = fork();
  if (zygote == 0) {
    close(ours.release());
    zygote_main(theirs.get(), end_at_once);
  }
  theirs.reset();
  const os::Fd null(open("/dev/null", O_RDONLY | O_CLOEXEC));
  const int passed[] = {null.get(), null.get()};
  std::uint64_t taken = 0;
  pollfd ready = {ours.get(), POLLOUT, 0};
  while (taken < kOrders && poll(&ready, 1, 5000) > 0) {
    ToZygote order = {ToZygote::kFork, 0, taken + 1};
    iovec part = {&order, sizeof order};
    msghdr header = {};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    os::FdRoom<2> room;
    os::attach_fds(header, room, passed, 2);
    if (sendmsg(ours.get(), &header, MSG_NOSIGNAL | MSG_DONTWAIT) > 0) ++taken;
  }
  EXPECT_EQ(taken, kOrders);
  std::set<std::uint64_t> ended;
  ready.events = POLLIN;
  while (ended.size() < taken && poll(&ready, 1, 5000) > 0) {
    FromZygote message = {};
    if (recv(ours.get(), &message, sizeof message, 0) <= 0) break;
    if (message.kind == FromZygote::kEnded) ended.insert(message.number);
  }
  EXPECT_EQ(ended.size(), kOrders);
  ours.reset();
  if (taken < kOrders) kill(zygote, SIGKILL);
  EXPECT_EQ(waitpid(zygote, nullptr, 0), zygote);
}

TEST(Host, WithoutItsProgramNoWorkerStartsAndTheErrorSaysWhatToDo) {
  const auto host = Host::start({.worker_program = "/nowhere/defib-worker"});
  ASSERT_FALSE(host);
  EXPECT_EQ(host.error().code(), Code::kWorkerUnavailable);
  EXPECT_THAT(host.error().to_text(), HasSubstr("/nowhere/defib-worker"));
}

std::size_t open_descriptors() {
  return static_cast<std::size_t>(
      std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {}));
}

std::size_t mappings() {
  std::ifstream maps("/proc/self/maps");
  std::size_t lines = 0;
  for (std::string line; std::getline(maps, line);) ++lines;
  return lines;
}

// 10,000 in the long form (DEFIB_CALL_CRASHES).
TEST(Fault, CrashesInARowLeakNothing) {
  const char* given = getenv("DEFIB_CALL_CRASHES");
  const int rounds = given == nullptr ? 300 : atoi(given);
  const std::string victims[] = {"null_write", "abort", "double_free", "exit", "stack_overflow"};
  ClientOptions options = quick();
  options.host = Host::start().value();
  const auto crash = [&](int i) {
    auto client = Client<VictimApi>::create(kPlugins + "victim_" + victims[i % 5] + ".so", options);
    ASSERT_TRUE(client) << client.error().to_text();
    ASSERT_FALSE(client->call<VictimApi::Break>("x", 1));
  };
  const auto settle = [&] {
    for (int i = 0; options.host->workers() > 0; ++i) {
      ASSERT_LT(i, 10'000) << "workers are left";
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  };
  for (int i = 0; i < 20; ++i) crash(i);
  settle();
  const std::size_t descriptors = open_descriptors();
  const std::size_t maps = mappings();
  for (int i = 0; i < rounds; ++i) crash(i);
  settle();
  // The host's thread lets go of the last ones in its own time.
  for (int i = 0; i < 2000 && open_descriptors() > descriptors; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_LE(open_descriptors(), descriptors);
  EXPECT_LE(mappings(), maps + 2);
  printf("  %d crashes in a row\n", rounds);
}

}  // namespace
}  // namespace defib::call
