#include "defib/paper/ledger.h"

#include <fmt/core.h>

#include <utility>

#include "defib/base/assert.h"
#include "defib/base/bytes.h"
#include "defib/wire/json.h"

namespace defib::paper {
namespace {

using wire::Json;

constexpr std::string_view kSchema = "defib.paper_ledger/1";
constexpr std::string_view kChecksumKey = ",\"crc\":\"";
constexpr std::size_t kChecksumSize = kChecksumKey.size() + 8 + 2;  // ,"crc":"xxxxxxxx"}
constexpr std::size_t kChunk = 1 << 20;
constexpr std::size_t kMaxLine = 64 << 10;

// {"a":1} becomes {"a":1,"crc":"xxxxxxxx"}; the sum is over {"a":1 without the brace.
std::string seal(const Json& json) {
  std::string line = json.dump();
  line.pop_back();
  const std::uint32_t crc = crc32c(line);
  line += fmt::format("{}{:08x}\"}}", kChecksumKey, crc);
  return line;
}

Result<Json> unseal(std::string_view line) {
  if (line.size() < kChecksumSize) return Error(Code::kCorrupted, "the line is too short");
  const std::string_view body = line.substr(0, line.size() - kChecksumSize);
  if (line.substr(body.size()) != fmt::format("{}{:08x}\"}}", kChecksumKey, crc32c(body))) {
    return Error(Code::kCorrupted, "the checksum does not fit the line");
  }
  return Json::parse(line);
}

struct Encoder {
  const std::vector<Symbol>& symbols;
  Json& json;

  void operator()(const Started& started) {
    json.set("event", "start").set("seed", started.seed).set("step_us", started.step_us);
  }
  void operator()(const OrderAccepted& accepted) {
    const Order& order = accepted.order;
    json.set("event", "order").set("outcome", "accepted").set("client_id", order.client_id);
    json.set("order_id", order.id).set("symbol", symbols[order.symbol].name);
    json.set("side", to_string(order.side)).set("type", to_string(order.type));
    json.set("time_in_force", to_string(order.time_in_force));
    json.set("price", order.price.to_string()).set("quantity", order.quantity.to_string());
    json.set("quote_quantity", order.quote_quantity.to_string());
    json.set("origin", to_string(order.origin)).set("visible_us", order.visible_us);
    if (order.trigger) {
      json.set("trigger", order.trigger->price.to_string()).set("trigger_up", order.trigger->up);
      json.set("trigger_by_mark", order.trigger->by_mark);
    }
    if (!order.fee_reserve.is_zero()) json.set("fee_reserve", order.fee_reserve.to_string());
    if (!accepted.fault.empty()) json.set("fault", accepted.fault);
  }
  void operator()(const OrderRefused& refused) {
    json.set("event", "order").set("outcome", to_string(refused.refusal));
    json.set("client_id", refused.client_id).set("code", refused.code);
    json.set("message", refused.message);
    if (!refused.fault.empty()) json.set("fault", refused.fault);
  }
  void operator()(const Filled& filled) {
    const Trade& trade = filled.trade;
    json.set("event", "fill").set("trade_id", trade.id).set("order_id", trade.order_id);
    json.set("symbol", symbols[trade.symbol].name).set("side", to_string(trade.side));
    json.set("maker", trade.maker).set("price", trade.price.to_string());
    json.set("quantity", trade.quantity.to_string()).set("quote", trade.quote.to_string());
    json.set("commission", trade.commission.to_string());
    json.set("commission_asset", trade.commission_asset);
  }
  void operator()(const Triggered& triggered) {
    json.set("event", "trigger").set("order_id", triggered.order_id);
    json.set("price", triggered.price.to_string());
  }
  void operator()(const OrderClosed& closed) {
    json.set("event", "cancel").set("order_id", closed.order_id);
    json.set("status", to_string(closed.status)).set("cancel_id", closed.cancel_id);
  }
  void operator()(const Deposited& deposited) {
    json.set("event", "deposit").set("asset", deposited.asset);
    json.set("amount", deposited.amount.to_string());
  }
  void operator()(const StatusChanged& changed) {
    json.set("event", "status").set("symbol", symbols[changed.symbol].name);
    json.set("status", to_string(changed.status));
  }
  void operator()(const PriceAnchored& anchored) {
    json.set("event", "price").set("symbol", symbols[anchored.symbol].name);
    json.set("step", anchored.step).set("price", anchored.price.to_string());
  }
  void operator()(const FaultFired& fired) {
    json.set("event", "fault").set("rule", fired.rule).set("kind", fired.kind);
    json.set("method", fired.method).set("path", fired.path);
  }
};

// Reads typed members and remembers the first that is missing or malformed.
class Decoder {
 public:
  Decoder(const Json& json, const std::vector<Symbol>& symbols) : json_(json), symbols_(symbols) {}

