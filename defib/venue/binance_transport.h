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

  explicit BinanceTransport(BinanceOptions given);

  std::int64_t now_ms() const { return clock.wall_ns() / 1'000'000 + clock_offset_ms; }
  Result<std::string> send(Call call);
  wire::HttpRequest build(const Call& call) const;
  Result<> check_blocked() const;
  void note_usage(const wire::HttpResponse& response);
  Result<std::string> judge(const Call& call, wire::HttpResponse response, std::int64_t elapsed_ms);
  Error rate_limited(const wire::HttpResponse& response);
  Error refused(const Call& call, const wire::HttpResponse& response, const BinanceError& error,
                std::int64_t elapsed_ms);

  BinanceOptions options;
  const os::Clock& clock;
  wire::HttpClient http;
  RateBudget budget;
  BinanceUsage usage;
  std::int64_t clock_offset_ms = 0;  // venue minus this machine
};

}  // namespace defib::venue
