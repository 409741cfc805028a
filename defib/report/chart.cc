#include "defib/report/chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace defib::report {
namespace {

constexpr double kRoom = 0.08;  // above the highest point

std::string number(double value) {
  const double size = std::abs(value);
  return fmt::format("{:.{}f}", value, size >= 100 || size == std::floor(size) ? 0 : 1);
}

}  // namespace

double ChartScale::x(double seconds) const {
  return kChartLeft + (seconds - first) / (last - first) * (kChartWidth - kChartLeft - 4);
}

double ChartScale::y(double value) const {
  const double bottom = kChartHeight - kChartBottom;
  return bottom - (value - low) / (high - low) * (bottom - kChartTop);
}

ChartScale scale_of(const Chart& chart) {
  ChartScale scale;
  const auto [low, high] = std::ranges::minmax(chart.points, {}, &Point::value);
  scale.first = chart.points.front().seconds;
  scale.last = std::max(chart.points.back().seconds, scale.first + 1e-3);
  // From zero, unless it only trembles far above it.
  scale.low = low.value > 0 && (high.value - low.value) < 0.05 * high.value ? low.value * 0.9 : 0;
  scale.low = std::min(scale.low, low.value);
  scale.high = high.value > scale.low ? high.value : scale.low + 1;
  scale.high += (scale.high - scale.low) * kRoom;
  scale.has_zero = scale.first <= 0 && scale.last >= 0;
  return scale;
}

std::vector<ChartLabel> chart_labels(const ChartScale& scale) {
  const double bottom = kChartHeight - kChartBottom;
  return {{kChartLeft - 4, kChartTop + 8, true, number(scale.high)},
          {kChartLeft - 4, bottom, true, number(scale.low)},
          {kChartLeft, kChartHeight - 4, false, number(scale.first) + " s"},
          {kChartWidth - 4, kChartHeight - 4, true, number(scale.last) + " s"}};
}

std::string chart_caption(const Chart& chart) {
  const double high = std::ranges::max(chart.points, {}, &Point::value).value;
  return fmt::format("{}{}{}: {} at the end, at most {}", chart.title,
                     chart.unit.empty() ? "" : ", ", chart.unit, number(chart.points.back().value),
                     number(high));
}

}  // namespace defib::report
