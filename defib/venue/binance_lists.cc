// The long lists (orders, trades, balances) by simdjson's on-demand parser: 100,000 open orders are
// an ordinary answer here. The one file that includes simdjson.

#include <fmt/core.h>
#include <simdjson.h>

#include <algorithm>
#include <array>
#include <utility>

#include "defib/venue/binance_parse.h"

namespace defib::venue {
namespace {

namespace ondemand = simdjson::ondemand;

constexpr std::size_t kBodyShown = 200;

Error bad_answer(std::string problem) {
  return Error(Code::kVenueBadAnswer, std::move(problem));
}

// Reads the members of one JSON object, each at most once, and keeps the first problem.
class Members {
 public:
  explicit Members(std::string_view what, std::size_t index) : what_(what), index_(index) {}

  void text(ondemand::value value, std::string_view name, std::string& to) {
    std::string_view view;
    if (value.get_string().get(view) != simdjson::SUCCESS) return wrong(name, "a string");
    to = view;
  }
  void amount(ondemand::value value, std::string_view name, Decimal& to) {
    std::string_view view;
    if (value.get_string().get(view) != simdjson::SUCCESS) return wrong(name, "a decimal string");
    Result<Decimal> parsed = Decimal::parse(view);
    if (!parsed) {
      if (!error_) error_ = bad_answer(place(name) + " is not an amount").because(parsed.error());
      return;
    }
    to = *parsed;
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
  void wrong(std::string_view name, std::string_view wanted) {
    if (!error_) error_ = bad_answer(fmt::format("{} is not {}", place(name), wanted));
  }
  void missing(std::string_view name) {
    if (!error_) error_ = bad_answer(place(name) + " is missing");
  }
  const std::optional<Error>& error() const { return error_; }

 private:
  std::string place(std::string_view name) const {
    return fmt::format("`{}` of {} number {}", name, what_, index_ + 1);
  }
  std::string_view what_;
  std::size_t index_;
  std::optional<Error> error_;
};

// The members that must be there, marked as they are seen.
template <std::size_t N>
class Required {
 public:
  explicit Required(const std::array<std::string_view, N>& names) : names_(names) {}
  void saw(std::string_view name) {
    for (std::size_t i = 0; i < N; ++i) {
      if (names_[i] == name) seen_[i] = true;
    }
  }
  void check(Members& members) const {
    for (std::size_t i = 0; i < N; ++i) {
      if (!seen_[i]) members.missing(names_[i]);
    }
  }

