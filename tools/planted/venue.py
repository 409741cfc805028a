"""Bugs of the adapters: what an answer means, and what travels."""

COINBASE = "defib/venue/coinbase.cc"
KRAKEN = "defib/venue/kraken.cc"
LISTS = "defib/venue/lists.cc"
EXEC = "defib/venue/exec.cc"
BUDGET = "defib/venue/rate_budget.cc"

BUGS = [
    ("a venue that is unavailable is taken for a refusal", "Kraken.OnlyAnError*", [
        (KRAKEN, '"EOrder:", "EGeneral:", "ETrade:",', '"EOrder:", "EService:", "ETrade:",')]),
    ("an error that nobody knows is a refusal", "Kraken.OnlyAnError*", [
        (KRAKEN, "  return Meaning::kUnknownOutcome;\n}\n", "  return Meaning::kRejected;\n}\n")]),
    ("an internal error of a part that refuses is a refusal", "Kraken.OnlyAnError*", [
        (KRAKEN, '  if (text.find("nternal error") != std::string_view::npos) return Meaning::kUnknownOutcome;\n', "")]),
    ("a program that waited in vain sent nothing", "Exec.OnlyItsWord*", [
        (EXEC, '  if (kind == "unreachable" && changes && !nothing_sent) return Code::kVenueOutcomeUnknown;\n', "")]),
    ("the average of the fills is taken for the limit", "Kraken.OrdersAndTrades*", [
        (LISTS, '"descr", "closetm", "cl_ord_id"};', '"descr", "closetm", "cl_ord_id", "price"};'),
        (LISTS, "  static constexpr std::array<std::string_view, 8> kNames = {", "  static constexpr std::array<std::string_view, 9> kNames = {"),
        (LISTS, "  Names<8> names_{kNames};", "  Names<9> names_{kNames};"),
        (LISTS, "          order.client_id = members.optional_text(value, name);\n          return;\n        default:\n          return;\n      }\n    });\n    if (!whole) return bad_answer(",
         "          order.client_id = members.optional_text(value, name);\n          return;\n        case 8:\n          average = members.text(value, name);\n          return;\n        default:\n          return;\n      }\n    });\n    if (!average.empty()) terms_.price = average;\n    if (!whole) return bad_answer("),
        (LISTS, "    std::string_view status;\n    std::int64_t ended_ms = 0;\n", "    std::string_view status, average;\n    std::int64_t ended_ms = 0;\n")]),
    ("the history is walked once a symbol", "Kraken.OneWalk*", [
        ("defib/venue/venue.h", "  virtual Result<std::vector<Fill>> fills_of(", "  Result<std::vector<Fill>> fills_of("),
        ("defib/venue/kraken.h", "fills_of(const std::map<std::string, FillsFrom>& from) override;", "all_fills(const std::map<std::string, FillsFrom>& from);"),
        (KRAKEN, "KrakenVenue::fills_of(const", "KrakenVenue::all_fills(const"),
        (KRAKEN, "  return fills_of({{symbol, {after}}});", "  return all_fills({{symbol, {after}}});")]),
    ("a stop order's trigger is forgotten", "BinanceParser.AStopOrder*", [
        (LISTS, "      order.price = trigger;\n      order.market_at_trigger = true;\n", "")]),
    ("an error behind the list of orders is not seen", "Kraken.AWarning*", [
        (LISTS, "!body.at_end() || !accepted_ || !listed_ || cut_", "!body.at_end() || !listed_ || cut_")]),
    ("a nonce goes down with the clock", "Kraken.TheNonceNever*", [
        (KRAKEN, "  last_nonce = std::max(last_nonce + 1, wall);\n", "  last_nonce = wall;\n")]),
    ("a walk through the history ends at its beginning only", "Kraken.AWalkEnds*", [
        (KRAKEN, "return oldest_ms < from.at(symbol).since_ms;", "return symbol.empty() && oldest_ms < 0;")]),
    ("trades of before the baseline are told", "Kraken.AWalkEnds*", [
        (KRAKEN, "(first.after.empty() && trade.fill.time_ms < first.since_ms)", "false")]),
    ("a throttle is forgotten", "Kraken.AfterAThrottle*", [
        (KRAKEN, "  if (blocked_until != 0 && left > 0) {\n",
         "  if (blocked_until != 0 && left > INT64_MAX / 2) {\n")]),
    ("two orders for one id pass", "Kraken.TwoOrders*", [
        (KRAKEN, "  if (ids.size() > 1) {\n", "  if (ids.size() > 1'000) {\n")]),
    ("a program that fails has refused the order", "Exec.OnlyItsWord*", [
        (EXEC, "  return changes ? Code::kVenueOutcomeUnknown : Code::kVenueUnreachable;\n",
         "  return changes ? Code::kVenueRejected : Code::kVenueUnreachable;\n")]),
    ("reading runs into the venue's limit", "Kraken.ReadingWaits*:RateBudgetTest.*", [
        (BUDGET, "  count.used_micro[0] += cost * kMicro;\n", "")]),
    ("the count of the limit dies with its process", "RateBudgetTest.OutlivesItsProcess*", [
        (BUDGET, "  if (!file_->write_at(0, bytes)) file_.reset();\n", "  if (bytes.empty()) return;\n")]),
    ("an emergency waits for room in the budget", "Kraken.ACancelOfEverything*", [
        (KRAKEN, ".urgent = urgent}", ".urgent = urgent && options.margin}")]),
    ("symbols are cancelled one reading each", "Kraken.ACancelOfEverything*", [
        (KRAKEN, "  return impl_->cancel_open([&](const std::string& of) {\n",
         "  if (symbols.size() > 1) return Venue::cancel_all_of(symbols);\n  return impl_->cancel_open([&](const std::string& of) {\n")]),
    ("an order that waits to be accepted is not open", "Coinbase.EveryLive*", [
        (COINBASE, "  for (auto& [id, order] : waiting) all.push_back(std::move(order));\n", "")]),
    ("a window is given anew as a whole", "RateBudgetTest.NoWindowHolds*", [
        (BUDGET, "    std::fill_n(used.begin(), shift, 0);\n", "    used.fill(0);\n")]),
    ("whole seconds are taken for the venue's time", "Kraken.TheClockIsKnown*", [
        (KRAKEN, "  least_offset_ns = std::max(least_offset_ns, least);\n"
                 "  most_offset_ns = std::min(most_offset_ns, most);\n",
         "  least_offset_ns = least;\n  most_offset_ns = most;\n")]),
]
