#include "defib/venue/kraken.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <functional>
#include <limits>
#include <numeric>
#include <optional>
#include <set>
#include <utility>

#include "defib/base/bytes.h"
#include "defib/venue/kraken_parse.h"
#include "defib/venue/rest.h"

namespace defib::venue {
namespace {

using Parameters = std::vector<std::pair<std::string, std::string>>;

constexpr std::size_t kPage = 50;
constexpr int kMaxPages = 20'000;
constexpr std::size_t kMaxBody = 256 << 20;
constexpr std::size_t kBodyShown = 200;
constexpr std::int64_t kMinWindowMs = 3'500;
constexpr std::int64_t kMaxWindowMs = 60'000;
// The venue tells its time in whole seconds.
constexpr std::int64_t kHalfSecondMs = 500;
constexpr std::int64_t kNsPerSecond = 1'000'000'000;
constexpr std::int64_t kNsPerMs = 1'000'000;
// The mark in the nonce file lies so far ahead of what is used.
constexpr std::uint64_t kNonceAhead = 60 * static_cast<std::uint64_t>(kNsPerSecond);
constexpr std::int64_t kLockoutSeconds = 15 * 60;
// Whose errors are refusals. What any other part of the venue says of an order proves nothing.
constexpr std::array<std::string_view, 6> kRefusing = {
    "EOrder:", "EGeneral:", "ETrade:", "EAPI:", "EFunding:", "EQuery:"};

std::string form(const Parameters& parameters) {
  std::string text;
  for (const auto& [name, value] : parameters) {
    if (!text.empty()) text += '&';
    text += name + "=" + wire::url_encode(value);
  }
  return text;
}

// What the first error of an answer means for the request.
enum class Meaning { kUnknownOutcome, kNonce, kAuth, kRate, kLockout, kNoSuchOrder, kRejected };
Meaning meaning_of(std::string_view text) {
  const auto begins = [&](std::string_view with) { return text.starts_with(with); };
  if (begins("EAPI:Invalid nonce")) return Meaning::kNonce;
  if (begins("EAPI:Invalid key") || begins("EAPI:Invalid signature") ||
      begins("EGeneral:Permission denied") || begins("EAPI:Bad request")) {
    return Meaning::kAuth;
  }
  if (begins("EGeneral:Temporary lockout")) return Meaning::kLockout;
  if (begins("EAPI:Rate limit exceeded") || begins("EOrder:Rate limit exceeded") ||
      begins("EService:Throttled") || begins("EService: Throttled") ||
      begins("EGeneral:Too many requests")) {
    return Meaning::kRate;
  }
  if (begins("EOrder:Unknown order") || begins("EQuery:Unknown order")) {
    return Meaning::kNoSuchOrder;
  }
  // The market's mode and an elapsed deadline are refusals before the matching engine.
  if (begins("EService:Market in") || begins("EService:Deadline")) return Meaning::kRejected;
  if (text.find("nternal error") != std::string_view::npos) return Meaning::kUnknownOutcome;
  for (const std::string_view part : kRefusing) {
    if (begins(part)) return Meaning::kRejected;
  }
  return Meaning::kUnknownOutcome;
}

// The pair's own number of a trade; -1 where it is none.
std::int64_t trade_number(std::string_view text) {
  std::int64_t value = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool whole = problem == std::errc() && end == text.data() + text.size();
  return whole && value >= 0 ? value : -1;
}

bool says_duplicate(std::string_view text) {
  return text.find("uplicate") != std::string_view::npos ||
         (text.find("cl_ord_id") != std::string_view::npos &&
          text.find("xist") != std::string_view::npos);
}

}  // namespace

std::string kraken_signature(std::string_view secret, std::string_view path, std::string_view nonce,
                             std::string_view body) {
  const std::string inner = sha256(std::string(nonce) + std::string(body));
  return base64_encode(hmac_sha512(secret, std::string(path) + inner));
}

struct KrakenVenue::Impl {
  struct Call {
    std::string what;
    std::string path;  // "/0/private/OpenOrders"
    Parameters parameters = {};
    bool is_private = true;
    Effect effect = Effect::kNone;
    bool is_new_order = false;
    std::int64_t points = 1;
    bool urgent = false;  // a reading that a cancel waits for: may use what is kept back for it
  };

