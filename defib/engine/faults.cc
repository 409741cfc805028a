#include "defib/engine/faults.h"

#undef NDEBUG  // The drill must fail in every build.
#include <fmt/core.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cassert>
#include <charconv>
#include <cstdlib>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <vector>

namespace defib::engine {
namespace {

struct KindName {
  FaultKind kind;
  std::string_view name;
};
constexpr std::array kKinds = {
    KindName{FaultKind::kSegv, "segv"},
    KindName{FaultKind::kAbort, "abort"},
    KindName{FaultKind::kAssert, "assert"},
    KindName{FaultKind::kException, "exception"},
    KindName{FaultKind::kDeadlock, "deadlock"},
    KindName{FaultKind::kBusyLoop, "busy_loop"},
    KindName{FaultKind::kLeak, "leak"},
    KindName{FaultKind::kStackOverflow, "stack_overflow"},
    KindName{FaultKind::kKill, "kill"},
    KindName{FaultKind::kDisconnect, "disconnect"},
};
constexpr std::array<std::string_view, 6> kPoints = {
    "tick", "before_intent", "intent_durable", "request_sent", "reply_seen", "outcome_recorded"};

template <typename Names>
std::string list(const Names& names) {
  std::string text;
  for (const auto& name : names) {
    if (!text.empty()) text += ' ';
    if constexpr (requires { name.name; }) {
      text += name.name;
    } else {
      text += name;
    }
  }
  return text;
}

// The address is volatile so that no compiler may reason about it.
void dereference_null() {
  volatile int* volatile nowhere = nullptr;
  *nowhere = 42;
}

void overflow_stack(volatile char* above);

// Through a pointer, since a compiler refuses what is plainly endless.
void (*volatile deeper)(volatile char*) = overflow_stack;

void overflow_stack(volatile char* above) {
  volatile char frame[4096];
  frame[0] = above != nullptr ? above[0] : '\0';
  deeper(frame);
  frame[1] = frame[0];  // After the call, so that it is no tail call.
}

// Two threads that take two locks in opposite order: the caller never returns.
void deadlock() {
  static std::mutex orders, positions;
  static std::atomic<bool> other_has_positions = false;
  const std::lock_guard hold_orders(orders);
  std::thread([] {
    const std::lock_guard hold_positions(positions);
    other_has_positions = true;
    const std::lock_guard wait_for_orders(orders);
  }).detach();
  while (!other_has_positions) std::this_thread::yield();
  const std::lock_guard wait_for_positions(positions);
}

void spin() {
  volatile std::uint64_t rounds = 0;
  for (;;) rounds = rounds + 1;
}

// Bounded by an address-space limit, so that the drill does not hurt the machine.
void leak() {
  constexpr std::size_t kStep = 16U << 20;
  const rlimit limit = {1ULL << 30, 1ULL << 30};
  ::setrlimit(RLIMIT_AS, &limit);
  std::vector<char*> lost;
  for (;;) {
    lost.push_back(new char[kStep]);
    for (std::size_t at = 0; at < kStep; at += 4096) lost.back()[at] = 1;
  }
}

void cut_connections() {
  const int highest = static_cast<int>(::sysconf(_SC_OPEN_MAX));
  for (int fd = 3; fd < highest && fd < 4096; ++fd) {
    int domain = 0;
    socklen_t size = sizeof domain;
    if (::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) != 0) continue;
    if (domain == AF_INET || domain == AF_INET6) ::shutdown(fd, SHUT_RDWR);
  }
}

}  // namespace

std::string_view to_string(FaultKind kind) {
  for (const KindName& entry : kKinds) {
    if (entry.kind == kind) return entry.name;
  }
  return "unknown";
}

Result<FaultPlan> parse_fault(std::string_view text) {
  const auto invalid = [&](std::string_view why) {
    return Error(Code::kInvalidArgument, fmt::format("'{}' is not a fault: {}", text, why))
        .suggest(fmt::format("write KIND@POINT[:N]; kinds: {}; points: {}", list(kKinds),
                             list(kPoints)));
  };
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.remove_suffix(1);
  const std::size_t at = text.find('@');
  if (at == std::string_view::npos) return invalid("there is no '@'");
  FaultPlan plan;
  bool known = false;
  for (const KindName& entry : kKinds) {
    if (entry.name != text.substr(0, at)) continue;
    plan.kind = entry.kind;
    known = true;
  }
  if (!known) return invalid("the kind is unknown");
  std::string_view point = text.substr(at + 1);
  const std::size_t colon = point.find(':');
  if (colon != std::string_view::npos) {
    const std::string_view count = point.substr(colon + 1);
    const auto [end, ec] = std::from_chars(count.data(), count.data() + count.size(), plan.at_pass);
    if (ec != std::errc{} || end != count.data() + count.size() || plan.at_pass < 1) {
      return invalid("the count after ':' is not a positive number");
    }
    point = point.substr(0, colon);
  }
  for (const std::string_view name : kPoints) {
    if (name == point) plan.point = name;
  }
  if (plan.point.empty()) return invalid("the point is unknown");
  return plan;
}

void FaultInjector::arm(FaultPlan plan) {
  plan_ = std::move(plan);
  passes_ = 0;
}

void FaultInjector::reached(std::string_view point) {
  if (!plan_ || plan_->point != point || ++passes_ < plan_->at_pass) return;
  fail(plan_->kind);
}

void fail(FaultKind kind) {
  switch (kind) {
    case FaultKind::kSegv:
      dereference_null();
      break;
    case FaultKind::kAbort:
      std::abort();
    case FaultKind::kAssert: {
      const bool positions_are_consistent = false;
      assert(positions_are_consistent);
      break;
    }
    case FaultKind::kException:
      throw std::runtime_error("drill: an exception nobody catches");
    case FaultKind::kDeadlock:
      deadlock();
      break;
    case FaultKind::kBusyLoop:
      spin();
      break;
    case FaultKind::kLeak:
      leak();
      break;
    case FaultKind::kStackOverflow:
      overflow_stack(nullptr);
      break;
    case FaultKind::kKill:
      ::kill(::getpid(), SIGKILL);
      break;
    case FaultKind::kDisconnect:
      cut_connections();
      dereference_null();
      break;
  }
  std::abort();  // A fault that did not end the process.
}

}  // namespace defib::engine
