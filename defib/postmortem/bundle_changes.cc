#include "defib/postmortem/bundle_changes.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "defib/base/bytes.h"
#include "defib/os/clock.h"
#include "defib/os/fd.h"
#include "defib/os/random.h"
#include "defib/postmortem/collect.h"
#include "defib/postmortem/redact.h"
#include "defib/postmortem/snapshot.h"

namespace defib::postmortem {
namespace {

using wire::Json;

constexpr std::string_view kSchema = "defib.runs/1";
constexpr std::uint64_t kMaxFile = 8 << 20;
constexpr std::size_t kMaxCommandFiles = 32;
constexpr std::size_t kMaxLibraries = 512;
constexpr std::size_t kMaxShown = 160;
constexpr std::size_t kMaxDifferences = 100;
constexpr std::size_t kHashDigits = 16;
constexpr std::size_t kBuildIdShown = 12;
constexpr int kMaxDepth = 16;
// They differ from run to run, and are ours.
constexpr std::string_view kOurs = "DEFIB_";

std::string keyed_hash(std::string_view key, std::string_view name, std::string_view value) {
  std::string text(key);
  for (const std::string_view part : {name, value}) {
    text += fmt::format("{}:", part.size());
    text += part;
  }
  return sha256_hex(text).substr(0, kHashDigits);
}

// {"path","bytes","modified","sha256"}; null where it is no regular file.
Json file_json(const std::string& path) {
  const os::Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  struct stat status{};
  if (!file.valid() || ::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode)) return {};
  Json json = Json::object(
      {{"path", path},
       {"bytes", static_cast<std::int64_t>(status.st_size)},
       {"modified", os::format_time(std::int64_t{status.st_mtim.tv_sec} * 1'000'000'000 +
                                    status.st_mtim.tv_nsec)}});
  if (static_cast<std::uint64_t>(status.st_size) <= kMaxHashedFile) {
    const auto text = os::read_file(os::real_files(), path, kMaxHashedFile);
    if (text) json.set("sha256", sha256_hex(*text));
  }
  return json;
}

std::string shown(const Json& value) {
  if (value.is_null()) return "nothing";
  std::string text = value.is_string() ? std::string(value.as_string()) : value.dump();
  if (text.size() > kMaxShown) text = text.substr(0, kMaxShown) + "...";
  return text;
}

std::string short_id(std::string_view build_id) {
  return build_id.empty() ? "none" : std::string(build_id.substr(0, kBuildIdShown));
}

// "limits.memory": "512MiB"
void flatten(const Json& value, const std::string& name, int depth,
             std::vector<std::pair<std::string, Json>>& to) {
  if (!value.is_object() || depth == kMaxDepth) {
    to.emplace_back(name, value);
    return;
  }
  const std::string prefix = name.empty() ? name : name + ".";
  for (const auto& [key, member] : value.members()) {
    std::string full = prefix;
    full += key;
    flatten(member, full, depth + 1, to);
  }
}

class Differences {
 public:
  std::vector<std::string> take() { return std::move(lines_); }
  void add(std::string line) {
    if (lines_.size() < kMaxDifferences) lines_.push_back(std::move(line));
  }
  void program(const Json& before, const Json& after);
  void files(const Json& before, const Json& after);
  void command(const Json& before, const Json& after);
  void environment(const Json& before, const Json& after);
  void settings(const Json& before, const Json& after);
  void libraries(const Json& before, const Json& after);
  void versions(const Json& before, const Json& after);

