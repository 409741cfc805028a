#include <errno.h>
#include <fmt/core.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <memory>
#include <thread>

#include "defib/alert/book_file.h"
#include "defib/alert/send.h"
#include "defib/obs/counters.h"
#include "defib/obs/log.h"
#include "defib/os/event_loop.h"
#include "defib/os/fd.h"

namespace defib::alert {
namespace {

constexpr std::string_view kComponent = "alert";
constexpr std::int64_t kNever = INT64_MAX;
constexpr std::uint64_t kEmptyFrom = 256 << 10;

// What a receiver's numbers are.
struct ReceiverCounters {
  obs::Counter sent, failed, given_up;
  obs::Gauge waiting;
};

class Counters {
 public:
  explicit Counters(const std::string& path) {
    const obs::Registry::Options bounds{.max_metrics = 256, .max_slots = 2048};
    auto opened = obs::Registry::open(path, bounds);
    registry_ = opened ? std::move(*opened) : obs::Registry::in_memory(bounds);
    if (!opened) {
      obs::log(obs::Level::kWarning, kComponent, "the alerts are not counted",
               {{"error", opened.error()}});
    }
    delay_.emplace(registry_->histogram("defib_alert_delivery_seconds",
                                        "From the last occurrence to the message's delivery",
                                        obs::Unit::kNanoseconds));
    damaged_.emplace(registry_->counter("defib_alert_records_damaged_total",
                                        "Records of the alert queue that failed their checksum"));
  }
  ReceiverCounters& of(const std::string& receiver) {
    const auto found = receivers_.find(receiver);
    if (found != receivers_.end()) return found->second;
    const obs::Labels labels = {{"receiver", receiver}};
    return receivers_
        .emplace(receiver,
                 ReceiverCounters{
                     registry_->counter("defib_alert_messages_sent_total",
                                        "Messages that a receiver took", labels),
                     registry_->counter("defib_alert_attempts_failed_total",
                                        "Attempts to deliver a message that failed", labels),
                     registry_->counter("defib_alert_messages_given_up_total",
                                        "Messages that were refused or became too old", labels),
                     registry_->gauge("defib_alert_messages_waiting",
                                      "Messages that are not delivered yet", labels)})
        .first->second;
  }
  obs::Histogram& delay() { return *delay_; }
  obs::Counter& damaged() { return *damaged_; }

 private:
  std::unique_ptr<obs::Registry> registry_;
  std::map<std::string, ReceiverCounters> receivers_;
  std::optional<obs::Histogram> delay_;
  std::optional<obs::Counter> damaged_;
};

std::unique_ptr<os::File> memory_of(const SendOptions& options) {
  return options.memory_fd < 0 ? nullptr : os::adopt_file(options.memory_fd, "the book in memory");
}

class Sender {
 public:
  Sender(os::EventLoop& loop, os::Files& files, SendOptions options)
      : loop_(loop),
        files_(files),
        options_(std::move(options)),
        queue_(files, queue_path(options_.state_dir)),
        book_file_(files, options_.state_dir, memory_of(options_)),
        counters_(sender_counters_path(options_.state_dir)) {}
  ~Sender() {
    // Blocks until those on their way are back: bounded by their time limits.
    threads_.clear();
  }
  Sender(const Sender&) = delete;
  Sender& operator=(const Sender&) = delete;

  Result<> begin() {
    DEFIB_TRY_ASSIGN(book_, book_file_.load());
    DEFIB_TRY_ASSIGN(auto receivers, load_receivers(files_, options_.state_dir));
    book_.set_receivers(std::move(receivers));
    DEFIB_TRY(watch_queue());
    DEFIB_TRY(loop_.watch_signals({SIGTERM, SIGINT, SIGPIPE}, [this](int signal) {
      if (signal != SIGPIPE) leave();
    }));
    take_extra();
    step();
    return {};
  }
  int exit_code() const {
    if (!saved_) return book_file_.in_memory() ? kSendDiskTrouble : kSendLost;
    return disk_trouble_ ? kSendDiskTrouble : kSendDone;
  }

 private:
  std::int64_t now() const { return loop_.clock().wall_ns(); }

