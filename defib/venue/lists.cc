// The long lists (orders, trades, balances) of all dialects by simdjson's on-demand parser: 100,000
// open orders are an ordinary answer here. The one file that includes simdjson.

#include <fmt/core.h>
#include <simdjson.h>

#include <algorithm>
#include <array>
#include <utility>

#include "defib/os/clock.h"
#include "defib/venue/binance_parse.h"
#include "defib/venue/coinbase_parse.h"
#include "defib/venue/kraken_parse.h"
#include "defib/venue/rest.h"

namespace defib::venue {
namespace {

namespace ondemand = simdjson::ondemand;

constexpr std::size_t kBodyShown = 200;
constexpr std::int64_t kNsPerMs = 1'000'000;

// Reads the members of one JSON object, each at most once, and keeps the first problem.
class Members {
 public:
  // "order number 17", or "order OQCLML-BW3P3-BUCMWZ".
  Members(std::string_view what, std::size_t index) : what_(what), index_(index) {}
  Members(std::string_view what, std::string_view key) : what_(what), key_(key) {}
  void set_key(std::string_view key) { key_ = key; }

  void text(ondemand::value value, std::string_view name, std::string& to) {
    to = text(value, name);
  }
  std::string_view text(ondemand::value value, std::string_view name) {
    std::string_view view;
    if (value.get_string().get(view) != simdjson::SUCCESS) wrong(name, "a string");
    return view;
  }
  // Null and the absent are an empty text.
  std::string_view optional_text(ondemand::value value, std::string_view name) {
    return value.is_null() ? std::string_view() : text(value, name);
  }
  // `cut`: more than eight digits after the point are cut toward zero, else they are refused.
  void amount(ondemand::value value, std::string_view name, Decimal& to, bool cut = false) {
    std::string_view view;
    if (value.get_string().get(view) != simdjson::SUCCESS) return wrong(name, "a decimal string");
    amount(view, name, to, cut);
  }
  void amount(std::string_view view, std::string_view name, Decimal& to, bool cut = false) {
    Result<Decimal> parsed = parse_amount(view, cut);
    if (!parsed) {
      if (!error_) error_ = bad_answer(place(name) + " is not an amount").because(parsed.error());
      return;
    }
    to = *parsed;
  }
  void optional_amount(ondemand::value value, std::string_view name, Decimal& to) {
    const std::string_view view = optional_text(value, name);
    if (!view.empty()) amount(view, name, to, true);
  }
  void integer(ondemand::value value, std::string_view name, std::int64_t& to) {
    if (value.get_int64().get(to) != simdjson::SUCCESS) wrong(name, "an integer");
  }
  // Ids are unsigned numbers of up to 64 bits; kept as text.
  void number_text(ondemand::value value, std::string_view name, std::string& to) {
    std::uint64_t number = 0;
    if (value.get_uint64().get(number) != simdjson::SUCCESS) return wrong(name, "an id");
    to = std::to_string(number);
  }
  void boolean(ondemand::value value, std::string_view name, bool& to) {
    if (value.get_bool().get(to) != simdjson::SUCCESS) wrong(name, "true or false");
  }
  // Seconds with a fraction, as a number or a text: never through a double.
  void seconds(ondemand::value value, std::string_view name, std::int64_t& to_ms) {
    std::string_view token = value.raw_json_token();
    const std::size_t end = token.find_last_not_of(" \t\r\n");
    token = token.substr(0, end == std::string_view::npos ? 0 : end + 1);
    if (token.size() >= 2 && token.front() == '"') token = token.substr(1, token.size() - 2);
    to_ms = seconds_to_ms(token);
    if (to_ms < 0) wrong(name, "a time");
  }
  void wrong(std::string_view name, std::string_view wanted) {
    if (!error_) error_ = bad_answer(fmt::format("{} is not {}", place(name), wanted));
  }
  void missing(std::string_view name) {
    if (!error_) error_ = bad_answer(place(name) + " is missing");
  }
  const std::optional<Error>& error() const { return error_; }