 private:
  const std::array<std::string_view, N>& names_;
  std::array<bool, N> seen_{};
};

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
  std::string text;
  members.text(value, "side", text);
  if (const auto side = parse_side(text)) {
    to = *side;
  } else {
    members.wrong("side", "BUY or SELL");
  }
}

void read_status(Members& members, ondemand::value value, OrderStatus& to) {
  std::string text;
  members.text(value, "status", text);
  if (const auto status = parse_status(text)) {
    to = *status;
  } else {
    members.wrong("status", "a known order status");
  }
}

Result<Order> read_order(ondemand::object object, std::size_t index, ClientIdMember member) {
  static constexpr std::array<std::string_view, 9> kNames = {
      "symbol", "orderId",     "clientOrderId",       "price", "origQty",
      "status", "executedQty", "cummulativeQuoteQty", "side"};
  static constexpr std::array<std::string_view, 9> kCancelNames = {
      "symbol", "orderId",     "origClientOrderId",   "price", "origQty",
      "status", "executedQty", "cummulativeQuoteQty", "side"};
  const bool of_cancel = member == ClientIdMember::kOrigClientOrderId;
  Members members("order", index);
  Required required(of_cancel ? kCancelNames : kNames);
  Order order;
  for (auto field : object) {
    ondemand::value value;
    std::string_view name;
    if (field.unescaped_key().get(name) != simdjson::SUCCESS ||
        field.value().get(value) != simdjson::SUCCESS) {
      return bad_answer(fmt::format("order number {} is cut or malformed", index + 1));
    }
    required.saw(name);
    if (name == "symbol") {
      members.text(value, name, order.symbol);
    } else if (name == "orderId") {
      members.number_text(value, name, order.venue_id);
    } else if (name == (of_cancel ? "origClientOrderId" : "clientOrderId")) {
      members.text(value, name, order.client_id);
    } else if (name == "price") {
      members.amount(value, name, order.price);
    } else if (name == "origQty") {
      members.amount(value, name, order.quantity);
    } else if (name == "executedQty") {
      members.amount(value, name, order.filled);
    } else if (name == "cummulativeQuoteQty") {
      members.amount(value, name, order.filled_quote);
    } else if (name == "status") {
      read_status(members, value, order.status);
    } else if (name == "side") {
      read_side(members, value, order.side);
    } else if (name == "time") {
      members.integer(value, name, order.created_ms);
    } else if (name == "updateTime" || name == "transactTime") {
      members.integer(value, name, order.updated_ms);
    }
  }
  required.check(members);
  if (members.error()) return *members.error();
  return order;
}

Result<Fill> read_fill(ondemand::object object, std::size_t index) {
  static constexpr std::array<std::string_view, 9> kNames = {
      "symbol",          "id",   "orderId", "price", "qty", "commission",
      "commissionAsset", "time", "isBuyer"};
  Members members("trade", index);
  Required required(kNames);
  Fill fill;
  bool is_buyer = false;
  for (auto field : object) {
    ondemand::value value;
    std::string_view name;
    if (field.unescaped_key().get(name) != simdjson::SUCCESS ||
        field.value().get(value) != simdjson::SUCCESS) {
      return bad_answer(fmt::format("trade number {} is cut or malformed", index + 1));
    }
    required.saw(name);
    if (name == "symbol") {
      members.text(value, name, fill.symbol);
    } else if (name == "id") {
      members.number_text(value, name, fill.trade_id);
    } else if (name == "orderId") {
      members.number_text(value, name, fill.venue_order_id);
    } else if (name == "price") {
      members.amount(value, name, fill.price);
    } else if (name == "qty") {
      members.amount(value, name, fill.quantity);
    } else if (name == "commission") {
      members.amount(value, name, fill.fee);
    } else if (name == "commissionAsset") {
      members.text(value, name, fill.fee_asset);
    } else if (name == "time") {
      members.integer(value, name, fill.time_ms);
    } else if (name == "isBuyer") {
      members.boolean(value, name, is_buyer);
    }
  }
  required.check(members);
  if (members.error()) return *members.error();
  fill.side = is_buyer ? Side::kBuy : Side::kSell;
  return fill;
}

Result<Balance> read_balance(ondemand::object object, std::size_t index) {
  static constexpr std::array<std::string_view, 3> kNames = {"asset", "free", "locked"};
  Members members("balance", index);
  Required required(kNames);
  Balance balance;
  for (auto field : object) {
    ondemand::value value;
    std::string_view name;
    if (field.unescaped_key().get(name) != simdjson::SUCCESS ||
        field.value().get(value) != simdjson::SUCCESS) {
      return bad_answer(fmt::format("balance number {} is cut or malformed", index + 1));
    }
    required.saw(name);
    if (name == "asset") {
      members.text(value, name, balance.asset);
    } else if (name == "free") {
      members.amount(value, name, balance.free);
    } else if (name == "locked") {
      members.amount(value, name, balance.locked);
    }
  }
  required.check(members);
  if (members.error()) return *members.error();
  return balance;
}

Error not_json(std::string_view body, std::string_view wanted, std::string_view problem) {
  return bad_answer(fmt::format("the answer is not {}: {}", wanted, problem))
      .with("body", body.substr(0, kBodyShown));
}

// Reads every item of an array of objects.
template <typename T, typename ReadItem>
Result<std::vector<T>> read_array(ondemand::array array, std::string_view wanted,
                                  std::string_view body, ReadItem read_item) {
  std::vector<T> items;
  for (auto element : array) {
    ondemand::object object;
    if (const auto code = element.get_object().get(object); code != simdjson::SUCCESS) {
      return not_json(body, wanted, simdjson::error_message(code));
    }
    Result<T> item = read_item(object, items.size());
    if (!item) return item.error();
    items.push_back(std::move(*item));
  }
  return items;
}

// A document over a padded body. Malformed input shows at the latest in at_end(): the on-demand
// parser looks only at what is asked for.
class Body {
 public:
  explicit Body(std::string body) : body_(std::move(body)) {
    body_.reserve(body_.size() + simdjson::SIMDJSON_PADDING);
  }
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
  std::string body_;
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

}  // namespace

Result<std::vector<Order>> parse_binance_orders(std::string body) {
  return read_top_array<Order>(std::move(body), "a list of orders",
                               [](ondemand::object object, std::size_t index) {
                                 return read_order(object, index, ClientIdMember::kClientOrderId);
                               });
}

Result<Order> parse_binance_order(std::string text, ClientIdMember member) {
  Body body(std::move(text));
  ondemand::object object;
  simdjson::error_code code = body.open();
  if (code == simdjson::SUCCESS) code = body.document().get_object().get(object);
  if (code != simdjson::SUCCESS) {
    return not_json(body.text(), "an order", simdjson::error_message(code));
  }
  Result<Order> order = read_order(object, 0, member);
  if (order && !body.at_end()) {
    return not_json(body.text(), "an order", "something follows it");
  }
  return order;
}

Result<std::vector<Fill>> parse_binance_fills(std::string body) {
  return read_top_array<Fill>(std::move(body), "a list of trades", read_fill);
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
  return read_array<Balance>(array, "an account with `balances`", body.text(), read_balance);
}

}  // namespace defib::venue
