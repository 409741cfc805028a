#include "defib/postmortem/bundle_archive.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "defib/os/fd.h"
#include "defib/os/files.h"

namespace defib::postmortem {
namespace {

Error archive_failure(archive* out, const std::string& path) {
  const char* why = archive_error_string(out);
  return Error(Code::kSystemCallFailed, fmt::format("the archive {} cannot be written: {}", path,
                                                    why != nullptr ? why : "no reason is given"))
      .with("path", path);
}

Result<> write_all(archive* out, int fd, const std::vector<ArchiveEntry>& entries,
                   std::int64_t time_s, const std::string& path) {
  bool good = archive_write_add_filter_zstd(out) == ARCHIVE_OK &&
              archive_write_set_format_pax_restricted(out) == ARCHIVE_OK &&
              archive_write_open_fd(out, fd) == ARCHIVE_OK;
  const std::unique_ptr<archive_entry, void (*)(archive_entry*)> head(archive_entry_new(),
                                                                      archive_entry_free);
  for (const ArchiveEntry& entry : entries) {
    if (!good) break;
    archive_entry_clear(head.get());
    archive_entry_set_pathname(head.get(), entry.name.c_str());
    archive_entry_set_filetype(head.get(), AE_IFREG);
    archive_entry_set_perm(head.get(), 0600);
    archive_entry_set_size(head.get(), static_cast<std::int64_t>(entry.content.size()));
    archive_entry_set_mtime(head.get(), time_s, 0);
    good = archive_write_header(out, head.get()) == ARCHIVE_OK &&
           archive_write_data(out, entry.content.data(), entry.content.size()) ==
               static_cast<la_ssize_t>(entry.content.size());
  }
  if (!good || archive_write_close(out) != ARCHIVE_OK) return archive_failure(out, path);
  return {};
}

}  // namespace

Result<> write_archive(const std::string& path, std::vector<ArchiveEntry> entries,
                       std::int64_t time_s) {
  std::ranges::sort(entries, {}, &ArchiveEntry::name);
  const std::string temporary = path + ".tmp";
  const os::Fd file(
      ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  // One that was there, of a writer that was killed, may have had another mode.
  if (!file.valid() || ::fchmod(file.get(), 0600) != 0) return os::system_error("open", temporary);
  const std::unique_ptr<archive, int (*)(archive*)> out(archive_write_new(), archive_write_free);
  auto written = write_all(out.get(), file.get(), entries, time_s, path);
  if (written && ::fsync(file.get()) != 0) written = os::system_error("fsync", temporary);
  // Takes nobody's file away.
  if (written && ::link(temporary.c_str(), path.c_str()) != 0) {
    written = errno == EEXIST ? Error(Code::kFileExists, fmt::format("{} is there already", path))
                                    .with("path", path)
                                    .suggest("name another file with --out, or remove that one")
                              : os::system_error("link", path);
  }
  ::unlink(temporary.c_str());
  return written;
}

}  // namespace defib::postmortem