 private:
  std::string place(std::string_view name) const {
    if (!key_.empty()) return fmt::format("`{}` of {} {}", name, what_, key_);
    return fmt::format("`{}` of {} number {}", name, what_, index_ + 1);
  }
  std::string_view what_;
  std::size_t index_ = 0;
  std::string_view key_;
  std::optional<Error> error_;
};

// The members that are read. Venues write an object's members in one order, so mostly the next one
// is the one that is looked for.
template <std::size_t N>
class Names {
 public:
  explicit Names(const std::array<std::string_view, N>& names) : names_(names) {}
  // Its number; N where it is none of them.
  std::size_t find(std::string_view name) {
    for (std::size_t i = 0; i < N; ++i) {
      const std::size_t at = next_ + i < N ? next_ + i : next_ + i - N;
      if (names_[at] != name) continue;
      next_ = at + 1 < N ? at + 1 : 0;
      seen_ |= 1U << at;
      return at;
    }
    return N;
  }
  // The first `required` must have been there. For the next object.
  void check(Members& members, std::size_t required) {
    for (std::size_t i = 0; i < required; ++i) {
      if ((seen_ >> i & 1U) == 0) members.missing(names_[i]);
    }
    seen_ = 0;
  }

 private:
  const std::array<std::string_view, N>& names_;
  std::size_t next_ = 0;
  std::uint32_t seen_ = 0;
};

// Calls `each` for every member; false where the object is cut or malformed.
template <typename Each>
bool for_each_member(ondemand::object object, Each each) {
  for (auto field : object) {
    ondemand::value value;
    std::string_view name;
    if (field.unescaped_key().get(name) != simdjson::SUCCESS ||
        field.value().get(value) != simdjson::SUCCESS) {
      return false;
    }
    each(name, value);
  }
  return true;
}

std::optional<OrderStatus> parse_status(std::string_view text) {
  constexpr std::array<std::pair<std::string_view, OrderStatus>, 9> kStatuses = {{
      {"NEW", OrderStatus::kNew},
      {"PENDING_NEW", OrderStatus::kNew},
      {"PARTIALLY_FILLED", OrderStatus::kPartiallyFilled},
      {"FILLED", OrderStatus::kFilled},
      {"CANCELED", OrderStatus::kCancelled},
      {"PENDING_CANCEL", OrderStatus::kPartiallyFilled},
      {"REJECTED", OrderStatus::kRejected},
      {"EXPIRED", OrderStatus::kExpired},
      {"EXPIRED_IN_MATCH", OrderStatus::kExpired},
  }};
  for (const auto& [name, status] : kStatuses) {
    if (name == text) return status;
  }
  return std::nullopt;
}

std::optional<Side> parse_side(std::string_view text) {
  if (text == "BUY") return Side::kBuy;
  if (text == "SELL") return Side::kSell;
  return std::nullopt;
}

void read_side(Members& members, ondemand::value value, Side& to) {
  if (const auto side = parse_side(members.text(value, "side"))) {
    to = *side;
  } else {
    members.wrong("side", "BUY or SELL");
  }
}

void read_status(Members& members, ondemand::value value, OrderStatus& to) {
  if (const auto status = parse_status(members.text(value, "status"))) {
    to = *status;
  } else {
    members.wrong("status", "a known order status");
  }
}

Error cut_item(std::string_view what, std::size_t index) {
  return bad_answer(fmt::format("{} number {} is cut or malformed", what, index + 1));
}

class OrderReader {
 public:
  explicit OrderReader(ClientIdMember member)
      : names_(member == ClientIdMember::kOrigClientOrderId ? kCancelNames
               : member == ClientIdMember::kFutures         ? kFuturesNames
                                                            : kNames) {}
  Result<> operator()(ondemand::object object, std::size_t index, Order& order) {
    Members members("order", index);
    Decimal trigger;
    const bool whole = for_each_member(object, [&](std::string_view name, ondemand::value value) {
      switch (names_.find(name)) {
        case 0:
          return members.text(value, name, order.symbol);
        case 1:
          return members.number_text(value, name, order.venue_id);
        case 2:
          return members.text(value, name, order.client_id);
        case 3:
          return members.amount(value, name, order.price);
        case 4:
          return members.amount(value, name, order.quantity);
        case 5:
          return members.amount(value, name, order.filled);
        case 6:
          return members.amount(value, name, order.filled_quote);
        case 7:
          return read_status(members, value, order.status);
        case 8:
          return read_side(members, value, order.side);
        case 9:
          return members.amount(value, name, trigger);
        case 10:
          return members.integer(value, name, order.created_ms);
        case 11:
        case 12:
          return members.integer(value, name, order.updated_ms);
        default:
          return;
      }
    });
    if (!whole) return cut_item("order", index);
    names_.check(members, kRequired);
    if (members.error()) return *members.error();
    if (order.price.is_zero() && !trigger.is_zero()) {
      order.price = trigger;
      order.market_at_trigger = true;
    }
    return {};
  }

