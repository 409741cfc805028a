// The manifest's bytes: docs/formats/store_page_file.md.

#include <fmt/core.h>

#include "defib/base/bytes.h"
#include "defib/store/page_file.h"

namespace defib::store {
namespace {

constexpr std::string_view kManifestMagic = "DMAN";
// The least that an entry takes: bounds the counts before anything is allocated for them.
constexpr std::size_t kSmallestTable = 4 + 4;
constexpr std::size_t kSmallestIndex = 4 + 4 + 4 + 1 + 4;
constexpr std::size_t kFileSize = 1 + 8 + 8 + 4 + 8 + 8 + 8;

// Remembers the first thing that did not hold.
class Decoder {
 public:
  Decoder(std::string_view bytes, std::string& problem) : reader_(bytes), problem_(problem) {
    problem_.clear();
  }

  std::optional<Manifest> run() {
    if (reader_.bytes(kManifestMagic.size()) != kManifestMagic) return fail("no manifest");
    Manifest manifest;
    manifest.sequence = reader_.u64();
    manifest.epoch = reader_.u64();
    manifest.checkpoint_commit = reader_.u64();
    manifest.chain_crc = reader_.u32();
    manifest.chain_known = flag("chain_known");
    manifest.next_generation = reader_.u64();
    manifest.next_table = reader_.u32();
    manifest.replay_bytes_per_second = reader_.u64();
    manifest.wall_ns = reader_.u64();
    const std::uint32_t tables = reader_.u32();
    const std::uint32_t indexes = reader_.u32();
    const std::uint32_t files = reader_.u32();
    const std::uint64_t least = std::uint64_t{tables} * kSmallestTable +
                                std::uint64_t{indexes} * kSmallestIndex +
                                std::uint64_t{files} * kFileSize;
    if (!reader_.ok() || least > reader_.remaining()) return fail("it is cut");
    read_tables(manifest, tables);
    read_indexes(manifest, indexes);
    read_files(manifest, files);
    if (!problem_.empty()) return std::nullopt;
    if (!reader_.ok()) return fail("it is cut");
    if (reader_.remaining() > 0) {
      return fail(fmt::format("{} bytes after its end", reader_.remaining()));
    }
    return manifest;
  }

 private:
  std::nullopt_t fail(std::string what) {
    if (problem_.empty()) problem_ = std::move(what);
    return std::nullopt;
  }
  bool flag(std::string_view name) {
    const std::uint8_t value = reader_.u8();
    if (value > 1) fail(fmt::format("{} is {}", name, value));
    return value == 1;
  }
  void read_tables(Manifest& manifest, std::uint32_t count) {
    manifest.tables.resize(count);
    for (std::uint32_t i = 0; i < count; ++i) {
      ManifestTable& table = manifest.tables[i];
      table.id = reader_.u32();
      table.name = reader_.text();
      if (i > 0 && reader_.ok() && table.id <= manifest.tables[i - 1].id) {
        fail(fmt::format("table {} follows table {}", table.id, manifest.tables[i - 1].id));
      }
    }
  }
  void read_indexes(Manifest& manifest, std::uint32_t count) {
    manifest.indexes.resize(count);
    for (ManifestIndex& index : manifest.indexes) {
      index.name = reader_.text();
      index.table = reader_.text();
      index.entries = reader_.u32();
      index.unique = flag("unique");
      index.version = reader_.u32();
    }
  }
  void read_files(Manifest& manifest, std::uint32_t count) {
    manifest.files.resize(count);
    for (std::uint32_t i = 0; i < count; ++i) {
      SortedFileInfo& file = manifest.files[i];
      const std::uint8_t kind = reader_.u8();
      if (kind > 1) fail(fmt::format("file {} has kind {}", i, kind));
      file.kind = kind == 0 ? SortedKind::kBase : SortedKind::kRun;
      if (i > 0 && file.kind == SortedKind::kBase) fail(fmt::format("file {} is a base", i));
      file.generation = reader_.u64();
      file.size = reader_.u64();
      file.footer_crc = reader_.u32();
      file.last_commit = reader_.u64();
      file.records = reader_.u64();
      file.erased = reader_.u64();
    }
  }

  Reader reader_;
  std::string& problem_;
};

}  // namespace

std::string encode(const Manifest& manifest) {
  std::string out(kManifestMagic);
  Writer writer(out);
  writer.u64(manifest.sequence);
  writer.u64(manifest.epoch);
  writer.u64(manifest.checkpoint_commit);
  writer.u32(manifest.chain_crc);
  writer.u8(manifest.chain_known ? 1 : 0);
  writer.u64(manifest.next_generation);
  writer.u32(manifest.next_table);
  writer.u64(manifest.replay_bytes_per_second);
  writer.u64(manifest.wall_ns);
  writer.u32(static_cast<std::uint32_t>(manifest.tables.size()));
  writer.u32(static_cast<std::uint32_t>(manifest.indexes.size()));
  writer.u32(static_cast<std::uint32_t>(manifest.files.size()));
  for (const ManifestTable& table : manifest.tables) {
    writer.u32(table.id);
    writer.text(table.name);
  }
  for (const ManifestIndex& index : manifest.indexes) {
    writer.text(index.name);
    writer.text(index.table);
    writer.u32(index.entries);
    writer.u8(index.unique ? 1 : 0);
    writer.u32(index.version);
  }
  for (const SortedFileInfo& file : manifest.files) {
    writer.u8(file.kind == SortedKind::kBase ? 0 : 1);
    writer.u64(file.generation);
    writer.u64(file.size);
    writer.u32(file.footer_crc);
    writer.u64(file.last_commit);
    writer.u64(file.records);
    writer.u64(file.erased);
  }
  return out;
}

std::optional<Manifest> decode_manifest(std::string_view bytes, std::string& problem) {
  return Decoder(bytes, problem).run();
}

}  // namespace defib::store
