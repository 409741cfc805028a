// Core files, maps, kernel records and ELF notes are read from whatever bytes there are: nothing
// may crash, hang or read outside of them. What a core yields is classified as well.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>

#include "defib/postmortem/classify.h"
#include "defib/postmortem/core.h"
#include "defib/postmortem/kernel_log.h"
#include "defib/postmortem/report.h"

namespace {

class MemoryFile : public defib::os::File {
 public:
  explicit MemoryFile(std::string_view bytes) : bytes_(bytes) {}
  defib::Result<std::size_t> read_at(std::uint64_t offset, char* to, std::size_t size) override {
    if (offset >= bytes_.size()) return std::size_t{0};
    const std::size_t count = std::min<std::uint64_t>(size, bytes_.size() - offset);
    std::memcpy(to, bytes_.data() + offset, count);
    return count;
  }
  defib::Result<std::uint64_t> size() override { return bytes_.size(); }
  defib::Result<> write_at(std::uint64_t, std::string_view) override { return {}; }
  defib::Result<> sync() override { return {}; }
  defib::Result<> truncate(std::uint64_t) override { return {}; }
  defib::Result<> drop_cache() override { return {}; }
  defib::Result<> try_lock() override { return {}; }

 private:
  std::string_view bytes_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace defib::postmortem;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  MemoryFile file(input);
  if (const auto snapshot = read_core(file, {"/dev/null", {}})) {
    classify(facts_from(*snapshot, {}));
  }
  parse_maps(input);
  build_id_in_notes(input);
  static_cast<void>(kernel_record_about(input, 4711, 0));
  CrashFacts facts;
  facts.signal.signal = 6;
  facts.signal.code = -6;
  facts.message = input.substr(0, size / 2);
  facts.stderr_tail = input.substr(size / 2);
  classify(facts);
  return 0;
}
