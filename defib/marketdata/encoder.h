// Encoder: DBN for tests, benchmarks, local servers and tools that pass a selection on.
// Thread rule: one thread at a time.

#pragma once

#include <memory>
#include <string>

#include "defib/base/error.h"
#include "defib/marketdata/metadata.h"
#include "defib/marketdata/walk.h"
#include "defib/marketdata/zstd_stream.h"

namespace defib::marketdata {

class Encoder {
 public:
  // Appends to `out`, which outlives this. Compressed: one zstd frame with a checksum.
  explicit Encoder(std::string& out, bool compressed = false);

  // InvalidArgument where a text does not fit. Left out for a fragment.
  Result<> metadata(const Metadata& metadata);
  // The record as it is, with its ts_out where it has one.
  void record(const RecordView& record);
  // A struct of records.h; sets its length. `ts_out` only where the metadata says so.
  template <typename T>
  void record(T record, std::optional<std::uint64_t> ts_out = std::nullopt) {
    record.hd.length = static_cast<std::uint8_t>((sizeof(T) + (ts_out ? 8 : 0)) / 4);
    write({reinterpret_cast<const char*>(&record), sizeof record});
    if (ts_out) write({reinterpret_cast<const char*>(&*ts_out), sizeof *ts_out});
  }
  // Ends the frame where compressed. Call it last.
  void finish();

 private:
  void write(std::string_view bytes);

  std::string& out_;
  std::unique_ptr<Compressor> compressor_;
};

}  // namespace defib::marketdata
