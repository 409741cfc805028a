#include "defib/paper/service.h"

#include <fmt/core.h>

#include <algorithm>

#include "defib/base/assert.h"
#include "defib/paper/binance_dialect.h"

namespace defib::paper {
namespace {

using wire::Json;

constexpr std::size_t kMaxFaultRules = 1000;

Service::Reply drop_connection() {
  Service::Reply reply;
  reply.response.status = 503;
  reply.delivery = wire::HttpServer::Delivery::kDropConnection;
  return reply;
}

Result<Decimal> decimal_of(const Json& body, std::string_view key) {
  DEFIB_TRY_ASSIGN(const std::string text, body.require_string(key));
  return Decimal::parse(text);
}

}  // namespace

Service::Service(Options options, const os::Clock& clock)
    : clock_(clock), core_(options.core), faults_(options.core.seed) {
  if (options.dialect == "kraken") {
    dialect_ = std::make_unique<Kraken>(core_, faults_, options.kraken);
  } else if (options.dialect == "binance_futures") {
    dialect_ = std::make_unique<BinanceFutures>(core_, faults_, options.futures);
  } else if (options.dialect == "coinbase") {
    dialect_ = std::make_unique<Coinbase>(core_, faults_, options.coinbase);
  } else {
    dialect_ = std::make_unique<BinanceDialect>(core_, faults_, options.binance);
  }
  for (FaultRule& rule : options.faults) faults_.add(std::move(rule));
}

Result<std::unique_ptr<Service>> Service::open(Options options, os::Files& files,
                                               const os::Clock& clock) {
  const std::string path = options.ledger_path;
  const auto deposits = options.deposits;
  std::unique_ptr<Service> service(new Service(std::move(options), clock));
  Core& core = service->core_;
  DEFIB_TRY_ASSIGN(service->ledger_,
                   Ledger::open(files, path, core.options().seed, core.symbols(),
                                [&core](const Event& event) { return core.replay(event); }));
  const bool is_new = core.last_seq() == 0;
  core.start(service->now());
  if (is_new) {
    for (const auto& [asset, amount] : deposits) DEFIB_TRY(core.deposit(asset, amount));
  }
  DEFIB_TRY(service->ledger_->append(core.take_events()));
  return service;
}

bool Service::flush() {
  if (!failed_) failed_ = !ledger_->append(core_.take_events()).has_value();
  return !failed_;
}

bool Service::failed() const {
  const std::lock_guard lock(mutex_);
  return failed_;
}

std::string Service::digest() const {
  const std::lock_guard lock(mutex_);
  return core_.digest();
}

void Service::tick() {
  const std::lock_guard lock(mutex_);
  if (failed_) return;
  core_.advance(now());
  dialect_->tick(now());
  flush();
}

Service::Reply Service::trade(const wire::HttpRequest& request) {
  Reply reply;
  std::unique_ptr<Dialect::Pending> pending;
  std::int64_t delay_ms = 0;
  std::int64_t reply_delay_ms = 0;
  {
    const std::lock_guard lock(mutex_);
    if (failed_) return drop_connection();
    pending = dialect_->receive(request, now());
    delay_ms = pending->delay_ms;
    reply_delay_ms = pending->reply_delay_ms;
    if (delay_ms == 0) reply = dialect_->finish(std::move(pending), now());
    if (!flush()) return drop_connection();
  }
  if (delay_ms > 0) {
    clock_.sleep_for(std::chrono::milliseconds(delay_ms));
    const std::lock_guard lock(mutex_);
    if (failed_) return drop_connection();
    reply = dialect_->finish(std::move(pending), now());
    if (!flush()) return drop_connection();
  }
  if (reply_delay_ms > 0) clock_.sleep_for(std::chrono::milliseconds(reply_delay_ms));
  return reply;
}

// ---- Administration.

Service::Reply Service::administer(const wire::HttpRequest& request) {
  const std::string_view url = request.url;
  const std::string_view path = url.substr(0, url.find('?'));
  Reply reply;
  reply.response.headers = {{"Content-Type", "application/json"}};
  const std::lock_guard lock(mutex_);
  if (failed_) return drop_connection();
  core_.advance(now());
  const Result<Json> answer = administer_locked(request.method, path, request.body);
  if (!flush()) return drop_connection();
  if (answer) {
    reply.response.status = 200;
    reply.response.body = answer->dump();
  } else {
    reply.response.status = answer.error().code() == Code::kNotFound ? 404 : 400;
    reply.response.body = Json::object({{"error", wire::to_json(answer.error())}}).dump();
  }
  return reply;
}

Result<Json> Service::administer_locked(std::string_view method, std::string_view path,
                                        const std::string& body) {
  if (method == "GET" && path == "/paper/state") return state();
  if (path == "/paper/faults") return set_faults(method, body);
  if (method != "POST") {
    return Error(Code::kNotFound, fmt::format("there is no {} {}", method, path));
  }
  DEFIB_TRY_ASSIGN(const Json json, Json::parse(body));
  if (path == "/paper/external-order") return place_external(json);
  return change(path, json);
}

Json Service::state() const {
  Json balances = Json::object();
  for (const auto& [asset, balance] : core_.balances()) {
    balances.set(asset, Json::object({{"free", balance.free.to_string()},
                                      {"locked", balance.locked.to_string()}}));
  }
  Json symbols = Json::array();
  std::uint64_t open = 0;
  for (std::uint32_t index = 0; index < core_.symbols().size(); ++index) {
    open += core_.open_orders(index).size();
    const Book& book = core_.book(index);
    symbols.push(Json::object(
        {{"symbol", core_.symbols()[index].name},
         {"status", to_string(core_.status(index))},
         {"price", core_.reference_price(index).to_string()},
         {"bid", book.best(Side::kBuy).value_or(Decimal()).to_string()},
         {"ask", book.best(Side::kSell).value_or(Decimal()).to_string()},
         {"open_orders", static_cast<std::uint64_t>(core_.open_orders(index).size())}}));
  }
  Json json = Json::object({{"schema", "defib.paper_state/1"}});
  json.set("time", os::format_time(core_.now() * 1000)).set("skew_ms", dialect_->skew_ms());
  json.set("seq", core_.last_seq()).set("seed", core_.options().seed);
  json.set("orders", static_cast<std::uint64_t>(core_.orders().size())).set("open_orders", open);
  json.set("trades", core_.trade_count()).set("used_weight_1m", dialect_->used_weight());
  json.set("balances", std::move(balances)).set("symbols", std::move(symbols));
  return json.set("faults", fault_list()).set("digest", core_.digest());
}

Json Service::fault_list() const {
  Json list = Json::array();
  for (const FaultRule& rule : faults_.rules()) list.push(to_json(rule));
  return list;
}

// GET lists the rules, POST adds (JSON lines), DELETE removes all.
Result<Json> Service::set_faults(std::string_view method, const std::string& body) {
  if (method == "POST") {
    DEFIB_TRY_ASSIGN(std::vector<FaultRule> rules, parse_fault_rules(body));
    if (rules.size() + faults_.rules().size() > kMaxFaultRules) {
      return Error(Code::kLimitExceeded, fmt::format("more than {} fault rules", kMaxFaultRules));
    }
    for (FaultRule& rule : rules) {
      if (!rule.symbol.empty() && !core_.find_symbol(rule.symbol)) {
        return Error(Code::kInvalidArgument, fmt::format("no symbol '{}'", rule.symbol));
      }
    }
    for (FaultRule& rule : rules) faults_.add(std::move(rule));
  } else if (method == "DELETE") {
    faults_.clear();
  } else if (method != "GET") {
    return Error(Code::kNotFound, fmt::format("there is no {} /paper/faults", method));
  }
  return Json::object({{"faults", fault_list()}});
}

Result<std::uint32_t> Service::symbol_of(const Json& body) const {
  DEFIB_TRY_ASSIGN(const std::string name, body.require_string("symbol"));
  const std::optional<std::uint32_t> found = core_.find_symbol(name);
  if (!found) return Error(Code::kInvalidArgument, fmt::format("no symbol '{}'", name));
  return *found;
}

Result<Json> Service::place_external(const Json& body) {
  NewOrder order;
  DEFIB_TRY_ASSIGN(order.symbol, symbol_of(body));
  DEFIB_TRY_ASSIGN(const std::string side, body.require_string("side"));
  const std::optional<Side> parsed = from_string<Side>(side);
  if (!parsed) return Error(Code::kInvalidArgument, "side must be BUY or SELL");
  order.side = *parsed;
  DEFIB_TRY_ASSIGN(order.quantity, decimal_of(body, "quantity"));
  order.type = body.has("price") ? OrderType::kLimit : OrderType::kMarket;
  if (body.has("price")) {
    DEFIB_TRY_ASSIGN(order.price, decimal_of(body, "price"));
  }
  const auto placed = dialect_->place_external(std::move(order));
  if (!placed) {
    return Error(Code::kInvalidArgument, dialect_->text_of(placed.error()));
  }
  const Order& result = *core_.find_order(placed->order_id);
  return Json::object({{"order_id", result.id},
                       {"client_id", result.client_id},
                       {"status", to_string(result.status)}});
}

Result<Json> Service::change(std::string_view path, const Json& body) {
  if (path == "/paper/price") {
    DEFIB_TRY_ASSIGN(const std::uint32_t symbol, symbol_of(body));
    DEFIB_TRY_ASSIGN(const Decimal price, decimal_of(body, "price"));
    DEFIB_TRY(core_.set_price(symbol, price));
  } else if (path == "/paper/halt") {
    DEFIB_TRY_ASSIGN(const std::uint32_t symbol, symbol_of(body));
    const std::string_view name = body.has("status") ? body["status"].as_string() : "HALT";
    const std::optional<SymbolStatus> status = from_string<SymbolStatus>(name);
    if (!status) return Error(Code::kInvalidArgument, "status must be TRADING, HALT or BREAK");
    core_.set_status(symbol, *status);
  } else if (path == "/paper/deposit") {
    DEFIB_TRY_ASSIGN(const std::string asset, body.require_string("asset"));
    DEFIB_TRY_ASSIGN(const Decimal amount, decimal_of(body, "amount"));
    DEFIB_TRY(core_.deposit(asset, amount));
  } else if (path == "/paper/clock") {
    DEFIB_TRY_ASSIGN(const std::int64_t skew_ms, body.require_int("skew_ms"));
    constexpr std::int64_t kDayMs = 86'400'000;
    if (skew_ms < -kDayMs || skew_ms > kDayMs) {
      return Error(Code::kInvalidArgument, "skew_ms must be within a day");
    }
    dialect_->set_skew_ms(skew_ms);
  } else {
    return Error(Code::kNotFound, fmt::format("there is no POST {}", path));
  }
  return Json::object({{"ok", true}});
}

}  // namespace defib::paper
