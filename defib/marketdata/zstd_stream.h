// Zstandard, piecewise: the one place of this module that knows the library.
// Thread rule: one thread at a time.

#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "defib/base/error.h"

namespace defib::marketdata {

// Any number of frames in a row, skippable ones included.
class Decompressor {
 public:
  // A frame that wants a larger window is refused (LimitExceeded): the window is the memory that
  // the sender makes us take. 27 is 128 MiB, what the zstd program takes without being asked.
  explicit Decompressor(int max_window_log = 27);
  ~Decompressor();
  Decompressor(Decompressor&&) noexcept;
  Decompressor& operator=(Decompressor&&) noexcept;

  // Takes from the front of `in`, fills `out` up to its capacity, returns the bytes written. No
  // bytes with `in` empty: more input is needed. ZstdMalformed names the offset in the input.
  Result<std::size_t> next(std::string_view& in, char* out, std::size_t capacity);
  // No frame is open.
  bool at_frame_end() const { return at_frame_end_; }
  // Bytes of input so far.
  std::uint64_t consumed() const { return consumed_; }

 private:
  struct State;
  std::unique_ptr<State> state_;
  std::uint64_t consumed_ = 0;
  bool at_frame_end_ = true;
};

class Compressor {
 public:
  explicit Compressor(int level = 3);
  ~Compressor();
  Compressor(Compressor&&) noexcept;
  Compressor& operator=(Compressor&&) noexcept;
  // Appends to `out` what is ready.
  void write(std::string_view in, std::string& out);
  // Ends the frame; a further write begins a new one.
  void finish(std::string& out);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace defib::marketdata
