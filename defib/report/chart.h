// Where the points of a small chart lie, for every form that draws one. Thread rule: pure.

#pragma once

#include <string>
#include <vector>

#include "defib/report/document.h"

namespace defib::report {

// In points; the origin is at the top left.
inline constexpr double kChartWidth = 320, kChartHeight = 110;
inline constexpr double kChartLeft = 44, kChartTop = 8, kChartBottom = 18;

struct ChartScale {
  double first = 0, last = 1;  // seconds
  double low = 0, high = 1;
  bool has_zero = false;  // the failure is within
  double x(double seconds) const;
  double y(double value) const;
};
// `chart` has two points or more. Values that are all alike still have a scale.
ChartScale scale_of(const Chart& chart);

struct ChartLabel {
  double x = 0, y = 0;
  bool at_end = false;  // x is where the text ends
  std::string text;
};
std::vector<ChartLabel> chart_labels(const ChartScale& scale);
// "Memory (resident), MB: 12.5 at the end, at most 80"
std::string chart_caption(const Chart& chart);

}  // namespace defib::report
