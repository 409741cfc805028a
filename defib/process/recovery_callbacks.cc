#include "defib/process/recovery_callbacks.h"

#include <cxxabi.h>
#include <fmt/core.h>
#include <pthread.h>

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <optional>
#include <system_error>
#include <thread>
#include <typeinfo>

#include "defib/obs/log.h"
#include "defib/process/quiet_thread.h"

namespace defib::process {
namespace {

constexpr std::size_t kMaxWhat = 1024;
constexpr int kMaxNested = 8;

thread_local const void* callback_owner = nullptr;

std::string type_name(const std::type_info& type) {
  int status = 0;
  char* name = abi::__cxa_demangle(type.name(), nullptr, nullptr, &status);
  std::string text = status == 0 && name != nullptr ? name : type.name();
  std::free(name);
  return text;
}

void append_cause(std::string& what, const std::exception& outer, int depth) {
  const auto* nested = dynamic_cast<const std::nested_exception*>(&outer);
  if (nested == nullptr || nested->nested_ptr() == nullptr || depth >= kMaxNested) return;
  try {
    nested->rethrow_nested();
  } catch (const std::exception& inner) {
    what += std::string(": ") + inner.what();
    append_cause(what, inner, depth + 1);
  } catch (...) {
    what += ": an exception of an unknown type";
  }
}

Result<> call_caught(const RecoveryCallback& callback, const CallbackContext& context) {
  try {
    return callback(context);
  } catch (abi::__forced_unwind&) {
    throw;  // pthread_exit in a callback ends its thread; the C library demands that it goes on
  } catch (...) {
    const ExceptionText text = describe(std::current_exception());
    return Error(Code::kCallbackThrew, fmt::format("it threw {}: {}", text.type, text.what))
        .with("type", text.type);
  }
}

}  // namespace

ExceptionText describe(const std::exception_ptr& thrown) {
  ExceptionText text{"an exception of an unknown type", "unknown"};
  try {
    std::rethrow_exception(thrown);
  } catch (const std::exception& known) {
    text = {known.what(), type_name(typeid(known))};
    append_cause(text.what, known, 0);
  } catch (const Error& error) {
    text = {error.to_line(), "defib::Error"};
  } catch (const std::string& message) {
    text = {message, "std::string"};
  } catch (const char* message) {
    text = {message != nullptr ? message : "", "const char*"};
  } catch (...) {
    if (const std::type_info* type = abi::__cxa_current_exception_type()) {
      text.type = type_name(*type);
    }
  }
  if (text.what.size() > kMaxWhat) text.what.resize(kMaxWhat);
  return text;
}

bool in_callback_of(const void* owner) {
  return callback_owner == owner;
}

// One call: what its thread and its waiter share. The thread holds nothing else.
struct CallbackList::Call {
  const void* owner = nullptr;
  std::shared_ptr<RecoveryCallback> callback;
  CallbackContext context;
  std::stop_source stop;
  std::mutex mutex;  // guards what follows
  std::condition_variable ended;
  bool done = false;
  std::optional<Result<>> outcome;

