#include "defib/marketdata/historical.h"

#include <fmt/format.h>
#include <stdlib.h>

#include <algorithm>

#include "defib/marketdata/gateway.h"

namespace defib::marketdata {
namespace {

Error invalid(std::string message) {
  return Error(Code::kInvalidArgument, std::move(message));
}

Error bad_answer(std::string_view method, std::string_view expected) {
  return Error(Code::kMarketDataBadAnswer,
               fmt::format("{}: the answer is not {}", method, expected))
      .with("method", method);
}

bool is_loopback(std::string_view host) {
  return host == "localhost" || host == "[::1]" ||
         (host.starts_with("127.") && host.find_first_not_of("0123456789.") == host.npos);
}

// "https://host[:port]", or "http://" and a loopback address.
Result<> check_gateway(std::string_view url) {
  const bool is_plain = url.starts_with("http://");
  if (!is_plain && !url.starts_with("https://")) {
    return invalid(fmt::format("the gateway '{}' is no https:// address", url));
  }
  std::string_view host = url.substr(url.find("//") + 2);
  if (host.empty() || host.find_first_of("/?#@ ") != std::string_view::npos) {
    return invalid("the gateway is more than https://HOST[:PORT]");
  }
  const std::size_t port = host.rfind(':');
  if (port != std::string_view::npos && host.find(']', port) == std::string_view::npos) {
    host = host.substr(0, port);
  }
  if (is_plain && !is_loopback(host)) {
    return invalid(fmt::format("the gateway '{}' would get the key in clear", url))
        .suggest("write https://; http:// is for loopback addresses");
  }
  return {};
}

Result<> check_key(std::string_view key) {
  if (key.empty()) {
    return invalid("there is no API key")
        .suggest(fmt::format("set {}, or give the builder a key", HistoricalApi::kKeyVariable));
  }
  const auto is_fine = [](char c) { return c > 0x20 && c < 0x7f && c != ':'; };
  if (key.size() > 256 || !std::ranges::all_of(key, is_fine)) {
    return invalid("the API key has characters that no key has");  // and is not shown
  }
  return {};
}

void add(Parameters& parameters, std::string_view name, std::string_view value) {
  if (!value.empty()) parameters.emplace_back(name, value);
}

Result<std::string> join_symbols(const std::vector<std::string>& symbols) {
  if (symbols.empty()) return std::string("ALL_SYMBOLS");
  if (symbols.size() > HistoricalApi::kMaxSymbols) {
    return invalid(fmt::format("{} symbols in one request; {} are possible", symbols.size(),
                               HistoricalApi::kMaxSymbols));
  }
  std::string joined;
  for (const std::string& symbol : symbols) {
    if (symbol.empty() || symbol.find(',') != std::string::npos) {
      return invalid(fmt::format("'{}' is no symbol", symbol));
    }
    if (!joined.empty()) joined += ',';
    joined += symbol;
  }
  return joined;
}

Result<std::vector<std::string>> texts_of(const wire::Json& json, std::string_view method) {
  if (!json.is_array()) return bad_answer(method, "a list of texts");
  std::vector<std::string> texts;
  for (const wire::Json& item : json.items()) {
    if (!item.is_string()) return bad_answer(method, "a list of texts");
    texts.emplace_back(item.as_string());
  }
  return texts;
}

std::vector<std::string> warnings_of(const wire::HttpResponse& head) {
  std::vector<std::string> warnings;
  const auto json = wire::Json::parse(head.header("X-Warning"));
  if (!json) return warnings;
  for (const wire::Json& item : json->items()) warnings.emplace_back(item.as_string());
  return warnings;
}

// One stream of records, from the parts of an answer to the caller.
class Delivery {
 public:
  Delivery(DecoderOptions options, const HistoricalApi::OnRecord& on_record,
           const HistoricalApi::OnMetadata& on_metadata)
      : decoder_(options), on_record_(on_record), on_metadata_(on_metadata) {}

  // False: no more parts are wanted.
  bool take(std::string_view part) {
    if (auto fed = decoder_.feed(part); !fed) {
      error_ = fed.error();
      return false;
    }
    const Result<bool> drained = decoder_.drain([this](const RecordView& record) {
      tell_metadata();
      end_.last_ts_event = record.ts_event();
      ++end_.records;
      return on_record_(record);
    });
    if (!drained) {
      error_ = drained.error();
      return false;
    }
    tell_metadata();
    end_.stopped = !*drained;
    return *drained;
  }

