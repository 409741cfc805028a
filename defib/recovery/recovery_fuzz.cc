// Every file and document that this module reads, from arbitrary bytes: the first byte chooses the
// reader, the rest is its input. What a reader accepts must survive being written again.

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "defib/base/assert.h"
#include "defib/os/files.h"
#include "defib/recovery/decision.h"
#include "defib/recovery/explain.h"
#include "defib/recovery/incident.h"
#include "defib/recovery/policy.h"
#include "defib/recovery/progress_file.h"

namespace defib::recovery {
namespace {

// Files in memory, as far as the readers need them.
class MemoryFiles final : public os::Files {
 public:
  Result<std::unique_ptr<os::File>> open(const std::string& path, os::OpenMode mode) override {
    if (mode == os::OpenMode::kRead && !exists(path)) return Error(Code::kFileNotFound, path);
    return std::unique_ptr<os::File>(std::make_unique<MemoryFile>(content[path]));
  }
  Result<> rename(const std::string& from, const std::string& to) override {
    content[to] = content[from];
    content.erase(from);
    return {};
  }
  Result<> remove(const std::string& path) override {
    content.erase(path);
    return {};
  }
  Result<> create_dirs(const std::string&) override { return {}; }
  Result<> sync_dir(const std::string&) override { return {}; }
  Result<std::vector<std::string>> list(const std::string& path) override {
    std::vector<std::string> names;
    for (const auto& [name, text] : content) {
      if (name.starts_with(path + "/")) names.push_back(name.substr(path.size() + 1));
    }
    return names;
  }
  bool exists(const std::string& path) override { return is_dir(path) || content.contains(path); }
  bool is_dir(const std::string& path) override { return path == "s/incidents"; }
  Result<std::uint64_t> free_space(const std::string&) override { return 0; }

  std::map<std::string, std::string> content;

 private:
  class MemoryFile final : public os::File {
   public:
    explicit MemoryFile(std::string& text) : text_(text) {}
    Result<std::size_t> read_at(std::uint64_t offset, char* to, std::size_t size) override {
      return offset >= text_.size() ? 0 : text_.copy(to, size, offset);
    }
    Result<> write_at(std::uint64_t offset, std::string_view bytes) override {
      if (text_.size() < offset + bytes.size()) text_.resize(offset + bytes.size());
      text_.replace(offset, bytes.size(), bytes);
      return {};
    }
    Result<> sync() override { return {}; }
    Result<> truncate(std::uint64_t size) override {
      text_.resize(size);
      return {};
    }
    Result<std::uint64_t> size() override { return text_.size(); }
    Result<> drop_cache() override { return {}; }
    Result<> try_lock() override { return {}; }

   private:
    std::string& text_;
  };
};

void fuzz_budget(std::string_view input) {
  os::FakeClock clock;
  MemoryFiles files;
  files.content["b"] = input;
  const Budget::Options options{.path = "b", .limit = 5, .window = std::chrono::hours(1)};
  auto budget = Budget::open(files, clock, options);
  if (!budget) {
    DEFIB_ASSERT(files.content["b"] == input);
    return;
  }
  const int used = budget->used();
  DEFIB_ASSERT(budget->spend().has_value() == (used < 5));
  DEFIB_ASSERT(Budget::open(files, clock, options)->used() == budget->used());
}

void fuzz_incident(std::string_view input) {
  static_cast<void>(verify_incident(input, kNoHash));
  os::FakeClock clock;
  MemoryFiles files;
  files.content["s/incidents/20231114T221320Z-abcdef.jsonl"] = input;
  auto log = *IncidentLog::open(files, clock, "s");
  DEFIB_ASSERT(log.list().has_value());
  static_cast<void>(log.read("20231114T221320Z-abcdef").has_value());
  auto resumed = log.resume("20231114T221320Z-abcdef");
  if (!resumed) return;
  DEFIB_ASSERT(resumed->close("recovered").has_value());
  const std::string& text = files.content["s/incidents/20231114T221320Z-abcdef.jsonl"];
  DEFIB_ASSERT(verify_incident(text, resumed->head_hash()).intact);
}

void fuzz_decision(std::string_view input) {
  const auto json = wire::Json::parse(input);
  if (!json) return;
  const auto decision = Decision::from_json(*json);
  if (!decision) return;
  const auto again = Decision::from_json(decision->to_json());
  DEFIB_ASSERT(again && again->explain() == decision->explain());
}

void fuzz_progress(std::string_view input) {
  os::FakeClock clock;
  MemoryFiles files;
  files.content["p"] = input;
  const auto report = read_progress(files, clock, "p");
  if (report) static_cast<void>(report->to_json().dump());
}

}  // namespace
}  // namespace defib::recovery

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace defib::recovery;
  if (size == 0) return 0;
  const std::string_view input(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 5) {
    case 0:
      fuzz_budget(input);
      break;
    case 1:
      fuzz_incident(input);
      break;
    case 2:
      fuzz_decision(input);
      break;
    case 3:
      fuzz_progress(input);
      break;
    default:
      static_cast<void>(explain_code(input));
  }
  return 0;
}
