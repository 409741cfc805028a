// Trading at its full size: a crash with 100,000 open orders over three venues (trading_scale.cc),
// and the report on as many (trading_report.cc).

#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace defib::bench {

struct TradingRow {
  std::string_view name, metric, unit;
  double ours = 0;
  std::string_view peer_name = "";
  std::optional<double> peer = {};
  std::optional<double> limit = {};
  int runs = 1;
};
void print_trading_row(const TradingRow& row);

// Both print their rows; `dir` is for files.
void trading_scale(const std::string& dir);
void trading_report();

}  // namespace defib::bench
