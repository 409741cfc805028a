#include "defib/store/sorted_file.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <thread>

#include "defib/store/testing/sorted_util.h"

namespace defib::store {
namespace {

using namespace testing;

void expect_record(const LayerCursor& cursor, const ModelTable::const_iterator& at) {
  ASSERT_EQ(cursor.key(), at->first);
  ASSERT_EQ(cursor.value(), at->second.value);
  ASSERT_EQ(cursor.erased(), at->second.erased);
}

void expect_scans(const SortedFile& file, TableId table, const ModelTable& model) {
  const auto cursor = file.cursor(table);
  ASSERT_NE(cursor, nullptr);
  bool more = cursor->first();
  for (auto at = model.begin(); at != model.end(); ++at) {
    ASSERT_TRUE(more);
    expect_record(*cursor, at);
    more = cursor->next();
  }
  ASSERT_FALSE(more);
  ASSERT_FALSE(cursor->next());
  more = cursor->last();
  for (auto at = model.end(); at != model.begin();) {
    ASSERT_TRUE(more);
    expect_record(*cursor, --at);
    more = cursor->prev();
  }
  ASSERT_FALSE(more);
  ASSERT_EQ(cursor->error(), nullptr);
}

// Random moves, beside an iterator of the model; end() stands for "nowhere".
void expect_moves(const SortedFile& file, TableId table, const ModelTable& model,
                  os::Random& random, unsigned style) {
  const auto cursor = file.cursor(table);
  auto at = model.end();
  for (int i = 0; i < 400; ++i) {
    bool found = false;
    const std::uint64_t move = random.below(8);
    // An existing key, or one near it, or any.
    std::string key = random_key(random, style);
    if (random.below(2) == 0) {
      key =
          std::next(model.begin(), static_cast<std::ptrdiff_t>(random.below(model.size())))->first;
      if (random.below(2) == 0) key += '\0';
    }
    if (move == 0) {
      found = cursor->seek(key);
      at = model.lower_bound(key);
    } else if (move == 1) {
      found = cursor->seek_for_prev(key);
      at = model.upper_bound(key);
      at = at == model.begin() ? model.end() : std::prev(at);
    } else if (move == 2 || move == 3 || move == 4) {
      found = cursor->next();
      if (at != model.end()) ++at;
    } else {
      found = cursor->prev();
      if (at != model.end()) at = at == model.begin() ? model.end() : std::prev(at);
    }
    ASSERT_EQ(found, at != model.end());
    if (found) expect_record(*cursor, at);
  }
}

void expect_finds(const SortedFile& file, TableId table, const ModelTable& model,
                  os::Random& random, unsigned style) {
  const auto expect = [&](const std::string& key) {
    const auto found = file.find(table, key);
    ASSERT_TRUE(found.has_value()) << found.error().to_text();
    const auto at = model.find(key);
    ASSERT_EQ(found->has_value(), at != model.end());
    if (at == model.end()) return;
    ASSERT_EQ((*found)->value, at->second.value);
    ASSERT_EQ((*found)->erased, at->second.erased);
  };
  for (const auto& [key, value] : model) {
    expect(key);
    expect(key + '\0');
    if (!key.empty()) expect(key.substr(0, key.size() - 1));
  }
  for (int i = 0; i < 100; ++i) expect(random_key(random, style));
}

TEST(SortedFile, AgreesWithAMapInAllTablesBothWaysAndForEveryPageSize) {
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    SCOPED_TRACE(seed);
    os::Random random(seed);
    const Model model = random_model(random, 1 + random.below(5), 1500);
    const Written written = write_model(model, settings_of(seed, 4096U << (seed % 5)));
    MemoryFiles files;
    const auto file = open_written(files, written);
    ASSERT_NE(file, nullptr);
    std::vector<TableId> tables;
    unsigned style = 0;
    for (const auto& [table, records] : model) {
      tables.push_back(table);
      EXPECT_EQ(file->records(table), records.size());
      expect_scans(*file, table, records);
      expect_moves(*file, table, records, random, style);
      expect_finds(*file, table, records, random, style);
      ++style;
    }
    EXPECT_EQ(file->tables(), tables);
    EXPECT_EQ(file->cursor(2), nullptr);
    EXPECT_EQ(file->records(2), 0U);
    const auto absent = file->find(2, "a");
    ASSERT_TRUE(absent.has_value());
    EXPECT_FALSE(absent->has_value());
    const auto damages = file->verify(nullptr);
    ASSERT_TRUE(damages.has_value());
    for (const SortedDamage& damage : *damages) ADD_FAILURE() << damage.problem;
  }
}

TEST(SortedFile, HasLevelsOfIndexUnitsWhereBlocksAreMany) {
  Model model;
  // Separators of 4000 bytes: two children to an index unit.
  for (int i = 0; i < 64; ++i) {
    model[1][std::string(4000, 'k') + std::to_string(1000 + i)] = {std::string(200, 'v'), false};
  }
  const Written written = write_model(model);
  unsigned levels = 0;
  for (const auto& unit : units_of(written.bytes)) levels = std::max<unsigned>(levels, unit.level);
  EXPECT_GE(levels, 5U);
  MemoryFiles files;
  const auto file = open_written(files, written);
  expect_scans(*file, 1, model[1]);
  os::Random random(1);
  expect_finds(*file, 1, model[1], random, 3);
  EXPECT_TRUE(file->verify(nullptr)->empty());
}

TEST(SortedFile, KeepsTheLargestKeysAndValuesInBlocksOfTheirOwn) {
  Model model;
  model[1][std::string(kMaxKeySize, 'a')] = {std::string(kMaxValueSize, 'v'), false};
  model[1][std::string(kMaxKeySize, 'b')] = {"", true};
  model[1]["c"] = {std::string(100000, 'w'), false};
  model[1]["d"] = {"small", false};
  model[9][""] = {"", false};
  const Written written = write_model(model);
  MemoryFiles files;
  const auto file = open_written(files, written);
  expect_scans(*file, 1, model[1]);
  expect_scans(*file, 9, model[9]);
  EXPECT_TRUE(file->verify(nullptr)->empty());
}

TEST(SortedFile, WithoutRecordsIsAFileToo) {
  const Written written = write_model({});
  MemoryFiles files;
  const auto file = open_written(files, written);
  ASSERT_NE(file, nullptr);
  EXPECT_TRUE(file->tables().empty());
  EXPECT_FALSE(file->find(1, "a")->has_value());
  EXPECT_TRUE(file->verify(nullptr)->empty());
}

TEST(SortedFile, HoldsManyTablesInSeveralDirectoryUnits) {
  Model model;
  for (TableId table = 0; table < 500; ++table) model[table * 7]["k"] = {"v", table % 2 == 0};
  for (auto& [key, value] : model) {
    if (value["k"].erased) value["k"].value.clear();
  }
  const Written written = write_model(model);
  MemoryFiles files;
  const auto file = open_written(files, written);
  ASSERT_EQ(file->tables().size(), 500U);
  EXPECT_EQ(file->info().records, 500U);
  EXPECT_EQ(file->info().erased, 250U);
  EXPECT_EQ(file->find(7, "k")->value().value, "v");
  EXPECT_TRUE(file->verify(nullptr)->empty());
}

TEST(SortedFile, LooksAsDocumented) {
  Model model;
  model[1]["a"] = {"x", false};
  model[1]["b"] = {"", true};
  const Written written = write_model(model);
  const std::string& bytes = written.bytes;
  ASSERT_EQ(bytes.size(), 12288U);
  EXPECT_TRUE(bytes.starts_with("DEFIBSRT"));
  EXPECT_EQ(load<std::uint32_t>(&bytes[12]), 0x01020304U);
  EXPECT_EQ(bytes.substr(4096, 4), "SRTD");
  EXPECT_EQ(load<std::uint32_t>(&bytes[4096 + 40]), 128U);
  EXPECT_EQ(load<std::uint32_t>(&bytes[4096 + 48]), 2U);
  EXPECT_EQ(load<std::uint32_t>(&bytes[4096 + 52]), 83U);
  EXPECT_EQ(load<std::uint32_t>(&bytes[4160]), 0x61000000U);
  EXPECT_EQ(load<std::uint32_t>(&bytes[4164]), 0x62000000U);
  EXPECT_EQ(load<std::uint16_t>(&bytes[4168]), 76U);
  EXPECT_EQ(load<std::uint16_t>(&bytes[4170]), 80U);
  EXPECT_EQ(bytes.substr(4172, 7), std::string("\x01\0ax\x01\x80"
                                               "b",
                                               7));
  EXPECT_EQ(bytes.substr(4224, 4), "SRTT");
  EXPECT_EQ(load<std::uint32_t>(&bytes[4224 + 40]), 3968U);
  EXPECT_EQ(bytes.substr(8192, 4), "SRTF");
  EXPECT_EQ(load<std::uint64_t>(&bytes[8192 + 96]), 4224U);
  EXPECT_EQ(load<std::uint32_t>(&bytes[8192 + 4]), written.info.footer_crc);
}

TEST(SortedFile, NamesGoByGenerationAndKind) {
  SortedFileInfo info;
  info.generation = 0xa1;
  info.kind = SortedKind::kBase;
  EXPECT_EQ(sorted_file_name(info), "00000000000000a1.base");
  info.kind = SortedKind::kRun;
  EXPECT_EQ(sorted_file_name(info), "00000000000000a1.run");
  const auto parsed = parse_sorted_file_name("00000000000000a1.base");
  ASSERT_TRUE(parsed.has_value());
  EXPECT_EQ(parsed->generation, 0xa1U);
  EXPECT_EQ(parsed->kind, SortedKind::kBase);
  for (const char* name : {"", "a1.run", "00000000000000A1.run", "00000000000000a1.tmp",
                           "00000000000000a1.run.tmp", "0000000000000 a1.run"}) {
    EXPECT_FALSE(parse_sorted_file_name(name).has_value()) << name;
  }
}

TEST(SortedFile, OpeningReadsTheSameWhateverTheSize) {
  std::vector<std::uint64_t> reads;
  for (const int records : {10, 20000}) {
    Model model;
    for (int i = 0; i < records; ++i) model[1][std::to_string(i)] = {std::string(50, 'v'), false};
    const Written written = write_model(model);
    MemoryFiles files;
    std::uint64_t bytes = 0;
    files.fault = [&](std::uint64_t, std::uint64_t size) {
      bytes += size;
      return std::nullopt;
    };
    ASSERT_NE(open_written(files, written), nullptr);
    EXPECT_LE(bytes, 4 * sorted::kFilePage);
    reads.push_back(files.reads);
  }
  EXPECT_EQ(reads[0], reads[1]);
}

TEST(SortedFile, OpensOnlyWhatTheManifestNames) {
  Model model;
  model[1]["a"] = {"x", false};
  const Written written = write_model(model);
  MemoryFiles files;
  files.bytes = written.bytes;
  const auto code = [&](const SortedFileInfo& info, const std::string& uuid) {
    const auto file = SortedFile::open(files, "/s/f", info, uuid);
    return file ? Code{} : file.error().code();
  };
  EXPECT_EQ(code(written.info, kUuid), Code{});
  EXPECT_EQ(code(written.info, "ff112233445566778899aabbccddeeff"), Code::kInconsistentState);
  const auto with = [&](auto change) {
    SortedFileInfo info = written.info;
    change(info);
    return code(info, kUuid);
  };
  EXPECT_EQ(with([](auto& info) { info.kind = SortedKind::kBase; }), Code::kCorrupted);
  EXPECT_EQ(with([](auto& info) { ++info.generation; }), Code::kCorrupted);
  EXPECT_EQ(with([](auto& info) { ++info.footer_crc; }), Code::kCorrupted);
  EXPECT_EQ(with([](auto& info) { ++info.last_commit; }), Code::kCorrupted);
  EXPECT_EQ(with([](auto& info) { ++info.records; }), Code::kCorrupted);
  EXPECT_EQ(with([](auto& info) { ++info.erased; }), Code::kCorrupted);
  EXPECT_EQ(with([](auto& info) { info.size += 4096; }), Code::kCorrupted);
  EXPECT_EQ(with([](auto& info) { info.size = 0; }), Code::kCorrupted);
  os::SimFiles empty;
  const auto absent = SortedFile::open(empty, "/s/f", written.info, kUuid);
  ASSERT_FALSE(absent.has_value());
  EXPECT_EQ(absent.error().code(), Code::kFileNotFound);
}

TEST(SortedFile, OfAnotherVersionOrEndiannessSaysSo) {
  const Written written = write_model({});
  const auto code = [&](std::size_t offset, std::uint32_t value, bool swap) {
    MemoryFiles files;
    files.bytes = written.bytes;
    store_value(files.bytes.data() + offset, value);
    std::uint32_t crc = crc32c(std::string_view(files.bytes).substr(0, 4092));
    store_value(files.bytes.data() + 4092, swap ? std::byteswap(crc) : crc);
    return SortedFile::open(files, "/s/f", written.info, kUuid).error().code();
  };
  EXPECT_EQ(code(8, 2, false), Code::kStoreFormatUnsupported);
  EXPECT_EQ(code(12, 0x04030201, true), Code::kStoreFormatUnsupported);
}

TEST(SortedFileWriter, RefusesDisorderAndStaysRefused) {
  os::SimFiles files;
  ASSERT_TRUE(files.create_dirs("/s"));
  const auto attempt = [&](auto second) {
    auto writer = SortedFileWriter::create(files, "/s/f", settings_of());
    EXPECT_TRUE(writer.has_value());
    EXPECT_TRUE((*writer)->add(2, "b", "x", false));
    const Result<> refused = second(**writer);
    EXPECT_FALSE(refused.has_value());
    const auto later = (*writer)->finish();
    EXPECT_FALSE(later.has_value());
    EXPECT_TRUE(files.remove("/s/f"));
    return refused.error().code();
  };
  const auto add = [](TableId table, std::string key, std::string value, bool erased) {
    return [=](SortedFileWriter& writer) { return writer.add(table, key, value, erased); };
  };
  EXPECT_EQ(attempt(add(2, "b", "x", false)), Code::kCorrupted);
  EXPECT_EQ(attempt(add(2, "a", "x", false)), Code::kCorrupted);
  EXPECT_EQ(attempt(add(1, "c", "x", false)), Code::kCorrupted);
  EXPECT_EQ(attempt(add(2, "c", "x", true)), Code::kCorrupted);
  EXPECT_EQ(attempt(add(2, std::string(kMaxKeySize + 1, 'k'), "", false)),
            Code::kKeyOrValueTooLarge);
  SortedFileSettings odd = settings_of();
  odd.page_size = 5000;
  EXPECT_EQ(SortedFileWriter::create(files, "/s/f", odd).error().code(), Code::kInvalidArgument);
  EXPECT_FALSE(files.exists("/s/f"));
}

TEST(SortedFileWriter, PassesOnAFullDiskAFailedSyncAndThePacersError) {
  for (const std::string_view failing : {"write", "sync", "pace"}) {
    SCOPED_TRACE(failing);
    os::SimFiles files;
    ASSERT_TRUE(files.create_dirs("/s"));
    SortedFileSettings settings = settings_of();
    std::uint64_t paced = 0;
    settings.pace = [&](std::uint64_t bytes) -> Result<> {
      paced += bytes;
      if (failing == "pace") return Error(Code::kCancelled, "stop");
      return {};
    };
    auto writer = SortedFileWriter::create(files, "/s/f", settings);
    ASSERT_TRUE(writer.has_value());
    if (failing == "write") files.set_capacity(1 << 20);
    if (failing == "sync") {
      files.set_fault([](std::size_t, std::string_view what) -> std::optional<Error> {
        if (what.find("sync") == std::string_view::npos) return std::nullopt;
        return Error(Code::kSyncFailed, "sync");
      });
    }
    Result<> done;
    for (int i = 0; i < 3000 && done; ++i) {
      done = (*writer)->add(1, std::to_string(10000 + i), std::string(1000, 'v'), false);
    }
    Code code{};
    if (done) {
      const auto info = (*writer)->finish();
      ASSERT_FALSE(info.has_value());
      code = info.error().code();
    } else {
      code = done.error().code();
    }
    const Code expected = failing == "write"  ? Code::kNoSpace
                          : failing == "sync" ? Code::kSyncFailed
                                              : Code::kCancelled;
    EXPECT_EQ(code, expected);
    EXPECT_EQ((*writer)->finish().error().code(), expected);
    if (failing == "sync") {
      EXPECT_GE(paced, std::uint64_t{3'000'000});
    }
  }
}

// On the kernel's files, where direct writes have to be aligned.
class RealDirectory {
 public:
  RealDirectory() {
    std::string name = (std::filesystem::temp_directory_path() / "defib-sorted-XXXXXX").string();
    path_ = ::mkdtemp(name.data());
  }
  ~RealDirectory() { std::filesystem::remove_all(path_); }
  RealDirectory(const RealDirectory&) = delete;
  RealDirectory& operator=(const RealDirectory&) = delete;
  std::string file() const { return path_ + "/f.run"; }

