#include "apps/defib-capture/crash.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <charconv>

#include "apps/defib-capture/kept_files.h"
#include "defib/os/fd.h"
#include "defib/os/files.h"
#include "defib/os/process.h"
#include "defib/postmortem/capture.h"
#include "defib/postmortem/minicore.h"
#include "defib/postmortem/raw_copy_sigsafe.h"

namespace defib {
namespace {

// Cores beyond these are removed, the oldest first.
constexpr std::size_t kKeptMinicores = 8;

// What the shim says: "late:50", "signal:11", "exit:127", "unseen:0".
Error why_not_captured(std::string_view why) {
  const std::size_t colon = std::min(why.find(':'), why.size());
  int number = 0;
  if (colon < why.size()) {
    std::from_chars(why.data() + colon + 1, why.data() + why.size(), number);
  }
  const std::string_view word = why.substr(0, colon);
  Error error(Code::kCaptureFailed, "the process could not be captured");
  if (word == "late") {
    error = Error(Code::kCaptureFailed,
                  fmt::format("the capture was not done within {} ms and was ended, so that the "
                              "restart does not wait",
                              number))
                .suggest("give it more time with capture_timeout, or the machine more processors");
  } else if (word == "signal") {
    error = Error(Code::kCaptureFailed,
                  fmt::format("the capture helper was killed by {}", os::signal_name(number)));
  } else if (word == "exit") {
    error = Error(Code::kCaptureFailed,
                  fmt::format("the capture helper ended with exit code {}", number))
                .suggest("look into shim.log in the service's directory");
  } else if (word == "unseen") {
    error = Error(Code::kCaptureFailed,
                  "the crash was heard of when the process waited no longer for its capture")
                .suggest("give it more time with capture_timeout");
  }
  return std::move(error).with("why", std::string(why));
}

Result<std::string> read_snapshot(int fd) {
  const os::Fd file(fd);
  struct stat info;
  if (::fstat(fd, &info) != 0) return os::system_error("fstat", "--snapshot-fd");
  if (info.st_size < 0 || static_cast<std::size_t>(info.st_size) > postmortem::raw::kMaxBytes) {
    return Error(Code::kInvalidArgument, "--snapshot-fd is no raw snapshot: it is too long");
  }
  std::string bytes(static_cast<std::size_t>(info.st_size), '\0');
  if (::pread(fd, bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
    return os::system_error("pread", "--snapshot-fd");
  }
  return bytes;
}

}  // namespace

Result<postmortem::Snapshot> obtain_crash(pid_t pid, postmortem::CrashPage& page,
                                          const CrashOptions& options,
                                          postmortem::ProcessFacts* facts) {
  if (!options.why.empty()) return why_not_captured(options.why);
  if (options.snapshot_fd < 0) return postmortem::capture_crash(pid, page, {}, facts);
  DEFIB_TRY_ASSIGN(const std::string raw, read_snapshot(options.snapshot_fd));
  return postmortem::captured_crash(raw, page, facts);
}

void leave_minicore(postmortem::Snapshot& snapshot, const std::string& report_path) {
  if (report_path.empty()) return;
  std::string_view base = report_path;
  if (base.ends_with(".json")) base.remove_suffix(5);
  auto written = postmortem::write_minicore(snapshot, std::string(base) + ".core");
  if (!written) {
    snapshot.gaps.push_back("the small core: " + written.error().to_line());
    return;
  }
  keep_newest(os::parent_dir(report_path), "crash-", ".core", kKeptMinicores);
}

}  // namespace defib