  // When the answer is over, and whole as far as HTTP knows.
  void finish() {
    if (error_ || end_.stopped) return;
    if (auto whole = decoder_.finish(); !whole) error_ = whole.error();
  }
  void fail(const Error& error) {
    if (!error_) error_ = error;
  }

  const std::optional<Error>& error() const { return error_; }
  RangeEnd& end() { return end_; }
  bool has_begun() const { return told_; }

 private:
  // Before the first record, and also where there are none.
  void tell_metadata() {
    if (told_ || decoder_.metadata() == nullptr) return;
    told_ = true;
    if (on_metadata_) on_metadata_(*decoder_.metadata());
  }

  Decoder decoder_;
  const HistoricalApi::OnRecord& on_record_;
  const HistoricalApi::OnMetadata& on_metadata_;
  RangeEnd end_;
  std::optional<Error> error_;
  bool told_ = false;
};

constexpr std::string_view kGetRange = "timeseries.get_range";

}  // namespace

struct HistoricalApi::Impl {
  Gateway gateway;
  std::string dataset;
  HistoricalLimits limits;
  UpgradePolicy upgrade;

  Result<std::string> dataset_of(std::string_view own) const {
    const std::string_view chosen = own.empty() ? std::string_view(dataset) : own;
    if (chosen.empty()) return invalid("no dataset is named, such as GLBX.MDP3");
    return std::string(chosen);
  }

  Result<Parameters> parameters_of(const RangeQuery& query) const {
    DEFIB_TRY_ASSIGN(const std::string chosen, dataset_of(query.dataset));
    DEFIB_TRY_ASSIGN(const std::string symbols, join_symbols(query.symbols));
    if (query.start.empty()) return invalid("the query has no start");
    const std::string_view schema = to_string(query.schema);
    if (schema.empty()) return invalid("the query has no schema");
    Parameters parameters = {{"dataset", chosen},
                             {"schema", std::string(schema)},
                             {"symbols", symbols},
                             {"start", query.start}};
    add(parameters, "end", query.end);
    add(parameters, "stype_in", to_string(query.stype_in));
    if (query.limit > 0) add(parameters, "limit", std::to_string(query.limit));
    return parameters;
  }

