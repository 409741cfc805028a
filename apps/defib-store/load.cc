// `load`: commands from standard input into a store, each commit acknowledged on standard output
// once it is durable in the chosen way.

#include <fmt/core.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <optional>
#include <string_view>
#include <thread>
#include <vector>

#include "apps/defib-store/commands.h"
#include "defib/base/bytes.h"
#include "defib/store/store.h"

namespace defib::store_program {
namespace {

constexpr std::size_t kReadSize = 64 << 10;
constexpr std::size_t kLongestLine = 80 << 20;  // a value of the largest size, all escaped
constexpr std::uint64_t kMaxUnsynced = 4096;    // commits that wait for a shared sync

volatile sig_atomic_t interrupted = 0;

void on_signal(int) {
  interrupted = 1;
}

// Without SA_RESTART, so that a blocking read ends.
void catch_signals() {
  struct sigaction action{};
  action.sa_handler = on_signal;
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
}

class LineReader {
 public:
  // Nothing at the end of the input or when interrupted.
  Result<std::optional<std::string_view>> next() {
    for (;;) {
      const std::size_t newline = buffer_.find('\n', searched_);
      if (newline != std::string::npos) {
        const std::string_view line = std::string_view(buffer_).substr(used_, newline - used_);
        used_ = searched_ = newline + 1;
        ++lines_;
        return std::optional(line);
      }
      searched_ = buffer_.size();
      if (ended_ && used_ < buffer_.size()) {
        const std::string_view line = std::string_view(buffer_).substr(used_);
        used_ = buffer_.size();
        return std::optional(line);
      }
      if (ended_ || interrupted) return std::optional<std::string_view>();
      DEFIB_TRY(fill());
    }
  }

 private:
  Result<> fill() {
    buffer_.erase(0, used_);
    searched_ -= used_;
    used_ = 0;
    if (buffer_.size() > kLongestLine) {
      return Error(Code::kLimitExceeded,
                   fmt::format("line {} is longer than {} bytes, which no record is", lines_ + 1,
                               kLongestLine))
          .with("line", static_cast<std::int64_t>(lines_ + 1))
          .suggest("end each command with a newline; commits before this line are kept");
    }
    const std::size_t before = buffer_.size();
    buffer_.resize(before + kReadSize);
    const ssize_t got = ::read(STDIN_FILENO, buffer_.data() + before, kReadSize);
    buffer_.resize(before + static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
    if (got == 0) ended_ = true;
    if (got < 0 && errno != EINTR) {
      return Error(Code::kSystemCallFailed,
                   fmt::format("standard input cannot be read after line {}: {}", lines_,
                               std::strerror(errno)));
    }
    return {};
  }

  std::string buffer_;
  std::size_t used_ = 0;
  std::size_t searched_ = 0;
  bool ended_ = false;
  std::uint64_t lines_ = 0;  // handed out
};

// Tells the outside which commits are durable, in order.
class Acknowledger {
 public:
  Acknowledger(store::Store& store, bool shared) : store_(store) {
    if (shared) thread_ = std::thread([this] { work(); });
  }
  ~Acknowledger() {
    if (thread_.joinable()) (void)finish();
  }

  // A commit that is durable already.
  void acknowledge() { print(++acknowledged_); }

  // A commit that a shared sync will make durable.
  Result<> enqueue() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return committed_ - acknowledged_ < kMaxUnsynced || error_; });
    if (error_) return *error_;
    ++committed_;
    changed_.notify_all();
    return {};
  }

  // Waits for all that was enqueued.
  Result<> finish() {
    if (!thread_.joinable()) return {};
    {
      const std::lock_guard lock(mutex_);
      finishing_ = true;
    }
    changed_.notify_all();
    thread_.join();
    if (error_) return *error_;
    return {};
  }

 private:
  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return committed_ > acknowledged_ || finishing_; });
      if (committed_ == acknowledged_) return;
      const std::uint64_t covered = committed_;
      lock.unlock();
      const Result<> synced = store_.sync();
      lock.lock();
      if (!synced) {
        error_ = synced.error();
        changed_.notify_all();
        return;
      }
      while (acknowledged_ < covered) print(++acknowledged_);
      changed_.notify_all();
    }
  }

  static void print(std::uint64_t number) {
    fmt::print("ok {}\n", number);
    std::fflush(stdout);
  }

  store::Store& store_;
  std::thread thread_;
  std::mutex mutex_;  // guards all below while the thread runs
  std::condition_variable changed_;
  std::uint64_t committed_ = 0;
  std::uint64_t acknowledged_ = 0;
  bool finishing_ = false;
  std::optional<Error> error_;
};