  Impl(KrakenOptions given, std::string raw_secret)
      : options(std::move(given)),
        secret(std::move(raw_secret)),
        clock(options.clock ? *options.clock : os::real_clock()),
        files(options.files ? *options.files : os::real_files()),
        http({.connect_timeout = std::chrono::seconds(2),
              .timeout = options.timeout,
              .max_body = kMaxBody}),
        budget({.capacity = options.counter_max, .refill_per_1000s = options.decay_per_1000s},
               clock, options.rate_file) {}

  Result<wire::Json> send(Call call);
  Result<wire::HttpResponse> exchange_for(Call& call);
  // `member`: where the orders stand in the result.
  Result<std::vector<Order>> send_for_orders(Call call, std::string_view member);
  Result<wire::HttpRequest> build(Call& call);
  Result<std::uint64_t> next_nonce();
  Result<wire::Json> judge(const Call& call, const wire::HttpResponse& response);
  Error refused(const Call& call, const std::string& text);
  void block_for(std::int64_t seconds);
  std::int64_t learn_time(std::int64_t unix_s, std::int64_t before_ns, std::int64_t after_ns);
  Result<> load_pairs();
  Parameters order_parameters(const OrderRequest& request) const;
  Result<std::vector<Order>> with_client_id(const std::string& client_id);
  Result<std::vector<Order>> closed_orders(const std::string& client_id);
  // Of all symbols.
  Result<std::vector<Order>> open_list(bool urgent);
  // Of the symbols that `is_mine` says yes to.
  Result<> cancel_open(const std::function<bool(const std::string& symbol)>& is_mine);