 private:
  static constexpr std::size_t kRequired = 9;
  using Table = std::array<std::string_view, 13>;
  static constexpr Table kNames = {"symbol",
                                   "orderId",
                                   "clientOrderId",
                                   "price",
                                   "origQty",
                                   "executedQty",
                                   "cummulativeQuoteQty",
                                   "status",
                                   "side",
                                   "stopPrice",
                                   "time",
                                   "updateTime",
                                   "transactTime"};
  static constexpr Table kCancelNames = {"symbol",
                                         "orderId",
                                         "origClientOrderId",
                                         "price",
                                         "origQty",
                                         "executedQty",
                                         "cummulativeQuoteQty",
                                         "status",
                                         "side",
                                         "stopPrice",
                                         "time",
                                         "updateTime",
                                         "transactTime"};
  static constexpr Table kFuturesNames = {
      "symbol", "orderId", "clientOrderId", "price", "origQty",    "executedQty", "cumQuote",
      "status", "side",    "stopPrice",     "time",  "updateTime", "transactTime"};
  Names<13> names_;
};

class FillReader {
 public:
  explicit FillReader(bool futures) : names_(futures ? kFuturesNames : kNames) {}
  Result<> operator()(ondemand::object object, std::size_t index, Fill& fill) {
    Members members("trade", index);
    bool is_buyer = false;
    const bool whole = for_each_member(object, [&](std::string_view name, ondemand::value value) {
      switch (names_.find(name)) {
        case 0:
          return members.text(value, name, fill.symbol);
        case 1:
          return members.number_text(value, name, fill.trade_id);
        case 2:
          return members.number_text(value, name, fill.venue_order_id);
        case 3:
          return members.amount(value, name, fill.price);
        case 4:
          return members.amount(value, name, fill.quantity);
        case 5:
          return members.amount(value, name, fill.fee);
        case 6:
          return members.text(value, name, fill.fee_asset);
        case 7:
          return members.integer(value, name, fill.time_ms);
        case 8:
          return members.boolean(value, name, is_buyer);
        default:
          return;
      }
    });
    if (!whole) return cut_item("trade", index);
    names_.check(members, 9);
    if (members.error()) return *members.error();
    fill.side = is_buyer ? Side::kBuy : Side::kSell;
    return {};
  }

 private:
  using Table = std::array<std::string_view, 9>;
  static constexpr Table kNames = {"symbol",          "id",   "orderId",
                                   "price",           "qty",  "commission",
                                   "commissionAsset", "time", "isBuyer"};
  static constexpr Table kFuturesNames = {
      "symbol", "id", "orderId", "price", "qty", "commission", "commissionAsset", "time", "buyer"};
  Names<9> names_;
};

class BalanceReader {
 public:
  Result<> operator()(ondemand::object object, std::size_t index, Balance& balance) {
    Members members("balance", index);
    const bool whole = for_each_member(object, [&](std::string_view name, ondemand::value value) {
      switch (names_.find(name)) {
        case 0:
          return members.text(value, name, balance.asset);
        case 1:
          return members.amount(value, name, balance.free);
        case 2:
          return members.amount(value, name, balance.locked);
        default:
          return;
      }
    });
    if (!whole) return cut_item("balance", index);
    names_.check(members, 3);
    if (members.error()) return *members.error();
    return {};
  }

