#include <fmt/format.h>

#include <algorithm>

#include "defib/report/chart.h"
#include "defib/report/document.h"
#include "defib/report/wrap.h"

namespace defib::report {
namespace {

constexpr std::size_t kColumns = 100;
constexpr std::size_t kMaxColumn = 60;

void add_table(const Block& block, std::string& text) {
  std::vector<std::size_t> widths;
  for (const auto& row : block.rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t i = 0; i < row.size(); ++i) {
      widths[i] = std::max(widths[i], std::min(characters(row[i]), kMaxColumn));
    }
  }
  for (const auto& row : block.rows) {
    text += "  ";
    for (std::size_t i = 0; i < row.size(); ++i) {
      text += row[i];
      if (i + 1 == row.size()) break;
      text.append(widths[i] - std::min(characters(row[i]), widths[i]) + 2, ' ');
    }
    text += '\n';
  }
}

void add_block(const Block& block, std::string& text) {
  if (block.kind == BlockKind::kHeading) {
    text += "\n" + block.text + "\n" + std::string(characters(block.text), '-') + "\n";
    return;
  }
  if (block.kind == BlockKind::kParagraph)
    return append_wrapped(text, block.text, {"", "", kColumns});
  if (!block.text.empty()) text += "\n" + block.text + "\n";
  if (block.kind == BlockKind::kTable) add_table(block, text);
  int number = 0;
  for (const Item& item : block.items) {
    const std::string first = block.numbered ? fmt::format("{:>3}. ", ++number) : "  - ";
    append_wrapped(text, item.text, {first, std::string(first.size(), ' '), kColumns});
    if (!item.command.empty()) text += std::string(first.size() + 2, ' ') + item.command + "\n";
  }
  for (std::size_t i = 0; i < block.lines.size(); ++i) {
    const bool marked = std::ranges::find(block.marked, i) != block.marked.end();
    text += (marked && !block.lines[i].starts_with("=>") ? "> " : "  ") + block.lines[i] + "\n";
  }
  for (const Chart& chart : block.charts) text += "  " + chart_caption(chart) + "\n";
}

}  // namespace

std::string to_text(const Document& document) {
  std::string text = document.title + "\n" + std::string(characters(document.title), '=') + "\n";
  if (!document.subtitle.empty()) append_wrapped(text, document.subtitle, {"", "", kColumns});
  text += '\n';
  for (const Block& block : document.blocks) add_block(block, text);
  return text + "\n" + document.made_by + "\n";
}

}  // namespace defib::report