  Result<std::uint64_t> count(std::string_view method, const RangeQuery& query) {
    DEFIB_TRY_ASSIGN(const Parameters parameters, parameters_of(query));
    DEFIB_TRY_ASSIGN(const wire::Json json, gateway.post(method, parameters));
    if (!json.is_whole() || (json.as_int(0) < 0)) return bad_answer(method, "a count");
    return json.as_uint();
  }
};

HistoricalApi::HistoricalApi(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HistoricalApi::~HistoricalApi() = default;
HistoricalApi::HistoricalApi(HistoricalApi&&) noexcept = default;
HistoricalApi& HistoricalApi::operator=(HistoricalApi&&) noexcept = default;

using Builder = HistoricalApi::Builder;

Builder& Builder::key(std::string key) {
  key_ = std::move(key);
  return *this;
}
Builder& Builder::key_from_env() {
  const char* value = ::getenv(std::string(kKeyVariable).c_str());
  key_ = value == nullptr ? "" : value;
  return *this;
}
Builder& Builder::dataset(std::string dataset) {
  dataset_ = std::move(dataset);
  return *this;
}
Builder& Builder::gateway(std::string gateway) {
  gateway_ = std::move(gateway);
  return *this;
}
Builder& Builder::limits(HistoricalLimits limits) {
  limits_ = limits;
  return *this;
}
Builder& Builder::upgrade(UpgradePolicy policy) {
  upgrade_ = policy;
  return *this;
}
Builder& Builder::ca_file(std::string path) {
  ca_file_ = std::move(path);
  return *this;
}

Result<HistoricalApi> Builder::build() const {
  DEFIB_TRY(check_key(key_));
  std::string url = gateway_;
  if (url.ends_with('/')) url.pop_back();
  DEFIB_TRY(check_gateway(url));
  return HistoricalApi(std::unique_ptr<Impl>(
      new Impl{Gateway({url, key_, ca_file_, limits_}), dataset_, limits_, upgrade_}));
}

Result<RangeEnd> HistoricalApi::get_range(const RangeQuery& query, const OnRecord& on_record,
                                          const OnMetadata& on_metadata, const OnPause& on_pause) {
  DEFIB_TRY_ASSIGN(Parameters parameters, impl_->parameters_of(query));
  add(parameters, "stype_out", to_string(query.stype_out));
  add(parameters, "encoding", "dbn");
  add(parameters, "compression", "zstd");
  DecoderOptions options;
  options.upgrade = impl_->upgrade;
  options.max_metadata_size = impl_->limits.max_metadata_size;
  options.max_window_log = impl_->limits.max_window_log;
  options.max_size = impl_->limits.max_stream;
  Delivery delivery(options, on_record, on_metadata);
  bool has_parts = false;
  const auto answer = impl_->gateway.stream(
      kGetRange, parameters, [&](const wire::HttpResponse& head, std::string_view part) {
        if (!has_parts) delivery.end().warnings = warnings_of(head);
        has_parts = true;
        const bool more = delivery.take(part);
        if (more && on_pause) on_pause();
        return more;
      });
  if (!answer && (!has_parts || answer.error().code() == Code::kCallbackThrew)) {
    return answer.error();
  }
  if (!answer) delivery.fail(answer.error());
  delivery.finish();
  RangeEnd& end = delivery.end();
  if (!delivery.error()) return std::move(end);
  const Code why = delivery.error()->code();
  const bool is_other_content = why == Code::kDbnMalformed || why == Code::kDbnUnsupported;
  if (!delivery.has_begun() && is_other_content) {
    return bad_answer(kGetRange, "DBN").because(*delivery.error());
  }
  Error broken =
      Error(Code::kMarketDataStreamBroken,
            fmt::format("{}: the stream broke off after {} records", kGetRange, end.records))
          .with("method", kGetRange)
          .with("records", static_cast<std::int64_t>(end.records));
  if (end.last_ts_event != kUndefTime) {
    broken = std::move(broken).with("last_ts_event", std::to_string(end.last_ts_event));
  }
  return std::move(broken).because(*delivery.error());
}

Result<std::vector<Publisher>> HistoricalApi::list_publishers() {
  constexpr std::string_view kMethod = "metadata.list_publishers";
  DEFIB_TRY_ASSIGN(const wire::Json json, impl_->gateway.get(kMethod, {}));
  if (!json.is_array()) return bad_answer(kMethod, "a list of publishers");
  std::vector<Publisher> publishers;
  for (const wire::Json& item : json.items()) {
    const std::int64_t id = item["publisher_id"].as_int(-1);
    if (id < 0 || id > UINT16_MAX) return bad_answer(kMethod, "a list of publishers");
    publishers.push_back({static_cast<std::uint16_t>(id), std::string(item["dataset"].as_string()),
                          std::string(item["venue"].as_string()),
                          std::string(item["description"].as_string())});
  }
  return publishers;
}

Result<std::vector<std::string>> HistoricalApi::list_datasets(std::string_view start_date,
                                                              std::string_view end_date) {
  constexpr std::string_view kMethod = "metadata.list_datasets";
  Parameters parameters;
  add(parameters, "start_date", start_date);
  add(parameters, "end_date", end_date);
  DEFIB_TRY_ASSIGN(const wire::Json json, impl_->gateway.get(kMethod, parameters));
  return texts_of(json, kMethod);
}

Result<std::vector<std::string>> HistoricalApi::list_schemas(std::string_view dataset) {
  constexpr std::string_view kMethod = "metadata.list_schemas";
  DEFIB_TRY_ASSIGN(const std::string chosen, impl_->dataset_of(dataset));
  DEFIB_TRY_ASSIGN(const wire::Json json, impl_->gateway.get(kMethod, {{"dataset", chosen}}));
  return texts_of(json, kMethod);
}

Result<std::vector<std::pair<std::string, std::string>>> HistoricalApi::list_fields(Schema schema) {
  constexpr std::string_view kMethod = "metadata.list_fields";
  const Parameters parameters = {{"schema", std::string(to_string(schema))}, {"encoding", "dbn"}};
  DEFIB_TRY_ASSIGN(const wire::Json json, impl_->gateway.get(kMethod, parameters));
  if (!json.is_array()) return bad_answer(kMethod, "a list of fields");
  std::vector<std::pair<std::string, std::string>> fields;
  for (const wire::Json& item : json.items()) {
    fields.emplace_back(item["name"].as_string(), item["type"].as_string());
  }
  return fields;
}

Result<wire::Json> HistoricalApi::list_unit_prices(std::string_view dataset) {
  DEFIB_TRY_ASSIGN(const std::string chosen, impl_->dataset_of(dataset));
  return impl_->gateway.get("metadata.list_unit_prices", {{"dataset", chosen}});
}

Result<DatasetRange> HistoricalApi::get_dataset_range(std::string_view dataset) {
  constexpr std::string_view kMethod = "metadata.get_dataset_range";
  DEFIB_TRY_ASSIGN(const std::string chosen, impl_->dataset_of(dataset));
  DEFIB_TRY_ASSIGN(const wire::Json json, impl_->gateway.get(kMethod, {{"dataset", chosen}}));
  if (!json["start"].is_string() || !json["end"].is_string()) {
    return bad_answer(kMethod, "a range with a start and an end");
  }
  return DatasetRange{std::string(json["start"].as_string()), std::string(json["end"].as_string())};
}

Result<std::vector<DayCondition>> HistoricalApi::get_dataset_condition(std::string_view start_date,
                                                                       std::string_view end_date,
                                                                       std::string_view dataset) {
  constexpr std::string_view kMethod = "metadata.get_dataset_condition";
  DEFIB_TRY_ASSIGN(const std::string chosen, impl_->dataset_of(dataset));
  Parameters parameters = {{"dataset", chosen}};
  add(parameters, "start_date", start_date);
  add(parameters, "end_date", end_date);
  DEFIB_TRY_ASSIGN(const wire::Json json, impl_->gateway.get(kMethod, parameters));
  if (!json.is_array()) return bad_answer(kMethod, "a list of days");
  std::vector<DayCondition> days;
  for (const wire::Json& item : json.items()) {
    days.push_back(
        {std::string(item["date"].as_string()), std::string(item["condition"].as_string())});
  }
  return days;
}

Result<std::uint64_t> HistoricalApi::get_record_count(const RangeQuery& query) {
  return impl_->count("metadata.get_record_count", query);
}

Result<std::uint64_t> HistoricalApi::get_billable_size(const RangeQuery& query) {
  return impl_->count("metadata.get_billable_size", query);
}

Result<std::string> HistoricalApi::get_cost(const RangeQuery& query) {
  constexpr std::string_view kMethod = "metadata.get_cost";
  DEFIB_TRY_ASSIGN(const Parameters parameters, impl_->parameters_of(query));
  DEFIB_TRY_ASSIGN(std::string text, impl_->gateway.post_text(kMethod, parameters));
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  const auto json = wire::Json::parse(text);
  if (!json || !json->is_number()) return bad_answer(kMethod, "an amount");
  return text;
}

Result<Resolution> HistoricalApi::resolve(const ResolveQuery& query) {
  constexpr std::string_view kMethod = "symbology.resolve";
  DEFIB_TRY_ASSIGN(const std::string dataset, impl_->dataset_of(query.dataset));
  DEFIB_TRY_ASSIGN(const std::string symbols, join_symbols(query.symbols));
  if (query.start_date.empty()) return invalid("the query has no start date");
  Parameters parameters = {{"dataset", dataset}, {"symbols", symbols}};
  add(parameters, "stype_in", to_string(query.stype_in));
  add(parameters, "stype_out", to_string(query.stype_out));
  add(parameters, "start_date", query.start_date);
  add(parameters, "end_date", query.end_date);
  DEFIB_TRY_ASSIGN(const wire::Json json, impl_->gateway.post(kMethod, parameters));
  if (!json["result"].is_object()) return bad_answer(kMethod, "a result by symbol");
  Resolution resolution;
  for (const auto& [symbol, intervals] : json["result"].members()) {
    Resolution::Mapping& mapping = resolution.mappings.emplace_back();
    mapping.symbol = symbol;
    for (const wire::Json& interval : intervals.items()) {
      mapping.intervals.push_back({std::string(interval["d0"].as_string()),
                                   std::string(interval["d1"].as_string()),
                                   std::string(interval["s"].as_string())});
    }
  }
  DEFIB_TRY_ASSIGN(resolution.partial, texts_of(json["partial"], kMethod));
  DEFIB_TRY_ASSIGN(resolution.not_found, texts_of(json["not_found"], kMethod));
  return resolution;
}

}  // namespace defib::marketdata