class Loader {
 public:
  Loader(store::Store& store, const Arguments& arguments)
      : store_(store), arguments_(arguments), acknowledger_(store, arguments.sync == "group") {}

  Result<> run() {
    LineReader lines;
    for (;;) {
      DEFIB_TRY_ASSIGN(const std::optional<std::string_view> line, lines.next());
      if (!line) break;
      ++line_number_;
      DEFIB_TRY(apply(*line));
    }
    if (interrupted == 0 && commands_ > 0) DEFIB_TRY(commit());
    transaction_.reset();
    return acknowledger_.finish();
  }

 private:
  Error bad_line(std::string why) const {
    return Error(Code::kMalformed, fmt::format("line {}: {}", line_number_, why))
        .with("line", static_cast<std::int64_t>(line_number_))
        .suggest(
            "write `put<TAB>TABLE<TAB>KEY<TAB>VALUE`, `del<TAB>TABLE<TAB>KEY` or `commit`, "
            "with \\t \\n \\\\ \\xHH for other bytes; commits before this line are kept");
  }

  // The store's own error, with the line that brought it about.
  Error refused_line(const Error& why) const {
    Error error(why.code(), fmt::format("line {}: {}", line_number_, why.message()));
    for (const Error::Field& field : why.fields()) {
      error = std::move(error).with(field.key, field.value);
    }
    if (why.cause() != nullptr) error = std::move(error).because(*why.cause());
    return std::move(error)
        .with("line", static_cast<std::int64_t>(line_number_))
        .suggest(why.suggested_action() + "; commits before this line are kept");
  }

  Result<> apply(std::string_view line) {
    std::vector<std::string> fields;
    for (std::string_view rest = line;;) {
      const std::size_t tab = rest.find('\t');
      std::string field;
      if (!unescape(rest.substr(0, tab), field)) return bad_line("a malformed escape");
      fields.push_back(std::move(field));
      if (tab == std::string_view::npos) break;
      rest.remove_prefix(tab + 1);
    }
    const std::string& command = fields[0];
    if (command == "commit" && fields.size() == 1) return commit();
    const bool is_put = command == "put" && fields.size() == 4;
    const bool is_del = command == "del" && fields.size() == 3;
    if (!is_put && !is_del) {
      const bool known = command == "put" || command == "del" || command == "commit";
      return bad_line(known ? fmt::format("{} has {} fields", command, fields.size())
                            : fmt::format("unknown command '{}'", escape(command)));
    }
    if (transaction_ == nullptr) {
      DEFIB_TRY_ASSIGN(transaction_, store_.begin());
    }
    const Result<> done = is_put ? transaction_->put(fields[1], fields[2], fields[3])
                                 : transaction_->erase(fields[1], fields[2]);
    if (!done) return refused_line(done.error());
    ++commands_;
    return arguments_.batch > 0 && commands_ >= arguments_.batch ? commit() : Result<>();
  }

  Result<> commit() {
    const store::Durability durability =
        arguments_.sync == "each" ? store::Durability::kPower : store::Durability::kProcess;
    if (transaction_ != nullptr) {
      DEFIB_TRY(transaction_->commit(durability));
      transaction_.reset();
    }
    commands_ = 0;
    if (arguments_.sync == "group") return acknowledger_.enqueue();
    acknowledger_.acknowledge();
    return {};
  }

  store::Store& store_;
  const Arguments& arguments_;
  std::unique_ptr<store::Transaction> transaction_;
  std::uint64_t line_number_ = 0;
  std::uint64_t commands_ = 0;
  Acknowledger acknowledger_;
};

}  // namespace

int run_load(const Arguments& arguments) {
  catch_signals();
  store::Options options;
  options.log_retention = arguments.keep_log;
  auto store = store::Store::open(arguments.dir, options);
  if (!store) return report(store.error(), arguments);
  const Result<> loaded = Loader(**store, arguments).run();
  const Result<> closed = (*store)->close();
  if (!loaded) return report(loaded.error(), arguments);
  if (!closed) return report(closed.error(), arguments);
  return interrupted != 0 ? 4 : 0;
}

}  // namespace defib::store_program
