#include "defib/paper/kraken.h"

#include <fmt/core.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <iterator>

#include "defib/base/assert.h"
#include "defib/base/bytes.h"
#include "defib/os/clock.h"
#include "defib/paper/crypto.h"

namespace defib::paper {
namespace {

constexpr std::size_t kPage = 50;
constexpr Micros kSecondUs = 1'000'000;
constexpr Micros kMinDeadlineUs = 2 * kSecondUs;
constexpr Micros kMaxDeadlineUs = 60 * kSecondUs;
constexpr std::int64_t kMaxSwitchSeconds = 86'400;
constexpr std::size_t kMaxClientId = 36;

struct PairName {
  std::string_view altname, id, wsname;
};
constexpr std::array<PairName, 3> kPairs = {{{"XBTUSD", "XXBTZUSD", "XBT/USD"},
                                             {"ETHUSD", "XETHZUSD", "ETH/USD"},
                                             {"SOLUSD", "SOLUSD", "SOL/USD"}}};
std::string_view id_of(std::string_view altname) {
  for (const PairName& pair : kPairs) {
    if (pair.altname == altname) return pair.id;
  }
  return altname;
}
std::string_view wsname_of(std::string_view altname) {
  for (const PairName& pair : kPairs) {
    if (pair.altname == altname) return pair.wsname;
  }
  return altname;
}

// As the table of fees says it: 0.0040 is 0.4.
std::string percent(Decimal part) {
  return (part * Decimal::from_integer(100)).to_string();
}

// Seconds with four digits after the point, as the venue prints most times.
std::string seconds(Micros time) {
  return fmt::format("{}.{:04}", time / kSecondUs, time % kSecondUs / 100);
}

std::string_view header_of(const wire::HttpRequest& request, std::string_view name) {
  return request.header(name);
}

std::optional<std::int64_t> integer(std::string_view text) {
  std::int64_t value = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || problem != std::errc() || end != text.data() + text.size()) return {};
  return value;
}

Dialect::Reply reply_of(int status, std::string body) {
  Dialect::Reply reply;
  reply.response.status = status;
  reply.response.headers = {{"Content-Type", "application/json; charset=utf-8"}};
  reply.response.body = std::move(body);
  return reply;
}
Dialect::Reply error_reply(std::string_view text) {
  return reply_of(200, fmt::format(R"({{"error":["{}"]}})", text));
}

Symbol make_symbol(std::string name, std::string base, std::string_view tick,
                   std::string_view price) {
  const auto amount = [](std::string_view text) { return Decimal::parse(text).value(); };
  Symbol symbol;
  symbol.name = std::move(name);
  symbol.base = std::move(base);
  symbol.quote = "ZUSD";
  symbol.tick = amount(tick);
  symbol.step = amount("0.00000001");
  symbol.min_quantity = amount("0.0001");
  symbol.max_quantity = amount("100000");
  symbol.max_price = amount("1000000");
  symbol.min_notional = amount("0.5");
  symbol.start_price = amount(price);
  return symbol;
}

std::string digits36(std::uint64_t value) {
  constexpr std::string_view kAlphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";
  std::string text(16, '0');
  for (std::size_t i = text.size(); i-- > 0; value /= 36) text[i] = kAlphabet[value % 36];
  return text;
}

// The order types, and which of them wait: "price" is then the trigger, "price2" the limit.
struct KrakenType {
  std::string_view name;
  OrderType type;
  bool waits;
  bool stop;
};
constexpr std::array<KrakenType, 6> kTypes = {{
    {"limit", OrderType::kLimit, false, false},
    {"market", OrderType::kMarket, false, false},
    {"stop-loss", OrderType::kMarket, true, true},
    {"stop-loss-limit", OrderType::kLimit, true, true},
    {"take-profit", OrderType::kMarket, true, false},
    {"take-profit-limit", OrderType::kLimit, true, false},
}};

std::string_view type_name(const Order& order) {
  for (const KrakenType& one : kTypes) {
    const bool same = one.type == order.type && one.waits == order.trigger.has_value();
    if (same && (!one.waits || one.stop == order.is_stop())) return one.name;
  }
  return "limit";  // post-only
}

// Both prices of a type that waits, one of the others.
std::pair<std::string, std::string> prices_of(const std::optional<Trigger>& trigger,
                                              Decimal price) {
  if (!trigger) return {price.to_string(), "0"};
  return {trigger->price.to_string(), price.to_string()};
}

std::string_view status_of(const Order& order) {
  switch (order.status) {
    case OrderStatus::kNew:
    case OrderStatus::kPartiallyFilled:
      return "open";
    case OrderStatus::kFilled:
      return "closed";
    case OrderStatus::kCancelled:
      return "canceled";
    case OrderStatus::kExpired:
      return "expired";
  }
  DEFIB_UNREACHABLE("a status without a name");
}

}  // namespace