  std::string text(std::string_view key) {
    if (!json_[key].is_string()) fail(key);
    return std::string(json_[key].as_string());
  }
  std::int64_t integer(std::string_view key) {
    if (!json_[key].is_number()) fail(key);
    return json_[key].as_int();
  }
  std::uint64_t count(std::string_view key) {
    const std::int64_t value = integer(key);
    if (value < 0) fail(key);
    return static_cast<std::uint64_t>(value);
  }
  Decimal decimal(std::string_view key) {
    const Result<Decimal> value = Decimal::parse(json_[key].as_string());
    if (!value) fail(key);
    return value ? *value : Decimal();
  }
  bool flag(std::string_view key) {
    if (!json_[key].is_bool()) fail(key);
    return json_[key].as_bool();
  }
  std::uint32_t symbol() {
    const std::string_view name = json_["symbol"].as_string();
    for (std::uint32_t index = 0; index < symbols_.size(); ++index) {
      if (symbols_[index].name == name) return index;
    }
    fail("symbol");
    return 0;
  }
  template <typename Enum>
  Enum choice(std::string_view key) {
    const std::optional<Enum> value = from_string<Enum>(json_[key].as_string());
    if (!value) fail(key);
    return value.value_or(Enum{});
  }
  void fail(std::string_view key) {
    if (failed_.empty()) failed_ = key;
  }
  const std::string& failed() const { return failed_; }

