#include "defib/paper/types.h"

#include <array>
#include <utility>

#include "defib/base/assert.h"

namespace defib::paper {
namespace {

template <typename Enum, std::size_t kCount>
using Names = std::array<std::pair<Enum, std::string_view>, kCount>;

constexpr Names<Side, 2> kSides{{{Side::kBuy, "BUY"}, {Side::kSell, "SELL"}}};
constexpr Names<OrderType, 3> kOrderTypes{{{OrderType::kLimit, "LIMIT"},
                                           {OrderType::kLimitMaker, "LIMIT_MAKER"},
                                           {OrderType::kMarket, "MARKET"}}};
constexpr Names<TimeInForce, 3> kTimesInForce{
    {{TimeInForce::kGtc, "GTC"}, {TimeInForce::kIoc, "IOC"}, {TimeInForce::kFok, "FOK"}}};
constexpr Names<OrderStatus, 5> kOrderStatuses{{{OrderStatus::kNew, "NEW"},
                                                {OrderStatus::kPartiallyFilled, "PARTIALLY_FILLED"},
                                                {OrderStatus::kFilled, "FILLED"},
                                                {OrderStatus::kCancelled, "CANCELED"},
                                                {OrderStatus::kExpired, "EXPIRED"}}};
constexpr Names<SymbolStatus, 3> kSymbolStatuses{{{SymbolStatus::kTrading, "TRADING"},
                                                  {SymbolStatus::kHalt, "HALT"},
                                                  {SymbolStatus::kBreak, "BREAK"}}};
constexpr Names<Origin, 2> kOrigins{{{Origin::kApi, "api"}, {Origin::kExternal, "external"}}};
constexpr Names<Refusal, 3> kRefusals{{{Refusal::kRejected, "rejected"},
                                       {Refusal::kDuplicate, "duplicate"},
                                       {Refusal::kDropped, "dropped"}}};

template <typename Table, typename Enum>
std::string_view name_in(const Table& table, Enum value) {
  for (const auto& [item, name] : table) {
    if (item == value) return name;
  }
  DEFIB_UNREACHABLE("an enum value without a name");
}

template <typename Enum, typename Table>
std::optional<Enum> find_in(const Table& table, std::string_view wanted) {
  for (const auto& [item, name] : table) {
    if (name == wanted) return item;
  }
  return std::nullopt;
}

Decimal literal(std::string_view text) {
  const Result<Decimal> value = Decimal::parse(text);
  DEFIB_ASSERT(value.has_value());
  return *value;
}

}  // namespace

std::string_view to_string(Side side) {
  return name_in(kSides, side);
}
std::string_view to_string(OrderType type) {
  return name_in(kOrderTypes, type);
}
std::string_view to_string(TimeInForce time_in_force) {
  return name_in(kTimesInForce, time_in_force);
}
std::string_view to_string(OrderStatus status) {
  return name_in(kOrderStatuses, status);
}
std::string_view to_string(SymbolStatus status) {
  return name_in(kSymbolStatuses, status);
}
std::string_view to_string(Origin origin) {
  return name_in(kOrigins, origin);
}
std::string_view to_string(Refusal refusal) {
  return name_in(kRefusals, refusal);
}

template <>
std::optional<Side> from_string<Side>(std::string_view name) {
  return find_in<Side>(kSides, name);
}
template <>
std::optional<OrderType> from_string<OrderType>(std::string_view name) {
  return find_in<OrderType>(kOrderTypes, name);
}
template <>
std::optional<TimeInForce> from_string<TimeInForce>(std::string_view name) {
  return find_in<TimeInForce>(kTimesInForce, name);
}
template <>
std::optional<OrderStatus> from_string<OrderStatus>(std::string_view name) {
  return find_in<OrderStatus>(kOrderStatuses, name);
}
template <>
std::optional<SymbolStatus> from_string<SymbolStatus>(std::string_view name) {
  return find_in<SymbolStatus>(kSymbolStatuses, name);
}
template <>
std::optional<Origin> from_string<Origin>(std::string_view name) {
  return find_in<Origin>(kOrigins, name);
}
template <>
std::optional<Refusal> from_string<Refusal>(std::string_view name) {
  return find_in<Refusal>(kRefusals, name);
}

std::vector<Symbol> default_symbols() {
  const Decimal cent = literal("0.01");
  const Decimal min_notional = literal("5");
  return {
      {"BTCUSDT", "BTC", "USDT", cent, literal("0.00001"), literal("0.00001"), literal("9000"),
       literal("1000000"), min_notional, literal("60000")},
      {"ETHUSDT", "ETH", "USDT", cent, literal("0.0001"), literal("0.0001"), literal("90000"),
       literal("100000"), min_notional, literal("3000")},
      {"SOLUSDT", "SOL", "USDT", cent, literal("0.001"), literal("0.001"), literal("900000"),
       literal("10000"), min_notional, literal("150")},
  };
}

}  // namespace defib::paper