  Result<> watch_queue() {
    watch_ = os::Fd(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
    if (!watch_.valid()) return os::system_error("inotify_init1");
    const std::string dir = alerts_dir(options_.state_dir);
    if (inotify_add_watch(watch_.get(), dir.c_str(), IN_MODIFY) < 0) {
      return os::system_error("inotify_add_watch", dir);
    }
    return loop_.watch(watch_.get(), EPOLLIN, [this](std::uint32_t) {
      alignas(inotify_event) char events[4096];
      bool queue_changed = false;
      for (ssize_t got = 0; (got = read(watch_.get(), events, sizeof events)) > 0;) {
        for (char* at = events; at < events + got;) {
          const auto* event = reinterpret_cast<const inotify_event*>(at);
          queue_changed =
              queue_changed || (event->len > 0 && std::string_view(event->name) == "queue");
          at += sizeof(inotify_event) + event->len;
        }
      }
      if (queue_changed) step();
    });
  }

  // Events that found no place on the disk.
  void take_extra() {
    if (options_.extra_fd < 0) return;
    const os::Fd fd(options_.extra_fd);
    std::string text;
    char buffer[4096];
    while (text.size() < kMaxQueueBytes) {
      const ssize_t got = read(fd.get(), buffer, sizeof buffer);
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) break;
      text.append(buffer, static_cast<std::size_t>(got));
    }
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t end = std::min(text.find('\n', at), text.size());
      const auto json = decode_line(std::string_view(text).substr(at, end - at));
      const auto event = json ? Event::from_json(*json) : Result<Event>(json.error());
      if (event) book_.apply(*event, now());
      at = end + 1;
    }
    changed_ = true;
  }

  // One round: read what is new, keep it, send what is due, and wait for what comes next.
  void step() {
    if (leaving_) return;
    read_queue();
    std::vector<std::pair<Receiver, std::vector<Message>>> to_send;
    for (const Receiver& receiver : book_.receivers()) {
      if (threads_.contains(receiver.name)) continue;
      auto messages = book_.take(receiver, batch_size(receiver), now());
      if (messages.empty()) continue;
      changed_ = true;
      to_send.emplace_back(receiver, std::move(messages));
    }
    save();
    for (auto& [receiver, messages] : to_send) send(std::move(receiver), std::move(messages));
    // While there is always something to do, the queue is emptied on the way.
    if (saved_ && book_.position.offset > kEmptyFrom) {
      static_cast<void>(queue_.empty_if_read(book_.position));
    }
    wait_or_end();
  }

  void read_queue() {
    auto batch = queue_.read(book_.position);
    if (!batch) {
      obs::log(obs::Level::kError, kComponent, "the alert queue cannot be read",
               {{"error", batch.error()}});
      disk_trouble_ = true;
      return;
    }
    if (batch->end == book_.position) return;
    for (const Event& event : batch->events) book_.apply(event, now());
    if (batch->damaged > 0) {
      counters_.damaged().add(batch->damaged);
      obs::log(obs::Level::kError, kComponent, "records of the alert queue are damaged",
               {{"records", batch->damaged}});
    }
    book_.position = batch->end;
    changed_ = true;
  }

  // A disk that takes nothing must not keep an alert from leaving, least of all the one about it.
  // Nor may it be told again for that: the next sender finds in memory what this one has told.
  void save() {
    if (!changed_) return;
    book_.prune(now());
    for (const Receiver& receiver : book_.receivers()) {
      counters_.of(receiver.name)
          .waiting.set(static_cast<std::int64_t>(book_.waiting(receiver.name)));
    }
    const auto saved = book_file_.save(book_);
    saved_ = saved.has_value();
    changed_ = !saved_;
    if (!saved) {
      obs::log(obs::Level::kError, kComponent, "what is to be sent cannot be kept on the disk",
               {{"in_memory", book_file_.in_memory()}, {"error", saved.error()}});
    }
  }

  void send(Receiver receiver, std::vector<Message> messages) {
    const std::string name = receiver.name;
    threads_[name] =
        std::jthread([this, receiver = std::move(receiver), messages = std::move(messages)] {
          const Attempt attempt = deliver(receiver, messages);
          loop_.post([this, name = receiver.name, messages, attempt] {
            threads_.erase(name);
            returned(name, messages, attempt);
          });
        });
  }

  void returned(const std::string& receiver, const std::vector<Message>& messages,
                const Attempt& attempt) {
    ReceiverCounters& counters = counters_.of(receiver);
    const std::uint64_t dropped = book_.dropped();
    for (const Message& message : messages) {
      book_.finish(message, attempt, now());
      if (!attempt.delivered) continue;
      counters.sent.add();
      counters_.delay().record(os::Duration(now() - message.last_ns));
    }
    if (!attempt.delivered) counters.failed.add();
    counters.given_up.add(book_.dropped() - dropped);
    obs::log(attempt.delivered ? obs::Level::kInfo : obs::Level::kWarning, kComponent,
             attempt.delivered ? "delivered" : "not delivered",
             {{"receiver", receiver},
              {"message", messages.front().id},
              {"messages", messages.size()},
              {"error", attempt.error}});
    changed_ = true;
    if (!leaving_) return step();
    save();
    if (threads_.empty()) stop_early();
  }

