#include <fmt/format.h>

#include <algorithm>

#include "defib/report/chart.h"
#include "defib/report/document.h"

namespace defib::report {
namespace {

constexpr std::string_view kStyle =
    ":root{color-scheme:light dark;--fg:#1b1f24;--bg:#fff;--dim:#57606a;--line:#d0d7de;"
    "--soft:#f6f8fa;--mark:#ffebe9;--accent:#b3261e;--chart:#0550ae}"
    "@media(prefers-color-scheme:dark){:root{--fg:#e6edf3;--bg:#0d1117;--dim:#8d96a0;"
    "--line:#30363d;--soft:#161b22;--mark:#4b1113;--accent:#ff7b72;--chart:#79c0ff}}"
    "body{font:15px/1.5 system-ui,sans-serif;color:var(--fg);background:var(--bg);"
    "max-width:70em;margin:2em auto;padding:0 1em}"
    "h1{font-size:1.6em;margin:0;color:var(--accent)}h2{font-size:1.15em;margin:1.8em 0 .4em;"
    "border-bottom:1px solid var(--line)}p{margin:.4em 0}.sub{font-size:1.1em}"
    ".by,td.n{color:var(--dim)}table{border-collapse:collapse;font-size:.92em}"
    "td,th{text-align:left;vertical-align:top;padding:.15em .9em .15em 0;overflow-wrap:anywhere}"
    "th{border-bottom:1px solid var(--line)}pre,code{font:13px/1.45 ui-monospace,monospace}"
    "pre{background:var(--soft);padding:.6em;overflow-x:auto;margin:.3em 0}"
    "pre b{background:var(--mark);display:inline-block;min-width:100%;font-weight:600}"
    "code{background:var(--soft);padding:.1em .3em}li{margin:.3em 0}"
    "summary{cursor:pointer;margin:.3em 0}figure{display:inline-block;margin:.5em 1.5em .5em 0}"
    "figcaption{font-size:.9em;color:var(--dim)}svg text{fill:var(--dim);font:11px sans-serif}"
    "@media print{details{display:block}body{max-width:none}}";

std::string escaped(std::string_view text) {
  std::string html;
  html.reserve(text.size() + text.size() / 8);
  for (const char c : text) {
    switch (c) {
      case '&':
        html += "&amp;";
        break;
      case '<':
        html += "&lt;";
        break;
      case '>':
        html += "&gt;";
        break;
      case '"':
        html += "&quot;";
        break;
      case '\'':
        html += "&#39;";
        break;
      default:
        html += c;
    }
  }
  return html;
}

void add_table(const Block& block, std::string& html) {
  html += "<table>\n";
  for (std::size_t i = 0; i < block.rows.size(); ++i) {
    const bool titles = block.titled && i == 0;
    html += "<tr>";
    for (std::size_t column = 0; column < block.rows[i].size(); ++column) {
      const bool name = !block.titled && column % 2 == 0;
      html += titles ? "<th>" : name ? "<td class=n>" : "<td>";
      html += escaped(block.rows[i][column]);
      html += titles ? "</th>" : "</td>";
    }
    html += "</tr>\n";
  }
  html += "</table>\n";
}

void add_list(const Block& block, std::string& html) {
  html += block.numbered ? "<ol>\n" : "<ul>\n";
  for (const Item& item : block.items) {
    html += "<li>" + escaped(item.text);
    if (!item.command.empty()) html += "<br><code>" + escaped(item.command) + "</code>";
    html += "</li>\n";
  }
  html += block.numbered ? "</ol>\n" : "</ul>\n";
}

void add_pre(const Block& block, std::string& html) {
  html += "<pre>";
  for (std::size_t i = 0; i < block.lines.size(); ++i) {
    const bool marked = std::ranges::find(block.marked, i) != block.marked.end();
    html += marked ? "<b>" + escaped(block.lines[i]) + "</b>\n" : escaped(block.lines[i]) + "\n";
  }
  html += "</pre>\n";
}

void add_charts(const Block& block, std::string& html) {
  for (const Chart& chart : block.charts) {
    const ChartScale scale = scale_of(chart);
    html += fmt::format(
        "<figure><figcaption>{}</figcaption><svg width=\"{}\" height=\"{}\" role=\"img\">",
        escaped(chart_caption(chart)), kChartWidth, kChartHeight);
    html += fmt::format("<path d=\"M{0} {1}V{2}H{3}\" fill=\"none\" stroke=\"var(--line)\"/>",
                        kChartLeft, kChartTop, kChartHeight - kChartBottom, kChartWidth);
    if (scale.has_zero) {
      html +=
          fmt::format("<path d=\"M{:.1f} {}V{}\" stroke=\"var(--accent)\" stroke-dasharray=\"3\"/>",
                      scale.x(0), kChartTop, kChartHeight - kChartBottom);
    }
    html += "<polyline fill=\"none\" stroke=\"var(--chart)\" stroke-width=\"1.5\" points=\"";
    for (const Point& point : chart.points) {
      html += fmt::format("{:.1f},{:.1f} ", scale.x(point.seconds), scale.y(point.value));
    }
    html += "\"/>";
    for (const ChartLabel& label : chart_labels(scale)) {
      html += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>", label.x,
                          label.y, label.at_end ? "end" : "start", escaped(label.text));
    }
    html += "</svg></figure>\n";
  }
}

void add_block(const Block& block, std::string& html) {
  if (block.kind == BlockKind::kHeading) {
    html += "<h2>" + escaped(block.text) + "</h2>\n";
    return;
  }
  if (block.kind == BlockKind::kParagraph) {
    html += "<p>" + escaped(block.text) + "</p>\n";
    return;
  }
  if (block.folded) {
    html += "<details><summary>" + escaped(block.text) + "</summary>\n";
  } else if (!block.text.empty()) {
    html += "<p>" + escaped(block.text) + "</p>\n";
  }
  if (block.kind == BlockKind::kTable) add_table(block, html);
  if (block.kind == BlockKind::kList) add_list(block, html);
  if (block.kind == BlockKind::kPre) add_pre(block, html);
  if (block.kind == BlockKind::kCharts) add_charts(block, html);
  if (block.folded) html += "</details>\n";
}

}  // namespace

std::string to_html(const Document& document) {
  // Should a text get through as markup, it still loads and runs nothing.
  std::string html = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" "
      "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
      "<meta name=\"viewport\" content=\"width=device-width\">\n"
      "<title>{}</title>\n<style>{}</style></head><body>\n<h1>{}</h1>\n",
      escaped(document.title), kStyle, escaped(document.title));
  if (!document.subtitle.empty()) {
    html += "<p class=sub>" + escaped(document.subtitle) + "</p>\n";
  }
  for (const Block& block : document.blocks) add_block(block, html);
  html += "<p class=by>" + escaped(document.made_by) + "</p>\n</body></html>\n";
  return html;
}

}  // namespace defib::report