 private:
  static constexpr std::array<std::string_view, 3> kNames = {"asset", "free", "locked"};
  Names<3> names_{kNames};
};

std::optional<OrderStatus> kraken_status(std::string_view text, Decimal filled) {
  if (text == "pending") return OrderStatus::kNew;
  if (text == "open") {
    return filled.is_zero() ? OrderStatus::kNew : OrderStatus::kPartiallyFilled;
  }
  if (text == "closed") return OrderStatus::kFilled;
  if (text == "canceled") return OrderStatus::kCancelled;
  if (text == "expired") return OrderStatus::kExpired;
  return std::nullopt;
}

// Orders under their transaction ids.
class KrakenOrderReader {
 public:
  explicit KrakenOrderReader(const KrakenPairs& pairs) : pairs_(&pairs) {}
  Result<> operator()(ondemand::object object, std::string_view txid, Order& order) {
    Members members("order", txid);
    order.venue_id = txid;
    std::string_view status;
    std::int64_t ended_ms = 0;
    terms_ = {};
    const bool whole = for_each_member(object, [&](std::string_view name, ondemand::value value) {
      switch (names_.find(name)) {  // by its place in kNames
        case 0:
          return members.amount(value, name, order.quantity);
        case 1:
          return members.amount(value, name, order.filled);
        case 2:
          return members.amount(value, name, order.filled_quote, true);
        case 3:
          status = members.text(value, name);
          return;
        case 4:
          return members.seconds(value, name, order.created_ms);
        case 5:
          return read_terms(members, value);
        case 6:
          return members.seconds(value, name, ended_ms);
        case 7:
          order.client_id = members.optional_text(value, name);
          return;
        default:
          return;
      }
    });
    if (!whole) return bad_answer(fmt::format("order {} is cut or malformed", txid));
    names_.check(members, 6);
    if (!members.error()) judge_terms(members, order);
    const std::optional<OrderStatus> known = kraken_status(status, order.filled);
    if (!known) members.wrong("status", "a known order status");
    if (members.error()) return *members.error();
    order.status = *known;
    order.updated_ms = ended_ms > 0 ? ended_ms : order.created_ms;
    DEFIB_TRY_ASSIGN(order.symbol, pairs_->altname(terms_.pair));
    return {};
  }

 private:
  struct Terms {
    std::string_view pair, type, ordertype, price, price2;
  };
  void read_terms(Members& members, ondemand::value value) {
    ondemand::object object;
    const bool whole = value.get_object().get(object) == simdjson::SUCCESS &&
                       for_each_member(object, [&](std::string_view name, ondemand::value item) {
                         switch (term_names_.find(name)) {
                           case 0:
                             terms_.pair = members.text(item, name);
                             return;
                           case 1:
                             terms_.type = members.text(item, name);
                             return;
                           case 2:
                             terms_.ordertype = members.text(item, name);
                             return;
                           case 3:
                             terms_.price = members.text(item, name);
                             return;
                           case 4:
                             terms_.price2 = members.optional_text(item, name);
                             return;
                           default:
                             return;
                         }
                       });
    if (!whole) members.wrong("descr", "an object");
    term_names_.check(members, 4);
  }
  // The limit stands in the terms; the price beside the volume is the average of its fills.
  // Of an order that waits for a trigger that one is the first, and the limit the second.
  void judge_terms(Members& members, Order& order) const {
    const bool waits = terms_.ordertype.ends_with("-limit");
    members.amount(waits ? terms_.price2 : terms_.price, waits ? "price2" : "price", order.price);
    if (terms_.type != "buy" && terms_.type != "sell") members.wrong("descr.type", "buy or sell");
    order.side = terms_.type == "sell" ? Side::kSell : Side::kBuy;
    order.market_at_trigger = !waits && terms_.ordertype != "limit" && terms_.ordertype != "market";
  }

