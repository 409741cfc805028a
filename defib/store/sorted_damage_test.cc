// What damage does to a sorted file: every byte, every length, and units in the wrong place.

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "defib/store/testing/sample.h"
#include "defib/store/testing/sorted_fuzz_harness.h"

namespace defib::store {
namespace {

using namespace testing;
using sorted::UnitHeader;
using sorted::UnitType;

using Place = std::pair<TableId, std::string>;

// Which records are looked up one by one: every `step`th from `first` on.
struct Sample {
  std::size_t first = 0;
  std::size_t step = 1;
};
// Reads all records by cursors both ways, and the sample's by find(). All that comes back must be
// right, and the rest a typed error; answers how many of them there were.
int read_everything(const SortedFile& file, const Model& model, Code expected = Code::kCorrupted,
                    Sample sample = {}) {
  int errors = 0;
  std::size_t index = sample.first;
  for (const auto& [table, records] : model) {
    for (const auto& [key, value] : records) {
      if (index++ % sample.step != 0) continue;
      const auto found = file.find(table, key);
      if (!found) {
        EXPECT_EQ(found.error().code(), expected);
        EXPECT_EQ(found.error().field("path"), "/s/f");
        ++errors;
        continue;
      }
      EXPECT_TRUE(found->has_value()) << "lost without a word: " << key;
      if (!*found) continue;
      EXPECT_EQ((*found)->value, value.value);
      EXPECT_EQ((*found)->erased, value.erased);
    }
    const auto cursor = file.cursor(table);
    for (const bool forward : {true, false}) {
      std::size_t seen = 0;
      auto up = records.begin();
      auto down = records.rbegin();
      for (bool more = forward ? cursor->first() : cursor->last(); more;
           more = forward ? cursor->next() : cursor->prev()) {
        const auto& [key, value] = forward ? *up++ : *down++;
        EXPECT_EQ(cursor->key(), key);
        EXPECT_EQ(cursor->value(), value.value);
        EXPECT_EQ(cursor->erased(), value.erased);
        ++seen;
      }
      if (cursor->error() != nullptr) {
        EXPECT_EQ(cursor->error()->code(), expected);
        EXPECT_LT(seen, records.size());
        ++errors;
      } else {
        EXPECT_EQ(seen, records.size()) << "a damaged table looks short";
      }
    }
  }
  return errors;
}

bool covers(const SortedDamage& damage, const Place& place) {
  return damage.holds_records && damage.table == place.first &&
         (damage.after_key.empty() || place.second > damage.after_key) &&
         (damage.before_key.empty() || place.second < damage.before_key);
}

// Which unit holds which records, from a sound file.
std::map<std::uint64_t, std::vector<Place>> places_of(const std::string& bytes) {
  std::map<std::uint64_t, std::vector<Place>> places;
  for (const UnitHeader& unit : units_of(bytes)) {
    if (unit.type != UnitType::kData) continue;
    const sorted::DataView view(bytes.data() + unit.offset, unit.count, unit.end, unit.skip);
    for (std::uint32_t i = 0; i < unit.count; ++i) {
      places[unit.offset].emplace_back(unit.table, std::string(view.key(i)));
    }
  }
  return places;
}

struct Salvaged {
  std::set<Place> places;
  std::vector<SortedDamage> damages;
};
// Everything that is handed out must be right and in order.
Salvaged salvage(MemoryFiles& files, const Model& model) {
  Salvaged salvaged;
  std::optional<Place> last;
  auto damages = salvage_sorted_file(files, "/s/f", [&](const SalvagedRecord& record) {
    const Place place = {record.table, std::string(record.key)};
    EXPECT_TRUE(!last || *last < place);
    last = place;
    const auto table = model.find(record.table);
    ASSERT_NE(table, model.end());
    const auto at = table->second.find(place.second);
    ASSERT_NE(at, table->second.end());
    EXPECT_EQ(record.value, at->second.value);
    EXPECT_EQ(record.erased, at->second.erased);
    salvaged.places.insert(place);
  });
  EXPECT_TRUE(damages.has_value());
  if (damages) salvaged.damages = *damages;
  return salvaged;
}

// With `damaged` units out of order, all records but theirs come back, and theirs are listed.
void expect_salvage(MemoryFiles& files, const Model& model, const std::string& sound,
                    const std::set<std::uint64_t>& damaged) {
  const Salvaged salvaged = salvage(files, model);
  for (const auto& [offset, places] : places_of(sound)) {
    for (const Place& place : places) {
      const bool is_there = salvaged.places.contains(place);
      EXPECT_EQ(is_there, !damaged.contains(offset)) << place.first << " " << place.second;
      if (is_there) continue;
      EXPECT_TRUE(std::ranges::any_of(
          salvaged.damages, [&](const SortedDamage& damage) { return covers(damage, place); }))
          << "lost and not listed: " << place.first << " " << place.second;
    }
  }
  EXPECT_FALSE(salvaged.damages.empty());
}

std::uint64_t unit_at(const std::vector<UnitHeader>& units, std::uint64_t offset) {
  for (const UnitHeader& unit : units) {
    if (offset >= unit.offset && offset < unit.offset + unit.size) return unit.offset;
  }
  return 0;  // the header page
}

TEST(SortedFileDamage, EveryFlippedByteIsFoundAndNothingWrongIsEverRead) {
  const Model model = damage_model();
  const Written written = write_model(model);
  const std::vector<UnitHeader> units = units_of(written.bytes);
  ASSERT_LT(written.bytes.size(), 32768U);
  MemoryFiles files;
  const auto opened_before = open_written(files, written);
  int refused = 0;
  int read_errors = 0;
  testing_util::Sample sample("flipped bytes of a sorted file");
  for (std::size_t at = 0; at < written.bytes.size(); ++at) {
    if (!sample.takes(at)) continue;
    SCOPED_TRACE(at);
    files.bytes = written.bytes;
    files.bytes[at] = static_cast<char>(files.bytes[at] ^ (1 << (at * 5 % 8)));
    const auto file = SortedFile::open(files, "/s/f", written.info, kUuid);
    if (!file) {
      ASSERT_EQ(file.error().code(), Code::kCorrupted) << file.error().to_text();
      ++refused;
    } else {
      const int errors = read_everything(**file, model, Code::kCorrupted, {at, 16});
      ASSERT_GT(errors, 0) << "a flipped byte that no read notices";
      read_errors += errors;
    }
    const auto damages = opened_before->verify(nullptr);
    ASSERT_TRUE(damages.has_value());
    ASSERT_TRUE(std::ranges::any_of(*damages, [&](const SortedDamage& damage) {
      return at >= damage.offset && at < damage.offset + damage.size;
    })) << "verify does not see it";
    // Most of the time goes here; each unit is hit often enough.
    if (at % 5 == 0) expect_salvage(files, model, written.bytes, {unit_at(units, at)});
    if (HasFailure()) return;
  }
  // Header, directory and footer keep it from opening; they are less than 13 KB.
  if (sample.is_all()) {
    EXPECT_GT(refused, 8192);
  }
  EXPECT_GT(refused, 0);
  EXPECT_LT(refused, 13000);
  EXPECT_GT(read_errors, 0);
}

TEST(SortedFileDamage, AFileOfAnyLengthOpensOnlyWhenItIsWholeAndGivesWhatIsLeft) {
  const Model model = damage_model();
  const Written written = write_model(model);
  const auto places = places_of(written.bytes);
  const std::vector<UnitHeader> units = units_of(written.bytes);
  MemoryFiles files;
  testing_util::Sample sample("lengths of a sorted file");
  for (std::size_t size = 0; size < written.bytes.size(); ++size) {
    if (!sample.takes(size)) continue;
    SCOPED_TRACE(size);
    files.bytes = written.bytes.substr(0, size);
    const auto file = SortedFile::open(files, "/s/f", written.info, kUuid);
    ASSERT_FALSE(file.has_value());
    ASSERT_EQ(file.error().code(), Code::kCorrupted);
    if (size % 7 != 0 && size % 64 > 1) continue;
    const Salvaged salvaged = salvage(files, model);
    ASSERT_FALSE(salvaged.damages.empty());
    for (const UnitHeader& unit : units) {
      if (unit.type != UnitType::kData) continue;
      for (const Place& place : places.at(unit.offset)) {
        const bool is_whole = unit.offset + unit.size <= size;
        ASSERT_EQ(salvaged.places.contains(place), is_whole);
        if (is_whole) continue;
        ASSERT_TRUE(std::ranges::any_of(
            salvaged.damages, [&](const SortedDamage& damage) { return damage.holds_records; }));
      }
    }
    if (HasFailure()) return;
  }
}

// Puts units in wrong places and expects all readers to notice.
class MisplacedUnits : public ::testing::Test {
 protected:
  MisplacedUnits() : model_(damage_model()), written_(write_model(model_)) {
    units_ = units_of(written_.bytes);
    files_.bytes = written_.bytes;
  }
  std::string unit(std::size_t i) const {
    return written_.bytes.substr(units_[i].offset, units_[i].size);
  }
  void put(std::size_t i, std::string_view bytes) {
    files_.bytes.replace(units_[i].offset, bytes.size(), bytes);
  }
  void expect_noticed(const std::set<std::size_t>& damaged, const std::string& says) {
    const auto file = SortedFile::open(files_, "/s/f", written_.info, kUuid);
    ASSERT_TRUE(file.has_value());
    EXPECT_GT(read_everything(**file, model_), 0);
    const auto damages = (*file)->verify(nullptr);
    ASSERT_TRUE(damages.has_value());
    std::set<std::uint64_t> offsets;
    for (const std::size_t i : damaged) {
      offsets.insert(units_[i].offset);
      const auto found = std::ranges::find(*damages, units_[i].offset, &SortedDamage::offset);
      ASSERT_NE(found, damages->end());
      EXPECT_NE(found->problem.find(says), std::string::npos) << found->problem;
      EXPECT_EQ(found->table, units_[i].table);
    }
    expect_salvage(files_, model_, written_.bytes, offsets);
  }

