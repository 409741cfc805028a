#include "defib/marketdata/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "defib/marketdata/testing.h"
#include "defib/wire/json.h"

namespace defib::marketdata {
namespace {

using testing_util::some_mbo;

template <typename T>
std::string json_of(const T& record, std::optional<std::uint64_t> ts_out = std::nullopt,
                    std::string_view symbol = {}) {
  std::string bytes;
  Encoder(bytes).record(record, ts_out);
  std::string out;
  append_json(out, RecordView(bytes.data(), ts_out.has_value()), {symbol});
  EXPECT_TRUE(wire::Json::parse(out).has_value()) << out;
  return out;
}

TEST(PriceText, IsTheExactDecimal) {
  EXPECT_EQ(price_text(3'722'750'000'000), "3722.750000000");
  EXPECT_EQ(price_text(1), "0.000000001");
  EXPECT_EQ(price_text(-1), "-0.000000001");
  EXPECT_EQ(price_text(0), "0.000000000");
  EXPECT_EQ(price_text(-37'630'000'000), "-37.630000000");
  EXPECT_EQ(price_text(std::numeric_limits<std::int64_t>::min()), "-9223372036.854775808");
  EXPECT_EQ(price_text(kUndefPrice - 1), "9223372036.854775806");
  EXPECT_EQ(price_text(kUndefPrice), "");
}

TEST(TimeText, HasNanosecondsAndNoEndOfTime) {
  EXPECT_EQ(time_text(1'609'160'400'000'429'831), "2020-12-28T13:00:00.000429831Z");
  EXPECT_EQ(time_text(0), "1970-01-01T00:00:00.000000000Z");
  EXPECT_EQ(time_text(kUndefTime), "");
  EXPECT_EQ(time_text(1ULL << 63), "9223372036854775808");
}

TEST(RecordJson, HasTheFieldsInTheirOrder) {
  EXPECT_EQ(json_of(some_mbo(3), 1'609'160'400'000'429'831, "ESH1"),
            R"({"schema":"defib.dbn_record/1","type":"mbo","symbol":"ESH1",)"
            R"("hd":{"ts_event":"2020-12-28T13:00:00.000000003Z","rtype":160,)"
            R"("publisher_id":1,"instrument_id":5482},"order_id":3,"price":"3722.750000000",)"
            R"("size":1,"flags":0,"channel_id":0,"action":"A","side":"B",)"
            R"("ts_recv":"2020-12-28T13:00:00.000001003Z","ts_in_delta":0,"sequence":3,)"
            R"("ts_out":"2020-12-28T13:00:00.000429831Z"})");
}

TEST(RecordJson, WhatIsNotSetIsNull) {
  MboMsg mbo = some_mbo(0);
  mbo.price = kUndefPrice;
  mbo.ts_recv = kUndefTime;
  mbo.action = '\0';
  const auto json = wire::Json::parse(json_of(mbo));
  for (const char* key : {"price", "ts_recv", "action"}) {
    EXPECT_TRUE(json->has(key) && (*json)[key].is_null()) << key;
  }
  StatMsg stat = {};
  stat.hd.rtype = RType::kStatistics;
  stat.quantity = kUndefQuantity;
  EXPECT_TRUE((*wire::Json::parse(json_of(stat)))["quantity"].is_null());
}

TEST(RecordJson, LevelsAreAList) {
  Mbp10Msg book = {};
  book.hd.rtype = RType::kMbp10;
  book.levels[9].ask_px = -5;
  const auto json = wire::Json::parse(json_of(book));
  ASSERT_EQ((*json)["levels"].size(), 10U);
  EXPECT_EQ((*json)["levels"].items()[9]["ask_px"].as_string(), "-0.000000005");
  EXPECT_EQ((*json)["sequence"].as_int(-1), 0);
}

TEST(RecordJson, HostileTextsStayJson) {
  InstrumentDefMsg definition = {};
  definition.hd.rtype = RType::kInstrumentDef;
  std::string_view("\"},\x1b[31m\xff\n").copy(definition.raw_symbol.data(), 20);
  definition.instrument_class = '"';
  definition.leg_side = '\xff';
  const auto json = wire::Json::parse(json_of(definition));
  ASSERT_TRUE(json);
  EXPECT_THAT((*json)["raw_symbol"].as_string(), testing::StartsWith("\"},\x1b[31m"));
  EXPECT_EQ((*json)["instrument_class"].as_string(), "\"");
}

TEST(RecordJson, AnUnknownTypeShowsItsBytes) {
  std::string bytes(20, '\0');
  bytes[0] = 5;
  bytes[1] = '\x7f';
  bytes[16] = '\xab';
  std::string out;
  append_json(out, RecordView(bytes.data(), false));
  const auto json = wire::Json::parse(out);
  EXPECT_EQ((*json)["type"].as_string(), "unknown");
  EXPECT_EQ((*json)["hex"].as_string(), "ab000000");
}

TEST(RecordJson, EveryStructHasItsFields) {
  const auto fields = [](auto record, RType rtype) {
    record.hd.rtype = rtype;
    return wire::Json::parse(json_of(record))->size();
  };
  EXPECT_EQ(fields(TradeMsg{}, RType::kMbp0), 12U);
  EXPECT_EQ(fields(Mbp1Msg{}, RType::kMbp1), 13U);
  EXPECT_EQ(fields(BboMsg{}, RType::kBbo1S), 10U);
  EXPECT_EQ(fields(Cmbp1Msg{}, RType::kTcbbo), 11U);
  EXPECT_EQ(fields(CbboMsg{}, RType::kCbbo1M), 9U);
  EXPECT_EQ(fields(OhlcvMsg{}, RType::kOhlcvEod), 8U);
  EXPECT_EQ(fields(StatusMsg{}, RType::kStatus), 10U);
  EXPECT_EQ(fields(ImbalanceMsg{}, RType::kImbalance), 23U);
  EXPECT_EQ(fields(StatMsgV1{}, RType::kStatistics), 13U);
  EXPECT_EQ(fields(ErrorMsg{}, RType::kError), 6U);
  EXPECT_EQ(fields(ErrorMsgV1{}, RType::kError), 4U);
  EXPECT_EQ(fields(SymbolMappingMsg{}, RType::kSymbolMapping), 9U);
  EXPECT_EQ(fields(SymbolMappingMsgV1{}, RType::kSymbolMapping), 7U);
  EXPECT_EQ(fields(SystemMsg{}, RType::kSystem), 5U);
  EXPECT_EQ(fields(SystemMsgV1{}, RType::kSystem), 4U);
  EXPECT_EQ(fields(InstrumentDefMsg{}, RType::kInstrumentDef), 72U);
  EXPECT_EQ(fields(InstrumentDefMsgV2{}, RType::kInstrumentDef), 63U);
  EXPECT_EQ(fields(InstrumentDefMsgV1{}, RType::kInstrumentDef), 63U);
}

}  // namespace
}  // namespace defib::marketdata