 private:
  std::string path_;
};

TEST(SortedFile, OnARealDiskIsMappedReleasedAndReadBesideReleasing) {
  const RealDirectory dir;
  os::Files& files = os::real_files();
  os::Random random(3);
  Model model;
  for (int i = 0; i < 20000; ++i) {
    model[1][random_key(random, 1)] = {std::string(100, static_cast<char>('a' + i % 26)), false};
  }
  auto writer = SortedFileWriter::create(files, dir.file(), settings_of(7, 16384));
  ASSERT_TRUE(writer.has_value()) << writer.error().to_text();
  for (const auto& [key, value] : model[1]) {
    ASSERT_TRUE((*writer)->add(1, key, value.value, false));
  }
  const auto info = (*writer)->finish();
  ASSERT_TRUE(info.has_value()) << info.error().to_text();
  EXPECT_EQ(info->size, std::filesystem::file_size(dir.file()));
  EXPECT_LT(static_cast<double>(info->size), 1.15 * 20000 * 116);
  const auto file = *SortedFile::open(files, dir.file(), *info, kUuid);
  EXPECT_EQ(file->touched_bytes(), 0U);
  expect_scans(*file, 1, model[1]);
  EXPECT_GT(file->touched_bytes(), info->size * 9 / 10);
  file->release_memory();
  EXPECT_EQ(file->touched_bytes(), 0U);
  std::atomic<int> wrong = 0;
  {
    std::vector<std::jthread> readers;
    for (int t = 0; t < 3; ++t) {
      readers.emplace_back([&, t] {
        int i = 0;
        for (const auto& [key, value] : model[1]) {
          if (i++ % 3 != t) continue;
          const auto found = file->find(1, key);
          if (!found || !*found || (*found)->value != value.value) ++wrong;
        }
      });
    }
    for (int i = 0; i < 50; ++i) file->release_memory();
  }
  EXPECT_EQ(wrong, 0);
  std::uint64_t pulses = 0;
  const auto damages = file->verify([&](std::uint64_t) -> Result<> {
    ++pulses;
    return {};
  });
  ASSERT_TRUE(damages.has_value());
  EXPECT_TRUE(damages->empty());
  EXPECT_GE(pulses, 2U);
  const auto stopped =
      file->verify([](std::uint64_t) -> Result<> { return Error(Code::kCancelled, "enough"); });
  ASSERT_FALSE(stopped.has_value());
  EXPECT_EQ(stopped.error().code(), Code::kCancelled);
}

}  // namespace
}  // namespace defib::store
