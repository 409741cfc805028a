// Files made for a purpose: pieces, fragments, versions, damage and hostility.

#include "defib/marketdata/decoder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <random>

#include "defib/marketdata/encoder.h"
#include "defib/marketdata/testing.h"

namespace defib::marketdata {
namespace {

using testing::HasSubstr;
using testing_util::decode;
using testing_util::Decoded;
using testing_util::mbo_file;
using testing_util::some_mbo;
using testing_util::some_metadata;

std::size_t metadata_size(std::uint8_t version = kNewestVersion) {
  return encode_metadata(some_metadata(Schema::kMbo, version)).value().size();
}

void expect_numbered(const Decoded& decoded, std::size_t count) {
  ASSERT_EQ(decoded.records.size(), count);
  for (std::uint32_t i = 0; i < count; ++i) {
    ASSERT_EQ(decoded.records[i].view().get<MboMsg>().sequence, i);
  }
}

TEST(Decoder, RecordsArriveInAnyPieces) {
  for (const bool compressed : {false, true}) {
    const std::string bytes = mbo_file(1000, compressed);
    for (const std::size_t piece : {1U, 3U, 56U, 57U, 1000U, 1U << 20}) {
      const Decoded decoded = decode(bytes, {}, piece);
      ASSERT_FALSE(decoded.error) << decoded.error->to_text();
      EXPECT_EQ(decoded.metadata, some_metadata(Schema::kMbo));
      expect_numbered(decoded, 1000);
    }
  }
}

TEST(Decoder, RawRecordsAreViewsOfTheFedBytes) {
  const std::string bytes = mbo_file(3);
  Decoder decoder;
  ASSERT_TRUE(decoder.feed(bytes));
  for (std::size_t i = 0; i < 3; ++i) {
    const auto record = decoder.next();
    ASSERT_TRUE(record && *record);
    EXPECT_EQ((*record)->bytes().data(), bytes.data() + metadata_size() + i * sizeof(MboMsg));
  }
  EXPECT_EQ(decoder.records(), 3U);
  EXPECT_EQ(decoder.offset(), bytes.size());
}

TEST(Decoder, DrainStopsAfterTheRecordThatSaysSoAndGoesOnBehindIt) {
  for (const bool compressed : {false, true}) {
    const std::string bytes = mbo_file(10'000, compressed);
    Decoder decoder;
    ASSERT_TRUE(decoder.feed(bytes));
    std::uint32_t next = 0;
    const auto take = [&](std::uint32_t until) {
      return [&next, until](const RecordView& record) {
        EXPECT_EQ(record.get<MboMsg>().sequence, next);
        return ++next < until;
      };
    };
    EXPECT_FALSE(decoder.drain(take(1)).value());
    EXPECT_FALSE(decoder.drain(take(5'000)).value());
    EXPECT_EQ(decoder.records(), 5'000U);
    EXPECT_TRUE(decoder.drain(take(1'000'000)).value());
    EXPECT_EQ(next, 10'000U);
    EXPECT_TRUE(decoder.finish());
  }
}

TEST(Decoder, EveryCutIsAnErrorThatNamesTheEnd) {
  const std::string bytes = mbo_file(3);
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    const Decoded decoded = decode(std::string_view(bytes).substr(0, size));
    const std::size_t records = size < metadata_size() ? 0 : (size - metadata_size()) / 56;
    ASSERT_EQ(decoded.records.size(), records);
    if (size >= metadata_size() && (size - metadata_size()) % 56 == 0) {
      ASSERT_FALSE(decoded.error) << size;
      continue;
    }
    ASSERT_TRUE(decoded.error) << size;
    ASSERT_EQ(decoded.error->code(), size == 0 ? Code::kDbnMalformed : Code::kDbnTruncated);
    ASSERT_EQ(decoded.error->field("offset"), std::to_string(size));
  }
}

TEST(Decoder, EveryCutOfACompressedFileIsAnError) {
  const std::string bytes = mbo_file(500, true);
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    const Decoded decoded = decode(std::string_view(bytes).substr(0, size));
    ASSERT_TRUE(decoded.error) << size;
    for (std::uint32_t i = 0; i < decoded.records.size(); ++i) {
      ASSERT_EQ(decoded.records[i].view().get<MboMsg>().sequence, i);
    }
  }
}

TEST(Decoder, AnErrorIsFinal) {
  std::string bytes = mbo_file(2);
  bytes[metadata_size() + 56] = 0;
  Decoder decoder;
  ASSERT_TRUE(decoder.feed(bytes));
  ASSERT_TRUE(decoder.next().value());
  const Error first = decoder.next().error();
  EXPECT_EQ(first.code(), Code::kDbnMalformed);
  EXPECT_EQ(decoder.next().error().message(), first.message());
  EXPECT_EQ(decoder.feed(bytes).error().message(), first.message());
  EXPECT_EQ(decoder.finish().error().message(), first.message());
  EXPECT_EQ(decoder.drain([](const RecordView&) { return true; }).error().message(),
            first.message());
}

TEST(Decoder, ARecordShorterThanItsHeaderIsAnErrorAndNoEndlessLoop) {
  for (const int rtype : {0xA0, 0x13, 0x7F}) {  // also of a type that is not known
    for (const int words : {0, 1, 2, 3}) {
      std::string bytes = mbo_file(2);
      bytes[metadata_size() + 56] = static_cast<char>(words);
      bytes[metadata_size() + 57] = static_cast<char>(rtype);
      const Decoded decoded = decode(bytes);
      expect_numbered(decoded, 1);
      ASSERT_TRUE(decoded.error);
      EXPECT_EQ(decoded.error->field("offset"), std::to_string(metadata_size() + 56));
      EXPECT_THAT(decoded.error->message(), HasSubstr("is shorter than its header"));
      DecoderOptions fragment;
      fragment.fragment = true;
      EXPECT_TRUE(decode(bytes.substr(metadata_size() + 56), fragment).error);
    }
  }
}

TEST(Decoder, AKnownTypeOfAnotherLengthIsAnError) {
  for (const std::uint8_t words : {4, 13, 15, 255}) {
    std::string bytes = mbo_file(2) + std::string(1020, '\0');
    bytes[metadata_size()] = static_cast<char>(words);
    const Decoded decoded = decode(bytes);
    ASSERT_TRUE(decoded.error);
    EXPECT_EQ(decoded.error->code(), Code::kDbnMalformed);
    EXPECT_THAT(decoded.error->message(), HasSubstr("mbo has"));
    EXPECT_EQ(decoded.error->field("offset"), std::to_string(metadata_size()));
  }
}

TEST(Decoder, AnUnknownTypeIsPassedOnAsItIs) {
  std::string bytes = mbo_file(1);
  std::string unknown(24, 'x');
  unknown[0] = 6;
  unknown[1] = '\x7f';
  bytes += unknown;
  bytes += mbo_file(1).substr(metadata_size());
  const Decoded decoded = decode(bytes);
  ASSERT_FALSE(decoded.error);
  ASSERT_EQ(decoded.records.size(), 3U);
  EXPECT_EQ(decoded.records[1].bytes, unknown);
  EXPECT_TRUE(to_string(decoded.records[1].view().rtype()).empty());
  EXPECT_FALSE(decoded.records[1].view().holds<MboMsg>());
}

TEST(Decoder, AnotherFileBehindTheFirstIsToldFromDamage) {
  const Decoded decoded = decode(mbo_file(2) + mbo_file(2));
  expect_numbered(decoded, 2);
  ASSERT_TRUE(decoded.error);
  EXPECT_THAT(decoded.error->message(), HasSubstr("another DBN file begins here"));
}

TEST(Decoder, WhatIsNoDbnIsRecognized) {
  const Decoded text = decode("{\"detail\": \"not found\"}");
  ASSERT_TRUE(text.error);
  EXPECT_EQ(text.error->code(), Code::kDbnMalformed);
  EXPECT_THAT(text.error->message(), HasSubstr("7b226465"));
  // The legacy encoding: a skippable frame with its metadata, then records without a header.
  std::string legacy("\x51\x2a\x4d\x18\x02\0\0\0ab", 10);
  Compressor compressor;
  compressor.write(mbo_file(2).substr(metadata_size()), legacy);
  compressor.finish(legacy);
  EXPECT_EQ(decode(legacy).error->code(), Code::kDbnUnsupported);
  // A skippable frame in front of DBN is nothing special.
  const std::string skipped("\x50\x2a\x4d\x18\x02\0\0\0ab", 10);
  expect_numbered(decode(skipped + mbo_file(2, true)), 2);
  std::string newer = mbo_file(1);
  newer[3] = 4;
  EXPECT_EQ(decode(newer).error->code(), Code::kDbnUnsupported);
}

TEST(Decoder, SeveralFramesAreOneStream) {
  const std::string plain = mbo_file(100);
  std::string bytes;
  Compressor compressor;
  for (std::size_t at = 0; at < plain.size(); at += 997) {
    compressor.write(std::string_view(plain).substr(at, 997), bytes);
    compressor.finish(bytes);
  }
  expect_numbered(decode(bytes), 100);
  expect_numbered(decode(bytes, {}, 11), 100);
}

TEST(Decoder, DamagedCompressionNamesItsPlace) {
  std::string bytes = mbo_file(5000, true);
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 0x55);
  const Decoded decoded = decode(bytes);
  ASSERT_TRUE(decoded.error);
  EXPECT_EQ(decoded.error->code(), Code::kZstdMalformed);
  EXPECT_FALSE(decoded.error->field("compressed_offset").empty());
}

TEST(Decoder, LyingHeadersCostNoMemory) {
  std::string bytes = mbo_file(1);
  store_value(bytes.data() + 4, std::uint32_t{0xFFFFFFF0});
  EXPECT_EQ(decode(bytes).error->code(), Code::kLimitExceeded);
  // Within the limit, but not there: an end, without 60 MiB taken first.
  store_value(bytes.data() + 4, std::uint32_t{60 << 20});
  EXPECT_EQ(decode(bytes).error->code(), Code::kDbnTruncated);
  bytes = mbo_file(1);
  store_value(bytes.data() + 112, std::uint32_t{0xFFFFFFFF});  // symbols
  const Decoded decoded = decode(bytes);
  EXPECT_EQ(decoded.error->code(), Code::kDbnMalformed);
  EXPECT_EQ(decoded.error->field("offset"), "112");
}

TEST(Decoder, ACompressionBombEndsAtTheLimit) {
  std::string bytes;
  Encoder encoder(bytes, true);
  ASSERT_TRUE(encoder.metadata(some_metadata(Schema::kMbo)));
  for (int i = 0; i < 200'000; ++i) encoder.record(some_mbo(1));
  encoder.finish();
  DecoderOptions options;
  options.max_size = 1 << 20;
  const Decoded decoded = decode(bytes, options);
  ASSERT_TRUE(decoded.error);
  EXPECT_EQ(decoded.error->code(), Code::kLimitExceeded);
  EXPECT_LE(decoded.records.size() * sizeof(MboMsg), options.max_size);
  EXPECT_GT(decoded.records.size(), 10'000U);
}

TEST(Decoder, AWindowBeyondTheLimitIsRefused) {
  // A frame that announces a window of 2^31 bytes (RFC 8878, 3.1.1.1.2).
  const std::string bytes("\x28\xb5\x2f\xfd\x00\xa8\x01\x00\x00", 9);
  const Decoded decoded = decode(bytes);
  ASSERT_TRUE(decoded.error);
  EXPECT_EQ(decoded.error->code(), Code::kLimitExceeded);
}

TEST(Decoder, TsOutIsAppendedToEachRecord) {
  for (const std::uint8_t version : {1, 2, 3}) {
    Metadata metadata = some_metadata(Schema::kMbo, version);
    metadata.ts_out = true;
    std::string bytes;
    Encoder encoder(bytes);
    ASSERT_TRUE(encoder.metadata(metadata));
    encoder.record(some_mbo(0), 77);
    encoder.record(some_mbo(1), 78);
    const Decoded decoded = decode(bytes);
    expect_numbered(decoded, 2);
    EXPECT_EQ(decoded.records[1].view().ts_out(), 78U);
    EXPECT_EQ(decoded.records[1].view().body_size(), sizeof(MboMsg));
    // Without it the same bytes are records of a wrong length.
    bytes[8 + 16 + 2 + 24 + (version == 1 ? 8 : 0) + 2] = 0;
    EXPECT_EQ(decode(bytes).error->code(), Code::kDbnMalformed);
  }
}

TEST(Decoder, UpgradesKeepTsOutAndTexts) {
  Metadata metadata = some_metadata(Schema::kMixed, 1);
  metadata.ts_out = true;
  std::string bytes;
  Encoder encoder(bytes);
  ASSERT_TRUE(encoder.metadata(metadata));
  SymbolMappingMsgV1 mapping = {};
  mapping.hd.rtype = RType::kSymbolMapping;
  mapping.hd.instrument_id = 1;
  std::string_view("ES.c.0").copy(mapping.stype_in_symbol.data(), 6);
  std::string_view("ESH4").copy(mapping.stype_out_symbol.data(), 4);
  encoder.record(mapping, 99);
  ErrorMsgV1 error = {};
  error.hd.rtype = RType::kError;
  error.err.fill('e');
  encoder.record(error, 100);
  SystemMsgV1 system = {};
  system.hd.rtype = RType::kSystem;
  std::string_view("Heartbeat").copy(system.msg.data(), 9);
  encoder.record(system, 101);
  encoder.record(some_mbo(5), 102);
  DecoderOptions options;
  options.upgrade = UpgradePolicy::kUpgradeToV3;
  for (const std::size_t piece : {5U, 100'000U}) {
    const Decoded decoded = decode(bytes, options, piece);
    ASSERT_FALSE(decoded.error) << decoded.error->to_text();
    ASSERT_EQ(decoded.records.size(), 4U);
    const auto new_mapping = decoded.records[0].view().get<SymbolMappingMsg>();
    EXPECT_EQ(text_of(new_mapping.stype_in_symbol), "ES.c.0");
    EXPECT_EQ(text_of(new_mapping.stype_out_symbol), "ESH4");
    EXPECT_EQ(new_mapping.stype_in, SType::kMixed);
    EXPECT_EQ(decoded.records[0].view().ts_out(), 99U);
    EXPECT_EQ(text_of(decoded.records[1].view().get<ErrorMsg>().err), std::string(64, 'e'));
    EXPECT_EQ(text_of(decoded.records[2].view().get<SystemMsg>().msg), "Heartbeat");
    EXPECT_EQ(decoded.records[3].view().get<MboMsg>().sequence, 5U);
    EXPECT_EQ(decoded.metadata->version, 3);
  }
}

TEST(Decoder, AFragmentTellsTsOutByItsFirstRecord) {
  for (const bool ts_out : {false, true}) {
    std::string bytes;
    Encoder encoder(bytes);
    const auto at = [&](std::uint64_t ns) {
      return ts_out ? std::optional<std::uint64_t>(ns) : std::nullopt;
    };
    encoder.record(some_mbo(0), at(1));
    encoder.record(some_mbo(1), at(2));
    StatMsg stat = {};
    stat.hd.rtype = RType::kStatistics;
    encoder.record(stat, at(3));
    DecoderOptions options;
    options.fragment = true;
    const Decoded decoded = decode(bytes, options, 9);
    ASSERT_FALSE(decoded.error) << decoded.error->to_text();
    ASSERT_EQ(decoded.records.size(), 3U);
    EXPECT_EQ(decoded.version, 3);
    EXPECT_EQ(decoded.records[1].view().has_ts_out(), ts_out);
    EXPECT_TRUE(decoded.records[2].view().holds<StatMsg>());
    // What it was told does not fit: an error, not another guess.
    options.version = 1;
    EXPECT_EQ(decode(bytes, options).error->code(), Code::kDbnMalformed);
    options.version = 0;
    options.ts_out = !ts_out;
    EXPECT_EQ(decode(bytes, options).error->code(), Code::kDbnMalformed);
  }
}

TEST(Decoder, AnEmptyFragmentHasNoRecords) {
  DecoderOptions options;
  options.fragment = true;
  const Decoded decoded = decode("", options);
  EXPECT_FALSE(decoded.error);
  EXPECT_TRUE(decoded.records.empty());
}

TEST(Decoder, FlippedBytesGiveErrorsOrOtherRecordsButNothingElse) {
  // A million mutations run in the fuzzer; these keep the ordinary build honest.
  std::mt19937 random(20260101);
  std::size_t errors = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string bytes = mbo_file(20, round % 2 == 1);
    for (unsigned i = 0; i <= random() % 4; ++i) {
      bytes[random() % bytes.size()] = static_cast<char>(random());
    }
    if (random() % 3 == 0) bytes.resize(random() % bytes.size());
    const Decoded decoded = decode(bytes, {}, 1 + random() % 300);
    errors += decoded.error ? 1 : 0;
    if (decoded.error) {
      const bool placed = !decoded.error->field("offset").empty() ||
                          !decoded.error->field("compressed_offset").empty();
      ASSERT_TRUE(placed) << decoded.error->to_text();
    }
  }
  EXPECT_GT(errors, 1000U);
}

TEST(OpenDocument, WalksRecordsWhereTheyLie) {
  const std::string bytes = mbo_file(100);
  auto document = open_document(bytes);
  ASSERT_TRUE(document) << document.error().to_text();
  EXPECT_EQ(document->metadata, some_metadata(Schema::kMbo));
  EXPECT_EQ(document->records_offset, metadata_size());
  RecordView record;
  std::uint32_t count = 0;
  while (document->records.next(record)) EXPECT_EQ(record.get<MboMsg>().sequence, count++);
  EXPECT_EQ(count, 100U);
  EXPECT_FALSE(document->records.refused());
  EXPECT_TRUE(document->records.rest().empty());
}

TEST(OpenDocument, RefusesWhatIsNoWholeMetadata) {
  const std::string bytes = mbo_file(1);
  for (std::size_t size = 0; size < metadata_size(); ++size) {
    ASSERT_FALSE(open_document(std::string_view(bytes).substr(0, size))) << size;
  }
  EXPECT_EQ(open_document("PK\x03\x04zip").error().code(), Code::kDbnMalformed);
}

TEST(Metadata, EveryVersionKeepsItsFields) {
  for (const std::uint8_t version : {1, 2, 3}) {
    Metadata metadata = some_metadata(Schema::kMixed, version);
    metadata.limit = 7;
    metadata.partial = {"A", "B"};
    metadata.not_found = {"NONE"};
    metadata.mappings.push_back({"CLZ0", {{20200101, 20200201, "1"}, {20200201, 20200301, "2"}}});
    const auto bytes = encode_metadata(metadata);
    ASSERT_TRUE(bytes) << bytes.error().to_text();
    if (version == 3) {
      EXPECT_EQ(bytes->size() % 8, 0U);
    }
    const Decoded decoded = decode(*bytes);
    ASSERT_FALSE(decoded.error) << decoded.error->to_text();
    EXPECT_EQ(decoded.metadata, metadata);
  }
}

TEST(Metadata, TextsThatDoNotFitAreRefused) {
  Metadata metadata = some_metadata(Schema::kMbo, 1);
  metadata.symbols = {std::string(22, 'x')};
  EXPECT_EQ(encode_metadata(metadata).error().code(), Code::kInvalidArgument);
  metadata.symbols = {std::string(21, 'x')};
  EXPECT_TRUE(encode_metadata(metadata));
  metadata.dataset = std::string(17, 'x');
  EXPECT_EQ(encode_metadata(metadata).error().code(), Code::kInvalidArgument);
}

TEST(Metadata, EveryDamagedLengthIsAnErrorWithItsOffset) {
  const std::string good = mbo_file(0);
  for (std::size_t at = 4; at + 4 <= good.size(); ++at) {
    for (const std::uint32_t value : {0U, 1U, 0x7FFFFFFFU, 0xFFFFFFFFU}) {
      std::string bytes = good;
      store_value(bytes.data() + at, value);
      const Decoded decoded = decode(bytes);
      if (decoded.error) {
        ASSERT_FALSE(decoded.error->field("offset").empty());
      }
    }
  }
}

}  // namespace
}  // namespace defib::marketdata