 private:
  const Json& json_;
  const std::vector<Symbol>& symbols_;
  std::string failed_;
};

OrderAccepted decode_accepted(Decoder& in, const Json& json, Micros at_us) {
  OrderAccepted accepted;
  Order& order = accepted.order;
  order.id = in.count("order_id");
  order.client_id = in.text("client_id");
  order.symbol = in.symbol();
  order.side = in.choice<Side>("side");
  order.type = in.choice<OrderType>("type");
  order.time_in_force = in.choice<TimeInForce>("time_in_force");
  order.price = in.decimal("price");
  order.quantity = in.decimal("quantity");
  order.quote_quantity = in.decimal("quote_quantity");
  order.origin = in.choice<Origin>("origin");
  order.visible_us = in.integer("visible_us");
  if (json.has("trigger")) {
    order.trigger =
        Trigger{in.decimal("trigger"), in.flag("trigger_up"), in.flag("trigger_by_mark")};
    order.waits = true;
  }
  if (json.has("fee_reserve")) order.fee_reserve = in.decimal("fee_reserve");
  order.created_us = order.updated_us = at_us;
  accepted.fault = json["fault"].as_string();
  return accepted;
}

OrderRefused decode_refused(Decoder& in, const Json& json) {
  return {in.text("client_id"), in.choice<Refusal>("outcome"), static_cast<int>(in.integer("code")),
          in.text("message"), std::string(json["fault"].as_string())};
}

Filled decode_filled(Decoder& in, Micros at_us) {
  Trade trade;
  trade.id = in.count("trade_id");
  trade.order_id = in.count("order_id");
  trade.symbol = in.symbol();
  trade.side = in.choice<Side>("side");
  trade.maker = in.flag("maker");
  trade.price = in.decimal("price");
  trade.quantity = in.decimal("quantity");
  trade.quote = in.decimal("quote");
  trade.commission = in.decimal("commission");
  trade.commission_asset = in.text("commission_asset");
  trade.time_us = at_us;
  return {trade};
}

void decode_body(Decoder& in, const Json& json, Event& event) {
  const std::string_view kind = json["event"].as_string();
  if (kind == "order" && json["outcome"].as_string() == "accepted") {
    event.body = decode_accepted(in, json, event.at_us);
  } else if (kind == "order") {
    event.body = decode_refused(in, json);
  } else if (kind == "fill") {
    event.body = decode_filled(in, event.at_us);
  } else if (kind == "trigger") {
    event.body = Triggered{in.count("order_id"), in.decimal("price")};
  } else if (kind == "cancel") {
    event.body =
        OrderClosed{in.count("order_id"), in.choice<OrderStatus>("status"), in.text("cancel_id")};
  } else if (kind == "deposit") {
    event.body = Deposited{in.text("asset"), in.decimal("amount")};
  } else if (kind == "status") {
    event.body = StatusChanged{in.symbol(), in.choice<SymbolStatus>("status")};
  } else if (kind == "price") {
    event.body = PriceAnchored{in.symbol(), in.count("step"), in.decimal("price")};
  } else if (kind == "fault") {
    event.body = FaultFired{in.text("rule"), in.text("kind"), in.text("method"), in.text("path")};
  } else if (kind == "start") {
    event.body = Started{in.count("seed"), in.integer("step_us")};
  } else {
    in.fail("event");
  }
}

Result<std::uint64_t> decode_head(std::string_view line) {
  DEFIB_TRY_ASSIGN(const Json json, unseal(line));
  if (json["schema"].as_string() != kSchema) {
    return Error(Code::kCorrupted,
                 fmt::format("the file is not a paper venue's ledger ({})", kSchema));
  }
  DEFIB_TRY_ASSIGN(const std::int64_t seed, json.require_int("seed"));
  return static_cast<std::uint64_t>(seed);
}

Error damaged(std::uint64_t line, Error cause) {
  return Error(Code::kCorrupted, fmt::format("line {} of the ledger is damaged", line))
      .with("line", static_cast<std::int64_t>(line))
      .because(std::move(cause));
}

// Collects lines into batches and hands out complete ones.
class BatchReader {
 public:
  BatchReader(const std::vector<Symbol>& symbols, const std::function<Result<>(const Event&)>& each,
              std::optional<std::uint64_t> seed)
      : symbols_(symbols), each_(each), wanted_seed_(seed) {}

  Result<> line(std::string_view text) {
    const std::uint64_t number = ++lines_;
    bytes_ += text.size() + 1;
    if (number == 1) {
      Result<std::uint64_t> seed = decode_head(text);
      if (!seed) return damaged(number, seed.error());
      head_.seed = *seed;
      complete();
      if (!wanted_seed_ || *wanted_seed_ == *seed) return {};
      return Error(Code::kInvalidArgument,
                   fmt::format("the ledger was made with seed {}, not {}", *seed, *wanted_seed_))
          .suggest("start the venue with that seed, or choose another ledger");
    }
    Result<DecodedEvent> decoded = decode_event(text, symbols_);
    if (!decoded) return damaged(number, decoded.error());
    batch_.push_back(std::move(decoded->event));
    if (decoded->more) return {};
    for (const Event& event : batch_) DEFIB_TRY(each_(event));
    batch_.clear();
    complete();
    return {};
  }
  LedgerHead finish(std::uint64_t file_size) {
    head_.torn_bytes = file_size - head_.good_bytes;
    return head_;
  }

