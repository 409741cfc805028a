#include "defib/report/pdf.h"

#include <cairo-pdf.h>
#include <cairo.h>
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>

#include "defib/report/chart.h"

namespace defib::report {
namespace {

// A4, in points.
constexpr double kWidth = 595.28, kHeight = 841.89;
constexpr double kMargin = 48;
constexpr double kLeading = 1.32;  // line height by font size
constexpr double kGap = 12;        // between columns
constexpr std::size_t kMaxLine = 4000;

struct Font {
  const char* family;
  cairo_font_weight_t weight;
  double size;
};
constexpr Font kTitle = {"sans-serif", CAIRO_FONT_WEIGHT_BOLD, 18};
constexpr Font kHeading = {"sans-serif", CAIRO_FONT_WEIGHT_BOLD, 12};
constexpr Font kBody = {"sans-serif", CAIRO_FONT_WEIGHT_NORMAL, 9};
constexpr Font kBold = {"sans-serif", CAIRO_FONT_WEIGHT_BOLD, 9};
constexpr Font kMono = {"monospace", CAIRO_FONT_WEIGHT_NORMAL, 7};
constexpr Font kMonoBold = {"monospace", CAIRO_FONT_WEIGHT_BOLD, 7};
constexpr Font kSmall = {"sans-serif", CAIRO_FONT_WEIGHT_NORMAL, 7};

cairo_status_t append(void* to, const unsigned char* bytes, unsigned int size) {
  static_cast<std::string*>(to)->append(reinterpret_cast<const char*>(bytes), size);
  return CAIRO_STATUS_SUCCESS;
}

std::size_t next_character(std::string_view text, std::size_t at) {
  ++at;
  while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80) ++at;
  return at;
}

// At most so many bytes, and whole characters.
std::string_view clip(std::string_view text, std::size_t size) {
  if (text.size() <= size) return text;
  while (size > 0 && (static_cast<unsigned char>(text[size]) & 0xc0) == 0x80) --size;
  return text.substr(0, size);
}

class Page {
 public:
  explicit Page(std::string& bytes)
      : surface_(cairo_pdf_surface_create_for_stream(append, &bytes, kWidth, kHeight)),
        cairo_(cairo_create(surface_)) {}
  ~Page() {
    for (auto& [key, font] : fonts_) cairo_scaled_font_destroy(font);
    cairo_destroy(cairo_);
    cairo_surface_destroy(surface_);
  }
  Page(const Page&) = delete;
  Page& operator=(const Page&) = delete;

  void describe(const Document& document) {
    cairo_pdf_surface_set_metadata(surface_, CAIRO_PDF_METADATA_TITLE, document.title.c_str());
    cairo_pdf_surface_set_metadata(surface_, CAIRO_PDF_METADATA_CREATOR, document.made_by.c_str());
  }
  bool full() const { return pages_ > kMaxPages; }
  void space(double points) { y_ += points; }
  void paragraph(std::string_view text, const Font& font, double indent = 0);
  void table(const Block& block);
  void list(const Block& block);
  void pre(const Block& block);
  void charts(const Block& block);
  cairo_status_t finish();

 private:
  double width_of(std::string_view text, const Font& font);
  void use(const Font& font);
  void put(double x, double y, std::string_view text, const Font& font);
  // A new page where so much does not fit any more.
  void need(double height);
  std::vector<std::string> wrap(std::string_view text, const Font& font, double width);
  void chart(const Chart& chart, double x, double y);

