#include "defib/os/file_watch.h"

#include <sys/epoll.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <vector>

namespace defib::os {
namespace {

constexpr int kReadsPerRound = 16;  // then others have their turn

}  // namespace

Result<std::unique_ptr<FileWatch>> FileWatch::create(EventLoop& loop) {
  std::unique_ptr<FileWatch> watch(new FileWatch(loop));
  watch->inotify_ = Fd(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!watch->inotify_.valid()) return system_error("inotify_init1");
  DEFIB_TRY(loop.watch(watch->inotify_.get(), EPOLLIN,
                       [raw = watch.get()](std::uint32_t) { raw->read_events(); }));
  return watch;
}

FileWatch::~FileWatch() {
  if (inotify_.valid()) loop_.unwatch(inotify_.get());
}

Result<FileWatch::WatchId> FileWatch::add(const std::string& path, std::uint32_t mask,
                                          Handler handler) {
  const int descriptor = ::inotify_add_watch(inotify_.get(), path.c_str(), mask | IN_MASK_ADD);
  if (descriptor < 0) return system_error("inotify_add_watch", path);
  const WatchId id = next_++;
  watches_.emplace(id, Watch{descriptor, mask, std::make_shared<Handler>(std::move(handler))});
  return id;
}

void FileWatch::remove(WatchId id) {
  const auto found = watches_.find(id);
  if (found == watches_.end()) return;
  const int descriptor = found->second.descriptor;
  watches_.erase(found);
  const bool shared = std::ranges::any_of(
      watches_, [&](const auto& entry) { return entry.second.descriptor == descriptor; });
  if (!shared) ::inotify_rm_watch(inotify_.get(), descriptor);
}

void FileWatch::read_events() {
  alignas(inotify_event) char buffer[4096];
  for (int round = 0; round < kReadsPerRound; ++round) {
    const ssize_t got = ::read(inotify_.get(), buffer, sizeof buffer);
    if (got <= 0) return;
    const char* at = buffer;
    while (at < buffer + got) {
      inotify_event event;
      std::memcpy(&event, at, sizeof event);
      const char* const name = at + sizeof event;
      dispatch(
          event.wd, event.mask,
          event.len > 0 ? std::string_view(name, ::strnlen(name, event.len)) : std::string_view());
      at += sizeof event + event.len;
    }
  }
}

void FileWatch::dispatch(int descriptor, std::uint32_t mask, std::string_view name) {
  const bool lost = (mask & IN_Q_OVERFLOW) != 0;
  // A handler may remove itself and others: the list is made first, and asked again.
  std::vector<WatchId> concerned;
  for (const auto& [id, watch] : watches_) {
    if (lost || (watch.descriptor == descriptor && (watch.mask & mask) != 0)) {
      concerned.push_back(id);
    }
  }
  for (const WatchId id : concerned) {
    const auto found = watches_.find(id);
    if (found == watches_.end()) continue;
    const std::shared_ptr<Handler> handler = found->second.handler;
    (*handler)(mask, name);
  }
}

}  // namespace defib::os
