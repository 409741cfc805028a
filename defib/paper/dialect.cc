#include "defib/paper/dialect.h"

#include <fmt/core.h>

#include <algorithm>

namespace defib::paper {

std::unique_ptr<Dialect::Pending> FaultedDialect::receive(const wire::HttpRequest& request,
                                                          Micros now) {
  core_.advance(now);
  tick(now);
  auto pending = std::make_unique<Pending>();
  pending->request = request;
  const std::string_view url = request.url;
  const std::size_t question = std::min(url.find('?'), url.size());
  pending->path = url.substr(0, question);
  pending->query = url.substr(std::min(question + 1, url.size()));
  recognize(*pending);
  pending->faults = faults_.match(request.method, pending->path);
  for (const FaultRule& rule : pending->faults) {
    core_.record(
        FaultFired{rule.name, std::string(to_string(rule.kind)), request.method, pending->path});
    if (!pending->fault_names.empty()) pending->fault_names += ',';
    pending->fault_names += to_string(rule.kind);
    if (rule.kind == FaultKind::kVisibilityLag) pending->lag_ms += rule.lag_ms;
  }
  apply_standing_faults(core_, pending->faults, skew_us_);
  if (answer_by_fault(*pending)) return pending;
  pending->early = admit(*pending, now);
  if (pending->early) refuse(*pending, Refusal::kRejected, "not admitted");
  return pending;
}

Dialect::Reply FaultedDialect::finish(std::unique_ptr<Dialect::Pending> any, Micros now) {
  auto& pending = static_cast<Pending&>(*any);
  core_.advance(now);
  tick(now);
  Reply reply = pending.early ? std::move(*pending.early) : execute(pending, now);
  constexpr std::string_view kGarbage = "<html><head><title>Welcome</title></head>{\"result\":";
  spoil_reply(
      pending.faults, kGarbage, [this](const FaultRule& rule) { return fault_reply(rule); }, reply);
  return reply;
}

std::expected<Core::Placed, Reject> FaultedDialect::place_external(NewOrder order) {
  return place_by_owner(core_, std::move(order));
}

void FaultedDialect::refuse(const Pending& pending, Refusal kind, std::string_view message) {
  if (!pending.places) return;
  core_.record(OrderRefused{pending.client_id, kind, 0, std::string(message), pending.fault_names});
}

// Faults that answer (or do not answer) in place of the venue. Delays are noted on the way.
bool FaultedDialect::answer_by_fault(Pending& pending) {
  for (const FaultRule& rule : pending.faults) {
    switch (rule.kind) {
      case FaultKind::kDropRequest:
        refuse(pending, Refusal::kDropped, "the request was dropped");
        pending.early.emplace();
        pending.early->response.status = 503;
        pending.early->delivery = wire::HttpServer::Delivery::kDropConnection;
        return true;
      case FaultKind::kRateLimit:
      case FaultKind::kBan:
        refuse(pending, Refusal::kRejected, "too many requests");
        pending.early = fault_reply(rule);
        return true;
      case FaultKind::kServerError:
      case FaultKind::kTimeout:
        if (rule.accepted) break;
        refuse(pending, Refusal::kDropped, "lost inside of the venue");
        pending.early = fault_reply(rule);
        return true;
      case FaultKind::kDelayRequest:
        pending.delay_ms += rule.delay_ms;
        break;
      case FaultKind::kDelayReply:
        pending.reply_delay_ms += rule.delay_ms;
        break;
      default:
        break;
    }
  }
  return false;
}

std::expected<Core::Placed, Reject> place_by_owner(Core& core, NewOrder order) {
  order.origin = Origin::kExternal;
  order.client_id = fmt::format("web_{}", core.orders().size() + 1);
  return core.place(order);
}

void apply_standing_faults(Core& core, std::span<const FaultRule> faults, Micros& skew_us) {
  for (const FaultRule& rule : faults) {
    const std::optional<std::uint32_t> symbol = core.find_symbol(rule.symbol);
    if (rule.kind == FaultKind::kClockSkew) skew_us = rule.skew_ms * 1000;
    if (rule.kind == FaultKind::kHalt && symbol) core.set_status(*symbol, rule.symbol_status);
    if (rule.kind == FaultKind::kExternalOrder && symbol) {
      NewOrder order;
      order.symbol = *symbol;
      order.side = rule.side;
      order.type = rule.price.is_zero() ? OrderType::kMarket : OrderType::kLimit;
      order.price = rule.price;
      order.quantity = rule.quantity;
      // What the filters or the balance refuse does not happen, as in the user interface.
      [[maybe_unused]] const auto placed = place_by_owner(core, std::move(order));
    }
  }
}

std::string with_unknown_fields(std::string_view json) {
  constexpr std::string_view kMembers = "\"x-new\":[null,1.5e3],\"x-more\":\"\"";
  std::string result;
  bool in_string = false;
  for (std::size_t i = 0; i < json.size(); ++i) {
    const char c = json[i];
    result += c;
    if (in_string && c == '\\' && i + 1 < json.size()) {
      result += json[++i];
    } else if (c == '"') {
      in_string = !in_string;
    } else if (c == '{' && !in_string) {
      result += kMembers;
      if (i + 1 < json.size() && json[i + 1] != '}') result += ',';
    }
  }
  return result;
}

void spoil_reply(std::span<const FaultRule> faults, std::string_view garbage,
                 const std::function<Dialect::Reply(const FaultRule&)>& fault_reply,
                 Dialect::Reply& reply) {
  for (const FaultRule& rule : faults) {
    switch (rule.kind) {
      case FaultKind::kDropReply:
        reply.delivery = wire::HttpServer::Delivery::kDropConnection;
        break;
      case FaultKind::kCutReply:
        reply.delivery = wire::HttpServer::Delivery::kCutBody;
        break;
      case FaultKind::kGarbageReply:
        reply.response.body = garbage;
        break;
      case FaultKind::kUnknownFields:
        reply.response.body = with_unknown_fields(reply.response.body);
        break;
      case FaultKind::kServerError:
      case FaultKind::kTimeout:
        if (rule.accepted) reply = fault_reply(rule);
        break;
      default:
        break;
    }
  }
}

}  // namespace defib::paper