  KrakenOptions options;
  std::string secret;
  const os::Clock& clock;
  os::Files& files;
  wire::HttpClient http;
  RateBudget budget;
  std::optional<KrakenPairs> pairs;
  std::uint64_t last_nonce = 0;
  std::uint64_t nonce_mark = 0;  // in the file
  std::int64_t blocked_until = 0;
  // Venue's clock minus this machine's, as far as it is known.
  std::int64_t least_offset_ns = INT64_MIN;
  std::int64_t most_offset_ns = INT64_MAX;
};

Result<std::uint64_t> KrakenVenue::Impl::next_nonce() {
  if (last_nonce == 0 && !options.nonce_file.empty() && files.exists(options.nonce_file)) {
    DEFIB_TRY_ASSIGN(const std::string text, os::read_file(files, options.nonce_file, 64));
    std::uint64_t mark = 0;
    for (const char c : text) {
      if (c < '0' || c > '9') break;
      mark = mark * 10 + static_cast<std::uint64_t>(c - '0');
    }
    last_nonce = mark;
  }
  const auto wall = static_cast<std::uint64_t>(std::max<std::int64_t>(1, clock.wall_ns()));
  last_nonce = std::max(last_nonce + 1, wall);
  if (!options.nonce_file.empty() && last_nonce >= nonce_mark) {
    nonce_mark = last_nonce + kNonceAhead;
    DEFIB_TRY(
        os::write_file_atomically(files, options.nonce_file, std::to_string(nonce_mark) + "\n"));
  }
  return last_nonce;
}

Result<wire::HttpRequest> KrakenVenue::Impl::build(Call& call) {
  wire::HttpRequest request;
  request.url = options.base_url + call.path;
  request.headers.emplace_back("User-Agent", "defib");
  if (!call.is_private) {
    if (!call.parameters.empty()) request.url += "?" + form(call.parameters);
    return request;
  }
  DEFIB_TRY_ASSIGN(const std::uint64_t nonce, next_nonce());
  const std::string text = std::to_string(nonce);
  call.parameters.insert(call.parameters.begin(), {"nonce", text});
  request.method = "POST";
  request.body = form(call.parameters);
  request.headers.emplace_back("Content-Type", "application/x-www-form-urlencoded");
  request.headers.emplace_back("API-Key", options.api_key);
  request.headers.emplace_back("API-Sign", kraken_signature(secret, call.path, text, request.body));
  return request;
}

Result<wire::Json> KrakenVenue::Impl::send(Call call) {
  DEFIB_TRY_ASSIGN(const wire::HttpResponse response, exchange_for(call));
  return judge(call, response);
}

Result<std::vector<Order>> KrakenVenue::Impl::send_for_orders(Call call, std::string_view member) {
  DEFIB_TRY_ASSIGN(wire::HttpResponse response, exchange_for(call));
  if (response.status >= 200 && response.status < 300) {
    DEFIB_TRY_ASSIGN(std::optional<std::vector<Order>> orders,
                     parse_kraken_orders(response.body, member, *pairs));
    if (orders) return std::move(*orders);
  }
  DEFIB_TRY(judge(call, response));
  return bad_answer(fmt::format("`{}` of the answer to {} is missing", member, call.what));
}

Result<wire::HttpResponse> KrakenVenue::Impl::exchange_for(Call& call) {
  const std::int64_t left = blocked_until - clock.mono_ns();
  if (blocked_until != 0 && left > 0) {
    return Error(Code::kVenueRateLimited,
                 fmt::format("{} asked to be left alone for another {}", options.name,
                             os::format_duration(os::Duration(left))))
        .with("retry_after_ms", (left + 999'999) / 1'000'000)
        .with("nothing_sent", "true");
  }
  if (call.is_private) {
    DEFIB_TRY(budget.take(call.points, call.effect == Effect::kOrders || call.urgent,
                          options.patience, options.name));
  }
  DEFIB_TRY_ASSIGN(const wire::HttpRequest request, build(call));
  return exchange(http, request, call.effect, options.name, call.what,
                  call.is_new_order ? options.after_exchange : nullptr);
}

void KrakenVenue::Impl::block_for(std::int64_t seconds) {
  blocked_until = std::max(blocked_until, clock.mono_ns() + seconds * kNsPerSecond);
  budget.learn_used(options.counter_max);
}

// The table stands in docs/venue.md.
Result<wire::Json> KrakenVenue::Impl::judge(const Call& call, const wire::HttpResponse& response) {
  if (response.status == 429) {
    block_for(1);
    return Error(Code::kVenueRateLimited, options.name + " asks to slow down")
        .with("http_status", response.status);
  }
  if (response.status < 200 || response.status >= 300) {
    return no_outcome(call.effect, options.name, call.what,
                      fmt::format("HTTP status {}", response.status))
        .with("http_status", response.status)
        .with("body", std::string_view(response.body).substr(0, kBodyShown));
  }
  Result<wire::Json> json = wire::Json::parse(response.body);
  if (!json || !(*json)["error"].is_array()) {
    if (call.effect == Effect::kOrders) {
      return no_outcome(call.effect, options.name, call.what, "its answer is unreadable");
    }
    return bad_answer(fmt::format("the answer to {} is no answer of this venue", call.what));
  }
  for (const wire::Json& item : (*json)["error"].items()) {
    const std::string text(item.as_string());
    if (text.starts_with("W")) continue;  // a warning
    return refused(call, text);
  }
  if (!json->has("result")) {
    if (call.effect == Effect::kOrders) {
      return no_outcome(call.effect, options.name, call.what, "its answer has no result");
    }
    return bad_answer(fmt::format("`result` of the answer to {} is missing", call.what));
  }
  return (*json)["result"];
}

Error KrakenVenue::Impl::refused(const Call& call, const std::string& text) {
  const std::string message = fmt::format("{} refused {}: {}", options.name, call.what, text);
  const auto make = [&](Code code) { return Error(code, message).with("venue_text", text); };
  switch (meaning_of(text)) {
    case Meaning::kUnknownOutcome:
      return no_outcome(call.effect, options.name, call.what, text).with("venue_text", text);
    case Meaning::kNonce:
      return make(Code::kVenueNonceRefused);
    case Meaning::kAuth:
      return make(Code::kVenueAuthFailed);
    case Meaning::kLockout:
      block_for(kLockoutSeconds);
      return make(Code::kVenueRateLimited).with("retry_after_ms", kLockoutSeconds * 1'000);
    case Meaning::kRate: {
      // "EService:Throttled: 1700000000" names the time when it ends.
      const std::size_t at = text.find_last_of(' ');
      const std::int64_t until =
          text.find("Throttled") == std::string::npos || at == std::string::npos
              ? -1
              : seconds_to_ms(std::string_view(text).substr(at + 1));
      const std::int64_t wait = until < 0 ? 2 : (until - clock.wall_ns() / 1'000'000) / 1'000 + 1;
      block_for(std::clamp<std::int64_t>(wait, 1, kLockoutSeconds));
      return make(Code::kVenueRateLimited);
    }
    case Meaning::kNoSuchOrder:
      return make(Code::kOrderNotFound);
    case Meaning::kRejected:
      break;
  }
  Error rejected = make(Code::kVenueRejected);
  if (says_duplicate(text)) return std::move(rejected).with("duplicate", "true");
  return rejected;
}

Result<> KrakenVenue::Impl::load_pairs() {
  if (pairs) return {};
  DEFIB_TRY_ASSIGN(
      const wire::Json result,
      send({.what = "the pairs", .path = "/0/public/AssetPairs", .is_private = false}));
  DEFIB_TRY_ASSIGN(pairs, parse_kraken_pairs(result));
  return {};
}

Parameters KrakenVenue::Impl::order_parameters(const OrderRequest& request) const {
  Parameters parameters = {{"pair", request.symbol},
                           {"type", request.side == Side::kBuy ? "buy" : "sell"},
                           {"ordertype", request.type == OrderType::kLimit ? "limit" : "market"},
                           {"volume", request.quantity.to_string()}};
  if (request.type == OrderType::kLimit) {
    parameters.emplace_back("price", request.price.to_string());
    if (request.time_in_force == TimeInForce::kIoc) parameters.emplace_back("timeinforce", "IOC");
  }
  if (options.margin) parameters.emplace_back("leverage", options.leverage);
  parameters.emplace_back("cl_ord_id", request.client_id);
  parameters.emplace_back("deadline", rfc3339_ms(request.expires_ms - kHalfSecondMs));
  return parameters;
}

Result<std::vector<Order>> KrakenVenue::Impl::with_client_id(const std::string& client_id) {
  DEFIB_TRY(load_pairs());
  DEFIB_TRY_ASSIGN(std::vector<Order> orders,
                   send_for_orders({.what = "order " + client_id,
                                    .path = "/0/private/OpenOrders",
                                    .parameters = {{"cl_ord_id", client_id}}},
                                   "open"));
  DEFIB_TRY_ASSIGN(std::vector<Order> closed, closed_orders(client_id));
  std::move(closed.begin(), closed.end(), std::back_inserter(orders));
  // A filter that an old server ignores is applied here as well.
  std::erase_if(orders, [&](const Order& item) { return item.client_id != client_id; });
  return orders;
}

Result<std::vector<Order>> KrakenVenue::Impl::closed_orders(const std::string& client_id) {
  std::vector<Order> all;
  for (int page = 0; page < kMaxPages; ++page) {
    DEFIB_TRY_ASSIGN(std::vector<Order> orders,
                     send_for_orders({.what = "ended orders with id " + client_id,
                                      .path = "/0/private/ClosedOrders",
                                      .parameters = {{"cl_ord_id", client_id},
                                                     {"ofs", std::to_string(page * kPage)}}},
                                     "closed"));
    const std::size_t count = orders.size();
    std::move(orders.begin(), orders.end(), std::back_inserter(all));
    if (count < kPage) return all;
  }
  return Error(Code::kLimitExceeded, "too many pages of ended orders");
}

Result<std::vector<Order>> KrakenVenue::Impl::open_list(bool urgent) {
  DEFIB_TRY(load_pairs());
  return send_for_orders(
      {.what = "the open orders", .path = "/0/private/OpenOrders", .urgent = urgent}, "open");
}

KrakenVenue::KrakenVenue(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
KrakenVenue::~KrakenVenue() = default;

Result<std::unique_ptr<KrakenVenue>> KrakenVenue::create(KrakenOptions options) {
  std::string secret;
  if (!base64_decode(options.api_secret, secret) || secret.empty()) {
    return Error(Code::kInvalidArgument, "the secret of a Kraken key is base64 text")
        .suggest("copy the private key as the venue shows it");
  }
  options.recv_window_ms = std::clamp(options.recv_window_ms, kMinWindowMs, kMaxWindowMs);
  return std::unique_ptr<KrakenVenue>(
      new KrakenVenue(std::make_unique<Impl>(std::move(options), std::move(secret))));
}

std::string KrakenVenue::name() const {
  return impl_->options.name;
}

// The middle of the second that the venue names.
Result<std::int64_t> KrakenVenue::server_time_ms() {
  const std::int64_t before = impl_->clock.wall_ns();
  DEFIB_TRY_ASSIGN(
      const wire::Json result,
      impl_->send({.what = "the time", .path = "/0/public/Time", .is_private = false}));
  if (!result["unixtime"].is_whole()) {
    return bad_answer("`unixtime` is missing or not a number");
  }
  return impl_->learn_time(result["unixtime"].as_int(), before, impl_->clock.wall_ns());
}

// The venue tells whole seconds. Each answer bounds the offset of its clock to ours within one
// second; together they bound it the more closely, until a clock steps and they contradict.
std::int64_t KrakenVenue::Impl::learn_time(std::int64_t unix_s, std::int64_t before_ns,
                                           std::int64_t after_ns) {
  const std::int64_t least = unix_s * kNsPerSecond - after_ns;
  const std::int64_t most = (unix_s + 1) * kNsPerSecond - before_ns;
  least_offset_ns = std::max(least_offset_ns, least);
  most_offset_ns = std::min(most_offset_ns, most);
  if (least_offset_ns > most_offset_ns) {
    least_offset_ns = least;
    most_offset_ns = most;
  }
  const std::int64_t now = std::midpoint(before_ns, after_ns);
  const std::int64_t offset = std::midpoint(least_offset_ns, most_offset_ns);
  return (now + offset + kNsPerMs / 2) / kNsPerMs;
}

Result<std::vector<SymbolRules>> KrakenVenue::rules() {
  impl_->pairs.reset();  // they change, and a status is asked for
  DEFIB_TRY(impl_->load_pairs());
  return impl_->pairs->rules;
}

Result<Quote> KrakenVenue::quote(const std::string& symbol) {
  DEFIB_TRY(impl_->load_pairs());
  DEFIB_TRY_ASSIGN(const wire::Json result, impl_->send({.what = "the quote of " + symbol,
                                                         .path = "/0/public/Ticker",
                                                         .parameters = {{"pair", symbol}},
                                                         .is_private = false}));
  DEFIB_TRY_ASSIGN(const std::vector<Quote> quotes, parse_kraken_ticker(result, *impl_->pairs));
  for (const Quote& quote : quotes) {
    if (quote.symbol == symbol) return quote;
  }
  return bad_answer(fmt::format("the ticker has no {}", symbol));
}

Result<std::vector<Quote>> KrakenVenue::quotes() {
  DEFIB_TRY(impl_->load_pairs());
  DEFIB_TRY_ASSIGN(
      const wire::Json result,
      impl_->send(
          {.what = "the quotes",
           .path = "/0/public/Ticker",
           .parameters = {{"pair", fmt::format("{}", fmt::join(impl_->options.symbols, ","))}},
           .is_private = false}));
  return parse_kraken_ticker(result, *impl_->pairs);
}

Result<Order> KrakenVenue::place(const OrderRequest& request) {
  const std::int64_t window = request.expires_ms - request.timestamp_ms;
  if (window < kMinWindowMs || window > kMaxWindowMs) {
    return Error(Code::kInvalidArgument,
                 fmt::format("the fence lies {} ms after the time stamp; {} to {} are possible",
                             window, kMinWindowMs, kMaxWindowMs));
  }
  const std::string what = "order " + request.client_id;
  // The engine's own limiter counts orders; the account's counter does not.
  DEFIB_TRY_ASSIGN(const wire::Json result,
                   impl_->send({.what = what,
                                .path = "/0/private/AddOrder",
                                .parameters = impl_->order_parameters(request),
                                .effect = Effect::kOrders,
                                .is_new_order = true,
                                .points = 0}));
  const auto& ids = result["txid"].items();
  if (ids.size() != 1 || ids[0].as_string().empty()) {
    return no_outcome(Effect::kOrders, name(), what, "its answer names no order");
  }
  Order order;
  order.client_id = request.client_id;
  order.venue_id = ids[0].as_string();
  order.symbol = request.symbol;
  order.side = request.side;
  order.status = OrderStatus::kNew;
  order.quantity = request.quantity;
  order.price = request.price;
  order.created_ms = request.timestamp_ms;
  order.updated_ms = request.timestamp_ms;
  return order;
}

Result<Order> KrakenVenue::cancel(const std::string& symbol, const std::string& client_id) {
  const std::string what = "the cancel of order " + client_id;
  DEFIB_TRY_ASSIGN(const wire::Json result, impl_->send({.what = what,
                                                         .path = "/0/private/CancelOrder",
                                                         .parameters = {{"cl_ord_id", client_id}},
                                                         .effect = Effect::kOrders,
                                                         .points = 0}));
  if (!result["count"].is_whole()) {
    return no_outcome(Effect::kOrders, name(), what, "its answer has no count");
  }
  if (result["count"].as_int() == 0) {
    return Error(Code::kOrderNotFound, fmt::format("{} has no open order {}", name(), client_id));
  }
  Result<Order> ended = order(symbol, client_id);
  if (ended) return ended;
  return no_outcome(Effect::kOrders, name(), what, "it was cancelled, and cannot be read")
      .because(ended.error());
}

Result<> KrakenVenue::cancel_all(const std::string& symbol) {
  return impl_->cancel_open([&](const std::string& of) { return symbol.empty() || of == symbol; });
}

// One reading for all of them: the counter has room for few.
Result<> KrakenVenue::cancel_all_of(const std::vector<std::string>& symbols) {
  return impl_->cancel_open([&](const std::string& of) {
    return std::find(symbols.begin(), symbols.end(), of) != symbols.end();
  });
}

Result<> KrakenVenue::Impl::cancel_open(
    const std::function<bool(const std::string& symbol)>& is_mine) {
  DEFIB_TRY_ASSIGN(const std::vector<Order> open, open_list(true));
  std::vector<const Order*> mine;
  for (const Order& item : open) {
    if (is_mine(item.symbol)) mine.push_back(&item);
  }
  if (mine.size() == open.size()) {
    DEFIB_TRY(send({.what = "the cancel of all orders",
                    .path = "/0/private/CancelAll",
                    .effect = Effect::kOrders,
                    .points = 0}));
    return {};
  }
  std::optional<Error> failure;
  for (const Order* item : mine) {
    const auto done = send({.what = "the cancel of order " + item->venue_id,
                            .path = "/0/private/CancelOrder",
                            .parameters = {{"txid", item->venue_id}},
                            .effect = Effect::kOrders,
                            .points = 0});
    // One that cannot be cancelled holds up none of the others.
    if (!done && done.error().code() != Code::kOrderNotFound && !failure) failure = done.error();
  }
  if (failure) return *failure;
  return {};
}

Result<Order> KrakenVenue::order(const std::string& symbol, const std::string& client_id) {
  DEFIB_TRY_ASSIGN(const std::vector<Order> found, impl_->with_client_id(client_id));
  std::set<std::string> ids;
  for (const Order& item : found) ids.insert(item.venue_id);
  if (ids.empty()) {
    return Error(Code::kOrderNotFound, fmt::format("{} does not know order {}", name(), client_id));
  }
  if (ids.size() > 1) {
    return Error(Code::kDuplicateOrder,
                 fmt::format("{} has {} orders for the id {}", name(), ids.size(), client_id))
        .with("client_id", client_id)
        .with("first", *ids.begin())
        .with("second", *std::next(ids.begin()));
  }
  // The later reading counts: an order may have ended between the two lists.
  if (found.back().symbol != symbol) {
    return bad_answer(
        fmt::format("order {} is of {}, not of {}", client_id, found.back().symbol, symbol));
  }
  return found.back();
}

Result<std::vector<Order>> KrakenVenue::open_orders(const std::string& symbol) {
  DEFIB_TRY_ASSIGN(std::vector<Order> orders, impl_->open_list(false));
  std::erase_if(orders,
                [&](const Order& item) { return !symbol.empty() && item.symbol != symbol; });
  return orders;
}

Result<std::vector<Balance>> KrakenVenue::balances() {
  DEFIB_TRY_ASSIGN(const wire::Json result,
                   impl_->send({.what = "the balances", .path = "/0/private/BalanceEx"}));
  return parse_kraken_balances(result);
}

Result<std::vector<Fill>> KrakenVenue::fills(const std::string& symbol, const std::string& after) {
  return fills_of({{symbol, {after}}});
}

// The history takes no pair: one walk, newest first, until every symbol has shown a known trade or
// its time has come.
Result<std::vector<Fill>> KrakenVenue::fills_of(const std::map<std::string, FillsFrom>& from) {
  DEFIB_TRY(impl_->load_pairs());
  std::map<std::string, std::int64_t> last;
  std::set<std::string> left;
  for (const auto& [symbol, first] : from) {
    last[symbol] = first.after.empty() ? -1 : trade_number(first.after);
    left.insert(symbol);
    if (!first.after.empty() && last[symbol] < 0) {
      return Error(Code::kInvalidArgument,
                   fmt::format("'{}' is no trade number of kraken", first.after));
    }
  }
  std::vector<Fill> found;
  std::set<std::string> seen;
  for (int page = 0; page < kMaxPages; ++page) {
    DEFIB_TRY_ASSIGN(const wire::Json result,
                     impl_->send({.what = "the trades",
                                  .path = "/0/private/TradesHistory",
                                  .parameters = {{"ofs", std::to_string(page * kPage)}},
                                  .points = 2}));
    DEFIB_TRY_ASSIGN(std::vector<KrakenTrade> trades,
                     parse_kraken_trades(result["trades"], *impl_->pairs));
    std::int64_t oldest_ms = std::numeric_limits<std::int64_t>::max();
    for (KrakenTrade& trade : trades) {
      oldest_ms = std::min(oldest_ms, trade.fill.time_ms);
      const auto of = last.find(trade.fill.symbol);
      if (of == last.end()) continue;
      const FillsFrom& first = from.at(of->first);
      if (trade_number(trade.fill.trade_id) <= of->second ||
          (first.after.empty() && trade.fill.time_ms < first.since_ms)) {
        left.erase(of->first);
        continue;
      }
      // New trades shift the pages while they are read; nothing is lost, some come twice.
      if (seen.insert(trade.key).second) found.push_back(std::move(trade.fill));
    }
    std::erase_if(left,
                  [&](const std::string& symbol) { return oldest_ms < from.at(symbol).since_ms; });
    if (trades.size() >= kPage && !left.empty()) continue;
    std::sort(found.begin(), found.end(), [](const Fill& a, const Fill& b) {
      return std::pair(std::string_view(a.symbol), trade_number(a.trade_id)) <
             std::pair(std::string_view(b.symbol), trade_number(b.trade_id));
    });
    return found;
  }
  return Error(Code::kLimitExceeded, fmt::format("{} has too many pages of trades", name()));
}

Result<> KrakenVenue::test_order(const OrderRequest& request) {
  Parameters parameters = impl_->order_parameters(request);
  parameters.emplace_back("validate", "true");
  DEFIB_TRY(impl_->send({.what = "the test order",
                         .path = "/0/private/AddOrder",
                         .parameters = std::move(parameters),
                         .points = 0}));
  return {};
}

bool KrakenVenue::has_positions() const {
  return impl_->options.margin;
}

Result<std::vector<PositionReport>> KrakenVenue::positions() {
  DEFIB_TRY(impl_->load_pairs());
  DEFIB_TRY_ASSIGN(const wire::Json result, impl_->send({.what = "the positions",
                                                         .path = "/0/private/OpenPositions",
                                                         .parameters = {{"docalcs", "true"}}}));
  return parse_kraken_positions(result, *impl_->pairs);
}

Result<VenueStatus> KrakenVenue::status() {
  DEFIB_TRY_ASSIGN(
      const wire::Json result,
      impl_->send({.what = "the status", .path = "/0/public/SystemStatus", .is_private = false}));
  const std::string_view status = result["status"].as_string();
  if (status == "online") return VenueStatus::kOnline;
  if (status == "post_only") return VenueStatus::kPostOnly;
  if (status == "cancel_only") return VenueStatus::kCancelOnly;
  if (status == "maintenance") return VenueStatus::kMaintenance;
  return bad_answer(fmt::format("'{}' is no status of kraken", status));
}

Result<> KrakenVenue::arm_dead_mans_switch(os::Duration timeout) {
  const auto seconds = std::chrono::ceil<std::chrono::seconds>(timeout).count();
  DEFIB_TRY(impl_->send({.what = "the dead-man's switch",
                         .path = "/0/private/CancelAllOrdersAfter",
                         .parameters = {{"timeout", std::to_string(seconds)}},
                         .effect = Effect::kOrders,
                         .points = 0}));
  return {};
}

RebuildModel KrakenVenue::rebuild_model() const {
  RebuildModel model;
  model.limit = {.capacity = impl_->options.counter_max,
                 .refill_per_1000s = impl_->options.decay_per_1000s};
  model.fixed = 1;
  model.orders_cost = 1;
  model.fills_page = kPage;
  model.fills_cost = 2;
  model.filtered = false;  // neither TradesHistory nor OpenOrders takes a pair
  return model;
}

void KrakenVenue::set_patience(os::Duration patience) {
  impl_->options.patience = patience;
}
std::int64_t KrakenVenue::recv_window_ms() const {
  return impl_->options.recv_window_ms;
}
std::int64_t KrakenVenue::visibility_lag_ms() const {
  return impl_->options.visibility_lag_ms + kHalfSecondMs;
}

}  // namespace defib::venue