  void run() {
    callback_owner = owner;
    // Set also when the thread is ended from inside of the callback.
    struct Finish {
      Call& call;
      Result<> outcome = Error(Code::kCancelled, "the callback ended its thread");
      ~Finish() {
        callback_owner = nullptr;
        // What the callback holds is given back before anybody is told that it has ended.
        call.callback.reset();
        const std::lock_guard lock(call.mutex);
        call.outcome = std::move(outcome);
        call.done = true;
        call.ended.notify_all();
      }
    } finish{*this};
    finish.outcome = call_caught(*callback, context);
  }
  bool is_done() {
    const std::lock_guard lock(mutex);
    return done;
  }
};

void CallbackList::add(std::string name, RecoveryCallback callback, os::Duration timeout) {
  const std::lock_guard lock(mutex_);
  auto entry = std::make_shared<Entry>();
  entry->name = std::move(name);
  entry->callback = std::make_shared<RecoveryCallback>(std::move(callback));
  entry->timeout = timeout;
  entries_.push_back(std::move(entry));
}

bool CallbackList::empty() const {
  const std::lock_guard lock(mutex_);
  return entries_.empty();
}

int CallbackList::overruns() const {
  const std::lock_guard lock(mutex_);
  return static_cast<int>(std::ranges::count_if(entries_, [](const auto& entry) {
    return entry->call != nullptr && !entry->call->is_done();
  }));
}

Result<> CallbackList::call(const std::shared_ptr<Entry>& entry, const Run& run) {
  const int left_behind = overruns();
  auto call = std::make_shared<Call>();
  {
    const std::lock_guard lock(mutex_);
    if (entry->call != nullptr && !entry->call->is_done()) {
      return Error(Code::kUnavailable, "its call before still runs, and it is not called twice");
    }
    if (left_behind >= kMaxOverruns) {
      return Error(
          Code::kLimitExceeded,
          fmt::format("{} callbacks overran and still run; no more are called", left_behind));
    }
    call->owner = owner_;
    call->callback = entry->callback;
    call->context = {call->stop.get_token(), run.reason, run.attempt};
    entry->call = call;
  }
  try {
    start_quiet_thread<std::thread>([call] {
      pthread_setname_np(pthread_self(), "recovery");
      call->run();
    }).detach();
  } catch (const std::system_error&) {
    // A callback may be what gives the resources back: called without a limit rather than not.
    obs::log(obs::Level::kWarning, "recovery", "no thread for a callback; called without its limit",
             {{"callback", entry->name}});
    const void* const before = callback_owner;
    call->run();
    callback_owner = before;
  }
  std::unique_lock lock(call->mutex);
  if (!call->ended.wait_for(lock, entry->timeout, [&] { return call->done; })) {
    call->stop.request_stop();
    return Error(Code::kTimeout,
                 fmt::format("it did not end within {}", os::format_duration(entry->timeout)))
        .suggest("let the callback look at its stop token, or raise its timeout");
  }
  return *call->outcome;
}

Result<> CallbackList::run(const Run& run) {
  std::vector<std::shared_ptr<Entry>> entries;
  {
    const std::lock_guard lock(mutex_);
    entries = entries_;
  }
  if (run.reverse) std::ranges::reverse(entries);
  Result<> first;
  for (const std::shared_ptr<Entry>& entry : entries) {
    if (run.interrupted && run.interrupted()) {
      return Error(Code::kCancelled, "the service is shutting down");
    }
    if (run.skip_succeeded && entry->succeeded) continue;
    auto done = call(entry, run);
    entry->succeeded = done.has_value();
    if (done) continue;
    Error error = Error(done.error().code(), fmt::format("the callback '{}' failed: {}",
                                                         entry->name, done.error().message()))
                      .with("callback", entry->name)
                      .because(std::move(done.error()));
    if (run.failed) run.failed({entry->name, error});
    if (first) first = std::move(error);
  }
  return first;
}

void CallbackList::request_stop() {
  const std::lock_guard lock(mutex_);
  for (const auto& entry : entries_) {
    if (entry->call != nullptr) entry->call->stop.request_stop();
  }
}

bool CallbackList::wait_for_overruns(os::Duration time) const {
  std::vector<std::shared_ptr<Call>> calls;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& entry : entries_) {
      if (entry->call != nullptr) calls.push_back(entry->call);
    }
  }
  const std::int64_t until = os::real_clock().mono_ns() + time.count();
  for (const auto& call : calls) {
    const os::Duration left(std::max<std::int64_t>(until - os::real_clock().mono_ns(), 0));
    std::unique_lock lock(call->mutex);
    if (!call->ended.wait_for(lock, left, [&] { return call->done; })) return false;
  }
  return true;
}

}  // namespace defib::process
