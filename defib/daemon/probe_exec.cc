#include <fmt/core.h>

#include <algorithm>

#include "defib/daemon/command_run.h"
#include "defib/daemon/probe_attempt.h"

namespace defib::daemon {
namespace {

constexpr std::size_t kShownOutput = 200;
// The caller abandons an attempt at its own timeout; this bound is behind it.
constexpr os::Duration kBound = std::chrono::hours(24);

// The last line that says anything.
std::string_view last_words(std::string_view text) {
  while (text.ends_with('\n') || text.ends_with('\r') || text.ends_with(' ')) text.remove_suffix(1);
  const std::size_t begin = text.rfind('\n');
  if (begin != std::string_view::npos) text.remove_prefix(begin + 1);
  return text.substr(0, kShownOutput);
}

class ExecAttempt final : public ProbeAttempt {
 public:
  ExecAttempt(os::EventLoop& loop, ExecCommand command)
      : loop_(loop), command_(std::move(command)) {}

  void begin(Done done) override {
    abandon();
    done_ = std::move(done);
    os::SpawnOptions options;
    options.argv = command_.argv;
    options.env = command_.env;
    options.working_directory = command_.working_directory;
    auto run = CommandRun::start(loop_, std::move(options), kBound,
                                 [this](const CommandRun::Result& result) { ended(result); });
    if (run) {
      run_ = std::move(*run);
      return;
    }
    if (Done told = std::exchange(done_, nullptr)) told(false, run.error().message());
  }

  void abandon() override {
    done_ = nullptr;
    run_.reset();
  }

 private:
  void ended(const CommandRun::Result& result) {
    std::string detail = result.status.to_string();
    if (const std::string_view words = last_words(result.output); !words.empty()) {
      detail += fmt::format(": {}", words);
    }
    // Last: the receiver may destroy this attempt.
    if (Done done = std::exchange(done_, nullptr)) done(result.status.success(), detail);
  }

  os::EventLoop& loop_;
  ExecCommand command_;
  Done done_;
  std::unique_ptr<CommandRun> run_;
};

}  // namespace

std::unique_ptr<ProbeAttempt> make_exec_attempt(os::EventLoop& loop, ExecCommand command) {
  return std::make_unique<ExecAttempt>(loop, std::move(command));
}

}  // namespace defib::daemon