  static constexpr std::array<std::string_view, 8> kNames = {
      "vol", "vol_exec", "cost", "status", "opentm", "descr", "closetm", "cl_ord_id"};
  static constexpr std::array<std::string_view, 5> kTermNames = {"pair", "type", "ordertype",
                                                                 "price", "price2"};
  const KrakenPairs* pairs_;
  Names<8> names_{kNames};
  Names<5> term_names_{kTermNames};
  Terms terms_;
};

std::optional<OrderStatus> coinbase_status(std::string_view text, bool has_fills) {
  constexpr std::array<std::pair<std::string_view, OrderStatus>, 10> kStatuses = {{
      {"PENDING", OrderStatus::kNew},
      {"OPEN", OrderStatus::kNew},
      {"QUEUED", OrderStatus::kNew},
      {"CANCEL_QUEUED", OrderStatus::kNew},
      {"EDIT_QUEUED", OrderStatus::kNew},
      {"FILLED", OrderStatus::kFilled},
      {"CANCELLED", OrderStatus::kCancelled},
      {"EXPIRED", OrderStatus::kExpired},
      {"FAILED", OrderStatus::kRejected},
      {"UNKNOWN_ORDER_STATUS", OrderStatus::kUnknown},
  }};
  for (const auto& [name, status] : kStatuses) {
    if (name != text) continue;
    return status == OrderStatus::kNew && has_fills ? OrderStatus::kPartiallyFilled : status;
  }
  return std::nullopt;
}

class CoinbaseOrderReader {
 public:
  Result<> operator()(ondemand::object object, std::size_t index, Order& order) {
    Members members("order", index);
    std::string_view status, created, last_fill;
    Decimal size;
    bool sized = false;
    const bool whole = for_each_member(object, [&](std::string_view name, ondemand::value value) {
      switch (names_.find(name)) {  // by its place in kNames
        case 0:
          order.venue_id = members.text(value, name);
          return members.set_key(order.venue_id);
        case 1:
          return members.text(value, name, order.symbol);
        case 2:
          return read_side(members, value, order.side);
        case 3:
          return members.amount(value, name, order.filled, true);
        case 4:
          sized = read_configuration(members, value, order.price, size);
          return;
        case 5:
          status = members.text(value, name);
          return;
        case 6:
          created = members.text(value, name);
          return;
        case 7:
          order.client_id = members.optional_text(value, name);
          return;
        case 8:
          return members.optional_amount(value, name, order.filled_quote);
        case 9:
          last_fill = members.optional_text(value, name);
          return;
        default:
          return;
      }
    });
    if (!whole) return cut_item("order", index);
    names_.check(members, 7);
    order.quantity = sized ? size : order.filled;  // a market order may be by money
    const std::optional<OrderStatus> known = coinbase_status(status, !order.filled.is_zero());
    if (!known) members.wrong("status", "a known order status");
    const std::int64_t created_ns = os::parse_time(created);
    if (created_ns < 0) members.wrong("created_time", "a time");
    if (members.error()) return *members.error();
    order.status = *known;
    order.created_ms = created_ns / kNsPerMs;
    const std::int64_t last_ns = last_fill.empty() ? -1 : os::parse_time(last_fill);
    order.updated_ms = last_ns < 0 ? order.created_ms : last_ns / kNsPerMs;
    return {};
  }

 private:
  // Size and price stand in the one member of the configuration, which names the kind of the order.
  // True where there is a size.
  bool read_configuration(Members& members, ondemand::value value, Decimal& price, Decimal& size) {
    ondemand::object kinds;
    int count = 0;
    bool sized = false;
    Decimal trigger;
    const auto read_term = [&](std::string_view name, ondemand::value term) {
      switch (term_names_.find(name)) {
        case 0: {
          const std::string_view text = members.optional_text(term, name);
          sized = !text.empty();
          if (sized) members.amount(text, name, size);
          return;
        }
        case 1:
          return members.amount(term, name, price);
        case 2:
        case 3:
          return members.optional_amount(term, name, trigger);
        default:
          return;
      }
    };
    const bool whole = value.get_object().get(kinds) == simdjson::SUCCESS &&
                       for_each_member(kinds, [&](std::string_view, ondemand::value kind) {
                         ondemand::object terms;
                         ++count;
                         const bool read = kind.get_object().get(terms) == simdjson::SUCCESS &&
                                           for_each_member(terms, read_term);
                         if (!read) members.wrong("order_configuration", "an object of objects");
                       });
    if (!whole || count != 1) members.wrong("order_configuration", "an object of one kind");
    if (price.is_zero()) price = trigger;
    return sized;
  }

