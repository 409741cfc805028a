// How both Binance dialects (spot, USD-M futures) speak: signing, weight, and what an answer means.
// Private to this module; the table stands in docs/venue.md.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "defib/venue/binance.h"
#include "defib/venue/binance_parse.h"
#include "defib/venue/rate_budget.h"
#include "defib/venue/rest.h"
#include "defib/wire/http.h"

namespace defib::venue {

using BinanceParameters = std::vector<std::pair<std::string, std::string>>;

inline constexpr std::int64_t kMaxBinanceWindowMs = 60'000;

std::string encode_parameters(const BinanceParameters& parameters);
// A new order's parameters; InvalidArgument where the fence is impossible.
Result<BinanceParameters> binance_order_parameters(const OrderRequest& request,
                                                   std::string_view response_type);
// The number, or `fallback` where the text is none.
std::int64_t to_integer(std::string_view text, std::int64_t fallback);

// Where a dialect answers what both know, and what it costs.
struct BinancePaths {
  std::string time, rules, ticker, order, test_order, trades;
  std::int64_t rules_weight, quotes_weight, order_weight, trades_weight;
  std::string response_type;  // of a new order
  bool futures;               // its answers name some members otherwise
};

inline constexpr int kBinanceFillsPerPage = 1'000;

struct BinanceTransport {
  // One request, before signing.
  struct Call {
    std::string what;  // for messages: "order dfb000..."
    std::string method = "GET";
    std::string path = {};
    BinanceParameters parameters = {};
    bool is_signed = true;
    Effect effect = Effect::kNone;
    bool is_new_order = false;
    // 0: stamped here, when it is sent; else the parameters carry time stamp and window already.
    std::int64_t window_ms = 0;
    std::int64_t weight = 1;
  };

  BinanceTransport(BinanceOptions given, BinancePaths where);

  std::int64_t now_ms() const { return clock.wall_ns() / 1'000'000 + clock_offset_ms; }
  Result<std::string> send(Call call);
  wire::HttpRequest build(const Call& call) const;
  Result<> check_blocked() const;
  void note_usage(const wire::HttpResponse& response);
  Result<std::string> judge(const Call& call, wire::HttpResponse response, std::int64_t elapsed_ms);
  Error rate_limited(const wire::HttpResponse& response);
  Error refused(const Call& call, const wire::HttpResponse& response, const BinanceError& error,
                std::int64_t elapsed_ms);

  // What both dialects are asked in the same words; Venue says what each gives.
  Result<std::int64_t> server_time_ms();
  Result<std::vector<SymbolRules>> rules();
  Result<Quote> quote(const std::string& symbol);
  Result<std::vector<Quote>> quotes();
  Result<Order> place(const OrderRequest& request);
  Result<> test_order(const OrderRequest& request);
  Result<Order> cancel(const std::string& symbol, const std::string& client_id);
  Result<Order> order(const std::string& symbol, const std::string& client_id);
  Result<std::vector<Fill>> fills(const std::string& symbol, const std::string& after);

  BinancePaths paths;
  BinanceOptions options;
  const os::Clock& clock;
  wire::HttpClient http;
  RateBudget budget;
  BinanceUsage usage;
  std::int64_t clock_offset_ms = 0;  // venue minus this machine
};

}  // namespace defib::venue
