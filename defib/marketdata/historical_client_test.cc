// The historical interface out of a worker, against a server of our own that serves made files.

#include "defib/marketdata/historical_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>
#include <fstream>
#include <thread>

#include "defib/marketdata/testing.h"
#include "defib/wire/http.h"

namespace defib::marketdata {
namespace {

using testing::HasSubstr;
using testing::Not;
using testing_util::mbo_file;
using testing_util::sample;
using wire::HttpRequest;
using wire::HttpServer;

constexpr std::string_view kKey = "db-secret0123456789abcdefghijklm";
const std::string kPlugins = DEFIB_PLUGINS "/";

HttpServer::Reply reply(int status, std::string body) {
  return {{status, {}, std::move(body)}, HttpServer::Delivery::kNormal};
}

HistoricalClient::Builder builder(std::uint16_t port) {
  call::ClientOptions options;
  options.backtrace = false;
  return HistoricalClient::Builder()
      .key(std::string(kKey))
      .dataset("GLBX.MDP3")
      .gateway("http://127.0.0.1:" + std::to_string(port))
      .plugin(kPlugins + "defib-historical.so")
      .options(options);
}

RangeQuery query(Schema schema = Schema::kMbo) {
  return {.schema = schema, .symbols = {"ESH1"}, .start = "2020-12-28", .end = "2020-12-29"};
}

Result<std::vector<std::string>> all_of(HistoricalClient::Records& records) {
  std::vector<std::string> all;
  for (;;) {
    DEFIB_TRY_ASSIGN(const std::optional<RecordView> record, records.next());
    if (!record) return all;
    all.emplace_back(record->bytes());
  }
}

TEST(HistoricalClient, StreamsTheRecordsOfTheSampleFilesOutOfItsWorker) {
  DEFIB_NEED_SAMPLES();
  for (const std::string name : {"mbo.v3", "mbp-10.v1", "definition.v2", "trades.v3", "ohlcv-1s.v2",
                                 "statistics.v1", "imbalance.v3", "bbo-1s.v2", "cmbp-1.v3"}) {
    const std::string file = sample("test_data." + name + ".dbn.zst");
    auto server =
        HttpServer::start({}, [&](const HttpRequest&) { return reply(200, file); }).value();
    auto client = builder(server->port()).build();
    ASSERT_TRUE(client) << client.error().to_text();
    auto records = client->get_range(query());
    ASSERT_TRUE(records) << records.error().to_text();
    const auto received = all_of(*records);
    ASSERT_TRUE(received) << name << ": " << received.error().to_text();
    const auto expected = testing_util::decode(file);
    ASSERT_EQ(received->size(), expected.records.size()) << name;
    for (std::size_t i = 0; i < received->size(); ++i) {
      EXPECT_EQ((*received)[i], expected.records[i].bytes) << name;
    }
    ASSERT_NE(records->metadata(), nullptr);
    EXPECT_EQ(records->metadata()->symbols, expected.metadata->symbols);
  }
}

TEST(HistoricalClient, GivesTheServicesErrorsAsTheyAre) {
  auto server = HttpServer::start({}, [](const HttpRequest&) {
                  return reply(401, R"({"detail":"Authentication failed."})");
                }).value();
  auto client = builder(server->port()).build().value();
  const auto datasets = client.list_datasets();
  ASSERT_FALSE(datasets);
  EXPECT_EQ(datasets.error().code(), Code::kMarketDataAuthFailed);
  EXPECT_THAT(datasets.error().to_text(), HasSubstr("Authentication failed."));
  EXPECT_THAT(datasets.error().to_text(), Not(HasSubstr(std::string(kKey))));
  auto records = client.get_range(query()).value();
  EXPECT_EQ(records.next().error().code(), Code::kMarketDataAuthFailed);
  EXPECT_FALSE(client.fault());
}

TEST(HistoricalClient, AsksForMetadataAndSymbology) {
  auto server = HttpServer::start({}, [](const HttpRequest& request) {
                  if (request.url.find("list_schemas") != std::string::npos) {
                    return reply(200, R"(["mbo","trades"])");
                  }
                  if (request.url.find("get_record_count") != std::string::npos) {
                    return reply(200, "1234567");
                  }
                  return reply(404, "{}");
                }).value();
  auto client = builder(server->port()).build().value();
  EXPECT_EQ(client.list_schemas().value(), (std::vector<std::string>{"mbo", "trades"}));
  EXPECT_EQ(client.get_record_count(query()).value(), 1'234'567U);
}

TEST(HistoricalClient, ABadSettingIsAnErrorOfBuild) {
  const auto client = HistoricalClient::Builder()
                          .gateway("ftp://nowhere")
                          .key("k")
                          .plugin(kPlugins + "defib-historical.so")
                          .build();
  ASSERT_FALSE(client);
  EXPECT_EQ(client.error().code(), Code::kInvalidArgument) << client.error().to_text();
}

TEST(HistoricalClient, RecordsBeforeACrashAreWholeAndTheErrorNamesWhatWasAskedFor) {
  auto client = builder(1).plugin(kPlugins + "defib-historical-victim.so").build().value();
  RangeQuery asked = query(Schema::kTrades);
  asked.symbols = {"CRASH", "ESM4"};
  asked.limit = 500;
  auto records = client.get_range(asked).value();
  for (std::uint64_t i = 0; i < 500; ++i) {
    const auto record = records.next();
    ASSERT_TRUE(record) << record.error().to_text();
    ASSERT_EQ((*record)->get<TradeMsg>().hd.ts_event, i);
  }
  const auto end = records.next();
  ASSERT_FALSE(end);
  EXPECT_EQ(end.error().code(), Code::kNativeCrash) << end.error().to_text();
  EXPECT_THAT(end.error().message(),
              HasSubstr("Native library crashed during get_range. This client "
                        "instance is no longer usable."));
  const std::string arguments(end.error().field("arguments"));
  EXPECT_THAT(arguments, HasSubstr("\"CRASH\", \"ESM4\""));
  EXPECT_THAT(arguments, HasSubstr("2020-12-28"));
  EXPECT_THAT(end.error().to_text(), Not(HasSubstr(std::string(kKey))));
  EXPECT_EQ(client.list_datasets().error().code(), Code::kClientFaulted);
  auto fresh = builder(1).plugin(kPlugins + "defib-historical-victim.so").build().value();
  asked.symbols = {"ESM4"};
  EXPECT_TRUE(fresh.get_range(asked).value().next().value());
}

TEST(HistoricalClient, ACrashWhileTheKeyIsTakenDoesNotShowIt) {
  const auto client =
      builder(1).dataset("CRASH").plugin(kPlugins + "defib-historical-victim.so").build();
  ASSERT_FALSE(client);
  EXPECT_EQ(client.error().code(), Code::kNativeCrash);
  EXPECT_THAT(std::string(client.error().field("arguments")), HasSubstr("***, \"CRASH\""));
  EXPECT_THAT(client.error().to_text(), Not(HasSubstr(std::string(kKey))));
}

// examples/databento_plugin.cc with a stand-in that declares what the vendor's client declares.
TEST(HistoricalClient, SuitsTheVendorsOwnClient) {
  const auto build = [](std::string_view gateway) {
    return builder(1)
        .gateway(std::string(gateway))
        .plugin(kPlugins + "defib-databento-standin.so")
        .build();
  };
  EXPECT_THAT(build("http://127.0.0.1:1").error().message(), HasSubstr("own gateway"));
  auto client = build(HistoricalApi::kGateway).value();
  EXPECT_EQ(client.list_datasets("2020-12-28", "2020-12-29").value(),
            (std::vector<std::string>{"GLBX.MDP3", "2020-12-28", "2020-12-29"}));
  RangeQuery asked = query(Schema::kTrades);
  asked.limit = 1000;
  EXPECT_EQ(client.get_record_count(asked).value(), 1000U);
  EXPECT_EQ(client.get_billable_size(asked).value(), 48'000U);
  EXPECT_THAT(client.get_cost(asked).error().message(), HasSubstr("does not offer it"));
  const auto ends_with = [&](const std::string& symbol) -> Error {
    asked.symbols = {symbol};
    auto records = client.get_range(asked).value();
    for (std::uint64_t i = 0;; ++i) {
      const auto record = records.next();
      if (!record || !*record) {
        // A crash takes with it what the plugin had not handed on.
        EXPECT_EQ(i, symbol == "CRASH" ? i : 1000U);
        return record ? Error(Code::kInternal, "the end") : record.error();
      }
      EXPECT_EQ((*record)->get<TradeMsg>().hd.ts_event, i);
    }
  };
  EXPECT_EQ(ends_with("ESM4").message(), "the end");
  EXPECT_THAT(ends_with("THROW").message(), HasSubstr("std::runtime_error: 422 for GLBX.MDP3"));
  EXPECT_FALSE(client.fault());
  EXPECT_EQ(ends_with("CRASH").code(), Code::kNativeCrash);
  EXPECT_EQ(client.get_record_count(asked).error().code(), Code::kClientFaulted);
}

TEST(HistoricalClient, APartOfARecordIsAnErrorAndNotARecord) {
  auto client = builder(1).plugin(kPlugins + "defib-historical-victim.so").build().value();
  RangeQuery asked = query(Schema::kTrades);
  asked.symbols = {"HALF"};
  asked.limit = 1;
  auto records = client.get_range(asked).value();
  EXPECT_TRUE(records.next().value());
  EXPECT_EQ(records.next().error().code(), Code::kDbnTruncated);
}

}  // namespace
}  // namespace defib::marketdata
