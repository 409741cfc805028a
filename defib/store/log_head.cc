#include "defib/store/log_head.h"

#include <fmt/core.h>

namespace defib::store {
namespace {

constexpr std::uint64_t kSmallFile = 1 << 16;

}  // namespace

LogHead read_log_head(os::Files& files, const std::string& dir, std::string_view uuid) {
  LogHead head;
  const std::string path = os::join_path(dir, kLogHeadFile);
  if (!files.exists(path)) {
    head.problem = fmt::format("{} is missing", kLogHeadFile);
    return head;
  }
  const auto bytes = os::read_file(files, path, kSmallFile);
  std::string problem = bytes ? "" : bytes.error().message();
  if (bytes) head.newest = decode_log_head(*bytes, problem);
  if (head.newest && head.newest->uuid != uuid) {
    head.newest.reset();
    problem = "it is of another store";
  }
  if (!head.newest) head.problem = fmt::format("{} cannot be used: {}", kLogHeadFile, problem);
  return head;
}

Result<> write_log_head(os::Files& files, const std::string& dir, const SegmentHeader& newest) {
  return os::write_file_atomically(files, os::join_path(dir, kLogHeadFile),
                                   encode_log_head(newest));
}

SegmentHeader no_segment(std::string_view uuid) {
  SegmentHeader none;
  none.uuid = uuid;
  return none;
}

}  // namespace defib::store
