#include "defib/process/agent.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "defib/os/fd.h"
#include "defib/os/notify.h"
#include "defib/process/agent_c.h"

// The sanitizers would have handlers of their own for fatal signals, and the hook leaves those
// alone. They ask before they are ready to watch whom they ask.
constexpr char kSanitizerOptions[] =
    "handle_segv=0:handle_sigbus=0:handle_sigfpe=0:handle_sigill=0:handle_abort=0";
extern "C" __attribute__((no_sanitize("address"))) const char* __asan_default_options() {
  return kSanitizerOptions;
}
extern "C" __attribute__((no_sanitize("thread"))) const char* __tsan_default_options() {
  return kSanitizerOptions;
}

namespace defib::process {
namespace {

using namespace std::chrono_literals;

// What the shim does for a service: the sealed page, the event descriptor, the notify socket, and
// the environment that names them.
class Shim {
 public:
  Shim() {
    page_fd_ = os::Fd(memfd_create("agent-test", MFD_ALLOW_SEALING));
    EXPECT_EQ(ftruncate(page_fd_.get(), kAgentPageSize), 0);
    fcntl(page_fd_.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW);
    event_fd_ = os::Fd(eventfd(0, EFD_NONBLOCK));
    void* memory =
        mmap(nullptr, kAgentPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, page_fd_.get(), 0);
    EXPECT_NE(memory, MAP_FAILED);
    page_ = new (memory) AgentPage;
    page_->version = kAgentPageVersion;
    page_->event_fd = event_fd_.get();
    page_->magic = kAgentPageMagic;
    char directory[] = "/tmp/agent-test-XXXXXX";
    directory_ = mkdtemp(directory);
    setenv("DEFIB_AGENT_FD", std::to_string(page_fd_.get()).c_str(), 1);
  }
  ~Shim() {
    unsetenv("DEFIB_AGENT_FD");
    unsetenv("NOTIFY_SOCKET");
    munmap(page_, kAgentPageSize);
    if (!socket_path_.empty()) unlink(socket_path_.c_str());
    rmdir(directory_.c_str());
  }