  Model model_;
  Written written_;
  std::vector<UnitHeader> units_;
  MemoryFiles files_;
};

TEST_F(MisplacedUnits, ALostWriteLeavesZeros) {
  put(1, std::string(units_[1].size, '\0'));
  expect_noticed({1}, "never written");
}

TEST_F(MisplacedUnits, ALostWriteOfAnIndexUnitLeavesItsTableUnreadAndItsRecordsSalvaged) {
  const auto index = std::ranges::find(units_, UnitType::kIndex, &UnitHeader::type);
  ASSERT_NE(index, units_.end());
  put(static_cast<std::size_t>(index - units_.begin()), std::string(index->size, '\0'));
  const auto file = SortedFile::open(files_, "/s/f", written_.info, kUuid);
  EXPECT_GT(read_everything(**file, model_), kAccounts);
  const auto damages = (*file)->verify(nullptr);
  ASSERT_EQ(damages->size(), 1U);
  EXPECT_FALSE(damages->front().holds_records);
  const Salvaged salvaged = salvage(files_, model_);
  EXPECT_EQ(salvaged.places.size(), kAccounts + 2U + 6U);
  ASSERT_EQ(salvaged.damages.size(), 1U);
  EXPECT_FALSE(salvaged.damages.front().holds_records);
}

TEST_F(MisplacedUnits, ABlockWrittenOverAnother) {
  ASSERT_EQ(units_[0].size, units_[1].size);
  put(1, unit(0));
  expect_noticed({1}, "misdirected");
}

TEST_F(MisplacedUnits, TwoBlocksSwapped) {
  ASSERT_EQ(units_[0].size, units_[1].size);
  put(0, unit(1));
  put(1, unit(0));
  expect_noticed({0, 1}, "misdirected");
}

TEST_F(MisplacedUnits, ABlockOfAnotherGenerationAtTheSamePlace) {
  const Written other = write_model(model_, settings_of(6));
  put(0, std::string_view(other.bytes).substr(units_[0].offset, units_[0].size));
  expect_noticed({0}, "generation 6");
}

TEST_F(MisplacedUnits, ABlockOfAnotherStoreAtTheSamePlace) {
  SortedFileSettings settings = settings_of();
  settings.store_uuid = "ff112233445566778899aabbccddeeff";
  const Written other = write_model(model_, settings);
  put(0, std::string_view(other.bytes).substr(units_[0].offset, units_[0].size));
  expect_noticed({0}, "another store");
}

TEST_F(MisplacedUnits, AStaleBlockThatDiffersInItsRecordsAlone) {
  const Written other = write_model(damage_model('w'));
  put(0, std::string_view(other.bytes).substr(units_[0].offset, units_[0].size));
  expect_noticed({0}, "not the one that its index names");
}

TEST_F(MisplacedUnits, AnEarlierFileUnderTheSameNameIsNotOpened) {
  Model changed = model_;
  changed[1]["account-1000"].value[0] = 'w';
  files_.bytes = write_model(changed).bytes;
  const auto file = SortedFile::open(files_, "/s/f", written_.info, kUuid);
  ASSERT_FALSE(file.has_value());
  EXPECT_EQ(file.error().code(), Code::kCorrupted);
}

TEST(SortedFileDamage, AnErrorNamesFileOffsetTableAndKeys) {
  const Model model = damage_model();
  const Written written = write_model(model);
  const std::vector<UnitHeader> units = units_of(written.bytes);
  MemoryFiles files;
  const auto file = open_written(files, written);
  files.bytes[units[1].offset + 100] ^= 1;
  const auto places = places_of(written.bytes).at(units[1].offset);
  const auto found = file->find(1, places[3].second);
  ASSERT_FALSE(found.has_value());
  const Error& error = found.error();
  EXPECT_EQ(error.code(), Code::kCorrupted);
  EXPECT_EQ(error.field("path"), "/s/f");
  EXPECT_EQ(error.field("offset"), std::to_string(units[1].offset));
  EXPECT_EQ(error.field("table"), "1");
  EXPECT_LE(error.field("from_key"), places.front().second);
  EXPECT_GT(error.field("before_key"), places.back().second);
  EXPECT_NE(error.message().find("block 1 at"), std::string::npos) << error.message();
  // A cursor goes on behind the damage.
  const auto cursor = file->cursor(1);
  EXPECT_TRUE(cursor->seek(error.field("before_key")));
  EXPECT_EQ(cursor->error(), nullptr);
  // And sound again, it is read again.
  files.bytes = written.bytes;
  EXPECT_TRUE(file->find(1, places[3].second).has_value());
}

TEST(SortedFileDamage, ReleasedMemoryIsCheckedAgainAtTheNextTouch) {
  const Model model = damage_model();
  const Written written = write_model(model);
  MemoryFiles files;
  const auto file = open_written(files, written);
  EXPECT_EQ(read_everything(*file, model), 0);
  EXPECT_GT(file->touched_bytes(), 0U);
  file->release_memory();
  EXPECT_EQ(file->touched_bytes(), 0U);
  files.bytes[units_of(written.bytes)[1].offset + 100] ^= 1;
  EXPECT_GT(read_everything(*file, model), 0);
}

TEST(SortedFileDamage, AFailingDeviceIsAnErrorForTheReadsThatNeedThePlace) {
  const Model model = damage_model();
  const Written written = write_model(model);
  const std::vector<UnitHeader> units = units_of(written.bytes);
  MemoryFiles files;
  const auto file = open_written(files, written);
  // The kernel fails whole pages.
  std::uint64_t bad = units[1].offset / 4096 * 4096;
  files.fault = [&](std::uint64_t offset, std::uint64_t size) -> std::optional<Error> {
    if (bad + 4096 <= offset || bad >= offset + size) return std::nullopt;
    return Error(Code::kIoError, "planted");
  };
  std::set<std::uint64_t> hit;
  for (const UnitHeader& unit : units) {
    if (unit.offset < bad + 4096 && unit.offset + unit.size > bad) hit.insert(unit.offset);
  }
  EXPECT_GT(read_everything(*file, model, Code::kIoError), 0);
  const auto damages = file->verify(nullptr);
  ASSERT_TRUE(damages.has_value());
  EXPECT_EQ(damages->size(), hit.size());
  for (const SortedDamage& damage : *damages) EXPECT_TRUE(hit.contains(damage.offset));
  expect_salvage(files, model, written.bytes, hit);
  // In header or footer it does not open, and is salvaged whole.
  for (const std::uint64_t place : {std::uint64_t{0}, std::uint64_t{written.bytes.size() - 4096}}) {
    bad = place;
    const auto refused = SortedFile::open(files, "/s/f", written.info, kUuid);
    ASSERT_FALSE(refused.has_value());
    EXPECT_EQ(refused.error().code(), Code::kIoError);
    expect_salvage(files, model, written.bytes, {});
  }
}

TEST(SortedFileDamage, SalvageNeedsNeitherHeaderNorIndexNorFooter) {
  const Model model = damage_model();
  const Written written = write_model(model);
  MemoryFiles files;
  files.bytes = written.bytes;
  std::fill_n(files.bytes.begin(), 4096, '\xee');
  std::uint64_t lost = 0;
  for (const UnitHeader& unit : units_of(written.bytes)) {
    if (unit.type == UnitType::kData && unit.number != 1) continue;
    std::fill_n(files.bytes.begin() + static_cast<std::ptrdiff_t>(unit.offset), unit.size, '\xee');
    if (unit.number == 1) lost = unit.offset;
  }
  expect_salvage(files, model, written.bytes, {lost});
  files.bytes.assign(20000, '\xee');
  const Salvaged nothing = salvage(files, model);
  EXPECT_TRUE(nothing.places.empty());
  ASSERT_EQ(nothing.damages.size(), 2U);
  EXPECT_EQ(nothing.damages.back().size, 20000U);
}

TEST(SortedFileDamage, AValueThatLooksLikeABlockIsNotTakenForOne) {
  // A whole sorted file as a value, at each distance from the alignment.
  const Written inner = write_model(damage_model());
  Model model;
  for (int i = 0; i < 3; ++i) {
    model[1]["k" + std::to_string(i) + std::string(static_cast<std::size_t>(i) * 20, 'x')] = {
        inner.bytes, false};
  }
  const Written written = write_model(model);
  const std::vector<UnitHeader> units = units_of(written.bytes);
  MemoryFiles files;
  files.bytes = written.bytes;
  files.bytes[units[1].offset + 70] ^= 1;
  expect_salvage(files, model, written.bytes, {units[1].offset});
}

TEST(SortedFileDamage, VerifyFindsBlocksBelowADamagedIndexUnitTooAndSaysWhichKeysItCannotReach) {
  Model model;
  for (int i = 0; i < 64; ++i) {
    model[1][std::string(4000, 'k') + std::to_string(1000 + i)] = {std::string(200, 'v'), false};
  }
  const Written written = write_model(model);
  const std::vector<UnitHeader> units = units_of(written.bytes);
  const auto index = std::ranges::find(units, UnitType::kIndex, &UnitHeader::type);
  MemoryFiles files;
  const auto file = open_written(files, written);
  files.bytes[index->offset + 80] ^= 1;
  files.bytes[units[1].offset + 80] ^= 1;
  const auto damages = file->verify(nullptr);
  ASSERT_TRUE(damages.has_value());
  ASSERT_EQ(damages->size(), 2U);
  EXPECT_EQ((*damages)[0].offset, index->offset);
  EXPECT_EQ((*damages)[1].offset, units[1].offset);
  EXPECT_TRUE((*damages)[1].holds_records);
  EXPECT_GT(read_everything(*file, model), 0);
}

// Rewrites the one block of a file with `change`, under right checksums all the way up.
std::string with_changed_block(Written& written, const std::function<void(char*)>& change) {
  std::string bytes = written.bytes;
  const std::vector<UnitHeader> units = units_of(bytes);
  EXPECT_EQ(units.size(), 3U);
  change(bytes.data() + units[0].offset);
  reseal(bytes, units[0].offset, units[0].size);
  const auto block_crc = load<std::uint32_t>(&bytes[units[0].offset + 4]);
  store_value(&bytes[units[1].offset + 64 + 36], block_crc);
  reseal(bytes, units[1].offset, units[1].size);
  const auto directory_crc = bytes.substr(units[1].offset + 4, 4);
  store_value(&bytes[units[2].offset + 108], crc32c(directory_crc));
  reseal(bytes, units[2].offset, units[2].size);
  written.info.footer_crc = load<std::uint32_t>(&bytes[units[2].offset + 4]);
  return bytes;
}

TEST(SortedFileDamage, WhatContradictsItselfUnderRightChecksumsIsCorruptedToo) {
  Model model;
  for (const char* key : {"aa", "ab", "ac"}) model[1][key] = {"value", false};
  struct Case {
    const char* says;
    std::function<void(char*)> change;
  };
  // Prefixes at 64, starts at 76, records from 82: 2 + 2 + 5 bytes each.
  const Case cases[] = {
      {"out of order", [](char* b) { b[94] = 'a', store_value(b + 68, 0x61000000U); }},
      {"does not fit its prefix", [](char* b) { b[64] ^= 1; }},
      {"starts where none can", [](char* b) { store_value(b + 76, std::uint16_t{83}); }},
      {"starts where none can", [](char* b) { store_value(b + 78, std::uint16_t{0xffff}); }},
      {"starts where none can", [](char* b) { store_value(b + 80, std::uint16_t{0}); }},
      {"larger than its place", [](char* b) { store_value(b + 82, std::uint16_t{4096}); }},
      {"erased and has a value", [](char* b) { store_value(b + 82, std::uint16_t{0x8002}); }},
      {"no zeros", [](char* b) { b[120] = 1; }},
      {"no zeros", [](char* b) { b[60] = 1; }},
      {"not the one", [](char* b) { b[44] = 2; }},
  };
  for (const Case& each : cases) {
    SCOPED_TRACE(each.says);
    Written written = write_model(model);
    MemoryFiles files;
    files.bytes = with_changed_block(written, each.change);
    const auto file = SortedFile::open(files, "/s/f", written.info, kUuid);
    ASSERT_TRUE(file.has_value()) << file.error().to_text();
    const auto found = (*file)->find(1, "ab");
    ASSERT_FALSE(found.has_value());
    EXPECT_EQ(found.error().code(), Code::kCorrupted);
    EXPECT_NE(found.error().message().find(each.says), std::string::npos)
        << found.error().message();
    EXPECT_FALSE((*file)->verify(nullptr)->empty());
  }
}

TEST(SortedFileDamage, AnyBytesAreReadWithoutHarm) {
  // What the fuzzer does, from seeds: mode, then edits of four bytes or a whole file.
  const std::string& sound = fuzzed_file().bytes;
  const std::vector<UnitHeader> units = units_of(sound);
  testing_util::Sample sample("inputs of the fuzzer");
  for (std::uint64_t seed = 1; seed <= 1500; ++seed) {
    if (!sample.takes(seed)) continue;
    SCOPED_TRACE(seed);
    os::Random random(seed);
    std::string mode(16, '\0');
    mode[0] = static_cast<char>(random.below(4));
    std::string bytes;
    if ((mode[0] & 1) != 0) {
      bytes = sound.substr(0, random.below(sound.size() + 1));
      for (std::uint64_t i = random.below(20); i > 0 && !bytes.empty(); --i) {
        bytes[random.below(bytes.size())] = static_cast<char>(random.next());
      }
    } else {
      for (std::uint64_t i = 1 + random.below(6); i > 0; --i) {
        // Mostly in headers and in what follows them.
        const UnitHeader& unit = units[random.below(units.size())];
        const std::uint64_t place =
            unit.offset + random.below(random.below(3) == 0 ? unit.size : 192);
        Writer(bytes).u32(static_cast<std::uint32_t>(place | random.below(256) << 24));
      }
    }
    read_as_sorted_file(mode, bytes);
  }
}

}  // namespace
}  // namespace defib::store
