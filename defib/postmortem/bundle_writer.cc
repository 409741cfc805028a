#include "defib/postmortem/bundle_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "defib/base/bytes.h"
#include "defib/os/clock.h"
#include "defib/os/fd.h"
#include "defib/os/files.h"

namespace defib::postmortem {
namespace {

constexpr std::uint64_t kMaxManifest = 1 << 20;

bool is_part_name(std::string_view name) {
  return !name.empty() && name.find('/') == name.npos && !name.starts_with('.');
}

}  // namespace

Result<BundleWriter> BundleWriter::create(std::string directory, std::int64_t deadline_mono_ns) {
  BundleWriter writer;
  writer.directory_ = std::move(directory);
  writer.deadline_ = deadline_mono_ns;
  for (const std::string& path : {os::parent_dir(writer.directory_), writer.directory_}) {
    if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) return os::system_error("mkdir", path);
  }
  writer.begin_part();
  return writer;
}

Result<BundleWriter> BundleWriter::reopen(std::string directory, std::int64_t deadline_mono_ns) {
  const std::string path = os::join_path(directory, kManifest);
  DEFIB_TRY_ASSIGN(const std::string text, os::read_file(os::real_files(), path, kMaxManifest));
  DEFIB_TRY_ASSIGN(wire::Json manifest, wire::Json::parse(text));
  BundleWriter writer;
  writer.directory_ = std::move(directory);
  writer.deadline_ = deadline_mono_ns;
  for (const wire::Json& part : manifest["parts"].items()) {
    if (!is_part_name(part["name"].as_string())) continue;
    writer.parts_.push_back({std::string(part["name"].as_string()), part["bytes"].as_uint(),
                             std::string(part["sha256"].as_string()), part["took_ns"].as_int(),
                             std::string(part["cut"].as_string())});
  }
  for (const wire::Json& one : manifest["missing"].items()) {
    writer.missing_.emplace_back(one["name"].as_string(), one["why"].as_string());
  }
  if (const auto marks = read_marks(writer.directory_)) writer.redactor_.learn_marks(*marks);
  writer.redacted_before_ = manifest["redacted"].as_uint();
  writer.manifest_ = std::move(manifest);
  writer.begin_part();
  return writer;
}

bool BundleWriter::late() const {
  return os::real_clock().mono_ns() >= deadline_;
}

void BundleWriter::begin_part() {
  part_began_ = os::real_clock().mono_ns();
}

void BundleWriter::forget(std::string_view name) {
  std::erase_if(parts_, [&](const Part& part) { return part.name == name; });
  std::erase_if(missing_, [&](const auto& one) { return one.first == name; });
}

void BundleWriter::missing(std::string_view name, const std::string& why) {
  const bool there = std::ranges::any_of(parts_, [&](const Part& p) { return p.name == name; });
  // What is there from before is better than nothing.
  if (there) return;
  forget(name);
  missing_.emplace_back(name, redactor_.text(why));
  begin_part();
}

bool BundleWriter::add(std::string_view name, std::string_view text, std::string cut) {
  if (late()) return missing(name, "there was no time left for it"), false;
  if (text.size() > kMaxPart) {
    // What is redacted becomes no shorter than it must; the beginning of a line is kept whole.
    text.remove_prefix(text.size() - kMaxPart);
    text.remove_prefix(std::min(text.find('\n'), text.size() - 1) + 1);
    cut += fmt::format("{}only the last {} MiB", cut.empty() ? "" : "; ", kMaxPart >> 20);
  }
  return add_redacted(name, redactor_.text(text), std::move(cut));
}

bool BundleWriter::add_json(std::string_view name, const wire::Json& document, std::string cut) {
  if (late()) return missing(name, "there was no time left for it"), false;
  return add_redacted(name, redactor_.json(document).dump(1) + "\n", std::move(cut));
}

bool BundleWriter::add_redacted(std::string_view name, const std::string& text, std::string cut) {
  std::uint64_t others = 0;
  for (const Part& part : parts_) others += part.name == name ? 0 : part.bytes;
  // Redaction may lengthen a text; twice the bound is beyond what it can do to one that fits.
  if (text.size() > 2 * kMaxPart || others + text.size() > kMaxBundle) {
    return missing(name,
                   fmt::format("it has {} bytes, and the bundle has {} already: more than it may",
                               text.size(), others)),
           false;
  }
  const std::int64_t began = part_began_;
  if (const auto written = write(name, text, false); !written) {
    return missing(name, written.error().to_line()), false;
  }
  forget(name);
  begin_part();
  parts_.push_back(
      {std::string(name), text.size(), sha256_hex(text), part_began_ - began, std::move(cut)});
  return true;
}

Result<> BundleWriter::write(std::string_view name, std::string_view text, bool sync) const {
  const std::string path = os::join_path(directory_, name);
  const std::string temporary = os::join_path(directory_, fmt::format(".{}.tmp", name));
  const os::Fd file(
      ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file.valid()) return os::system_error("open", temporary);
  const auto failed = [&](const char* call) {
    Error error = os::system_error(call, temporary);
    ::unlink(temporary.c_str());
    return error;
  };
  std::string_view rest = text;
  while (!rest.empty()) {
    const ssize_t put = ::write(file.get(), rest.data(), rest.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return failed("write");
    rest.remove_prefix(static_cast<std::size_t>(put));
  }
  if (sync && ::fdatasync(file.get()) != 0) return failed("fdatasync");
  if (::rename(temporary.c_str(), path.c_str()) != 0) return failed("rename");
  return {};
}

Result<wire::Json> read_marks(const std::string& directory) {
  DEFIB_TRY_ASSIGN(const std::string text,
                   os::read_file(os::real_files(), os::join_path(directory, kMarks), kMaxManifest));
  return wire::Json::parse(text);
}

Result<> BundleWriter::finish() {
  wire::Json parts = wire::Json::array(), missing = wire::Json::array();
  for (const Part& part : parts_) {
    wire::Json json = wire::Json::object({{"name", part.name},
                                          {"bytes", part.bytes},
                                          {"sha256", part.sha256},
                                          {"took_ns", part.took_ns}});
    if (!part.cut.empty()) json.set("cut", part.cut);
    parts.push(std::move(json));
  }
  for (const auto& [name, why] : missing_) {
    missing.push(wire::Json::object({{"name", name}, {"why", why}}));
  }
  DEFIB_TRY(write(kMarks, redactor_.marks().dump() + "\n", false));
  manifest_.set("redacted", redacted_before_ + redactor_.count());
  manifest_.set("parts", std::move(parts));
  manifest_.set("missing", std::move(missing));
  DEFIB_TRY(write(kManifest, redactor_.json(manifest_).dump(1) + "\n", true));
  return os::real_files().sync_dir(directory_);
}

}  // namespace defib::postmortem