  void listen() {
    socket_path_ = directory_ + "/notify";
    socket_ = os::Fd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    socket_path_.copy(address.sun_path, sizeof address.sun_path - 1);
    ASSERT_EQ(bind(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    setenv("NOTIFY_SOCKET", socket_path_.c_str(), 1);
  }
  // The next message, or "" where there is none.
  std::string receive() {
    std::string text(128 * 1024, '\0');
    const auto size = recv(socket_.get(), text.data(), text.size(), 0);
    text.resize(size > 0 ? static_cast<std::size_t>(size) : 0);
    return text;
  }
  bool rang() {
    std::uint64_t value = 0;
    return read(event_fd_.get(), &value, sizeof value) == sizeof value;
  }
  AgentPage& page() { return *page_; }
  const std::string& directory() const { return directory_; }

 private:
  os::Fd page_fd_, event_fd_, socket_;
  AgentPage* page_ = nullptr;
  std::string directory_, socket_path_;
};

// Runs `service` in a process of its own, since a process attaches once in its life. Its result is
// the wait status; a service returns true when all was as expected.
int run_service(const std::function<bool()>& service) {
  const pid_t pid = fork();
  if (pid == 0) _exit(service() ? 0 : 1);
  int status = -1;
  EXPECT_EQ(waitpid(pid, &status, 0), pid);
  return status;
}

StageUse use_of(const HeartbeatStage& stage) {
  return static_cast<StageUse>(stage.in_use.load());
}

TEST(Agent, OutsideOfDefibEverythingIsANoOp) {
  EXPECT_EQ(run_service([] {
              const auto agent = Agent::attach();
              if (agent || agent.error().code() != Code::kAgentUnavailable) return false;
              Agent idle = Agent::attach_or_idle();
              Heartbeat stage = idle.stage("loop", 10ms);
              stage.beat();
              stage.pause();
              stage.resume();
              return !stage.watched() && !idle.ready() && !idle.event(wire::Json::object()) &&
                     idle.dropped_messages() == 0 && defib_attach() == 0 &&
                     defib_stage_claim("c", 1) == nullptr;
            }),
            0);
}

TEST(Agent, AStageIsNamedArmedByItsFirstBeatAndFreedAtItsEnd) {
  Shim shim;
  EXPECT_EQ(run_service([&] {
              auto agent = Agent::attach();
              if (!agent || shim.page().agent_pid.load() != getpid()) return false;
              HeartbeatStage& slot = shim.page().stages[0];
              {
                Heartbeat stage = agent->stage("market data", 1500us);
                if (use_of(slot) != StageUse::kWatched || slot.deadline_ms.load() != 2)
                  return false;
                // It rang once: when it attached, so that its life is watched.
                if (std::string(slot.name) != "market data" || !shim.rang()) return false;
                if (shim.rang()) return false;
                stage.beat();
                if (slot.beats.load() != 1 || !shim.rang()) return false;
                stage.beat();
                if (slot.beats.load() != 2 || shim.rang()) return false;
                stage.pause();
                if (use_of(slot) != StageUse::kPaused) return false;
                stage.resume();
                if (use_of(slot) != StageUse::kWatched || !shim.rang()) return false;
              }
              return use_of(slot) == StageUse::kFree;
            }),
            0);
}

TEST(Agent, MoreStagesThanSlotsAreUnwatchedAndHarmless) {
  Shim shim;
  EXPECT_EQ(run_service([] {
              auto agent = Agent::attach();
              std::vector<Heartbeat> stages;
              for (std::size_t i = 0; i < kMaxStages; ++i) {
                stages.push_back(agent->stage(std::string(100, 'x'), 1s));
                if (!stages.back().watched()) return false;
              }
              Heartbeat one_more = agent->stage("one more", 1s);
              one_more.beat();
              stages.pop_back();
              return !one_more.watched() && agent->stage("again", 1s).watched();
            }),
            0);
}

TEST(Agent, AForkedChildNeitherBeatsNorCrashesForItsParent) {
  Shim shim;
  EXPECT_EQ(run_service([&] {
              auto agent = Agent::attach();
              Heartbeat stage = agent->stage("loop", 1s);
              stage.beat();
              const int child = run_service([&] {
                for (int i = 0; i < 100; ++i) stage.beat();
                Heartbeat another = agent->stage("child's", 1s);
                if (another.watched()) return false;
                raise(SIGSEGV);
                return false;
              });
              return WIFSIGNALED(child) && WTERMSIG(child) == SIGSEGV &&
                     shim.page().stages[0].beats.load() == 1 && shim.page().crash.state.load() == 0;
            }),
            0);
}

TEST(Agent, ACrashLeavesItsFactsInThePageAndKeepsItsSignal) {
  Shim shim;
  const int status = run_service([&] {
    auto agent = Agent::attach();
    (void)shim.rang();
    raise(SIGFPE);
    return false;
  });
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGFPE) << status;
  EXPECT_EQ(shim.page().crash.signal, SIGFPE);
  EXPECT_TRUE(shim.rang());
}

TEST(Agent, APageThatBelongsToAnotherProcessIsLeftAlone) {
  Shim shim;
  shim.page().agent_pid = 1;
  EXPECT_EQ(run_service([] {
              const auto agent = Agent::attach();
              return !agent && agent.error().message().find("child") != std::string::npos;
            }),
            0);
  EXPECT_EQ(shim.page().agent_pid.load(), 1);
}

TEST(Agent, APageOfAnotherVersionIsRefusedWithTheReason) {
  Shim shim;
  shim.page().version = kAgentPageVersion + 1;
  EXPECT_EQ(run_service([] {
              const auto agent = Agent::attach();
              return !agent && agent.error().message().find("version") != std::string::npos;
            }),
            0);
}

TEST(Agent, ADescriptorThatIsSomethingElseIsNotTouched) {
  Shim shim;
  char path[] = "/tmp/agent-test-file-XXXXXX";
  const os::Fd file(mkstemp(path));
  ASSERT_EQ(ftruncate(file.get(), kAgentPageSize), 0);
  setenv("DEFIB_AGENT_FD", std::to_string(file.get()).c_str(), 1);
  EXPECT_EQ(run_service([] { return !Agent::attach(); }), 0);
  for (const char* text : {"", "x", "-1", "99999", "3x", "99999999999999999999"}) {
    setenv("DEFIB_AGENT_FD", text, 1);
    EXPECT_EQ(run_service([] { return !Agent::attach(); }), 0) << text;
  }
  unlink(path);
}

TEST(Agent, AnImageThatReplacesAnotherInTheSameProcessTakesThePageOver) {
  Shim shim;
  // What an exec leaves: our pid, another image's id, its stages.
  EXPECT_EQ(run_service([&] {
              shim.page().agent_pid = getpid();
              shim.page().image_id = 12345;
              shim.page().stages[3].in_use = static_cast<std::uint32_t>(StageUse::kWatched);
              shim.page().stages[3].beats = 7;
              return Agent::attach().has_value() &&
                     use_of(shim.page().stages[3]) == StageUse::kFree;
            }),
            0);
}

TEST(Agent, TheCFaceDoesTheSame) {
  Shim shim;
  shim.listen();
  EXPECT_EQ(run_service([&] {
              if (defib_attach() != 1 || defib_attach() != 1) return false;
              defib_stage* stage = defib_stage_claim("c loop", 250);
              defib_beat(stage);
              defib_stage_beat(stage);
              const HeartbeatStage& slot = shim.page().stages[0];
              if (slot.beats.load() != 2 || slot.deadline_ms.load() != 250) return false;
              defib_stage_release(stage);
              defib_stage_release(nullptr);
              defib_beat(nullptr);
              return use_of(slot) == StageUse::kFree && defib_ready() == 1 &&
                     defib_status("two\nlines") == 1 && defib_event(nullptr) == 0 &&
                     defib_notify_drops() == 0;
            }),
            0);
  EXPECT_EQ(shim.receive(), "READY=1");
  EXPECT_EQ(shim.receive(), "STATUS=two lines");
}

TEST(Agent, AStampedBeatLeavesItsTimeAndTheThreadAndACountingOneClearsIt) {
  Shim shim;
  EXPECT_EQ(run_service([&] {
              Agent agent = Agent::attach_or_idle();
              const HeartbeatStage& slot = shim.page().stages[0];
              Heartbeat stage = agent.stage("loop", 100ms);
              const std::int64_t before = os::real_clock().mono_ns();
              stage.beat_stamped();
              const bool first = slot.beat_mono_ns.load() >= before && slot.beats.load() == 1 &&
                                 slot.tid.load() == gettid() && shim.rang();
              stage.beat_stamped();
              const std::int64_t second = slot.beat_mono_ns.load();
              if (!first || second > os::real_clock().mono_ns() || slot.beats.load() != 2)
                return false;
              stage.beat();
              return slot.beat_mono_ns.load() == 0 && slot.beats.load() == 3 && !shim.rang();
            }),
            0);
}

TEST(Agent, AShortRestOfAStampedStageRingsNobodyAndALongOneDoes) {
  Shim shim;
  EXPECT_EQ(run_service([&] {
              Agent agent = Agent::attach_or_idle();
              const HeartbeatStage& slot = shim.page().stages[0];
              Heartbeat stage = agent.stage("loop", 60s);
              stage.beat_stamped();
              (void)shim.rang();
              stage.pause();
              stage.resume();
              if (shim.rang() || slot.beats.load() != 2) return false;
              stage.pause();
              // As if half a deadline had passed.
              shim.page().stages[0].beat_mono_ns = slot.beat_mono_ns.load() - 30'000'000'000;
              stage.resume();
              if (!shim.rang()) return false;
              // Nobody knows since when a counting stage rests.
              stage.beat();
              stage.pause();
              stage.resume();
              return shim.rang() && use_of(slot) == StageUse::kWatched;
            }),
            0);
}

TEST(Agent, TheCFaceStampsAndRestsToo) {
  Shim shim;
  EXPECT_EQ(run_service([&] {
              if (defib_attach() != 1) return false;
              const HeartbeatStage& slot = shim.page().stages[0];
              defib_stage* stage = defib_stage_claim("c loop", 250);
              defib_beat_stamped(stage);
              defib_stage_beat_stamped(stage);
              if (slot.beat_mono_ns.load() == 0 || slot.tid.load() != gettid()) return false;
              defib_stage_pause(stage);
              if (use_of(slot) != StageUse::kPaused) return false;
              defib_stage_resume(stage);
              defib_stage_beat(stage);
              for (auto* call : {defib_stage_beat_stamped, defib_stage_pause, defib_stage_resume}) {
                call(nullptr);
              }
              defib_stage_first_beat(nullptr, 1);
              return use_of(slot) == StageUse::kWatched && slot.beats.load() == 4 &&
                     slot.beat_mono_ns.load() == 0;
            }),
            0);
}

TEST(Agent, TwoFacesInOneProcessShareThePage) {
  Shim shim;
  EXPECT_EQ(run_service([] {
              return defib_attach() == 1 && Agent::attach().has_value() &&
                     Agent::attach_or_idle().attached();
            }),
            0);
}

TEST(Notify, EventsAndStatesAreOneFieldEach) {
  Shim shim;
  shim.listen();
  Agent agent;
  EXPECT_TRUE(agent.ready());
  EXPECT_TRUE(agent.state("recovering"));
  EXPECT_TRUE(agent.event(wire::Json::object({{"event", "stage_started"}, {"stage", "a\nb"}})));
  EXPECT_TRUE(agent.stopping());
  EXPECT_EQ(shim.receive(), "READY=1");
  EXPECT_EQ(shim.receive(), "X_DEFIB_STATE=recovering");
  EXPECT_EQ(shim.receive(), R"(X_DEFIB_EVENT={"event":"stage_started","stage":"a\nb"})");
  EXPECT_EQ(shim.receive(), "STOPPING=1");
}

TEST(Notify, AFullQueueDropsWithinItsPatienceAndTellsTheCountLater) {
  Shim shim;
  shim.listen();
  Agent agent;
  const std::uint64_t before = agent.dropped_messages();
  const std::string text(32 * 1024, 'x');
  int sent = 0;
  while (agent.status(text)) ASSERT_LT(++sent, 100'000);
  EXPECT_EQ(agent.dropped_messages(), before + 1);
  const std::int64_t start = os::real_clock().mono_ns();
  EXPECT_FALSE(agent.ready());
  EXPECT_LT(os::real_clock().mono_ns() - start, 20 * os::notify::kPatienceMs * 1'000'000LL);
  EXPECT_EQ(agent.dropped_messages(), before + 2);
  for (int i = 0; i < sent; ++i) EXPECT_EQ(shim.receive().size(), text.size() + 7);
  EXPECT_TRUE(agent.ready());
  EXPECT_EQ(shim.receive(), "READY=1\nX_DEFIB_DROPPED=" + std::to_string(before + 2));
  EXPECT_TRUE(agent.ready());
  EXPECT_EQ(shim.receive(), "READY=1");
}

TEST(Notify, AnEventMayWaitLongerForASupervisorThatIsBehind) {
  Shim shim;
  shim.listen();
  Agent agent;
  int sent = 0;
  while (agent.status("x")) ASSERT_LT(++sent, 100'000);
  std::jthread later([&] {
    std::this_thread::sleep_for(4 * std::chrono::milliseconds(os::notify::kPatienceMs));
    for (int i = 0; i < sent; ++i) shim.receive();
  });
  EXPECT_TRUE(agent.event(wire::Json::object({{"event", "late"}}), std::chrono::seconds(20)));
}

TEST(Notify, ATooLongMessageIsCountedAndNotSent) {
  Shim shim;
  shim.listen();
  Agent agent;
  const std::uint64_t before = agent.dropped_messages();
  EXPECT_FALSE(agent.status(std::string(os::notify::kMaxValue + 1, 'x')));
  EXPECT_EQ(agent.dropped_messages(), before + 1);
}

TEST(Shutdown, ASignalAsksForIt) {
  EXPECT_EQ(run_service([] {
              const auto shutdown = Shutdown::watch();
              if (!shutdown || shutdown->requested() || shutdown->wait_for(1ms)) return false;
              raise(SIGTERM);
              return shutdown->requested() && shutdown->signal() == SIGTERM &&
                     shutdown->wait_for(0ns) && Shutdown::watch()->requested();
            }),
            0);
}

TEST(PersistedState, SurvivesAndSaysHowItsWriterEnded) {
  Shim shim;
  const std::string path = os::join_path(shim.directory(), "state.json");
  {
    auto state = PersistedState::open(os::real_files(), path);
    ASSERT_TRUE(state);
    EXPECT_TRUE(state->value().is_null());
    EXPECT_TRUE(state->save(wire::Json::object({{"epoch", 7}, {"price", 1.25}})));
  }
  {
    auto state = PersistedState::open(os::real_files(), path);
    ASSERT_TRUE(state);
    EXPECT_EQ(state->value()["epoch"].as_int(), 7);
    EXPECT_FALSE(state->stopped_cleanly());
    EXPECT_TRUE(state->save_stopped(wire::Json::object({{"epoch", 8}})));
  }
  EXPECT_TRUE(PersistedState::open(os::real_files(), path)->stopped_cleanly());
  auto text = os::read_file(os::real_files(), path);
  ASSERT_TRUE(text);
  const auto epoch = text->find("\"epoch\": 8");
  ASSERT_NE(epoch, std::string::npos);
  text->replace(epoch, 10, "\"epoch\": 9");
  ASSERT_TRUE(os::write_file_atomically(os::real_files(), path, *text));
  const auto damaged = PersistedState::open(os::real_files(), path);
  ASSERT_FALSE(damaged);
  EXPECT_EQ(damaged.error().code(), Code::kCorrupted);
  unlink(path.c_str());
}

}  // namespace
}  // namespace defib::process
