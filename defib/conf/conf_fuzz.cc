// Any text: parsing and reading every type end, and every error names a line of the text.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "defib/base/assert.h"
#include "defib/conf/conf.h"

namespace {

void read_everything(defib::conf::Section section, int depth) {
  bool flag = false;
  std::string text;
  int number = 0;
  double ratio = 0;
  defib::os::Duration duration{};
  defib::Decimal decimal;
  std::vector<std::string> list;
  defib::conf::StringMap map;
  std::uint64_t size = 0;
  section.value("a", flag);
  section.value("b", text);
  section.value("c", number, {0, 1000});
  section.value("d", ratio);
  section.value("e", duration);
  section.value("f", decimal);
  section.value("g", list);
  section.value("h", map);
  section.size("i", size);
  if (depth == 3) return;
  read_everything(section.table("t"), depth + 1);
  for (defib::conf::Section& item : section.tables("u")) read_everything(item, depth + 1);
  for (auto& [name, item] : section.named_tables("v")) read_everything(item, depth + 1);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const long lines = 1 + std::count(text.begin(), text.end(), '\n');
  auto document = defib::conf::Document::parse_text(text);
  if (!document) {
    DEFIB_ASSERT(std::atol(document.error().field("line").data()) <= lines + 1);
    return 0;
  }
  read_everything(document->root(), 0);
  const auto result = document->finish();
  if (!result) DEFIB_ASSERT(std::atol(result.error().field("line").data()) <= lines + 1);
  return 0;
}
