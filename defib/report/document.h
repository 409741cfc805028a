// Document: what a report says, as blocks that every form (HTML, PDF, text) shows in its way, so
// that all of them say the same.
//
// Texts come from a process that crashed: they may hold anything. They are cleaned when they enter
// a block (visible_text()), and each form escapes them again for itself.
// Thread rule: pure functions.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "defib/wire/json.h"

namespace defib::report {

struct Point {
  double seconds = 0;  // after the failure; negative: before
  double value = 0;
};
struct Chart {
  std::string title;
  std::string unit;  // "MB", "%"
  std::vector<Point> points;
};

enum class BlockKind : std::uint8_t {
  kHeading,    // text
  kParagraph,  // text
  kList,       // items, each with a command or none
  kTable,      // rows; the first one holds the titles where `titled`
  kPre,        // text, in its own lines; `marked` ones are shown as such
  kCharts,     // side by side
};
struct Item {
  std::string text;
  std::string command;  // shown to be copied; may be empty
};
struct Block {
  BlockKind kind = BlockKind::kParagraph;
  std::string text;
  bool numbered = false;  // kList
  bool titled = false;    // kTable
  bool folded = false;    // much, and seldom wanted: `text` is its title
  std::vector<Item> items;
  std::vector<std::vector<std::string>> rows;
  std::vector<std::string> lines;   // kPre
  std::vector<std::size_t> marked;  // lines of kPre
  std::vector<Chart> charts;
};

struct Document {
  std::string title;     // "engine: null_dereference"
  std::string subtitle;  // what happened, in one sentence
  std::string made_by;   // "defib 0.1.0, 2026-11-20T13:05:58Z"
  std::vector<Block> blocks;
};

// What a report is made of: an incident (`defib incident show --json`), and the parts of the
// bundle of one of its failures. What is missing is null or empty.
struct Input {
  wire::Json incident;
  int failure = 1;
  int failures = 0;  // that have a bundle
  wire::Json manifest, crash, process, samples, system, changes, timeline;
  std::string disassembly, log, log_important, kernel, evidence;
  std::string made_by;
};
Document make_document(const Input& input);

// One page for a browser: all in it, nothing from a network.
std::string to_html(const Document& document);
// For a terminal or a mail.
std::string to_text(const Document& document);

}  // namespace defib::report