  cairo_surface_t* surface_;
  cairo_t* cairo_;
  std::map<const Font*, cairo_scaled_font_t*> fonts_;
  double y_ = kMargin;
  int pages_ = 1;
};

// Looking a font up costs more than all else; it is done once for each.
void Page::use(const Font& font) {
  cairo_scaled_font_t*& scaled = fonts_[&font];
  if (scaled == nullptr) {
    cairo_select_font_face(cairo_, font.family, CAIRO_FONT_SLANT_NORMAL, font.weight);
    cairo_set_font_size(cairo_, font.size);
    scaled = cairo_scaled_font_reference(cairo_get_scaled_font(cairo_));
  }
  cairo_set_scaled_font(cairo_, scaled);
}

double Page::width_of(std::string_view text, const Font& font) {
  use(font);
  cairo_text_extents_t extents;
  cairo_text_extents(cairo_, std::string(text).c_str(), &extents);
  return extents.x_advance;
}

void Page::put(double x, double y, std::string_view text, const Font& font) {
  if (full()) return;
  use(font);
  cairo_move_to(cairo_, x, y);
  cairo_show_text(cairo_, std::string(text).c_str());
}

void Page::need(double height) {
  if (full() || y_ + height <= kHeight - kMargin) return;
  put(kWidth - kMargin - 20, kHeight - kMargin / 2, std::to_string(pages_), kSmall);
  if (pages_ == kMaxPages) {
    put(kMargin, kHeight - kMargin / 2, "There is more; the HTML form has all of it.", kSmall);
  }
  ++pages_;
  if (full()) return;
  cairo_show_page(cairo_);
  y_ = kMargin;
}

// At spaces; a word that is wider than a line is cut.
std::vector<std::string> Page::wrap(std::string_view text, const Font& font, double width) {
  text = clip(text, kMaxLine);
  std::vector<std::string> lines;
  if (width_of(text, font) <= width) return {std::string(text)};
  std::string line;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(' '), text.size());
    std::string word(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    std::string joined = line;
    if (!joined.empty()) joined += ' ';
    joined += word;
    if (width_of(joined, font) <= width) {
      line = joined;
      continue;
    }
    if (!line.empty()) lines.push_back(std::move(line));
    while (width_of(word, font) > width) {
      std::size_t low = 0, high = word.size();  // what fits, what does not
      while (next_character(word, low) < high) {
        std::size_t middle = (low + high) / 2;
        while (middle > low && (static_cast<unsigned char>(word[middle]) & 0xc0) == 0x80) --middle;
        if (middle == low) break;
        (width_of(std::string_view(word).substr(0, middle), font) <= width ? low : high) = middle;
      }
      const std::size_t cut = std::max(low, next_character(word, 0));
      if (cut >= word.size()) break;
      lines.push_back(word.substr(0, cut));
      word.erase(0, cut);
    }
    line = std::move(word);
  }
  if (!line.empty() || lines.empty()) lines.push_back(std::move(line));
  return lines;
}

void Page::paragraph(std::string_view text, const Font& font, double indent) {
  for (const std::string& line : wrap(text, font, kWidth - 2 * kMargin - indent)) {
    need(font.size * kLeading);
    y_ += font.size * kLeading;
    put(kMargin + indent, y_ - font.size * 0.3, line, font);
    if (full()) return;
  }
}

// Columns are as wide as what is in them; the last one takes the rest, and wraps.
void Page::table(const Block& block) {
  if (block.rows.empty()) return;
  std::size_t columns = 0;
  for (const auto& row : block.rows) columns = std::max(columns, row.size());
  if (columns == 0) return;
  std::vector<double> widths(columns, 0);
  const double room = kWidth - 2 * kMargin;
  for (const auto& row : block.rows) {
    for (std::size_t i = 0; i < row.size() && i + 1 < columns; ++i) {
      widths[i] = std::max(widths[i], width_of(clip(row[i], 200), kBody));
    }
  }
  const double most = room / static_cast<double>(columns) * (columns > 2 ? 1.2 : 0.8);
  double used = 0;
  for (std::size_t i = 0; i + 1 < columns; ++i) {
    widths[i] = std::min(widths[i], most) + kGap;
    used += widths[i];
  }
  widths.back() = std::max(room - used, room / 8);
  for (std::size_t r = 0; r < block.rows.size() && !full(); ++r) {
    const Font& font = block.titled && r == 0 ? kBold : kBody;
    std::vector<std::vector<std::string>> cells;
    std::size_t height = 1;
    for (std::size_t i = 0; i < block.rows[r].size(); ++i) {
      const double width = widths[i] - (i + 1 < columns ? kGap : 0);
      cells.push_back(wrap(block.rows[r][i], font, width));
      height = std::max(height, cells.back().size());
    }
    for (std::size_t line = 0; line < height && !full(); ++line) {
      need(font.size * kLeading);
      y_ += font.size * kLeading;
      double x = kMargin;
      for (std::size_t i = 0; i < cells.size(); ++i) {
        if (line < cells[i].size()) put(x, y_ - font.size * 0.3, cells[i][line], font);
        x += widths[i];
      }
    }
  }
}

void Page::list(const Block& block) {
  int number = 0;
  for (const Item& item : block.items) {
    if (full()) return;
    need(kBody.size * kLeading);
    const double top = y_ + kBody.size * kLeading - kBody.size * 0.3;
    put(kMargin + 4, top, block.numbered ? fmt::format("{}.", ++number) : "\xe2\x80\xa2", kBody);
    paragraph(item.text, kBody, 20);
    if (!item.command.empty()) paragraph(item.command, kMonoBold, 28);
    space(2);
  }
}

void Page::pre(const Block& block) {
  for (std::size_t i = 0; i < block.lines.size() && !full(); ++i) {
    const bool marked = std::ranges::find(block.marked, i) != block.marked.end();
    std::string line = block.lines[i];
    std::ranges::replace(line, '\t', ' ');
    paragraph(line, marked ? kMonoBold : kMono, 6);
  }
}