 private:
  std::vector<std::string> lines_;
};

bool other_file(const Json& before, const Json& after) {
  for (const char* key : {"build_id", "sha256"}) {
    const std::string_view one = before[key].as_string(), other = after[key].as_string();
    if (!one.empty() && !other.empty()) return one != other;
  }
  return before["bytes"] != after["bytes"] || before["modified"] != after["modified"];
}

void Differences::program(const Json& before, const Json& after) {
  const std::string_view path = after["path"].as_string();
  if (before["path"] != after["path"]) {
    add(fmt::format("the program is {}, it was {}", path, before["path"].as_string()));
  }
  if (!other_file(before, after)) return;
  std::string line = fmt::format("binary {} replaced", path);
  if (after["modified"].is_string()) line += fmt::format(" at {}", after["modified"].as_string());
  const std::string_view old_id = before["build_id"].as_string(),
                         new_id = after["build_id"].as_string();
  if (!old_id.empty() || !new_id.empty()) {
    line += fmt::format(": build id {} -> {}", short_id(old_id), short_id(new_id));
  } else {
    line += fmt::format(": {} -> {} bytes", before["bytes"].as_int(), after["bytes"].as_int());
  }
  add(std::move(line));
}

void Differences::files(const Json& before, const Json& after) {
  for (const Json& file : after.items()) {
    const auto& old = before.items();
    const auto same =
        std::ranges::find_if(old, [&](const Json& one) { return one["path"] == file["path"]; });
    if (same == old.end() || !other_file(*same, file)) continue;
    add(fmt::format("file {} changed at {} ({} -> {} bytes)", file["path"].as_string(),
                    file["modified"].as_string(), (*same)["bytes"].as_int(),
                    file["bytes"].as_int()));
  }
}

void Differences::command(const Json& before, const Json& after) {
  if (before["hash"] == after["hash"]) return;
  const auto words = [](const Json& command) {
    std::string text;
    for (const Json& word : command["words"].items()) {
      text += fmt::format("{}{}", text.empty() ? "" : " ", word.as_string());
    }
    return text;
  };
  const std::string old_words = words(before), new_words = words(after);
  if (old_words == new_words) return add("the command's arguments changed in a secret's value");
  add(fmt::format("command `{}` -> `{}`", shown(old_words), shown(new_words)));
}

void Differences::environment(const Json& before, const Json& after) {
  for (const auto& [name, hash] : after.members()) {
    if (!before.has(name)) {
      add(fmt::format("environment {} added", name));
    } else if (before[name] != hash) {
      add(fmt::format("environment {} changed", name));
    }
  }
  for (const auto& [name, hash] : before.members()) {
    if (!after.has(name)) add(fmt::format("environment {} removed", name));
  }
}

void Differences::settings(const Json& before, const Json& after) {
  std::vector<std::pair<std::string, Json>> old_values, new_values;
  flatten(before, "", 0, old_values);
  flatten(after, "", 0, new_values);
  const auto find = [](const auto& values, const std::string& name) {
    const auto found = std::ranges::find(
        values, name, [](const auto& one) -> const std::string& { return one.first; });
    return found == values.end() ? Json() : found->second;
  };
  // The command and the environment have lines of their own.
  const auto has_own = [](std::string_view name) {
    return name == "argv" || name.starts_with("env");
  };
  for (const auto& [name, value] : new_values) {
    const Json old = find(old_values, name);
    if (has_own(name) || old == value) continue;
    add(fmt::format("setting {}: {} -> {}", name, shown(old), shown(value)));
  }
  for (const auto& [name, value] : old_values) {
    const bool gone =
        std::ranges::none_of(new_values, [&](const auto& one) { return one.first == name; });
    if (gone && !has_own(name)) add(fmt::format("setting {}: {} -> nothing", name, shown(value)));
  }
}

void Differences::libraries(const Json& before, const Json& after) {
  for (const auto& [path, id] : after.members()) {
    if (!before.has(path) || before[path] == id) continue;
    add(fmt::format("library {} replaced: build id {} -> {}", path,
                    short_id(before[path].as_string()), short_id(id.as_string())));
  }
}

void Differences::versions(const Json& before, const Json& after) {
  for (const auto& [name, words] : {std::pair{"kernel", "kernel"}, std::pair{"defib", "defib"}}) {
    if (before[name] == after[name]) continue;
    add(fmt::format("{} {} -> {}", words, before[name].as_string(), after[name].as_string()));
  }
}

Json texts(const std::vector<std::string>& lines) {
  Json json = Json::array();
  for (const std::string& line : lines) json.push(line);
  return json;
}

}  // namespace

std::string build_id_of_file(const std::string& path) {
  const os::Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!file.valid()) return {};
  return build_id_in_file(file.get());
}

std::vector<std::pair<std::string, std::string>> libraries_of_maps(std::string_view maps) {
  std::set<std::string> paths;
  for (const Mapping& mapping : parse_maps(maps)) {
    const bool is_file = mapping.path.starts_with('/') && !mapping.deleted;
    if (is_file && mapping.executable && paths.size() < kMaxLibraries) paths.insert(mapping.path);
  }
  std::vector<std::pair<std::string, std::string>> libraries;
  for (const std::string& path : paths) {
    if (std::string id = build_id_of_file(path); !id.empty()) {
      libraries.emplace_back(path, std::move(id));
    }
  }
  return libraries;
}