 private:
  void complete() {
    head_.lines = lines_;
    head_.good_bytes = bytes_;
  }
  const std::vector<Symbol>& symbols_;
  const std::function<Result<>(const Event&)>& each_;
  std::optional<std::uint64_t> wanted_seed_;
  std::vector<Event> batch_;
  LedgerHead head_;
  std::uint64_t lines_ = 0;
  std::uint64_t bytes_ = 0;
};

}  // namespace

std::string encode_event(const Event& event, const std::vector<Symbol>& symbols, bool more) {
  Json json = Json::object();
  json.set("seq", event.seq).set("at_us", event.at_us);
  std::visit(Encoder{symbols, json}, event.body);
  if (more) json.set("more", true);
  return seal(json);
}

Result<DecodedEvent> decode_event(std::string_view line, const std::vector<Symbol>& symbols) {
  DEFIB_TRY_ASSIGN(const Json json, unseal(line));
  DecodedEvent decoded;
  Decoder in(json, symbols);
  decoded.event.seq = in.count("seq");
  decoded.event.at_us = in.integer("at_us");
  decoded.more = json["more"].as_bool();
  decode_body(in, json, decoded.event);
  if (!in.failed().empty()) {
    return Error(Code::kCorrupted, fmt::format("member '{}' is missing or malformed", in.failed()));
  }
  return decoded;
}

Result<LedgerHead> read_ledger(os::File& file, const std::vector<Symbol>& symbols,
                               const std::function<Result<>(const Event&)>& each,
                               std::optional<std::uint64_t> seed) {
  DEFIB_TRY_ASSIGN(const std::uint64_t size, file.size());
  BatchReader reader(symbols, each, seed);
  std::string pending;
  std::string chunk(kChunk, '\0');
  std::uint64_t offset = 0;
  while (offset < size) {
    DEFIB_TRY_ASSIGN(const std::size_t got, file.read_at(offset, chunk.data(), chunk.size()));
    if (got == 0) break;
    offset += got;
    pending.append(chunk, 0, got);
    std::size_t begin = 0;
    for (std::size_t end = pending.find('\n'); end != std::string::npos;
         end = pending.find('\n', begin)) {
      DEFIB_TRY(reader.line(std::string_view(pending).substr(begin, end - begin)));
      begin = end + 1;
    }
    pending.erase(0, begin);
    if (pending.size() > kMaxLine) {
      return Error(Code::kCorrupted, "the ledger has a line without end; it is not a ledger");
    }
  }
  return reader.finish(size);
}

Result<std::unique_ptr<Ledger>> Ledger::open(os::Files& files, const std::string& path,
                                             std::uint64_t seed, const std::vector<Symbol>& symbols,
                                             const std::function<Result<>(const Event&)>& replay) {
  DEFIB_TRY_ASSIGN(std::unique_ptr<os::File> file, files.open(path, os::OpenMode::kCreate));
  DEFIB_TRY(file->try_lock());
  DEFIB_TRY_ASSIGN(const LedgerHead head, read_ledger(*file, symbols, replay, seed));
  if (head.torn_bytes > 0) DEFIB_TRY(file->truncate(head.good_bytes));
  std::uint64_t size = head.good_bytes;
  if (head.lines == 0) {
    const std::string line = seal(Json::object({{"schema", kSchema}, {"seed", seed}})) + "\n";
    DEFIB_TRY(file->write_at(0, line));
    size = line.size();
  }
  return std::unique_ptr<Ledger>(new Ledger(std::move(file), symbols, size));
}

Result<> Ledger::append(const std::vector<Event>& events) {
  if (failed_) return *failed_;
  if (events.empty()) return {};
  lines_.clear();
  for (std::size_t i = 0; i < events.size(); ++i) {
    lines_ += encode_event(events[i], symbols_, i + 1 < events.size());
    lines_ += '\n';
  }
  if (Result<> written = file_->write_at(size_, lines_); !written) {
    failed_ = written.error();
    return *failed_;
  }
  size_ += lines_.size();
  return {};
}

}  // namespace defib::paper
