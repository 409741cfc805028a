#include "defib/marketdata/json.h"

#include <fmt/format.h>

#include <charconv>
#include <limits>

#include "defib/marketdata/fields.h"
#include "defib/os/clock.h"
#include "defib/wire/json.h"

namespace defib::marketdata {
namespace {

// Appends `"name":value` pairs to an open object.
class JsonSink {
 public:
  explicit JsonSink(std::string& out) : out_(out) {}

  void price(std::string_view name, std::int64_t value) {
    key(name);
    quoted_or_null(price_text(value));
  }
  void time(std::string_view name, std::uint64_t value) {
    key(name);
    quoted_or_null(time_text(value));
  }
  void character(std::string_view name, char value) {
    key(name);
    if (value == '\0') {
      out_ += "null";
    } else {
      string({&value, 1});
    }
  }
  template <std::size_t N>
  void text(std::string_view name, const std::array<char, N>& value) {
    key(name);
    string(text_of(value));
  }
  template <typename Number>
  void number(std::string_view name, Number value) {
    key(name);
    char buffer[24];
    const auto end = std::to_chars(buffer, buffer + sizeof buffer, value).ptr;
    out_.append(buffer, end);
  }
  template <typename Number>
  void quantity(std::string_view name, Number value) {
    if (value != std::numeric_limits<Number>::max()) return number(name, value);
    key(name);
    out_ += "null";
  }
  void stype(std::string_view name, SType value) {
    key(name);
    const std::string_view known = to_string(value);
    if (known.empty()) {
      out_ += "null";
    } else {
      string(known);
    }
  }
  template <typename Level, std::size_t N>
  void levels(std::string_view name, const std::array<Level, N>& all) {
    key(name);
    out_ += '[';
    for (std::size_t i = 0; i < N; ++i) {
      if (i > 0) out_ += ',';
      out_ += '{';
      first_ = true;
      visit(all[i], *this);
      out_ += '}';
    }
    out_ += ']';
    first_ = false;
  }

  void key(std::string_view name) {
    if (!first_) out_ += ',';
    first_ = false;
    out_ += '"';
    out_ += name;
    out_ += "\":";
  }
  void string(std::string_view value) {
    for (const char c : value) {
      if (c < 0x20 || c == '"' || c == '\\' || c == 0x7f) {
        out_ += wire::Json(value).dump();
        return;
      }
    }
    out_ += '"';
    out_ += value;
    out_ += '"';
  }

 private:
  void quoted_or_null(const std::string& value) {
    if (value.empty()) {
      out_ += "null";
      return;
    }
    out_ += '"';
    out_ += value;
    out_ += '"';
  }

  std::string& out_;
  bool first_ = false;
};

template <typename... Messages>
bool visit_any(const RecordView& record, JsonSink& sink) {
  const auto visit_one = [&]<typename Message>() {
    if (!record.holds<Message>()) return false;
    visit(record.get<Message>(), sink);
    return true;
  };
  return (visit_one.template operator()<Messages>() || ...);
}

}  // namespace

std::string price_text(std::int64_t price) {
  if (price == kUndefPrice) return {};
  // In unsigned numbers, where also the least one has a magnitude.
  const auto bits = static_cast<std::uint64_t>(price);
  const std::uint64_t magnitude = price < 0 ? 0 - bits : bits;
  constexpr std::uint64_t kScale = kPriceScale;
  return fmt::format("{}{}.{:09}", price < 0 ? "-" : "", magnitude / kScale, magnitude % kScale);
}

std::string time_text(std::uint64_t ns) {
  if (ns == kUndefTime) return {};
  if (ns > static_cast<std::uint64_t>(INT64_MAX)) return fmt::format("{}", ns);
  return os::format_time(static_cast<std::int64_t>(ns));
}

void append_json(std::string& out, const RecordView& record, const JsonOptions& options) {
  const RecordHeader header = record.header();
  JsonSink sink(out);
  out += R"({"schema":"defib.dbn_record/1")";
  sink.key("type");
  const std::string_view type = to_string(header.rtype);
  sink.string(type.empty() ? "unknown" : type);
  if (!options.symbol.empty()) {
    sink.key("symbol");
    sink.string(options.symbol);
  }
  out += R"(,"hd":{"ts_event":)";
  const std::string ts_event = time_text(header.ts_event);
  out += ts_event.empty() ? "null" : fmt::format("\"{}\"", ts_event);
  out += fmt::format(R"(,"rtype":{},"publisher_id":{},"instrument_id":{}}})",
                     static_cast<int>(header.rtype), header.publisher_id, header.instrument_id);
  const bool known =
      visit_any<MboMsg, TradeMsg, Mbp1Msg, Mbp10Msg, BboMsg, Cmbp1Msg, CbboMsg, OhlcvMsg, StatusMsg,
                InstrumentDefMsg, InstrumentDefMsgV2, InstrumentDefMsgV1, ImbalanceMsg, StatMsg,
                StatMsgV1, ErrorMsg, ErrorMsgV1, SymbolMappingMsg, SymbolMappingMsgV1, SystemMsg,
                SystemMsgV1>(record, sink);
  if (!known) {
    sink.key("hex");
    sink.string(to_hex(as_bytes(record.bytes().substr(sizeof(RecordHeader)))));
  }
  if (record.has_ts_out()) sink.time("ts_out", record.ts_out());
  out += '}';
}

}  // namespace defib::marketdata