Json describe_run(const RunFacts& facts, std::string_view key) {
  Redactor redactor;
  redactor.learn(facts.environment);
  redactor.learn_arguments(facts.command);
  Json program = file_json(facts.exe);
  program.set("path", facts.exe);
  const std::string file_id = build_id_of_file(facts.exe);
  // A program that was replaced since is not the file that lies there now.
  if (!facts.build_id.empty() && facts.build_id != file_id) {
    program = Json::object({{"path", facts.exe}});
  }
  const std::string& id = facts.build_id.empty() ? file_id : facts.build_id;
  if (!id.empty()) program.set("build_id", id);

  Json files = Json::array(), words = Json::array(), environment = Json::object();
  std::string all_words;
  for (const std::string& word : facts.command) {
    all_words += fmt::format("{}:{}", word.size(), word);
    if (&word == &facts.command.front() || files.size() >= kMaxCommandFiles) continue;
    std::string path = word.substr(word.starts_with('-') ? word.find('=') + 1 : 0);
    if (path.empty()) continue;
    if (!facts.directory.empty() && path[0] != '/') path = os::join_path(facts.directory, path);
    if (Json file = file_json(path); file.is_object()) files.push(std::move(file));
  }
  for (const std::string& word : redactor.command_line(facts.command)) words.push(word);
  auto names = facts.environment;
  std::ranges::sort(names);
  for (const auto& [name, value] : names) {
    if (!name.starts_with(kOurs)) environment.set(name, keyed_hash(key, name, value));
  }
  Json libraries = Json::object();
  auto sorted = facts.libraries;
  std::ranges::sort(sorted);
  for (const auto& [path, build_id] : sorted) {
    if (path != facts.exe && libraries.size() < kMaxLibraries) libraries.set(path, build_id);
  }
  return Json::object({{"program", std::move(program)},
                       {"files", std::move(files)},
                       {"command", Json::object({{"words", std::move(words)},
                                                 {"hash", keyed_hash(key, "", all_words)}})},
                       {"environment", std::move(environment)},
                       {"settings", redactor.json(facts.settings)},
                       {"libraries", std::move(libraries)},
                       {"kernel", facts.kernel},
                       {"defib", facts.defib}});
}

std::vector<std::string> run_differences(const Json& before, const Json& after) {
  Differences differences;
  differences.program(before["program"], after["program"]);
  differences.files(before["files"], after["files"]);
  differences.command(before["command"], after["command"]);
  differences.libraries(before["libraries"], after["libraries"]);
  differences.environment(before["environment"], after["environment"]);
  differences.settings(before["settings"], after["settings"]);
  differences.versions(before, after);
  return differences.take();
}

GoodRuns GoodRuns::read(os::Files& files, const std::string& service_dir) {
  GoodRuns runs;
  runs.path_ = os::join_path(service_dir, "runs.json");
  const auto text = os::read_file(files, runs.path_, kMaxFile);
  const auto json = text ? Json::parse(*text) : Result<Json>(text.error());
  if (json && (*json)["schema"].as_string() == kSchema) {
    runs.key_ = (*json)["key"].as_string();
    runs.runs_ = (*json)["runs"].items();
    if (runs.runs_.size() > kMaxRuns) runs.runs_.resize(kMaxRuns);
  }
  if (runs.key_.empty()) {
    runs.key_ = os::random_hex(16);
    runs.runs_.clear();
  }
  return runs;
}

void GoodRuns::note(const Json& description, std::uint64_t generation, std::string_view at) {
  if (runs_.empty() || !run_differences(runs_.back()["run"], description).empty()) {
    if (runs_.size() == kMaxRuns) runs_.erase(runs_.begin());
    runs_.push_back(Json::object({{"first_good_at", at}, {"runs", 0}}));
  }
  Json& run = runs_.back();
  run.set("runs", run["runs"].as_int() + 1);
  run.set("generation", generation);
  run.set("good_at", at);
  run.set("run", description);
}

Result<> GoodRuns::save(os::Files& files) const {
  Json runs = Json::array();
  for (const Json& run : runs_) runs.push(run);
  return os::write_file_atomically(
      files, path_,
      Json::object({{"schema", kSchema}, {"key", key_}, {"runs", std::move(runs)}}).dump(1) + "\n");
}

Json GoodRuns::changes(const Json& description) const {
  Json document = Json::object({{"schema", "defib.changes/1"}});
  if (runs_.empty()) {
    document.set("since", Json());
    document.set("differences", Json::array());
    document.set("note", "no earlier run was good: none lived in health for healthy_after");
    return document;
  }
  const Json& good = runs_.back();
  const std::vector<std::string> lines = run_differences(good["run"], description);
  document.set("since", Json::object({{"generation", good["generation"]},
                                      {"first_good_at", good["first_good_at"]},
                                      {"good_at", good["good_at"]},
                                      {"runs", good["runs"]}}));
  document.set("differences", texts(lines));
  if (lines.empty() && runs_.size() > 1) {
    const Json& before = runs_[runs_.size() - 2];
    document.set(
        "last_change",
        Json::object({{"between", Json::array({before["good_at"], good["first_good_at"]})},
                      {"differences", texts(run_differences(before["run"], good["run"]))}}));
  }
  return document;
}

}  // namespace defib::postmortem