std::vector<Symbol> kraken_symbols() {
  return {make_symbol("XBTUSD", "XXBT", "0.1", "50000"),
          make_symbol("ETHUSD", "XETH", "0.01", "3000"),
          make_symbol("SOLUSD", "SOL", "0.01", "150")};
}

std::string kraken_id(char kind, std::uint64_t number) {
  const std::string text = digits36(number);
  return fmt::format("{}{}-{}-{}", kind, text.substr(0, 5), text.substr(5, 5), text.substr(10));
}

std::optional<std::uint64_t> kraken_number(char kind, std::string_view id) {
  if (id.size() != 19 || id[0] != kind || id[6] != '-' || id[12] != '-') return std::nullopt;
  std::uint64_t value = 0;
  for (const char c : id.substr(1)) {
    if (c == '-') continue;
    const bool digit = c >= '0' && c <= '9';
    if (!digit && (c < 'A' || c > 'Z')) return std::nullopt;
    value = value * 36 + static_cast<std::uint64_t>(digit ? c - '0' : c - 'A' + 10);
  }
  return value;
}

struct Kraken::Endpoint {
  std::string_view path;
  bool is_private;
  int points;
  Answer (Kraken::*handler)(Parameters&, Pending&);
};

Kraken::Kraken(Core& core, FaultPlan& faults, Options options)
    : FaultedDialect(core, faults), options_(std::move(options)) {
  static_cast<void>(from_base64(options_.api_secret, false, secret_));
}

const Kraken::Endpoint* Kraken::find_endpoint(std::string_view path) {
  static constexpr std::array<Endpoint, 16> kEndpoints{{
      {"/0/public/Time", false, 0, &Kraken::time},
      {"/0/public/SystemStatus", false, 0, &Kraken::system_status},
      {"/0/public/Assets", false, 0, &Kraken::assets},
      {"/0/public/AssetPairs", false, 0, &Kraken::asset_pairs},
      {"/0/public/Ticker", false, 0, &Kraken::ticker},
      {"/0/private/OpenOrders", true, 1, &Kraken::open_orders},
      {"/0/private/ClosedOrders", true, 1, &Kraken::closed_orders},
      {"/0/private/QueryOrders", true, 1, &Kraken::query_orders},
      {"/0/private/BalanceEx", true, 1, &Kraken::balances},
      {"/0/private/OpenPositions", true, 1, &Kraken::positions},
      {"/0/private/TradesHistory", true, 2, &Kraken::trades},
      {"/0/private/AddOrder", true, 0, &Kraken::add_order},
      {"/0/private/CancelOrder", true, 0, &Kraken::cancel_order},
      {"/0/private/CancelAll", true, 0, &Kraken::cancel_all},
      {"/0/private/CancelAllOrdersAfter", true, 0, &Kraken::cancel_after},
      {"/0/private/Balance", true, 1, &Kraken::balances},
  }};
  const auto found = std::ranges::find(kEndpoints, path, &Endpoint::path);
  return found == kEndpoints.end() ? nullptr : &*found;
}

