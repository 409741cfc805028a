"""Bugs of the paper venue: its audit, conditional orders and fees."""

AUDIT = "defib/paper/audit.cc"
CORE = "defib/paper/core.cc"
STATE = "defib/paper/core_state.cc"

BUGS = [
    # What the audit must not let pass.
    ("an order of other terms passes the audit", "AuditTest.FindsAnOrderThatIsNot*", [
        (AUDIT, "order.price == terms.price && terms.filled <= order.executed) {\n",
         "terms.filled <= order.executed) {\n")]),
    ("fills of another order pass the audit", "AuditTest.FindsAnOrderThatIsNot*", [
        (AUDIT, "order.price == terms.price && terms.filled <= order.executed) {\n",
         "order.price == terms.price) {\n")]),
    # Conditional orders and fees.
    ("a trigger fires on the wrong side of its price", "Conditional.EachDirection*", [
        (CORE, "  return trigger.up ? price >= trigger.price : price <= trigger.price;\n",
         "  return trigger.up ? price <= trigger.price : price >= trigger.price;\n")]),
    ("the mark triggers what waits for the last price", "Conditional.TheMark*", [
        (CORE, "  const Decimal price = trigger.by_mark ? markets_[symbol].price : last_price(symbol);\n",
         "  const Decimal price = trigger.by_mark ? last_price(symbol) : markets_[symbol].price;\n")]),
    ("a triggered order that nobody can pay trades", "Conditional.WhatTheAccount*", [
        (CORE, "  if (order.type == OrderType::kMarket && check_balance(now, symbols()[order.symbol])) {\n",
         "  if (order.type == OrderType::kLimitMaker) {\n")]),
    ("after a restart orders rest by their ids", "ConditionalReplay.*", [
        (CORE, "resting.emplace(order.priority, &order);", "resting.emplace(order.id, &order);")]),
    ("a buy holds nothing back for its fees", "Fees.*", [
        (STATE, "  return money + money * order.fee_reserve;\n", "  return money;\n")]),
    ("a halted market triggers", "Conditional.AHalted*", [
        (CORE, "  if (market.status != SymbolStatus::kTrading) return;\n  for (;;) {\n", "  for (;;) {\n")]),
]
