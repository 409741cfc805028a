// The historical interface against a server of our own, which serves made and real files, and
// misbehaves.

#include "defib/marketdata/historical.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <map>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "defib/marketdata/gateway.h"
#include "defib/marketdata/testing.h"
#include "defib/os/fd.h"
#include "defib/wire/http.h"

namespace defib::marketdata {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using testing_util::mbo_file;
using testing_util::sample;
using wire::HttpRequest;
using wire::HttpServer;

// Percent-encoded it is another text.
constexpr std::string_view kKey = "db-secret0123456789abcdef+hij/kl";

HttpServer::Reply reply(int status, std::string body, wire::Headers headers = {}) {
  return {{status, std::move(headers), std::move(body)}, HttpServer::Delivery::kNormal};
}

std::string gateway_of(std::uint16_t port) {
  return "http://127.0.0.1:" + std::to_string(port);
}

HistoricalApi api_of(const std::string& gateway, HistoricalLimits limits = {}) {
  auto api = HistoricalApi::Builder()
                 .key(std::string(kKey))
                 .dataset("GLBX.MDP3")
                 .gateway(gateway)
                 .limits(limits)
                 .build();
  EXPECT_TRUE(api.has_value()) << api.error().to_text();
  return std::move(*api);
}

// Everything that an error says anywhere.
std::string all_of(const Error& error) {
  std::string text = error.to_text() + error.to_line() + wire::to_json(error).dump();
  for (const Error* one = &error; one != nullptr; one = one->cause()) {
    for (const Error::Field& field : one->fields()) text += field.key + field.value;
    text += one->suggested_action();
  }
  return text;
}

void expect_no_key(const Error& error) {
  EXPECT_THAT(all_of(error), Not(HasSubstr("secret0123")));
  EXPECT_THAT(all_of(error), Not(HasSubstr(base64(kKey).substr(0, 20))));
}

class Historical : public testing::Test {
 protected:
  void serve(HttpServer::Handler handler) {
    auto server = HttpServer::start({}, [this, handler](const HttpRequest& request) {
      {
        const std::lock_guard lock(mutex_);
        seen_ = request;
      }
      return handler(request);
    });
    ASSERT_TRUE(server.has_value()) << server.error().to_text();
    server_ = std::move(*server);
  }
  void serve(int status, const std::string& body, const wire::Headers& headers = {}) {
    serve([=](const HttpRequest&) { return reply(status, body, headers); });
  }
  HistoricalApi api(HistoricalLimits limits = {}) {
    return api_of(gateway_of(server_->port()), limits);
  }
  HttpRequest seen() {
    const std::lock_guard lock(mutex_);
    return seen_;
  }
  std::map<std::string, std::string> seen_form() {
    const auto pairs = wire::parse_query(seen().body);
    return {pairs.begin(), pairs.end()};
  }

  // What a stream delivered.
  std::vector<std::uint32_t> sequences_;
  std::optional<Metadata> metadata_;
  Result<RangeEnd> get_range(HistoricalApi& api, std::size_t stop_after = SIZE_MAX) {
    return api.get_range(
        kQuery,
        [&](const RecordView& record) {
          EXPECT_TRUE(metadata_.has_value());
          sequences_.push_back(record.get<MboMsg>().sequence);
          return sequences_.size() < stop_after;
        },
        [&](const Metadata& metadata) { metadata_ = metadata; });
  }
  const RangeQuery kQuery = {.schema = Schema::kMbo,
                             .symbols = {"ESH1", "ES.c.0"},
                             .start = "2020-12-28",
                             .end = "2020-12-29T00:00:00Z",
                             .limit = 10};

 private:
  std::mutex mutex_;  // guards seen_
  HttpRequest seen_;
  std::unique_ptr<HttpServer> server_;
};

// A server that sends `bytes` and then waits for the client to go, or closes.
class ScriptedServer {
 public:
  ScriptedServer(std::string bytes, bool close) : bytes_(std::move(bytes)), close_(close) {
    listener_ = os::Fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(listen(listener_.get(), 4), 0);
    socklen_t size = sizeof address;
    getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    thread_ = std::jthread([this] { run(); });
  }
  ~ScriptedServer() { shutdown(listener_.get(), SHUT_RDWR); }
  std::uint16_t port() const { return port_; }

