#include "defib/process/persisted_state.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <vector>

#include "defib/base/bytes.h"

namespace defib::process {
namespace {

constexpr std::string_view kSchema = "defib.state/2";
// Its checksum is over "value" alone.
constexpr std::string_view kOldSchema = "defib.state/1";
constexpr std::string_view kDamagedMark = ".damaged-";

Error damaged(std::string message) {
  return Error(Code::kCorrupted, "the persisted state " + std::move(message));
}

// The document without its checksum, over whose dump the checksum is.
wire::Json body(const PersistedState::Content& content, std::int64_t pid) {
  return wire::Json::object({{"schema", kSchema},
                             {"saved_at", os::format_time(content.saved_wall_ns)},
                             {"pid", pid},
                             {"stopped", content.stopped_cleanly},
                             {"value", content.value}});
}

std::string_view file_name(std::string_view path) {
  return path.substr(path.rfind('/') + 1);  // npos + 1 is 0
}

// The numbers of PATH.damaged-N that exist, ascending.
std::vector<std::uint64_t> damaged_numbers(os::Files& files, const std::string& path) {
  std::vector<std::uint64_t> numbers;
  const auto names = files.list(os::parent_dir(path));
  if (!names) return numbers;
  const std::string prefix = std::string(file_name(path)) + std::string(kDamagedMark);
  for (const std::string& name : *names) {
    if (!name.starts_with(prefix)) continue;
    std::uint64_t number = 0;
    const char* const end = name.data() + name.size();
    const auto parsed = std::from_chars(name.data() + prefix.size(), end, number);
    if (parsed.ec == std::errc{} && parsed.ptr == end) numbers.push_back(number);
  }
  std::ranges::sort(numbers);
  return numbers;
}

// Renames the file, so that the next save() does not replace what may still be evidence.
Result<std::string> set_aside(os::Files& files, const std::string& path) {
  const std::vector<std::uint64_t> numbers = damaged_numbers(files, path);
  const std::string prefix = path + std::string(kDamagedMark);
  std::string to = prefix + std::to_string(numbers.empty() ? 1 : numbers.back() + 1);
  DEFIB_TRY(files.rename(path, to));
  for (std::size_t i = 0; i + kMaxDamagedFiles <= numbers.size(); ++i) {
    static_cast<void>(files.remove(prefix + std::to_string(numbers[i])).has_value());
  }
  DEFIB_TRY(files.sync_dir(os::parent_dir(path)));
  return to;
}

}  // namespace

// {"schema","saved_at","pid","stopped","value":{...},"crc32c":N}
Result<PersistedState::Content> PersistedState::parse(std::string_view text) {
  auto document = wire::Json::parse(text);
  if (!document) return damaged("is not JSON").because(std::move(document.error()));
  const std::string_view schema = (*document)["schema"].as_string();
  Content content;
  content.value = (*document)["value"];
  content.stopped_cleanly = (*document)["stopped"].as_bool();
  content.saved_wall_ns = os::parse_time((*document)["saved_at"].as_string());
  const std::int64_t checksum = (*document)["crc32c"].as_int(-1);
  if (schema == kSchema) {
    if (checksum != crc32c(body(content, (*document)["pid"].as_int()).dump())) {
      return damaged("fails its checksum");
    }
  } else if (schema == kOldSchema) {
    if (checksum != crc32c(content.value.dump())) return damaged("fails its checksum");
  } else {
    return damaged("has the unknown schema '" + std::string(schema.substr(0, 64)) + "'");
  }
  return content;
}

std::string PersistedState::format(const Content& content, int pid) {
  wire::Json document = body(content, pid);
  const auto checksum = crc32c(document.dump());
  document.set("crc32c", checksum);
  return document.dump(2) + "\n";
}

Result<PersistedState> PersistedState::open(os::Files& files, std::string path) {
  PersistedState state(files, std::move(path));
  if (!files.exists(state.path_)) return state;
  DEFIB_TRY_ASSIGN(const std::string text, os::read_file(files, state.path_, kMaxStateFile));
  auto content = parse(text);
  if (!content) return std::move(content.error()).with("path", state.path_);
  state.content_ = std::move(*content);
  return state;
}

PersistedState::Opened PersistedState::open_or_set_aside(os::Files& files, std::string path) {
  auto opened = open(files, path);
  if (opened) return {std::move(*opened), {}};
  Error damage = Error(Code::kCorrupted, "the persisted state cannot be used; it begins empty")
                     .with("path", path)
                     .because(std::move(opened.error()));
  if (auto aside = set_aside(files, path)) {
    damage = std::move(damage)
                 .with("set_aside", *aside)
                 .suggest("the service goes on; look at '" + *aside + "', then remove it");
  } else {
    damage = std::move(damage)
                 .with("not_set_aside", aside.error().to_line())
                 .suggest("make the directory of '" + path + "' readable and writable");
  }
  return {PersistedState(files, std::move(path)), std::move(damage)};
}

Result<> PersistedState::save(wire::Json value, const os::Clock& clock) {
  return write(std::move(value), false, clock);
}

Result<> PersistedState::save_stopped(wire::Json value, const os::Clock& clock) {
  return write(std::move(value), true, clock);
}

Result<> PersistedState::write(wire::Json value, bool stopped, const os::Clock& clock) {
  Content content{std::move(value), stopped, clock.wall_ns()};
  DEFIB_TRY(os::write_file_atomically(*files_, path_, format(content, getpid())));
  content_ = std::move(content);
  return {};
}

}  // namespace defib::process
