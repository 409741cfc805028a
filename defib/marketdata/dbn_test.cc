// The real sample files, against what their publisher's own tests and program say of them.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "defib/marketdata/decoder.h"
#include "defib/marketdata/encoder.h"
#include "defib/marketdata/symbols.h"
#include "defib/marketdata/testing.h"

namespace defib::marketdata {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing_util::decode;
using testing_util::Decoded;
using testing_util::sample;

Decoded decode_sample(const std::string& name, UpgradePolicy upgrade = UpgradePolicy::kAsIs) {
  DecoderOptions options;
  options.fragment = name.find(".frag") != std::string::npos;
  options.upgrade = upgrade;
  Decoded decoded = decode(sample("test_data." + name), options);
  EXPECT_FALSE(decoded.error) << name << ": " << decoded.error->to_text();
  return decoded;
}

template <typename T>
T record(const Decoded& decoded, std::size_t index) {
  EXPECT_LT(index, decoded.records.size());
  const auto value = decoded.records.at(index).view().get_if<T>();
  EXPECT_TRUE(value.has_value());
  return value.value_or(T{});
}

void expect_es_metadata(const Decoded& decoded, std::uint8_t version, Schema schema) {
  ASSERT_TRUE(decoded.metadata);
  const Metadata& metadata = *decoded.metadata;
  EXPECT_EQ(metadata.version, version);
  EXPECT_EQ(metadata.dataset, "GLBX.MDP3");
  EXPECT_EQ(metadata.schema, schema);
  EXPECT_EQ(metadata.start, 1609160400000000000U);
  EXPECT_EQ(metadata.end, 1609200000000000000U);
  EXPECT_EQ(metadata.limit, 2U);
  EXPECT_EQ(metadata.stype_in, SType::kRawSymbol);
  EXPECT_EQ(metadata.stype_out, SType::kInstrumentId);
  EXPECT_FALSE(metadata.ts_out);
  EXPECT_THAT(metadata.symbols, ElementsAre("ESH1"));
  EXPECT_THAT(metadata.partial, IsEmpty());
  EXPECT_THAT(metadata.not_found, IsEmpty());
  ASSERT_EQ(metadata.mappings.size(), 1U);
  EXPECT_EQ(metadata.mappings[0].raw_symbol, "ESH1");
  EXPECT_EQ(metadata.mappings[0].intervals,
            (std::vector<MappingInterval>{{20201228, 20201229, "5482"}}));
}

class EveryVersion : public testing::TestWithParam<int> {
 protected:
  std::uint8_t version() const { return static_cast<std::uint8_t>(GetParam()); }
  Decoded file(const std::string& schema) const {
    return decode_sample(schema + ".v" + std::to_string(GetParam()) + ".dbn.zst");
  }
};
INSTANTIATE_TEST_SUITE_P(Samples, EveryVersion, testing::Values(1, 2, 3));

TEST_P(EveryVersion, MboRecordsHaveTheirKnownValues) {
  DEFIB_NEED_SAMPLES();
  const Decoded decoded = file("mbo");
  expect_es_metadata(decoded, version(), Schema::kMbo);
  ASSERT_EQ(decoded.records.size(), 2U);
  const auto first = record<MboMsg>(decoded, 0);
  EXPECT_EQ(first.hd.publisher_id, 1);
  EXPECT_EQ(first.hd.instrument_id, 5482U);
  EXPECT_EQ(first.hd.ts_event, 1609160400000429831U);
  EXPECT_EQ(first.order_id, 647784973705U);
  EXPECT_EQ(first.price, 3722750000000);
  EXPECT_EQ(first.size, 1U);
  EXPECT_EQ(first.flags, 128);
  EXPECT_EQ(first.channel_id, 0);
  EXPECT_EQ(first.action, 'C');
  EXPECT_EQ(first.side, 'A');
  EXPECT_EQ(first.ts_recv, 1609160400000704060U);
  EXPECT_EQ(first.ts_in_delta, 22993);
  EXPECT_EQ(first.sequence, 1170352U);
  const auto second = record<MboMsg>(decoded, 1);
  EXPECT_EQ(second.order_id, 647784973631U);
  EXPECT_EQ(second.price, 3723000000000);
  EXPECT_EQ(second.sequence, 1170353U);
}

TEST_P(EveryVersion, Mbp1RecordsHaveTheirKnownValues) {
  DEFIB_NEED_SAMPLES();
  const Decoded decoded = file("mbp-1");
  expect_es_metadata(decoded, version(), Schema::kMbp1);
  const auto first = record<Mbp1Msg>(decoded, 0);
  EXPECT_EQ(first.hd.ts_event, 1609160400006001487U);
  EXPECT_EQ(first.price, 3720500000000);
  EXPECT_EQ(first.action, 'A');
  EXPECT_EQ(first.side, 'A');
  EXPECT_EQ(first.depth, 0);
  EXPECT_EQ(first.ts_recv, 1609160400006136329U);
  EXPECT_EQ(first.sequence, 1170362U);
  EXPECT_EQ(first.levels[0].bid_px, 3720250000000);
  EXPECT_EQ(first.levels[0].ask_px, 3720500000000);
  EXPECT_EQ(first.levels[0].bid_sz, 24U);
  EXPECT_EQ(first.levels[0].ask_sz, 11U);
  EXPECT_EQ(first.levels[0].bid_ct, 15U);
  EXPECT_EQ(first.levels[0].ask_ct, 9U);
  EXPECT_EQ(record<Mbp1Msg>(decoded, 1).levels[0].ask_ct, 10U);
}

TEST_P(EveryVersion, Mbp10RecordsHaveTheirKnownLevels) {
  DEFIB_NEED_SAMPLES();
  const Decoded decoded = file("mbp-10");
  expect_es_metadata(decoded, version(), Schema::kMbp10);
  const auto first = record<Mbp10Msg>(decoded, 0);
  EXPECT_EQ(first.depth, 9);
  EXPECT_EQ(first.levels[1].bid_px, 3720000000000);
  EXPECT_EQ(first.levels[2].ask_px, 3721000000000);
  EXPECT_EQ(first.levels[2].ask_ct, 25U);
  const auto second = record<Mbp10Msg>(decoded, 1);
  EXPECT_EQ(second.side, 'B');
  EXPECT_EQ(second.sequence, 1170356U);
  EXPECT_EQ(second.levels[1].bid_sz, 30U);
}

TEST_P(EveryVersion, TradesHaveTheirKnownValues) {
  DEFIB_NEED_SAMPLES();
  const Decoded decoded = file("trades");
  expect_es_metadata(decoded, version(), Schema::kTrades);
  const auto first = record<TradeMsg>(decoded, 0);
  EXPECT_EQ(first.hd.ts_event, 1609160400098821953U);
  EXPECT_EQ(first.price, 3720250000000);
  EXPECT_EQ(first.size, 5U);
  EXPECT_EQ(first.action, 'T');
  EXPECT_EQ(first.flags, 129);
  EXPECT_EQ(first.ts_recv, 1609160400099150057U);
  EXPECT_EQ(first.ts_in_delta, 19251);
  EXPECT_EQ(first.sequence, 1170380U);
  EXPECT_EQ(record<TradeMsg>(decoded, 1).size, 21U);
}

TEST_P(EveryVersion, TbboRecordsHaveTheirKnownValues) {
  DEFIB_NEED_SAMPLES();
  const Decoded decoded = file("tbbo");
  expect_es_metadata(decoded, version(), Schema::kTbbo);
  const auto second = record<Mbp1Msg>(decoded, 1);
  EXPECT_EQ(second.hd.ts_event, 1609160400107665963U);
  EXPECT_EQ(second.size, 21U);
  EXPECT_EQ(second.levels[0].bid_sz, 21U);
  EXPECT_EQ(second.levels[0].ask_ct, 15U);
}

TEST_P(EveryVersion, BarsHaveTheirKnownValues) {
  DEFIB_NEED_SAMPLES();
  const Decoded hours = file("ohlcv-1h");
  expect_es_metadata(hours, version(), Schema::kOhlcv1H);
  EXPECT_EQ(hours.records.at(0).view().rtype(), RType::kOhlcv1H);
  EXPECT_EQ(record<OhlcvMsg>(hours, 0).open, 372025000000000);
  EXPECT_EQ(record<OhlcvMsg>(hours, 0).volume, 9385U);
  EXPECT_EQ(record<OhlcvMsg>(hours, 1).hd.ts_event, 1609164000000000000U);
  EXPECT_EQ(record<OhlcvMsg>(hours, 1).low, 371600000000000);
  EXPECT_EQ(record<OhlcvMsg>(hours, 1).close, 371950000000000);
  const Decoded minutes = file("ohlcv-1m");
  EXPECT_EQ(record<OhlcvMsg>(minutes, 0).high, 372150000000000);
  EXPECT_EQ(record<OhlcvMsg>(minutes, 1).volume, 152U);
  const Decoded seconds = file("ohlcv-1s");
  EXPECT_EQ(record<OhlcvMsg>(seconds, 0).volume, 57U);
  EXPECT_EQ(record<OhlcvMsg>(seconds, 1).volume, 13U);
  const Decoded days = file("ohlcv-1d");
  expect_es_metadata(days, version(), Schema::kOhlcv1D);
  EXPECT_THAT(days.records, IsEmpty());
}

template <typename T>
void expect_microsoft(const Decoded& decoded) {
  for (const std::size_t index : {0U, 1U}) {
    const auto definition = record<T>(decoded, index);
    EXPECT_EQ(text_of(definition.raw_symbol), "MSFT");
    EXPECT_EQ(text_of(definition.exchange), "XNAS");
    EXPECT_EQ(definition.security_update_action, 'A');
    EXPECT_EQ(definition.min_lot_size_round_lot, 100);
    EXPECT_EQ(definition.instrument_class, 'K');
    EXPECT_EQ(definition.strike_price, kUndefPrice);
  }
}

TEST_P(EveryVersion, DefinitionsHaveTheStructOfTheirVersion) {
  DEFIB_NEED_SAMPLES();
  const Decoded decoded = file("definition");
  ASSERT_TRUE(decoded.metadata);
  EXPECT_EQ(decoded.metadata->version, version());
  EXPECT_EQ(decoded.metadata->dataset, "XNAS.ITCH");
  EXPECT_EQ(decoded.metadata->start, 1633305600000000000U);
  EXPECT_EQ(decoded.metadata->end, 1641254400000000000U);
  ASSERT_EQ(decoded.metadata->mappings.size(), 1U);
  ASSERT_EQ(decoded.metadata->mappings[0].intervals.size(), 62U);
  EXPECT_EQ(decoded.metadata->mappings[0].intervals[0],
            (MappingInterval{20211004, 20211005, "6819"}));
  ASSERT_EQ(decoded.records.size(), 2U);
  if (version() == 1) expect_microsoft<InstrumentDefMsgV1>(decoded);
  if (version() == 2) expect_microsoft<InstrumentDefMsgV2>(decoded);
  if (version() == 3) expect_microsoft<InstrumentDefMsg>(decoded);
}

TEST_P(EveryVersion, UpgradedDefinitionsHaveTheNewestStruct) {
  DEFIB_NEED_SAMPLES();
  const Decoded decoded = decode_sample("definition.v" + std::to_string(GetParam()) + ".dbn.zst",
                                        UpgradePolicy::kUpgradeToV3);
  EXPECT_EQ(decoded.metadata->version, 3);
  expect_microsoft<InstrumentDefMsg>(decoded);
}

TEST_P(EveryVersion, ImbalancesHaveTheirKnownValues) {
  DEFIB_NEED_SAMPLES();
  const Decoded decoded = file("imbalance");
  EXPECT_THAT(decoded.metadata->symbols, ElementsAre("SPOT"));
  EXPECT_EQ(record<ImbalanceMsg>(decoded, 0).ref_price, 229430000000);
  EXPECT_EQ(record<ImbalanceMsg>(decoded, 1).ref_price, 229990000000);
}

TEST_P(EveryVersion, StatisticsHaveTheirKnownValues) {
  DEFIB_NEED_SAMPLES();
  const Decoded decoded = file("statistics");
  EXPECT_EQ(decoded.metadata->start, 2814749767106560U);
  EXPECT_EQ(decoded.metadata->end, kUndefTime);
  EXPECT_EQ(decoded.metadata->stype_in, SType::kInstrumentId);
  EXPECT_THAT(decoded.metadata->mappings, IsEmpty());
  constexpr std::uint16_t kLowestOffer = 7;
  constexpr std::uint16_t kTradingSessionHighPrice = 5;
  if (version() < 3) {
    EXPECT_EQ(record<StatMsgV1>(decoded, 0).stat_type, kLowestOffer);
    EXPECT_EQ(record<StatMsgV1>(decoded, 0).price, 100 * kPriceScale);
    EXPECT_EQ(record<StatMsgV1>(decoded, 1).quantity, kUndefQuantityV1);
  } else {
    EXPECT_EQ(record<StatMsg>(decoded, 0).stat_type, kLowestOffer);
    EXPECT_EQ(record<StatMsg>(decoded, 1).quantity, kUndefQuantity);
  }
  const Decoded upgraded = decode_sample("statistics.v" + std::to_string(GetParam()) + ".dbn.zst",
                                         UpgradePolicy::kUpgradeToV3);
  EXPECT_EQ(record<StatMsg>(upgraded, 0).price, 100 * kPriceScale);
  EXPECT_EQ(record<StatMsg>(upgraded, 1).stat_type, kTradingSessionHighPrice);
  EXPECT_EQ(record<StatMsg>(upgraded, 1).quantity, kUndefQuantity);
}

TEST(Samples, ConsolidatedQuotesHaveTheirKnownValues) {
  DEFIB_NEED_SAMPLES();
  for (const int version : {2, 3}) {
    const std::string end = ".v" + std::to_string(version) + ".dbn.zst";
    const Decoded cmbp = decode_sample("cmbp-1" + end);
    expect_es_metadata(cmbp, static_cast<std::uint8_t>(version), Schema::kCmbp1);
    EXPECT_EQ(record<Cmbp1Msg>(cmbp, 0).ts_in_delta, 17214);
    EXPECT_EQ(record<Cmbp1Msg>(cmbp, 0).levels[0].bid_pb, 1);
    EXPECT_EQ(record<Cmbp1Msg>(cmbp, 1).levels[0].ask_sz, 12U);
    EXPECT_EQ(record<Cmbp1Msg>(cmbp, 1).levels[0].ask_pb, 1);
    const Decoded cbbo = decode_sample("cbbo-1s" + end);
    expect_es_metadata(cbbo, static_cast<std::uint8_t>(version), Schema::kCbbo1S);
    EXPECT_EQ(record<CbboMsg>(cbbo, 0).price, 3720500000000);
    EXPECT_EQ(record<CbboMsg>(cbbo, 1).ts_recv, 1609160400006246513U);
  }
}

TEST(Samples, EveryFileDecodesInWholeAndInPieces) {
  DEFIB_NEED_SAMPLES();
  const auto names = os::real_files().list(testing_util::sample_dir());
  ASSERT_TRUE(names);
  std::size_t files = 0;
  for (const std::string& name : *names) {
    SCOPED_TRACE(name);
    const std::string bytes = sample(name);
    DecoderOptions options;
    options.fragment = name.find(".frag") != std::string::npos;
    const Decoded whole = decode(bytes, options);
    ASSERT_FALSE(whole.error) << whole.error->to_text();
    EXPECT_EQ(whole.metadata.has_value(), !options.fragment);
    for (const std::size_t piece : {1U, 7U, 100U}) {
      const Decoded pieces = decode(bytes, options, piece);
      ASSERT_FALSE(pieces.error) << pieces.error->to_text();
      EXPECT_EQ(pieces.metadata, whole.metadata);
      ASSERT_EQ(pieces.records.size(), whole.records.size());
      for (std::size_t i = 0; i < whole.records.size(); ++i) {
        EXPECT_EQ(pieces.records[i].bytes, whole.records[i].bytes);
      }
    }
    for (const auto& kept : whole.records) {
      EXPECT_FALSE(to_string(kept.view().rtype()).empty());
      if (whole.metadata) {
        EXPECT_TRUE(belongs_to(kept.view().rtype(), whole.metadata->schema));
      }
    }
    ++files;
  }
  EXPECT_GT(files, 60U);
}

TEST(Samples, WhatIsDecodedEncodesToTheSameBytes) {
  DEFIB_NEED_SAMPLES();
  for (const std::string name : {"mbo.v3.dbn", "definition.dbn", "imbalance.dbn", "trades.dbn",
                                 "statistics.dbn", "status.dbn", "bbo-1s.dbn", "mbp-10.dbn"}) {
    SCOPED_TRACE(name);
    const std::string bytes = sample("test_data." + name);
    const Decoded decoded = decode(bytes);
    std::string again;
    Encoder encoder(again);
    ASSERT_TRUE(encoder.metadata(*decoded.metadata));
    for (const auto& kept : decoded.records) encoder.record(kept.view());
    encoder.finish();
    EXPECT_EQ(again, bytes);
  }
}

TEST(Samples, FragmentsTellTheirVersionByTheirFirstRecord) {
  DEFIB_NEED_SAMPLES();
  const Decoded first = decode_sample("definition.v1.dbn.frag.zst");
  EXPECT_EQ(first.version, 1);
  ASSERT_EQ(first.records.size(), 2U);
  EXPECT_EQ(text_of(record<InstrumentDefMsgV1>(first, 0).raw_symbol), "GEM3 P9812");
  EXPECT_EQ(record<InstrumentDefMsgV1>(first, 0).strike_price, 9812500000000);
  EXPECT_EQ(text_of(record<InstrumentDefMsgV1>(first, 1).raw_symbol), "ESH1 P2250");
  const Decoded second = decode_sample("definition.dbn.frag.zst");
  EXPECT_EQ(second.version, 2);
  EXPECT_EQ(text_of(record<InstrumentDefMsgV2>(second, 0).raw_symbol), "GEM3 P9812");
  const Decoded third = decode_sample("definition.v3.dbn.frag.zst");
  EXPECT_EQ(third.version, 3);
  const auto newest = record<InstrumentDefMsg>(third, 1);
  EXPECT_EQ(text_of(newest.exchange), "XCME");
  EXPECT_EQ(newest.instrument_class, 'P');
  // The same instruments, upgraded here and by their publisher.
  const Decoded upgraded = decode_sample("definition.v1.dbn.frag.zst", UpgradePolicy::kUpgradeToV3);
  const auto ours = record<InstrumentDefMsg>(upgraded, 1);
  EXPECT_EQ(text_of(ours.raw_symbol), text_of(newest.raw_symbol));
  EXPECT_EQ(text_of(ours.asset), text_of(newest.asset));
  EXPECT_EQ(ours.expiration, newest.expiration);
  EXPECT_EQ(ours.strike_price, newest.strike_price);
  EXPECT_EQ(ours.tick_rule, newest.tick_rule);
  EXPECT_EQ(ours.leg_price, newest.leg_price);
}

TEST(Samples, AFileOfSeveralFramesIsReadToItsEnd) {
  DEFIB_NEED_SAMPLES();
  DecoderOptions options;
  options.fragment = true;
  const Decoded decoded = decode(sample("multi-frame.definition.v1.dbn.frag.zst"), options);
  ASSERT_FALSE(decoded.error) << decoded.error->to_text();
  EXPECT_EQ(decoded.version, 1);
  EXPECT_EQ(decoded.records.size(), 8U);
}

TEST(Samples, SymbolsFollowTheIdsFromDayToDay) {
  DEFIB_NEED_SAMPLES();
  const Decoded decoded = decode_sample("definition.v3.dbn.zst");
  const auto map = TsSymbolMap::from(*decoded.metadata);
  ASSERT_TRUE(map) << map.error().to_text();
  EXPECT_EQ(map->size(), 62U);
  EXPECT_EQ(map->find(6819, 20211004), "MSFT");
  EXPECT_EQ(map->find(6819, 20211003), "");
  for (const auto& kept : decoded.records) EXPECT_EQ(map->find(kept.view()), "MSFT");
}

}  // namespace
}  // namespace defib::marketdata
