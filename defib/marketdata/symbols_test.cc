#include "defib/marketdata/symbols.h"

#include <gtest/gtest.h>

#include "defib/marketdata/testing.h"

namespace defib::marketdata {
namespace {

constexpr std::uint64_t kNoonOf20201228 = 1'609'156'800'000'000'000;

// One id that meant two things, with a day of nothing between them, and one with an unknown day.
Metadata reused_ids() {
  Metadata metadata = testing_util::some_metadata(Schema::kMbo);
  metadata.mappings = {{"NEW", {{20201230, 20210101, "7"}}},
                       {"OLD", {{20201227, 20201229, "7"}, {20201229, 20201230, ""}}}};
  return metadata;
}

RecordView mbo_at(std::string& bytes, std::uint32_t id, std::uint64_t ts_recv) {
  MboMsg mbo = testing_util::some_mbo(0);
  mbo.hd.instrument_id = id;
  mbo.hd.ts_event = 1;  // long before
  mbo.ts_recv = ts_recv;
  bytes.clear();
  Encoder(bytes).record(mbo);
  return {bytes.data(), false};
}

TEST(DateOf, CountsDaysInUtc) {
  EXPECT_EQ(date_of(0), 19700101U);
  EXPECT_EQ(date_of(86'400'000'000'000 - 1), 19700101U);
  EXPECT_EQ(date_of(86'400'000'000'000), 19700102U);
  EXPECT_EQ(date_of(951'782'400'000'000'000), 20000229U);
  EXPECT_EQ(date_of(kNoonOf20201228), 20201228U);
  EXPECT_EQ(date_of(UINT64_MAX), 25540721U);
}

TEST(TsSymbolMap, FindsTheMeaningOfADay) {
  const auto map = TsSymbolMap::from(reused_ids());
  ASSERT_TRUE(map) << map.error().to_text();
  EXPECT_EQ(map->find(7, 20201226), "");
  EXPECT_EQ(map->find(7, 20201227), "OLD");
  EXPECT_EQ(map->find(7, 20201228), "OLD");
  EXPECT_EQ(map->find(7, 20201229), "");
  EXPECT_EQ(map->find(7, 20201230), "NEW");
  EXPECT_EQ(map->find(7, 20210101), "");
  EXPECT_EQ(map->find(8, 20201228), "");
  EXPECT_EQ(map->size(), 2U);
}

TEST(TsSymbolMap, TakesTheTimeOfReceptionOfARecord) {
  const auto map = TsSymbolMap::from(reused_ids());
  std::string bytes;
  EXPECT_EQ(map->find(mbo_at(bytes, 7, kNoonOf20201228)), "OLD");
  EXPECT_EQ(map->find(mbo_at(bytes, 7, kUndefTime)), "");
}

TEST(TsSymbolMap, ReadsMappingsInBothDirections) {
  Metadata metadata = testing_util::some_metadata(Schema::kMbo);
  metadata.stype_in = SType::kInstrumentId;
  metadata.stype_out = SType::kRawSymbol;
  metadata.mappings = {{"5482", {{20201228, 20201229, "ESH1"}}}};
  EXPECT_EQ(TsSymbolMap::from(metadata)->find(5482, 20201228), "ESH1");
  metadata.stype_in = SType::kParent;
  EXPECT_EQ(TsSymbolMap::from(metadata).error().code(), Code::kInvalidArgument);
}

TEST(TsSymbolMap, AnIdThatIsNoNumberIsAnError) {
  for (const char* id : {"x", "12x", "-1", "4294967296", " 1"}) {
    Metadata metadata = testing_util::some_metadata(Schema::kMbo);
    metadata.mappings = {{"ESH1", {{20201228, 20201229, id}}}};
    EXPECT_EQ(TsSymbolMap::from(metadata).error().code(), Code::kDbnMalformed) << id;
  }
}

TEST(PitSymbolMap, KnowsOneDayAndLearnsFromRecords) {
  auto map = PitSymbolMap::from(reused_ids(), 20201228);
  ASSERT_TRUE(map);
  EXPECT_EQ(map->find(7), "OLD");
  SymbolMappingMsg mapping = {};
  mapping.hd.rtype = RType::kSymbolMapping;
  mapping.hd.instrument_id = 7;
  std::string_view("ES.c.0").copy(mapping.stype_in_symbol.data(), 6);
  std::string_view("ESM1").copy(mapping.stype_out_symbol.data(), 4);
  std::string bytes;
  Encoder(bytes).record(mapping);
  map->on_record(RecordView(bytes.data(), false));
  EXPECT_EQ(map->find(7), "ESM1");
  SymbolMappingMsgV1 older = {};
  older.hd = mapping.hd;
  older.hd.instrument_id = 9;
  std::string_view("CLZ0").copy(older.stype_out_symbol.data(), 4);
  bytes.clear();
  Encoder(bytes).record(older);
  map->on_record(RecordView(bytes.data(), false));
  EXPECT_EQ(map->find(9), "CLZ0");
  map->on_record(mbo_at(bytes, 7, 1));
  EXPECT_EQ(map->size(), 2U);
}

}  // namespace
}  // namespace defib::marketdata
