#include "apps/defib-capture/analyze.h"

#include <fmt/format.h>
#include <stdlib.h>
#include <unistd.h>

#include <utility>
#include <vector>

namespace defib {
namespace {

wire::Json sources_json(const std::vector<postmortem::SourceView>& sources) {
  wire::Json json = wire::Json::array();
  for (const postmortem::SourceView& view : sources) {
    wire::Json lines = wire::Json::array();
    for (const postmortem::SourceLine& line : view.lines) {
      lines.push(wire::Json::object({{"number", line.number}, {"text", line.text}}));
    }
    json.push(wire::Json::object({{"tid", view.tid},
                                  {"file", view.file},
                                  {"line", view.line},
                                  {"newer", view.newer},
                                  {"lines", std::move(lines)}}));
  }
  return json;
}

// Arguments and locals of all threads, or why there are none; the analysis stands without them.
void add_full(const postmortem::Report& report, const AnalyzeOptions& options, Analysis& analysis) {
  DebuggerTarget target;
  target.pid = options.pid;
  target.core = options.core;
  target.exe = options.exe.empty() ? options.sysroot + report.snapshot.exe : options.exe;
  target.sysroot = options.sysroot;
  const auto full = full_backtrace(target, options.full_timeout_s * 1000);
  if (full) {
    analysis.text += "\narguments and locals, by gdb\n\n" + *full;
    analysis.document.set("full", wire::Json::object({{"by", "gdb"}, {"text", *full}}));
  } else {
    analysis.text += fmt::format("\nnote: {}\n", full.error().to_line());
    analysis.document.set("full", wire::Json::object({{"error", wire::to_json(full.error())}}));
  }
}

}  // namespace

Analysis show_analysis(const postmortem::Report& report, const AnalyzeOptions& options) {
  postmortem::TextOptions form;
  form.colours = ::isatty(STDOUT_FILENO) == 1 && ::getenv("NO_COLOR") == nullptr;
  form.sources = postmortem::source_views(report, options.sysroot);
  Analysis analysis;
  if (options.json) {
    analysis.document = to_json(report);
    analysis.document.set("sources", sources_json(form.sources));
  } else {
    analysis.text = to_text(report, form);
  }
  if (options.full) add_full(report, options, analysis);
  return analysis;
}

}  // namespace defib
