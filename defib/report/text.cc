#include <fmt/format.h>

#include <algorithm>

#include "defib/report/chart.h"
#include "defib/report/document.h"

namespace defib::report {
namespace {

constexpr std::size_t kColumns = 100;
constexpr std::size_t kMaxColumn = 60;

std::size_t characters(std::string_view utf8) {
  return static_cast<std::size_t>(std::ranges::count_if(
      utf8, [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

void add_wrapped(std::string_view words, std::string_view first, std::string_view next,
                 std::string& text) {
  std::string line(first);
  bool empty = true;
  while (!words.empty()) {
    const std::size_t end = std::min(words.find(' '), words.size());
    const std::string_view word = words.substr(0, end);
    words.remove_prefix(std::min(end + 1, words.size()));
    if (!empty && characters(line) + 1 + characters(word) > kColumns) {
      text += line + "\n";
      line = next;
      empty = true;
    }
    if (!empty) line += ' ';
    line += word;
    empty = false;
  }
  text += line + "\n";
}

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
  if (block.kind == BlockKind::kParagraph) return add_wrapped(block.text, "", "", text);
  if (!block.text.empty()) text += "\n" + block.text + "\n";
  if (block.kind == BlockKind::kTable) add_table(block, text);
  int number = 0;
  for (const Item& item : block.items) {
    const std::string first = block.numbered ? fmt::format("{:>3}. ", ++number) : "  - ";
    add_wrapped(item.text, first, std::string(first.size(), ' '), text);
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
  if (!document.subtitle.empty()) add_wrapped(document.subtitle, "", "", text);
  text += '\n';
  for (const Block& block : document.blocks) add_block(block, text);
  return text + "\n" + document.made_by + "\n";
}

}  // namespace defib::report