  std::int64_t next_due() {
    std::int64_t due = kNever;
    for (const Receiver& receiver : book_.receivers()) {
      if (threads_.contains(receiver.name)) continue;
      due = std::min(due, book_.next_due(receiver, now()));
    }
    return due;
  }

  void wait_or_end() {
    if (timer_ != 0) loop_.cancel(timer_);
    timer_ = 0;
    const std::int64_t due = next_due();
    const std::int64_t delay = due == kNever ? kNever : std::max<std::int64_t>(0, due - now());
    if (delay <= kSenderLinger.count()) {
      // A receiver's rest may end between the two looks at the clock: not at once again.
      const os::Duration pause(std::max<std::int64_t>(delay, 1'000'000));
      timer_ = loop_.run_after(pause, [this] {
        timer_ = 0;
        step();
      });
      return;
    }
    if (threads_.empty()) end(due);
  }

  // Nothing is to be done now. What was read and kept is taken out of the queue.
  void end(std::int64_t due) {
    save();
    if (saved_) {
      const auto emptied = queue_.empty_if_read(book_.position);
      if (emptied && !*emptied) {
        loop_.post([this] { step(); });
        return;
      }
      if (!emptied) {
        obs::log(obs::Level::kError, kComponent, "the alert queue cannot be emptied",
                 {{"error", emptied.error()}});
        disk_trouble_ = true;
      }
    }
    note_due(due);
    loop_.stop();
  }

  void note_due(std::int64_t due) {
    auto file = files_.open(due_path(options_.state_dir), os::OpenMode::kCreate);
    if (!file) return;
    // The next supervising process looks once by itself, so that this need not be durable.
    if ((*file)->truncate(0)) {
      static_cast<void>((*file)->write_at(0, fmt::format("{}\n", due == kNever ? 0 : due)));
    }
  }

  void leave() {
    leaving_ = true;
    if (threads_.empty()) stop_early();
  }
  void stop_early() {
    note_due(next_due());
    loop_.stop();
  }

  os::EventLoop& loop_;
  os::Files& files_;
  SendOptions options_;
  Queue queue_;
  BookFile book_file_;
  Counters counters_;
  Book book_;
  os::Fd watch_;
  os::EventLoop::TimerId timer_ = 0;
  std::map<std::string, std::jthread> threads_;  // by receiver
  bool changed_ = true;
  bool saved_ = false;
  bool leaving_ = false;
  bool disk_trouble_ = false;
};

}  // namespace

std::string due_path(const std::string& state_dir) {
  return os::join_path(alerts_dir(state_dir), "due");
}

std::string sender_counters_path(const std::string& state_dir) {
  return os::join_path(alerts_dir(state_dir), "counters");
}

Result<Book> load_book(os::Files& files, const std::string& state_dir) {
  return BookFile(files, state_dir, nullptr).load();
}

Result<int> run_sender(const SendOptions& options) {
  os::Files& files = os::real_files();
  const std::string dir = alerts_dir(options.state_dir);
  DEFIB_TRY(files.create_dirs(dir));
  DEFIB_TRY_ASSIGN(const std::unique_ptr<os::File> lock,
                   files.open(os::join_path(dir, "sender.lock"), os::OpenMode::kCreate));
  if (!lock->try_lock()) return kSendBusy;
  // A damaged book is set aside: what is still in the queue goes out again, with the same ids.
  BookFile on_disk(files, options.state_dir, nullptr);
  if (const auto book = on_disk.load(); !book && book.error().code() == Code::kCorrupted) {
    obs::log(obs::Level::kError, kComponent, "set aside as book.damaged",
             {{"error", book.error()}});
    DEFIB_TRY(files.rename(on_disk.path(), os::join_path(dir, "book.damaged")));
  }
  DEFIB_TRY_ASSIGN(const std::unique_ptr<os::EventLoop> loop, os::EventLoop::create());
  Sender sender(*loop, files, options);
  DEFIB_TRY(sender.begin());
  DEFIB_TRY(loop->run());
  return sender.exit_code();
}

}  // namespace defib::alert