void Kraken::recognize(Pending& pending) const {
  if (pending.path != "/0/private/AddOrder") return;
  Parameters parameters({}, pending.request.body);
  pending.places = parameters.take("validate").value_or("false") != "true";
  pending.client_id = parameters.take("cl_ord_id").value_or("").substr(0, kMaxClientId);
}

void Kraken::tick(Micros now) {
  now_ = now;
  if (cancel_at_us_ == 0 || now < cancel_at_us_) return;
  cancel_at_us_ = 0;
  cancel_everything();
}

std::string Kraken::text_of(Reject reject) const {
  switch (reject) {
    case Reject::kMarketClosed:
      return "EService:Market in cancel_only mode";
    case Reject::kPriceFilter:
      return "EOrder:Invalid price";
    case Reject::kLotSize:
    case Reject::kMaxPosition:
      return "EGeneral:Invalid arguments:volume";
    case Reject::kNotional:
      return "EOrder:Order minimum not met";
    case Reject::kTooManyOrders:
      return "EOrder:Orders limit exceeded";
    case Reject::kDuplicate:
      return "EOrder:Duplicate cl_ord_id";
    case Reject::kInsufficientBalance:
      return "EOrder:Insufficient funds";
    case Reject::kWouldTake:
      return "EOrder:Post only order";
  }
  DEFIB_UNREACHABLE("a refusal without a text");
}

// ---- First half.

std::optional<Dialect::Reply> Kraken::admit(Pending& pending, Micros now) {
  const Endpoint* endpoint = find_endpoint(pending.path);
  if (endpoint == nullptr) return error_reply("EGeneral:Unknown method");
  if (!endpoint->is_private) return std::nullopt;
  if (pending.request.method != "POST") return error_reply("EGeneral:Invalid arguments");
  if (header_of(pending.request, "User-Agent").empty()) return error_reply("EAPI:Bad request");
  if (header_of(pending.request, "API-Key") != options_.api_key) {
    return error_reply("EAPI:Invalid key");
  }
  Parameters parameters({}, pending.request.body);
  const std::string nonce(parameters.take("nonce").value_or(""));
  const std::string inner = sha256(nonce + pending.request.body);
  const std::string expected = to_base64(hmac_sha512(secret_, pending.path + inner));
  if (!same_bytes(expected, header_of(pending.request, "API-Sign"))) {
    return error_reply("EAPI:Invalid signature");
  }
  std::uint64_t number = 0;
  const auto [end, problem] = std::from_chars(nonce.data(), nonce.data() + nonce.size(), number);
  if (problem != std::errc() || end != nonce.data() + nonce.size() || number <= last_nonce_) {
    return error_reply("EAPI:Invalid nonce");
  }
  last_nonce_ = number;
  if (options_.counter_max > 0 && endpoint->points > 0) {
    const std::int64_t decayed = (now - counter_at_) / 1'000 * options_.decay_per_1000s / 1'000;
    if (decayed > 0 || counter_at_ == 0) {
      counter_milli_ = std::max<std::int64_t>(0, counter_milli_ - decayed);
      counter_at_ = now;
    }
    if (counter_milli_ + endpoint->points * 1'000 > options_.counter_max * 1'000) {
      return error_reply("EAPI:Rate limit exceeded");
    }
    counter_milli_ += endpoint->points * 1'000;
  }
  return std::nullopt;
}

Dialect::Reply Kraken::fault_reply(const FaultRule& rule) const {
  switch (rule.kind) {
    case FaultKind::kRateLimit:
      return error_reply("EAPI:Rate limit exceeded");
    case FaultKind::kBan:
      return error_reply(
          fmt::format("EService:Throttled: {}", server_now(now_) / kSecondUs + rule.retry_after_s));
    case FaultKind::kTimeout:
      return reply_of(rule.status == 0 ? 504 : rule.status, "upstream timed out");
    default:
      return rule.status == 0 ? error_reply("EService:Unavailable")
                              : reply_of(rule.status, "unavailable");
  }
}

// ---- Second half.