  static constexpr std::array<std::string_view, 10> kNames = {
      "order_id",      "product_id",          "side",
      "filled_size",   "order_configuration", "status",
      "created_time",  "client_order_id",     "filled_value",
      "last_fill_time"};
  static constexpr std::array<std::string_view, 4> kTermNames = {
      "base_size", "limit_price", "stop_price", "stop_trigger_price"};
  Names<10> names_{kNames};
  Names<4> term_names_{kTermNames};
};

Error not_json(std::string_view body, std::string_view wanted, std::string_view problem) {
  return bad_answer(fmt::format("the answer is not {}: {}", wanted, problem))
      .with("body", body.substr(0, kBodyShown));
}

// Reads every item of an array of objects.
template <typename T, typename ReadItem>
Result<std::vector<T>> read_array(ondemand::array array, std::string_view wanted,
                                  std::string_view body, ReadItem& read_item) {
  std::vector<T> items;
  const char* first = nullptr;
  for (auto element : array) {
    ondemand::object object;
    if (const auto code = element.get_object().get(object); code != simdjson::SUCCESS) {
      return not_json(body, wanted, simdjson::error_message(code));
    }
    const char* here = body.data();
    if (items.size() < 2 && element.current_location().get(here) == simdjson::SUCCESS) {
      // As many as there are, if all are as long as the first.
      if (first != nullptr && here > first) {
        items.reserve(body.size() / static_cast<std::size_t>(here - first) + 2);
      }
      first = here;
    }
    const std::size_t index = items.size();
    DEFIB_TRY(read_item(object, index, items.emplace_back()));
  }
  return items;
}

// A document over a padded body. Malformed input shows at the latest in at_end(): the on-demand
// parser looks only at what is asked for.
class Body {
 public:
  explicit Body(std::string body) : own_(std::move(body)), body_(own_) { pad(); }
  // In place; the text stays as it is.
  explicit Body(std::string* body) : body_(*body) { pad(); }
  simdjson::error_code open() {
    return parser_.iterate(body_.data(), body_.size(), body_.capacity()).get(document_);
  }
  ondemand::document& document() { return document_; }
  // True when all of it was consumed.
  bool at_end() {
    const char* location = nullptr;
    return document_.current_location().get(location) == simdjson::OUT_OF_BOUNDS;
  }
  std::string_view text() const { return body_; }

 private:
  void pad() { body_.reserve(body_.size() + simdjson::SIMDJSON_PADDING); }
  std::string own_;
  std::string& body_;
  ondemand::parser parser_;
  ondemand::document document_;
};

template <typename T, typename ReadItem>
Result<std::vector<T>> read_top_array(std::string text, std::string_view wanted,
                                      ReadItem read_item) {
  Body body(std::move(text));
  ondemand::array array;
  simdjson::error_code code = body.open();
  if (code == simdjson::SUCCESS) code = body.document().get_array().get(array);
  if (code != simdjson::SUCCESS) {
    return not_json(body.text(), wanted, simdjson::error_message(code));
  }
  Result<std::vector<T>> items = read_array<T>(array, wanted, body.text(), read_item);
  if (items && !body.at_end()) {
    return not_json(body.text(), wanted, "something follows the list");
  }
  return items;
}

// The answer of Kraken: a refusal is for others to read.
class KrakenAnswer {
 public:
  KrakenAnswer(std::string_view member, KrakenOrderReader reader)
      : member_(member), reader_(reader) {}
  Result<std::optional<std::vector<Order>>> read(std::string& text) {
    Body body(&text);
    ondemand::object answer;
    const bool whole = body.open() == simdjson::SUCCESS &&
                       body.document().get_object().get(answer) == simdjson::SUCCESS &&
                       for_each_member(answer, [&](std::string_view name, ondemand::value value) {
                         if (name == "error") read_errors(value);
                         if (name == "result") read_result(value);
                       });
    if (!whole || !body.at_end() || !accepted_ || !listed_ || cut_) {
      return std::optional<std::vector<Order>>();
    }
    if (error_) return *error_;
    return std::optional(std::move(orders_));
  }

 private:
  void read_errors(ondemand::value value) {
    ondemand::array list;
    accepted_ = value.get_array().get(list) == simdjson::SUCCESS;
    if (!accepted_) return;
    for (auto item : list) {
      std::string_view text;
      // What begins with a W is a warning.
      if (item.get_string().get(text) != simdjson::SUCCESS || !text.starts_with('W')) {
        accepted_ = false;
      }
    }
  }
  void read_result(ondemand::value value) {
    ondemand::object result;
    if (value.get_object().get(result) != simdjson::SUCCESS) return;
    const bool whole = for_each_member(result, [&](std::string_view name, ondemand::value list) {
      ondemand::object map;
      if (name != member_ || list.get_object().get(map) != simdjson::SUCCESS) return;
      listed_ = true;
      const bool read = for_each_member(
          map, [&](std::string_view txid, ondemand::value item) { read_order(txid, item); });
      cut_ = cut_ || !read;
    });
    cut_ = cut_ || !whole;
  }
  void read_order(std::string_view txid, ondemand::value item) {
    ondemand::object object;
    if (error_ || cut_) return;
    if (item.get_object().get(object) != simdjson::SUCCESS) {
      error_ = bad_answer(fmt::format("order {} is not an object", txid));
      return;
    }
    if (const Result<> read = reader_(object, txid, orders_.emplace_back()); !read) {
      error_ = read.error();
    }
  }

