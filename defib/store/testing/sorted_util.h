// Sorted files for tests: a model of what is in one, files in memory that are cheap to damage, and
// decorators that fail or watch calls.

#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "defib/base/assert.h"
#include "defib/os/random.h"
#include "defib/os/sim_files.h"
#include "defib/store/sorted_file_format.h"

namespace defib::store::testing {

inline constexpr char kUuid[] = "00112233445566778899aabbccddeeff";

struct ModelValue {
  std::string value;
  bool erased = false;
  friend bool operator==(const ModelValue&, const ModelValue&) = default;
};
using ModelTable = std::map<std::string, ModelValue>;
using Model = std::map<TableId, ModelTable>;

// One file's bytes, for reading; every read first asks `fault`.
class MemoryFiles : public os::SimFiles {
 public:
  using Fault = std::function<std::optional<Error>(std::uint64_t offset, std::uint64_t size)>;
  std::string bytes;
  Fault fault;
  std::uint64_t reads = 0;

  Result<std::unique_ptr<os::File>> open(const std::string&, os::OpenMode mode) override {
    DEFIB_ASSERT(mode == os::OpenMode::kRead);
    return std::unique_ptr<os::File>(std::make_unique<MemoryFile>(*this));
  }

 private:
  class View : public os::FileView {
   public:
    explicit View(const std::string& bytes) : bytes_(bytes) {}
    std::string_view bytes() const override { return bytes_; }

   private:
    const std::string& bytes_;
  };
  class MemoryFile : public os::File {
   public:
    explicit MemoryFile(MemoryFiles& files) : files_(files) {}
    Result<std::size_t> read_at(std::uint64_t offset, char* to, std::size_t size) override {
      ++files_.reads;
      if (files_.fault) {
        if (auto error = files_.fault(offset, size)) return *error;
      }
      if (offset >= files_.bytes.size()) return 0U;
      return files_.bytes.copy(to, size, offset);
    }
    Result<> write_at(std::uint64_t, std::string_view) override { return refuse(); }
    Result<> sync() override { return refuse(); }
    Result<> truncate(std::uint64_t) override { return refuse(); }
    Result<std::uint64_t> size() override { return files_.bytes.size(); }
    Result<> drop_cache() override { return {}; }
    Result<> try_lock() override { return refuse(); }
    // Not through read_at(): what a page of a mapping holds does not pass through the faults.
    Result<std::unique_ptr<os::FileView>> map() override {
      return std::unique_ptr<os::FileView>(std::make_unique<View>(files_.bytes));
    }

   private:
    static Error refuse() { return Error(Code::kInternal, "a sorted file is never changed"); }
    MemoryFiles& files_;
  };
};

struct Written {
  SortedFileInfo info;
  std::string bytes;
};

inline SortedFileSettings settings_of(std::uint64_t generation = 7,
                                      std::uint32_t page_size = 4096) {
  SortedFileSettings settings;
  settings.store_uuid = kUuid;
  settings.generation = generation;
  settings.last_commit = 1000 + generation;
  settings.page_size = page_size;
  return settings;
}

inline Written write_model(const Model& model, SortedFileSettings settings = settings_of()) {
  os::SimFiles files;
  DEFIB_ASSERT(files.create_dirs("/s"));
  auto writer = SortedFileWriter::create(files, "/s/f", std::move(settings));
  DEFIB_ASSERT(writer.has_value());
  for (const auto& [table, records] : model) {
    for (const auto& [key, value] : records) {
      const auto added = (*writer)->add(table, key, value.value, value.erased);
      DEFIB_ASSERT(added.has_value());
    }
  }
  const auto info = (*writer)->finish();
  DEFIB_ASSERT(info.has_value());
  return {*info, files.content("/s/f")};
}

inline std::shared_ptr<SortedFile> open_written(MemoryFiles& files, const Written& written) {
  files.bytes = written.bytes;
  auto file = SortedFile::open(files, "/s/f", written.info, kUuid);
  DEFIB_ASSERT(file.has_value());
  return *file;
}

inline constexpr int kAccounts = 70;
// Three blocks with an index over them, the first two of one size; erased records, a large value, a
// table of one block.
inline Model damage_model(char fill = 'v') {
  Model model;
  for (int i = 0; i < kAccounts; ++i) {
    const bool erased = i % 9 == 4;
    model[1]["account-" + std::to_string(1000 + i)] = {erased ? "" : std::string(150, fill),
                                                       erased};
  }
  model[2]["gone"] = {"", true};
  model[2]["kept"] = {"x", false};
  for (int i = 0; i < 5; ++i) model[5][std::to_string(i)] = {"small", false};
  model[5]["2large"] = {std::string(5000, 'L'), false};
  return model;
}

// Where the units stand, from the bytes of a sound file.
inline std::vector<sorted::UnitHeader> units_of(std::string_view bytes) {
  std::vector<sorted::UnitHeader> units;
  for (std::size_t at = sorted::kFilePage; at < bytes.size(); at += units.back().size) {
    units.push_back(load<sorted::UnitHeader>(bytes.data() + at));
  }
  return units;
}

// Makes the checksum of the unit at `offset` right again.
inline void reseal(std::string& bytes, std::size_t offset, std::size_t size) {
  store_value(bytes.data() + offset + 4,
              crc32c(std::string_view(bytes).substr(offset + 8, size - 8)));
}

inline std::string random_key(os::Random& random, unsigned style) {
  std::string key;
  switch (style % 4) {
    case 0:  // few distinct bytes, all lengths: zeros, one key inside another, the empty key
      for (std::uint64_t i = random.below(12); i > 0; --i) key += "\0ab\xff"[random.below(4)];
      return key;
    case 1:  // 16 random bytes
      for (int i = 0; i < 16; ++i) key += static_cast<char>(random.next());
      return key;
    case 2:  // a long common start
      return "customers/accounts/" + std::to_string(random.below(100000));
    default:  // long, and different only at the end
      return std::string(random.below(3) * 1000, 'x') + std::to_string(random.below(500));
  }
}

inline Model random_model(os::Random& random, std::size_t tables, std::size_t records) {
  Model model;
  for (std::size_t t = 0; t < tables; ++t) {
    ModelTable& table = model[static_cast<TableId>(1 + t * 3)];
    const std::size_t size = 1 + random.below(records);
    for (std::size_t i = 0; i < size; ++i) {
      ModelValue value;
      value.erased = random.below(8) == 0;
      const std::size_t bytes = random.below(50) == 0 ? random.below(9000) : random.below(120);
      if (!value.erased) value.value.assign(bytes, static_cast<char>('a' + random.below(26)));
      table[random_key(random, static_cast<unsigned>(t))] = value;
    }
  }
  return model;
}

}  // namespace defib::store::testing