Dialect::Reply Kraken::execute(Pending& pending, Micros now) {
  now_ = now;
  const Endpoint* endpoint = find_endpoint(pending.path);
  Parameters parameters(endpoint->is_private ? std::string_view() : pending.query,
                        pending.request.body);
  parameters.take("nonce");
  const Answer answer = (this->*endpoint->handler)(parameters, pending);
  if (answer) return reply_of(200, fmt::format(R"({{"error":[],"result":{}}})", *answer));
  if (pending.places) {
    refuse(pending,
           answer.error() == text_of(Reject::kDuplicate) ? Refusal::kDuplicate : Refusal::kRejected,
           answer.error());
  }
  return error_reply(answer.error());
}

Kraken::Answer Kraken::time(Parameters&, Pending&) {
  const std::int64_t at = server_now(now_) / kSecondUs;
  return fmt::format(R"({{"unixtime":{},"rfc1123":"{}"}})", at,
                     os::format_time(at * 1'000'000'000));
}

Kraken::Answer Kraken::system_status(Parameters&, Pending&) {
  bool all_halted = true;
  for (std::uint32_t i = 0; i < core_.symbols().size(); ++i) {
    all_halted = all_halted && core_.status(i) != SymbolStatus::kTrading;
  }
  return fmt::format(R"({{"status":"{}","timestamp":"{}"}})", all_halted ? "cancel_only" : "online",
                     os::format_time(now_ * 1'000));
}

Kraken::Answer Kraken::assets(Parameters&, Pending&) {
  std::string out = "{";
  for (const auto& [asset, alt] : {std::pair("XXBT", "XBT"), std::pair("XETH", "ETH"),
                                   std::pair("SOL", "SOL"), std::pair("ZUSD", "USD")}) {
    fmt::format_to(std::back_inserter(out),
                   R"({}"{}":{{"aclass":"currency","altname":"{}","decimals":8,)"
                   R"("display_decimals":5,"status":"enabled"}})",
                   out.size() > 1 ? "," : "", asset, alt);
  }
  return out + "}";
}

Kraken::Answer Kraken::asset_pairs(Parameters&, Pending&) {
  std::string out = "{";
  for (std::uint32_t i = 0; i < core_.symbols().size(); ++i) {
    const Symbol& symbol = core_.symbols()[i];
    const int decimals = symbol.tick < Decimal::parse("0.1").value() ? 2 : 1;
    fmt::format_to(
        std::back_inserter(out),
        R"({}"{}":{{"altname":"{}","wsname":"{}","aclass_base":"currency","base":"{}",)"
        R"("aclass_quote":"currency","quote":"{}","lot":"unit","cost_decimals":5,)"
        R"("pair_decimals":{},"lot_decimals":8,"lot_multiplier":1,"leverage_buy":[2,3],)"
        R"("leverage_sell":[2,3],"fees":[[0,{}]],"fees_maker":[[0,{}]],)"
        R"("fee_volume_currency":"ZUSD","margin_call":80,"margin_stop":40,"ordermin":"{}",)"
        R"("costmin":"{}","tick_size":"{}","status":"{}"}})",
        i == 0 ? "" : ",", id_of(symbol.name), symbol.name, wsname_of(symbol.name), symbol.base,
        symbol.quote, decimals, percent(core_.options().taker_fee),
        percent(core_.options().maker_fee), symbol.min_quantity.to_string(),
        symbol.min_notional.to_string(), symbol.tick.to_string(),
        core_.status(i) == SymbolStatus::kTrading ? "online" : "cancel_only");
  }
  return out + "}";
}

Kraken::Answer Kraken::ticker(Parameters& parameters, Pending&) {
  const std::string wanted(parameters.take("pair").value_or(""));
  std::string out = "{";
  for (std::size_t from = 0; from <= wanted.size() && !wanted.empty();) {
    const std::size_t end = std::min(wanted.find(',', from), wanted.size());
    const auto symbol = find_pair(wanted.substr(from, end - from));
    from = end + 1;
    if (!symbol) return std::unexpected("EQuery:Unknown asset pair");
    const Book& book = core_.book(*symbol);
    const std::string bid = book.best(Side::kBuy).value_or(Decimal()).to_string();
    const std::string ask = book.best(Side::kSell).value_or(Decimal()).to_string();
    fmt::format_to(std::back_inserter(out),
                   R"({}"{}":{{"a":["{}","1","1.000"],"b":["{}","1","1.000"],"c":["{}","0.1"],)"
                   R"("v":["1","1"],"p":["{}","{}"],"t":[1,1],"l":["{}","{}"],"h":["{}","{}"],)"
                   R"("o":"{}"}})",
                   out.size() > 1 ? "," : "", id_of(core_.symbols()[*symbol].name), ask, bid, bid,
                   bid, bid, bid, bid, ask, ask, bid);
  }
  return out + "}";
}

std::optional<std::uint32_t> Kraken::find_pair(std::string_view name) const {
  for (const PairName& pair : kPairs) {
    if (name == pair.id || name == pair.altname || name == pair.wsname) {
      return core_.find_symbol(pair.altname);
    }
  }
  return core_.find_symbol(name);
}

std::string Kraken::order_json(const Order& order) const {
  const std::string& pair = core_.symbols()[order.symbol].name;
  const std::string_view side = order.side == Side::kBuy ? "buy" : "sell";
  const std::string_view type = type_name(order);
  const auto [price, price2] = prices_of(order.trigger, order.price);
  const Decimal average =
      order.executed.is_zero() ? Decimal() : order.executed_quote / order.executed;
  std::string out = fmt::format(
      R"({{"refid":null,"userref":0,"cl_ord_id":"{}","status":"{}","opentm":{},"starttm":0,)"
      R"("expiretm":0,"descr":{{"pair":"{}","type":"{}","ordertype":"{}","price":"{}",)"
      R"("price2":"{}","leverage":"{}","order":"{} {} {} @ {} {}","close":""}},"vol":"{}",)"
      R"("vol_exec":"{}","cost":"{}","fee":"{}","price":"{}","stopprice":"{}",)"
      R"("limitprice":"0.00000","misc":"","oflags":"fciq")",
      order.client_id, status_of(order), seconds(order.created_us), pair, side, type, price, price2,
      options_.margin ? "2:1" : "none", side, order.quantity.to_string(8), pair, type, price,
      order.quantity.to_string(8), order.executed.to_string(8), order.executed_quote.to_string(5),
      order.fees.to_string(5), average.to_string(5),
      (order.trigger ? order.trigger->price : Decimal()).to_string(5));
  if (order.trigger) {
    fmt::format_to(std::back_inserter(out), R"(,"trigger":"{}")",
                   order.trigger->by_mark ? "index" : "last");
  }
  if (!is_open(order.status)) {
    fmt::format_to(std::back_inserter(out), R"(,"reason":null,"closetm":{})",
                   seconds(order.updated_us));
  }
  return out + "}";
}

Kraken::Answer Kraken::open_orders(Parameters& parameters, Pending&) {
  const auto id = parameters.take("cl_ord_id");
  std::string out = R"({"open":{)";
  bool separate = false;
  for (std::uint32_t i = 0; i < core_.symbols().size(); ++i) {
    for (const std::uint64_t number : core_.open_orders(i)) {
      const Order& order = *core_.find_order(number);
      if (!visible(order) || (id && order.client_id != *id)) continue;
      fmt::format_to(std::back_inserter(out), R"({}"{}":{})", separate ? "," : "",
                     kraken_id('O', number), order_json(order));
      separate = true;
    }
  }
  return out + "}}";
}

Kraken::Answer Kraken::closed_orders(Parameters& parameters, Pending&) {
  const auto id = parameters.take("cl_ord_id");
  const std::int64_t offset = integer(parameters.take("ofs").value_or("0")).value_or(0);
  std::vector<const Order*> ended;
  for (const Order& order : core_.orders()) {
    if (!is_open(order.status) && visible(order) && (!id || order.client_id == *id)) {
      ended.push_back(&order);
    }
  }
  std::ranges::sort(ended, [](const Order* a, const Order* b) {
    return a->updated_us != b->updated_us ? a->updated_us > b->updated_us : a->id > b->id;
  });
  std::string out = R"({"closed":{)";
  const auto first = static_cast<std::size_t>(std::max<std::int64_t>(0, offset));
  for (std::size_t i = first; i < ended.size() && i < first + kPage; ++i) {
    fmt::format_to(std::back_inserter(out), R"({}"{}":{})", i > first ? "," : "",
                   kraken_id('O', ended[i]->id), order_json(*ended[i]));
  }
  return out + fmt::format(R"(}},"count":{}}})", ended.size());
}

Kraken::Answer Kraken::query_orders(Parameters& parameters, Pending&) {
  const std::string wanted(parameters.take("txid").value_or(""));
  std::string out = "{";
  for (std::size_t from = 0; from <= wanted.size() && !wanted.empty();) {
    const std::size_t end = std::min(wanted.find(',', from), wanted.size());
    const std::string txid = wanted.substr(from, end - from);
    from = end + 1;
    const auto number = kraken_number('O', txid);
    const Order* order = number ? core_.find_order(*number) : nullptr;
    if (order == nullptr || !visible(*order)) return std::unexpected("EOrder:Unknown order");
    fmt::format_to(std::back_inserter(out), R"({}"{}":{})", out.size() > 1 ? "," : "", txid,
                   order_json(*order));
  }
  if (wanted.empty()) return std::unexpected("EGeneral:Invalid arguments");
  return out + "}";
}

Kraken::Answer Kraken::balances(Parameters&, Pending& pending) {
  const bool extended = pending.path.ends_with("BalanceEx");
  std::string out = "{";
  for (const auto& [asset, balance] : core_.balances()) {
    const std::string total = (balance.free + balance.locked).to_string(8);
    const std::string_view comma = out.size() > 1 ? "," : "";
    if (extended) {
      const Decimal hold = balance.locked - core_.fees_held(asset);
      fmt::format_to(std::back_inserter(out), R"({}"{}":{{"balance":"{}","hold_trade":"{}"}})",
                     comma, asset, total, hold.to_string(8));
    } else {
      fmt::format_to(std::back_inserter(out), R"({}"{}":"{}")", comma, asset, total);
    }
  }
  return out + "}";
}

// One position for each pair whose trades do not add up to nothing.
Kraken::Answer Kraken::positions(Parameters& parameters, Pending&) {
  const bool consolidated = parameters.take("consolidation").value_or("") == "market";
  std::string out;
  for (std::uint32_t i = 0; options_.margin && i < core_.symbols().size(); ++i) {
    Decimal net;
    for (const Trade& trade : core_.trades(i)) {
      net += trade.side == Side::kBuy ? trade.quantity : -trade.quantity;
    }
    if (net.is_zero()) continue;
    if (!out.empty()) out += ',';
    if (!consolidated) out += fmt::format(R"("{}":)", kraken_id('T', i + 1));
    fmt::format_to(std::back_inserter(out),
                   R"({{"ordertxid":"{}","posstatus":"open","pair":"{}","time":{},"type":"{}",)"
                   R"("ordertype":"limit","cost":"0.00000","fee":"0.00000","vol":"{}",)"
                   R"("vol_closed":"0.00000000","margin":"0.00000","value":"0","net":"0",)"
                   R"("misc":"","oflags":"","leverage":"2"}})",
                   kraken_id('O', 1), id_of(core_.symbols()[i].name), seconds(now_),
                   net > Decimal() ? "buy" : "sell", net.abs().to_string(8));
  }
  return consolidated ? "[" + out + "]" : "{" + out + "}";
}

Kraken::Answer Kraken::trades(Parameters& parameters, Pending&) {
  const std::int64_t offset = integer(parameters.take("ofs").value_or("0")).value_or(0);
  std::vector<const Trade*> all;
  for (std::uint32_t i = 0; i < core_.symbols().size(); ++i) {
    for (const Trade& trade : core_.trades(i)) all.push_back(&trade);
  }
  std::ranges::sort(all, [](const Trade* a, const Trade* b) { return a->id > b->id; });
  std::string out = R"({"trades":{)";
  const auto first = static_cast<std::size_t>(std::max<std::int64_t>(0, offset));
  for (std::size_t i = first; i < all.size() && i < first + kPage; ++i) {
    const Trade& trade = *all[i];
    fmt::format_to(
        std::back_inserter(out),
        R"({}"{}":{{"ordertxid":"{}","postxid":"TKH2SE-M7IF5-CFI7LT","pair":"{}","time":{},)"
        R"("type":"{}","ordertype":"limit","price":"{}","cost":"{}","fee":"{}","vol":"{}",)"
        R"("margin":"0.00000","leverage":"0","misc":"","trade_id":{},"maker":{}}})",
        i > first ? "," : "", kraken_id('T', trade.id), kraken_id('O', trade.order_id),
        id_of(core_.symbols()[trade.symbol].name), seconds(trade.time_us),
        trade.side == Side::kBuy ? "buy" : "sell", trade.price.to_string(),
        trade.quote.to_string(5), trade.commission.to_string(5), trade.quantity.to_string(8),
        trade.id, trade.maker);
  }
  return out + fmt::format(R"(}},"count":{}}})", all.size());
}

// ---- Orders.

std::expected<NewOrder, std::string> Kraken::read_order(Parameters& parameters,
                                                        const Pending& pending) {
  const auto invalid = [](std::string_view what) {
    return std::unexpected(fmt::format("EGeneral:Invalid arguments:{}", what));
  };
  NewOrder order;
  const auto symbol = find_pair(parameters.take("pair").value_or(""));
  if (!symbol) return std::unexpected("EQuery:Unknown asset pair");
  order.symbol = *symbol;
  const std::string_view side = parameters.take("type").value_or("");
  if (side != "buy" && side != "sell") return invalid("type");
  order.side = side == "buy" ? Side::kBuy : Side::kSell;
  const std::string_view type = parameters.take("ordertype").value_or("");
  const auto kind = std::ranges::find(kTypes, type, &KrakenType::name);
  if (kind == kTypes.end()) return invalid("ordertype");
  order.type = kind->type;
  const Result<Decimal> volume = Decimal::parse(parameters.take("volume").value_or(""));
  if (!volume || *volume <= Decimal()) return invalid("volume");
  order.quantity = *volume;
  const auto take_price = [&](std::string_view name) -> std::optional<Decimal> {
    const Result<Decimal> parsed = Decimal::parse(parameters.take(name).value_or(""));
    if (!parsed || *parsed <= Decimal()) return std::nullopt;
    return *parsed;
  };
  if (kind->waits) {
    const auto price = take_price("price");
    const std::string_view by = parameters.take("trigger").value_or("last");
    if (!price) return invalid("price");
    if (by != "last" && by != "index") return invalid("trigger");
    order.trigger = Trigger{*price, kind->stop == (order.side == Side::kBuy), by == "index"};
  }
  if (order.type == OrderType::kLimit) {
    const auto price = take_price(kind->waits ? "price2" : "price");
    if (!price) return invalid(kind->waits ? "price2" : "price");
    order.price = *price;
  }
  const std::string_view flags = parameters.take("oflags").value_or("");
  if (flags.find("post") != std::string_view::npos) order.type = OrderType::kLimitMaker;
  const std::string_view in_force = parameters.take("timeinforce").value_or("GTC");
  if (in_force != "GTC" && in_force != "IOC") return invalid("timeinforce");
  order.time_in_force = in_force == "IOC" ? TimeInForce::kIoc : TimeInForce::kGtc;
  const auto client_id = parameters.take("cl_ord_id");
  if (client_id && parameters.take("userref")) return invalid("cl_ord_id");
  order.client_id = client_id.value_or("");
  if (order.client_id.size() > kMaxClientId) return invalid("cl_ord_id");
  if (order.client_id.empty()) order.client_id = fmt::format("paper{}", core_.orders().size() + 1);
  order.fault = pending.fault_names;
  order.visible_after_us = pending.lag_ms * 1'000;
  return order;
}

Kraken::Answer Kraken::add_order(Parameters& parameters, Pending& pending) {
  if (const auto deadline = parameters.take("deadline")) {
    const std::int64_t at = os::parse_time(*deadline);
    const Micros left = at / 1'000 - server_now(now_);
    if (at < 0) return std::unexpected("EGeneral:Invalid arguments:deadline");
    if (left <= 0) return std::unexpected("EService:Deadline elapsed");
    // Asked for when the request came in; after a delay only what has elapsed counts.
    const bool delayed = pending.delay_ms > 0;
    if (!delayed && (left < kMinDeadlineUs - kSecondUs || left > kMaxDeadlineUs)) {
      return std::unexpected("EGeneral:Invalid arguments:deadline");
    }
  }
  const auto order = read_order(parameters, pending);
  if (!order) return std::unexpected(order.error());
  Order terms;
  terms.side = order->side;
  terms.type = order->type;
  terms.trigger = order->trigger;
  const std::string text = fmt::format(
      R"({{"descr":{{"order":"{} {} {} @ {} {}"}})", order->side == Side::kBuy ? "buy" : "sell",
      order->quantity.to_string(8), core_.symbols()[order->symbol].name, type_name(terms),
      prices_of(order->trigger, order->price).first);
  if (!pending.places) {  // validate=true
    if (const auto reject = core_.check(*order)) return std::unexpected(text_of(*reject));
    return text + "}";
  }
  const auto placed = core_.place(*order);
  if (!placed) return std::unexpected(text_of(placed.error()));
  return text + fmt::format(R"(,"txid":["{}"]}})", kraken_id('O', placed->order_id));
}

Kraken::Answer Kraken::cancel_order(Parameters& parameters, Pending&) {
  const Order* order = nullptr;
  if (const auto client_id = parameters.take("cl_ord_id")) {
    order = core_.find_order(*client_id);
  } else if (const auto txid = parameters.take("txid")) {
    const auto number = kraken_number('O', *txid);
    if (number) order = core_.find_order(*number);
  } else {
    return std::unexpected("EGeneral:Invalid arguments");
  }
  if (order == nullptr || !is_open(order->status)) {
    return std::unexpected("EOrder:Unknown order");
  }
  core_.cancel(order->id, fmt::format("cancel{}", core_.last_seq() + 1));
  return R"({"count":1})";
}

int Kraken::cancel_everything() {
  int count = 0;
  for (std::uint32_t i = 0; i < core_.symbols().size(); ++i) {
    const std::vector<std::uint64_t> ids(core_.open_orders(i).begin(), core_.open_orders(i).end());
    for (const std::uint64_t id : ids) {
      core_.cancel(id, fmt::format("cancel{}", core_.last_seq() + 1));
      ++count;
    }
  }
  return count;
}

Kraken::Answer Kraken::cancel_all(Parameters&, Pending&) {
  return fmt::format(R"({{"count":{}}})", cancel_everything());
}

Kraken::Answer Kraken::cancel_after(Parameters& parameters, Pending&) {
  const auto timeout = integer(parameters.take("timeout").value_or(""));
  if (!timeout || *timeout < 0 || *timeout > kMaxSwitchSeconds) {
    return std::unexpected("EGeneral:Invalid arguments:timeout");
  }
  cancel_at_us_ = *timeout == 0 ? 0 : now_ + *timeout * kSecondUs;
  return fmt::format(R"({{"currentTime":"{}","triggerTime":"{}"}})", os::format_time(now_ * 1'000),
                     *timeout == 0 ? "0" : os::format_time(cancel_at_us_ * 1'000));
}

}  // namespace defib::paper