  std::string_view member_;
  KrakenOrderReader reader_;
  std::vector<Order> orders_;
  std::optional<Error> error_;
  bool accepted_ = false;
  bool listed_ = false;
  bool cut_ = false;
};

}  // namespace

Result<std::optional<std::vector<Order>>> parse_kraken_orders(std::string& body,
                                                              std::string_view member,
                                                              const KrakenPairs& pairs) {
  return KrakenAnswer(member, KrakenOrderReader(pairs)).read(body);
}

Result<std::optional<CoinbasePage>> parse_coinbase_orders(std::string& text) {
  Body body(&text);
  ondemand::object answer;
  CoinbasePage page;
  std::optional<Error> error;
  bool listed = false;
  CoinbaseOrderReader reader;
  const auto read_list = [&](ondemand::array list) {
    for (auto item : list) {
      const std::size_t index = page.orders.size();
      ondemand::object object;
      if (item.get_object().get(object) != simdjson::SUCCESS) {
        error = bad_answer(fmt::format("order number {} is not an object", index + 1));
      } else if (const Result<> read = reader(object, index, page.orders.emplace_back()); !read) {
        error = read.error();
      }
      if (error) return;
    }
  };
  const bool whole =
      body.open() == simdjson::SUCCESS &&
      body.document().get_object().get(answer) == simdjson::SUCCESS &&
      for_each_member(answer, [&](std::string_view name, ondemand::value value) {
        ondemand::array list;
        std::string_view cursor;
        if (error) return;
        if (name == "orders" && value.get_array().get(list) == simdjson::SUCCESS) {
          listed = true;
          read_list(list);
        } else if (name == "cursor" && value.get_string().get(cursor) == simdjson::SUCCESS) {
          page.cursor = cursor;
        } else if (name == "has_next") {
          if (value.get_bool().get(page.has_next)) page.has_next = false;
        }
      });
  if (error) return *error;
  if (!whole || !body.at_end() || !listed) return std::optional<CoinbasePage>();
  return std::optional(std::move(page));
}

Result<std::optional<Order>> parse_coinbase_order(std::string& text) {
  Body body(&text);
  ondemand::object answer;
  std::optional<Order> order;
  Result<> read;
  const bool whole = body.open() == simdjson::SUCCESS &&
                     body.document().get_object().get(answer) == simdjson::SUCCESS &&
                     for_each_member(answer, [&](std::string_view name, ondemand::value value) {
                       ondemand::object object;
                       if (name != "order" || value.get_object().get(object)) return;
                       read = CoinbaseOrderReader()(object, 0, order.emplace());
                     });
  if (!read) return read.error();
  if (!whole || !body.at_end()) return std::optional<Order>();
  return order;
}

Result<std::vector<Order>> parse_binance_orders(std::string body, ClientIdMember member) {
  return read_top_array<Order>(std::move(body), "a list of orders", OrderReader(member));
}

Result<Order> parse_binance_order(std::string text, ClientIdMember member) {
  Body body(std::move(text));
  ondemand::object object;
  simdjson::error_code code = body.open();
  if (code == simdjson::SUCCESS) code = body.document().get_object().get(object);
  if (code != simdjson::SUCCESS) {
    return not_json(body.text(), "an order", simdjson::error_message(code));
  }
  Order order;
  DEFIB_TRY(OrderReader(member)(object, 0, order));
  if (!body.at_end()) return not_json(body.text(), "an order", "something follows it");
  return order;
}

Result<std::vector<Fill>> parse_binance_fills(std::string body, bool futures) {
  return read_top_array<Fill>(std::move(body), "a list of trades", FillReader(futures));
}

Result<std::vector<Balance>> parse_binance_account(std::string text) {
  Body body(std::move(text));
  ondemand::array array;
  simdjson::error_code code = body.open();
  if (code == simdjson::SUCCESS)
    code = body.document().find_field("balances").get_array().get(array);
  if (code != simdjson::SUCCESS) {
    return not_json(body.text(), "an account with `balances`", simdjson::error_message(code));
  }
  BalanceReader reader;
  return read_array<Balance>(array, "an account with `balances`", body.text(), reader);
}

}  // namespace defib::venue