 private:
  void run() {
    const os::Fd connection(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (connection.get() < 0) return;
    char buffer[4096];
    if (recv(connection.get(), buffer, sizeof buffer, 0) <= 0) return;
    std::string_view left = bytes_;
    while (!left.empty()) {
      const ssize_t count = ::send(connection.get(), left.data(), left.size(), MSG_NOSIGNAL);
      if (count <= 0) return;
      left.remove_prefix(static_cast<std::size_t>(count));
    }
    if (close_) return;
    while (recv(connection.get(), buffer, sizeof buffer, 0) > 0) {
    }
  }
  std::string bytes_;
  bool close_;
  os::Fd listener_;
  std::uint16_t port_ = 0;
  std::jthread thread_;
};

std::string chunk(std::string_view bytes) {
  return fmt::format("{:x}\r\n{}\r\n", bytes.size(), bytes);
}

constexpr std::string_view kChunkedHead = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

TEST_F(Historical, GetRangeAsksAsTheInterfaceWantsAndDeliversEveryRecord) {
  serve(200, mbo_file(5000, true), {{"X-Warning", R"(["data is degraded"])"}});
  HistoricalApi client = api();
  const auto end = get_range(client);
  ASSERT_TRUE(end.has_value()) << end.error().to_text();
  EXPECT_EQ(end->records, 5000U);
  EXPECT_FALSE(end->stopped);
  EXPECT_EQ(end->last_ts_event, testing_util::some_mbo(4999).hd.ts_event);
  EXPECT_THAT(end->warnings, ElementsAre("data is degraded"));
  ASSERT_EQ(sequences_.size(), 5000U);
  for (std::uint32_t i = 0; i < 5000; ++i) ASSERT_EQ(sequences_[i], i);
  EXPECT_EQ(metadata_->dataset, "GLBX.MDP3");
  EXPECT_EQ(seen().method, "POST");
  EXPECT_EQ(seen().url, "/v0/timeseries.get_range");
  EXPECT_EQ(seen().header("Authorization"), "Basic " + base64(std::string(kKey) + ":"));
  EXPECT_EQ(seen().header("Content-Type"), "application/x-www-form-urlencoded");
  EXPECT_EQ(seen_form(), (std::map<std::string, std::string>{{"dataset", "GLBX.MDP3"},
                                                             {"schema", "mbo"},
                                                             {"symbols", "ESH1,ES.c.0"},
                                                             {"start", "2020-12-28"},
                                                             {"end", "2020-12-29T00:00:00Z"},
                                                             {"stype_in", "raw_symbol"},
                                                             {"stype_out", "instrument_id"},
                                                             {"encoding", "dbn"},
                                                             {"compression", "zstd"},
                                                             {"limit", "10"}}));
}

TEST_F(Historical, GetRangeDeliversEveryRealSampleFile) {
  DEFIB_NEED_SAMPLES();
  serve([](const HttpRequest& request) {
    const auto form = wire::parse_query(request.body);
    std::string schema;
    for (const auto& [name, value] : form) {
      if (name == "schema") schema = value;
    }
    return reply(200, sample("test_data." + schema + ".v3.dbn.zst"));
  });
  HistoricalApi client = api();
  for (const std::string name :
       {"mbo", "mbp-1", "mbp-10", "tbbo", "trades", "ohlcv-1s", "bbo-1s", "cmbp-1", "cbbo-1s",
        "definition", "statistics", "status", "imbalance"}) {
    SCOPED_TRACE(name);
    RangeQuery query = kQuery;
    query.schema = parse_schema(name).value();
    std::size_t records = 0;
    const auto end = client.get_range(query, [&](const RecordView& record) {
      EXPECT_TRUE(belongs_to(record.rtype(), query.schema));
      ++records;
      return true;
    });
    ASSERT_TRUE(end.has_value()) << end.error().to_text();
    EXPECT_EQ(records, end->records);
    EXPECT_GT(records, 0U);
  }
}

TEST_F(Historical, TheReceiverStopsAStreamAndTheClientGoesOn) {
  serve(200, mbo_file(200'000));
  HistoricalApi client = api();
  const auto end = get_range(client, 10);
  ASSERT_TRUE(end.has_value()) << end.error().to_text();
  EXPECT_TRUE(end->stopped);
  EXPECT_EQ(end->records, 10U);
  sequences_.clear();
  EXPECT_EQ(get_range(client)->records, 200'000U);
}

TEST_F(Historical, AReceiverThatThrowsEndsTheStreamWithAnError) {
  serve(200, mbo_file(10));
  HistoricalApi client = api();
  const auto end =
      client.get_range(kQuery, [](const RecordView&) -> bool { throw std::runtime_error("full"); });
  ASSERT_FALSE(end.has_value());
  EXPECT_EQ(end.error().code(), Code::kCallbackThrew);
}

TEST_F(Historical, RecordsArriveWhileTheAnswerIsNotComplete) {
  const std::string file = mbo_file(3);
  ScriptedServer server(std::string(kChunkedHead) + chunk(file), false);
  HistoricalApi client = api_of(gateway_of(server.port()));
  const auto end = get_range(client, 3);
  ASSERT_TRUE(end.has_value()) << end.error().to_text();
  EXPECT_TRUE(end->stopped);
}

TEST_F(Historical, ACutInTheMiddleOfARecordKeepsWhatCameBefore) {
  const std::string file = mbo_file(3);
  ScriptedServer server(std::string(kChunkedHead) + chunk(file.substr(0, file.size() - 20)), true);
  HistoricalApi client = api_of(gateway_of(server.port()));
  const auto end = get_range(client);
  ASSERT_FALSE(end.has_value());
  EXPECT_EQ(end.error().code(), Code::kMarketDataStreamBroken);
  EXPECT_EQ(end.error().field("records"), "2");
  EXPECT_EQ(end.error().field("last_ts_event"),
            std::to_string(testing_util::some_mbo(1).hd.ts_event));
  ASSERT_NE(end.error().cause(), nullptr);
  EXPECT_EQ(end.error().cause()->code(), Code::kHttpOutcomeUnknown);
  EXPECT_THAT(sequences_, ElementsAre(0U, 1U));
  expect_no_key(end.error());
}

TEST_F(Historical, AnAnswerThatIsWholeButNotItsDataIsBroken) {
  const std::string file = mbo_file(3, true);
  serve(200, file.substr(0, file.size() - 6));
  HistoricalApi client = api();
  const auto end = get_range(client);
  ASSERT_FALSE(end.has_value());
  EXPECT_EQ(end.error().code(), Code::kMarketDataStreamBroken);
  EXPECT_EQ(end.error().cause()->code(), Code::kDbnTruncated);
}

TEST_F(Historical, DamageInAStreamNamesItsPlace) {
  std::string file = mbo_file(100);
  file[file.size() - 56] = 3;
  serve(200, file);
  HistoricalApi client = api();
  const auto end = get_range(client);
  ASSERT_FALSE(end.has_value());
  EXPECT_EQ(end.error().code(), Code::kMarketDataStreamBroken);
  EXPECT_EQ(end.error().field("records"), "99");
  EXPECT_EQ(end.error().cause()->field("offset"), std::to_string(file.size() - 56));
}

TEST_F(Historical, ASilentStreamIsBrokenAtItsLimit) {
  ScriptedServer server(std::string(kChunkedHead) + chunk(mbo_file(2)), false);
  HistoricalLimits limits;
  limits.stall_timeout = std::chrono::milliseconds(200);
  HistoricalApi client = api_of(gateway_of(server.port()), limits);
  const auto end = get_range(client);
  ASSERT_FALSE(end.has_value());
  EXPECT_EQ(end.error().code(), Code::kMarketDataStreamBroken);
  EXPECT_THAT(end.error().cause()->message(), HasSubstr("nothing came for 200 ms"));
  EXPECT_EQ(sequences_.size(), 2U);
}

TEST_F(Historical, AStreamBeyondItsLimitEnds) {
  serve(200, mbo_file(100'000, true));
  HistoricalLimits limits;
  limits.max_stream = 1 << 20;
  HistoricalApi client = api(limits);
  const auto end = get_range(client);
  ASSERT_FALSE(end.has_value());
  EXPECT_EQ(end.error().code(), Code::kMarketDataStreamBroken);
  EXPECT_EQ(end.error().cause()->code(), Code::kLimitExceeded);
}

TEST_F(Historical, WhatIsNoDbnIsABadAnswer) {
  serve(200, "<html>Welcome to the hotel's network</html>");
  HistoricalApi client = api();
  const auto end = get_range(client);
  ASSERT_FALSE(end.has_value());
  EXPECT_EQ(end.error().code(), Code::kMarketDataBadAnswer);
  EXPECT_EQ(end.error().cause()->code(), Code::kDbnMalformed);
  serve(200, "");
  HistoricalApi other = api();
  EXPECT_EQ(get_range(other).error().code(), Code::kMarketDataBadAnswer);
}

TEST_F(Historical, ErrorsSayWhatTheServiceSaid) {
  serve(401, R"({"detail":{"case":"auth_authentication_failed","message":"Authentication failed.",)"
             R"("status_code":401}})");
  HistoricalApi refused = api();
  const auto unauthorized = get_range(refused);
  ASSERT_FALSE(unauthorized.has_value());
  EXPECT_EQ(unauthorized.error().code(), Code::kMarketDataAuthFailed);
  EXPECT_THAT(unauthorized.error().message(), HasSubstr("Authentication failed."));
  EXPECT_EQ(unauthorized.error().field("case"), "auth_authentication_failed");
  EXPECT_EQ(unauthorized.error().field("status"), "401");
  expect_no_key(unauthorized.error());

  serve(422, R"({"detail":[{"loc":["body","start"],"msg":"invalid datetime format"}]})");
  HistoricalApi invalid = api();
  const auto unprocessable = get_range(invalid);
  EXPECT_EQ(unprocessable.error().code(), Code::kMarketDataRejected);
  EXPECT_THAT(unprocessable.error().message(), HasSubstr("body: start: invalid datetime format"));

  serve(400, R"({"detail":"Symbology \u001b[31mfailed"})");
  HistoricalApi odd = api();
  EXPECT_THAT(get_range(odd).error().message(), Not(HasSubstr("\x1b")));

  serve(503, "upstream\nis gone");
  HistoricalApi gone = api();
  EXPECT_EQ(get_range(gone).error().code(), Code::kMarketDataUnavailable);
  EXPECT_THAT(get_range(gone).error().message(), HasSubstr("upstream is gone"));
  EXPECT_EQ(gone.list_datasets().error().code(), Code::kMarketDataUnavailable);

  serve(302, "", {{"Location", "http://127.0.0.1:1/"}});
  HistoricalApi moved = api();
  EXPECT_EQ(get_range(moved).error().code(), Code::kMarketDataBadAnswer);
}

TEST_F(Historical, ARateLimitNamesItsTime) {
  serve(429, R"({"detail":{"case":"rate_limited","message":"Too many requests"}})",
        {{"Retry-After", "7"}});
  HistoricalApi client = api();
  const auto limited = client.list_datasets();
  EXPECT_EQ(limited.error().code(), Code::kMarketDataRateLimited);
  EXPECT_EQ(limited.error().field("retry_after_ms"), "7000");
  EXPECT_TRUE(is_retryable(limited.error()));
  EXPECT_EQ(limited.error().suggested_action(), "wait 7 s");
  serve(429, "", {{"Retry-After", "Wed, 21 Oct 2026 07:28:00 GMT"}});
  HistoricalApi other = api();
  EXPECT_EQ(other.list_datasets().error().field("retry_after_ms"), "");
}

TEST_F(Historical, TheKeyIsInNoErrorAlsoWhereTheServerRepeatsIt) {
  serve([](const HttpRequest& request) {
    return reply(400, R"({"detail":{"case":")" + std::string(kKey) + R"(","message":"bad )" +
                          std::string(request.header("Authorization")) + " or " +
                          std::string(kKey) + " or " + wire::url_encode(kKey) +
                          std::string(600, 'x') + R"("}})");
  });
  HistoricalApi client = api();
  const auto end = get_range(client);
  ASSERT_FALSE(end.has_value());
  EXPECT_THAT(end.error().message(), HasSubstr("[key]"));
  expect_no_key(end.error());
  expect_no_key(client.list_datasets().error());
}

TEST_F(Historical, NobodyListeningIsUnavailable) {
  serve(200, "");
  HistoricalApi client = api_of("http://127.0.0.1:1");
  const auto end = get_range(client);
  EXPECT_EQ(end.error().code(), Code::kMarketDataUnavailable);
  EXPECT_EQ(end.error().cause()->code(), Code::kHttpConnectFailed);
  EXPECT_EQ(client.list_datasets().error().code(), Code::kMarketDataUnavailable);
}

TEST_F(Historical, MetadataCallsReadTheirAnswers) {
  serve([](const HttpRequest& request) {
    const std::map<std::string_view, std::string> answers = {
        {"list_publishers",
         R"([{"publisher_id":1,"dataset":"GLBX.MDP3","venue":"GLBX","description":"CME"}])"},
        {"list_datasets", R"(["GLBX.MDP3","XNAS.ITCH"])"},
        {"list_schemas", R"(["mbo","trades"])"},
        {"list_fields", R"([{"name":"length","type":"uint8_t"}])"},
        {"list_unit_prices", R"([{"mode":"historical","unit_prices":{"mbo":21.05}}])"},
        {"get_dataset_range", R"({"start":"2010-06-06T00:00:00Z","end":"2026-01-18T00:00:00Z"})"},
        {"get_dataset_condition", R"([{"date":"2022-06-06","condition":"degraded"}])"},
        {"get_record_count", "2000000000000"},
        {"get_billable_size", "99219648\n"},
        {"get_cost", "2.587353944778\n"}};
    const std::string_view url = request.url;
    const std::string_view path = url.substr(0, url.find('?'));
    return reply(200, answers.at(path.substr(path.find('.') + 1)));
  });
  HistoricalApi client = api();
  EXPECT_EQ(client.list_publishers()->at(0).venue, "GLBX");
  EXPECT_EQ(client.list_publishers()->at(0).id, 1);
  EXPECT_THAT(*client.list_datasets("2020-01-01"), ElementsAre("GLBX.MDP3", "XNAS.ITCH"));
  EXPECT_EQ(seen().url, "/v0/metadata.list_datasets?start_date=2020-01-01");
  EXPECT_THAT(*client.list_schemas(), ElementsAre("mbo", "trades"));
  EXPECT_EQ(seen().url, "/v0/metadata.list_schemas?dataset=GLBX.MDP3");
  EXPECT_EQ(client.list_fields(Schema::kMbo)->at(0).second, "uint8_t");
  EXPECT_EQ(seen().url, "/v0/metadata.list_fields?schema=mbo&encoding=dbn");
  EXPECT_EQ(client.list_unit_prices()->size(), 1U);
  EXPECT_EQ(client.get_dataset_range("XNAS.ITCH")->start, "2010-06-06T00:00:00Z");
  EXPECT_EQ(seen().url, "/v0/metadata.get_dataset_range?dataset=XNAS.ITCH");
  EXPECT_EQ(client.get_dataset_condition()->at(0).condition, "degraded");
  EXPECT_EQ(client.get_record_count(kQuery).value(), 2'000'000'000'000U);
  EXPECT_EQ(seen_form()["symbols"], "ESH1,ES.c.0");
  EXPECT_EQ(client.get_billable_size(kQuery).value(), 99'219'648U);
  EXPECT_EQ(client.get_cost(kQuery).value(), "2.587353944778");
}

TEST_F(Historical, AnswersOfAnotherShapeAreBadAnswers) {
  for (const char* body : {"", "nothing", "{}", "[1]", "null", "-1", "1.5", "\"x\""}) {
    SCOPED_TRACE(body);
    serve(200, body);
    HistoricalApi client = api();
    EXPECT_EQ(client.list_datasets().error().code(), Code::kMarketDataBadAnswer);
    EXPECT_EQ(client.get_dataset_range().error().code(), Code::kMarketDataBadAnswer);
    EXPECT_EQ(client.get_record_count(kQuery).error().code(), Code::kMarketDataBadAnswer);
    EXPECT_EQ(client.resolve({.symbols = {"A"}, .start_date = "2022-06-06"}).error().code(),
              Code::kMarketDataBadAnswer);
    EXPECT_EQ(client.list_publishers().error().code(), Code::kMarketDataBadAnswer);
  }
}

TEST_F(Historical, ResolveReadsMappingsPartialAndMissing) {
  serve(200, R"({"result":{"ESM2":[{"d0":"2022-06-06","d1":"2022-06-10","s":"3403"}]},)"
             R"("symbols":["ESM2","X"],"stype_in":"raw_symbol","stype_out":"instrument_id",)"
             R"("partial":[],"not_found":["X"],"message":"Partially resolved","status":1})");
  HistoricalApi client = api();
  const auto resolution = client.resolve(
      {.symbols = {"ESM2", "X"}, .start_date = "2022-06-06", .end_date = "2022-06-10"});
  ASSERT_TRUE(resolution.has_value()) << resolution.error().to_text();
  ASSERT_EQ(resolution->mappings.size(), 1U);
  EXPECT_EQ(resolution->mappings[0].symbol, "ESM2");
  EXPECT_EQ(resolution->mappings[0].intervals.at(0).symbol, "3403");
  EXPECT_EQ(resolution->mappings[0].intervals.at(0).end_date, "2022-06-10");
  EXPECT_THAT(resolution->not_found, ElementsAre("X"));
  EXPECT_EQ(seen_form()["stype_out"], "instrument_id");
}

TEST_F(Historical, QueriesThatCannotBeAreRefusedBeforeAnythingIsSent) {
  std::atomic<int> requests = 0;
  serve([&](const HttpRequest&) {
    ++requests;
    return reply(200, "");
  });
  HistoricalApi client = api();
  const auto refused = [&](RangeQuery query) {
    const auto end = client.get_range(query, [](const RecordView&) { return true; });
    return !end && end.error().code() == Code::kInvalidArgument;
  };
  RangeQuery query = kQuery;
  query.start = "";
  EXPECT_TRUE(refused(query));
  query = kQuery;
  query.symbols = {"A,B"};
  EXPECT_TRUE(refused(query));
  query.symbols.assign(2001, "A");
  EXPECT_TRUE(refused(query));
  query = kQuery;
  query.schema = Schema::kMixed;
  EXPECT_TRUE(refused(query));
  EXPECT_EQ(requests, 0);
}

TEST(HistoricalBuilder, RefusesWhatCannotWork) {
  const auto error_of = [](const HistoricalApi::Builder& builder) {
    const auto api = builder.build();
    return api ? std::string("built") : api.error().to_text();
  };
  using Builder = HistoricalApi::Builder;
  EXPECT_THAT(error_of(Builder()), HasSubstr("there is no API key"));
  EXPECT_THAT(error_of(Builder().key("db-1\n2")), Not(HasSubstr("db-1")));
  EXPECT_THAT(error_of(Builder().key("db-1")), "built");
  EXPECT_THAT(error_of(Builder().key("db-1").gateway("http://hist.databento.com")),
              HasSubstr("in clear"));
  EXPECT_THAT(error_of(Builder().key("db-1").gateway("http://127.0.0.1.evil.example")),
              HasSubstr("in clear"));
  EXPECT_THAT(error_of(Builder().key("db-1").gateway("ftp://x")), HasSubstr("https://"));
  EXPECT_THAT(error_of(Builder().key("db-1").gateway("https://a@b")), HasSubstr("HOST"));
  EXPECT_THAT(error_of(Builder().key("db-1").gateway("http://[::1]:80/")), "built");
  EXPECT_THAT(error_of(Builder().key("db-1").gateway("http://localhost:80")), "built");
}

TEST(HistoricalBuilder, TakesTheKeyFromTheEnvironment) {
  ::setenv("DATABENTO_API_KEY", "db-env", 1);
  EXPECT_TRUE(HistoricalApi::Builder().key_from_env().build());
  ::unsetenv("DATABENTO_API_KEY");
  EXPECT_FALSE(HistoricalApi::Builder().key_from_env().build());
}

TEST(Base64, IsThatOfRfc4648) {
  EXPECT_EQ(base64(""), "");
  EXPECT_EQ(base64("f"), "Zg==");
  EXPECT_EQ(base64("fo"), "Zm8=");
  EXPECT_EQ(base64("foo"), "Zm9v");
  EXPECT_EQ(base64("foob"), "Zm9vYg==");
  EXPECT_EQ(base64("fooba"), "Zm9vYmE=");
  EXPECT_EQ(base64("foobar"), "Zm9vYmFy");
}

}  // namespace
}  // namespace defib::marketdata