void Page::chart(const Chart& chart, double x, double y) {
  const ChartScale scale = scale_of(chart);
  cairo_save(cairo_);
  cairo_translate(cairo_, x, y);
  constexpr double kFactor = 0.72;
  cairo_scale(cairo_, kFactor, kFactor);
  cairo_set_line_width(cairo_, 0.8);
  cairo_set_source_rgb(cairo_, 0.7, 0.7, 0.7);
  cairo_move_to(cairo_, kChartLeft, kChartTop);
  cairo_line_to(cairo_, kChartLeft, kChartHeight - kChartBottom);
  cairo_line_to(cairo_, kChartWidth, kChartHeight - kChartBottom);
  cairo_stroke(cairo_);
  if (scale.has_zero) {
    cairo_set_source_rgb(cairo_, 0.7, 0.15, 0.12);
    cairo_move_to(cairo_, scale.x(0), kChartTop);
    cairo_line_to(cairo_, scale.x(0), kChartHeight - kChartBottom);
    cairo_stroke(cairo_);
  }
  cairo_set_source_rgb(cairo_, 0.02, 0.31, 0.68);
  cairo_set_line_width(cairo_, 1.4);
  for (const Point& point : chart.points) {
    cairo_line_to(cairo_, scale.x(point.seconds), scale.y(point.value));
  }
  cairo_stroke(cairo_);
  cairo_restore(cairo_);
  cairo_set_source_rgb(cairo_, 0, 0, 0);
  put(x + kChartLeft * kFactor, y, chart_caption(chart), kSmall);
  for (const ChartLabel& label : chart_labels(scale)) {
    const double width = label.at_end ? width_of(label.text, kSmall) : 0;
    put(x + label.x * kFactor - width, y + label.y * kFactor, label.text, kSmall);
  }
}

void Page::charts(const Block& block) {
  constexpr double kEach = 250, kTall = 92;
  for (std::size_t i = 0; i < block.charts.size() && !full(); i += 2) {
    need(kTall);
    for (std::size_t j = i; j < std::min(i + 2, block.charts.size()); ++j) {
      chart(block.charts[j], kMargin + static_cast<double>(j - i) * kEach, y_ + 10);
    }
    y_ += kTall;
  }
}

cairo_status_t Page::finish() {
  if (!full()) {
    put(kWidth - kMargin - 20, kHeight - kMargin / 2, std::to_string(pages_), kSmall);
  }
  cairo_surface_finish(surface_);
  const cairo_status_t status = cairo_status(cairo_);
  return status != CAIRO_STATUS_SUCCESS ? status : cairo_surface_status(surface_);
}

void add_block(const Block& block, Page& page) {
  if (block.kind == BlockKind::kHeading) {
    page.space(10);
    page.paragraph(block.text, kHeading);
    return page.space(2);
  }
  if (block.kind == BlockKind::kParagraph) {
    page.paragraph(block.text, kBody);
    return page.space(2);
  }
  if (!block.text.empty()) {
    page.space(4);
    page.paragraph(block.text, kBold);
  }
  if (block.kind == BlockKind::kTable) page.table(block);
  if (block.kind == BlockKind::kList) page.list(block);
  if (block.kind == BlockKind::kPre) page.pre(block);
  if (block.kind == BlockKind::kCharts) page.charts(block);
}

}  // namespace

Result<std::string> to_pdf(const Document& document) {
  std::string bytes;
  cairo_status_t status = CAIRO_STATUS_SUCCESS;
  {
    Page page(bytes);
    page.describe(document);
    page.paragraph(document.title, kTitle);
    page.space(4);
    page.paragraph(document.subtitle, kBody);
    page.space(6);
    for (const Block& block : document.blocks) {
      if (page.full()) break;
      add_block(block, page);
    }
    page.space(10);
    page.paragraph(document.made_by, kSmall);
    status = page.finish();
  }
  if (status != CAIRO_STATUS_SUCCESS) {
    return Error(Code::kUnavailable,
                 fmt::format("the PDF cannot be made: {}", cairo_status_to_string(status)))
        .suggest("use --format html, which every browser prints as PDF");
  }
  return bytes;
}

}  // namespace defib::report

#ifdef __SANITIZE_ADDRESS__
// What the font library keeps for the life of the program is no leak of ours.
extern "C" const char* __lsan_default_suppressions();   // NOLINT
extern "C" const char* __lsan_default_suppressions() {  // NOLINT
  return "leak:libfontconfig.so\n";
}
#endif
