#include "defib/venue/exec.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <optional>
#include <utility>

#include "defib/os/process.h"
#include "defib/venue/exec_parse.h"
#include "defib/venue/rest.h"

namespace defib::venue {
namespace {

constexpr std::size_t kShown = 200;

std::string_view last_line(std::string_view text) {
  while (text.ends_with('\n') || text.ends_with('\r')) text.remove_suffix(1);
  const std::size_t at = text.find_last_of('\n');
  return at == std::string_view::npos ? text : text.substr(at + 1);
}

// That nothing left must be said: a program that waited in vain for its answer says "unreachable"
// as well.
Code code_of(std::string_view kind, bool changes, bool nothing_sent) {
  if (kind == "unreachable" && changes && !nothing_sent) return Code::kVenueOutcomeUnknown;
  constexpr std::array<std::pair<std::string_view, Code>, 6> kKinds = {{
      {"rejected", Code::kVenueRejected},
      {"unreachable", Code::kVenueUnreachable},
      {"rate_limited", Code::kVenueRateLimited},
      {"auth", Code::kVenueAuthFailed},
      {"clock", Code::kVenueClockSkew},
      {"not_found", Code::kOrderNotFound},
  }};
  for (const auto& [name, code] : kKinds) {
    if (name == kind) return code;
  }
  return changes ? Code::kVenueOutcomeUnknown : Code::kVenueUnreachable;
}

template <typename T>
Result<std::vector<T>> read_list(const wire::Json& json, std::string_view what,
                                 Result<T> (*read)(const wire::Json&)) {
  if (!json.is_array()) return bad_answer(fmt::format("{} are not a list", what));
  std::vector<T> all;
  all.reserve(json.size());
  for (const wire::Json& item : json.items()) {
    DEFIB_TRY_ASSIGN(T one, read(item));
    all.push_back(std::move(one));
  }
  return all;
}

wire::Json request_json(const OrderRequest& request) {
  return wire::Json::object(
      {{"client_id", request.client_id},
       {"symbol", request.symbol},
       {"side", to_string(request.side)},
       {"type", request.type == OrderType::kLimit ? "limit" : "market"},
       {"time_in_force", request.time_in_force == TimeInForce::kGtc ? "gtc" : "ioc"},
       {"quantity", request.quantity.to_string()},
       {"price", request.price.to_string()},
       {"timestamp_ms", request.timestamp_ms},
       {"expires_ms", request.expires_ms}});
}

}  // namespace

Result<wire::Json> ExecVenue::ask(std::string_view verb, const wire::Json& request, bool changes) {
  const Effect effect = changes ? Effect::kOrders : Effect::kNone;
  std::vector<std::string> command = options_.command;
  command.emplace_back(verb);
  command.push_back(request.dump());
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(options_.timeout).count();
  const Result<os::CommandOutput> output = os::run_command(command, static_cast<int>(ms));
  if (verb == "place" && options_.after_exchange) options_.after_exchange();
  if (!output) {
    if (output.error().code() == Code::kTimeout) {
      return no_outcome(effect, options_.name, verb, "the program did not end in time")
          .because(output.error());
    }
    return Error(Code::kVenueBridgeFailed,
                 fmt::format("the program of {} could not be run", options_.name))
        .with("nothing_sent", "true")
        .because(output.error());
  }
  const Result<wire::Json> json = wire::Json::parse(last_line(output->text));
  if (!json || !(*json)["ok"].is_bool()) {
    return no_outcome(effect, options_.name, verb,
                      fmt::format("the program printed no answer ({})", output->status.to_string()))
        .with("output", std::string_view(output->text).substr(0, kShown));
  }
  if ((*json)["ok"].as_bool()) {
    if (json->has("result") || changes) return (*json)["result"];
    return bad_answer(fmt::format("`result` of {} is missing", verb));
  }
  const wire::Json& said = (*json)["error"];
  const std::string_view kind = said["kind"].as_string();
  const bool nothing_sent = said["nothing_sent"].as_bool();
  Error error(code_of(kind, changes, nothing_sent),
              fmt::format("{} said to {}: {}", options_.name, verb, said["message"].as_string()));
  if (nothing_sent) error = std::move(error).with("nothing_sent", "true");
  if (said["duplicate"].as_bool()) error = std::move(error).with("duplicate", "true");
  return error;
}

Result<std::int64_t> ExecVenue::server_time_ms() {
  DEFIB_TRY_ASSIGN(const wire::Json result, ask("time", wire::Json::object(), false));
  if (result.is_whole()) return result.as_int();
  return bad_answer("the time is not a whole number of milliseconds");
}

Result<std::vector<SymbolRules>> ExecVenue::rules() {
  DEFIB_TRY_ASSIGN(const wire::Json result, ask("rules", wire::Json::object(), false));
  return read_list<SymbolRules>(result, "the rules", parse_exec_rules);
}

Result<Quote> ExecVenue::quote(const std::string& symbol) {
  DEFIB_TRY_ASSIGN(const wire::Json result,
                   ask("quote", wire::Json::object({{"symbol", symbol}}), false));
  return parse_exec_quote(result);
}

Result<std::vector<Quote>> ExecVenue::quotes() {
  DEFIB_TRY_ASSIGN(const wire::Json result, ask("quotes", wire::Json::object(), false));
  return read_list<Quote>(result, "the quotes", parse_exec_quote);
}

Result<Order> ExecVenue::place(const OrderRequest& request) {
  const std::string what = "order " + request.client_id;
  DEFIB_TRY_ASSIGN(const wire::Json result, ask("place", request_json(request), true));
  Result<Order> order = parse_exec_order(result);
  if (!order) {
    return no_outcome(Effect::kOrders, options_.name, what, "its answer is unreadable")
        .because(order.error());
  }
  if (order->client_id == request.client_id && order->symbol == request.symbol) return order;
  return no_outcome(
      Effect::kOrders, options_.name, what,
      fmt::format("the answer is about order {} of {}", order->client_id, order->symbol));
}

Result<Order> ExecVenue::cancel(const std::string& symbol, const std::string& client_id) {
  DEFIB_TRY_ASSIGN(
      const wire::Json result,
      ask("cancel", wire::Json::object({{"symbol", symbol}, {"client_id", client_id}}), true));
  Result<Order> order = parse_exec_order(result);
  if (order) return order;
  return no_outcome(Effect::kOrders, options_.name, "the cancel of " + client_id,
                    "its answer is unreadable")
      .because(order.error());
}

Result<> ExecVenue::cancel_all(const std::string& symbol) {
  DEFIB_TRY(ask("cancel_all", wire::Json::object({{"symbol", symbol}}), true));
  return {};
}

Result<Order> ExecVenue::order(const std::string& symbol, const std::string& client_id) {
  DEFIB_TRY_ASSIGN(
      const wire::Json result,
      ask("order", wire::Json::object({{"symbol", symbol}, {"client_id", client_id}}), false));
  return parse_exec_order(result);
}

Result<std::vector<Order>> ExecVenue::open_orders(const std::string& symbol) {
  DEFIB_TRY_ASSIGN(const wire::Json result,
                   ask("open_orders", wire::Json::object({{"symbol", symbol}}), false));
  return read_list<Order>(result, "the open orders", parse_exec_order);
}

Result<std::vector<Balance>> ExecVenue::balances() {
  DEFIB_TRY_ASSIGN(const wire::Json result, ask("balances", wire::Json::object(), false));
  return read_list<Balance>(result, "the balances", parse_exec_balance);
}

Result<std::vector<Fill>> ExecVenue::fills(const std::string& symbol, const std::string& after) {
  DEFIB_TRY_ASSIGN(const wire::Json result,
                   ask("fills", wire::Json::object({{"symbol", symbol}, {"after", after}}), false));
  return read_list<Fill>(result, "the fills", parse_exec_fill);
}

Result<> ExecVenue::test_order(const OrderRequest& request) {
  DEFIB_TRY(ask("test_order", request_json(request), false));
  return {};
}

Result<std::vector<PositionReport>> ExecVenue::positions() {
  if (!options_.positions) return std::vector<PositionReport>();
  DEFIB_TRY_ASSIGN(const wire::Json result, ask("positions", wire::Json::object(), false));
  return read_list<PositionReport>(result, "the positions", parse_exec_position);
}

}  // namespace defib::venue
