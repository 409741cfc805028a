#include "apps/defib-capture/core_pipe.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "apps/defib-capture/kept_files.h"
#include "defib/os/clock.h"
#include "defib/os/fd.h"
#include "defib/os/files.h"

namespace defib {
namespace {

constexpr std::size_t kBlock = 4096;
constexpr std::size_t kChunk = 16 * kBlock;

// As much as there is, up to the size.
Result<std::size_t> read_up_to(int fd, char* to, std::size_t size) {
  std::size_t have = 0;
  while (have < size) {
    const ssize_t got = ::read(fd, to + have, size - have);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return os::system_error("read");
    if (got == 0) break;
    have += static_cast<std::size_t>(got);
  }
  return have;
}

bool all_zero(const char* bytes, std::size_t size) {
  return bytes[0] == 0 && std::memcmp(bytes, bytes + 1, size - 1) == 0;
}

Result<> write_blocks(int fd, std::uint64_t at, const char* bytes, std::size_t size) {
  for (std::size_t done = 0; done < size; done += kBlock) {
    const std::size_t part = std::min(kBlock, size - done);
    if (all_zero(bytes + done, part)) continue;
    if (::pwrite(fd, bytes + done, part, static_cast<off_t>(at + done)) !=
        static_cast<ssize_t>(part)) {
      return os::system_error("pwrite");
    }
  }
  return {};
}

Result<std::uint64_t> copy(int from, int to, std::uint64_t max_bytes, bool* truncated) {
  std::array<char, kChunk> chunk;
  std::uint64_t bytes = 0;
  while (true) {
    DEFIB_TRY_ASSIGN(const std::size_t got, read_up_to(from, chunk.data(), chunk.size()));
    const auto kept = static_cast<std::size_t>(std::min<std::uint64_t>(got, max_bytes - bytes));
    if (kept > 0) DEFIB_TRY(write_blocks(to, bytes, chunk.data(), kept));
    bytes += kept;
    *truncated = kept < got;
    if (*truncated || got < chunk.size()) break;
  }
  if (::ftruncate(to, static_cast<off_t>(bytes)) != 0) return os::system_error("ftruncate");
  return bytes;
}

}  // namespace

Result<ReceivedCore> receive_core(int from, const CorePipeOptions& options) {
  const std::string partial =
      os::join_path(options.dir, fmt::format(".core.{}.partial", options.pid));
  ::unlink(partial.c_str());  // of an earlier process with this number, cut short
  const os::Fd file(
      ::open(partial.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file.valid()) return os::system_error("open", partial);
  ReceivedCore core;
  const auto copied = copy(from, file.get(), options.max_bytes, &core.truncated);
  if (!copied || *copied == 0) {
    ::unlink(partial.c_str());
    if (!copied) return copied.error();
    return Error(Code::kInvalidArgument, "the core is empty");
  }
  core.bytes = *copied;
  core.path = os::join_path(options.dir,
                            fmt::format("core.{}.{}", options.pid, os::real_clock().wall_ns()));
  // Its user may read it, as with a core that the kernel wrote.
  if (::fchown(file.get(), options.uid, options.gid) != 0 && ::geteuid() == 0) {
    ::unlink(partial.c_str());
    return os::system_error("fchown", partial);
  }
  if (::rename(partial.c_str(), core.path.c_str()) != 0) {
    ::unlink(partial.c_str());
    return os::system_error("rename", core.path);
  }
  keep_newest(options.dir, "core.", {}, static_cast<std::size_t>(options.max_files));
  return core;
}

}  // namespace defib
