#include "defib/marketdata/zstd_stream.h"

#include <fmt/format.h>
#include <zstd.h>
#include <zstd_errors.h>

#include <optional>

#include "defib/base/assert.h"

namespace defib::marketdata {

struct Decompressor::State {
  ZSTD_DCtx* context = ZSTD_createDCtx();
  std::optional<Error> error;  // told once what came before it has been handed out
  State() = default;
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() { ZSTD_freeDCtx(context); }
};

Decompressor::Decompressor(int max_window_log) : state_(std::make_unique<State>()) {
  DEFIB_ASSERT_MESSAGE(state_->context != nullptr, "out of memory");
  const std::size_t set =
      ZSTD_DCtx_setParameter(state_->context, ZSTD_d_windowLogMax, max_window_log);
  DEFIB_ASSERT_MESSAGE(ZSTD_isError(set) == 0, "max_window_log is outside of 10 to 31");
}
Decompressor::~Decompressor() = default;
Decompressor::Decompressor(Decompressor&&) noexcept = default;
Decompressor& Decompressor::operator=(Decompressor&&) noexcept = default;

Result<std::size_t> Decompressor::next(std::string_view& in, char* out, std::size_t capacity) {
  if (state_->error) return *state_->error;
  ZSTD_outBuffer to{out, capacity, 0};
  // The end of a frame ends a call early, and input may remain inside of the library: so until
  // either side is exhausted.
  while (to.pos < to.size) {
    ZSTD_inBuffer from{in.data(), in.size(), 0};
    const std::size_t before = to.pos;
    const std::size_t hint = ZSTD_decompressStream(state_->context, &to, &from);
    in.remove_prefix(from.pos);
    consumed_ += from.pos;
    if (ZSTD_isError(hint) != 0) {
      const bool too_large = ZSTD_getErrorCode(hint) == ZSTD_error_frameParameter_windowTooLarge;
      state_->error = Error(too_large ? Code::kLimitExceeded : Code::kZstdMalformed,
                            fmt::format("the compressed data is {} at byte {}: {}",
                                        too_large ? "too demanding" : "damaged", consumed_,
                                        ZSTD_getErrorName(hint)))
                          .with("compressed_offset", static_cast<std::int64_t>(consumed_));
      if (to.pos > 0) return to.pos;
      return *state_->error;
    }
    if (from.pos > 0 || to.pos > before) at_frame_end_ = hint == 0;
    if (from.pos == 0 && to.pos == before) break;
  }
  return to.pos;
}

struct Compressor::State {
  ZSTD_CCtx* context = ZSTD_createCCtx();
  State() = default;
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() { ZSTD_freeCCtx(context); }

  void run(std::string_view in, std::string& out, ZSTD_EndDirective directive) const {
    ZSTD_inBuffer from{in.data(), in.size(), 0};
    char buffer[16 << 10];
    while (true) {
      ZSTD_outBuffer to{buffer, sizeof buffer, 0};
      const std::size_t left = ZSTD_compressStream2(context, &to, &from, directive);
      DEFIB_ASSERT_MESSAGE(ZSTD_isError(left) == 0, "compression fails for want of memory alone");
      out.append(buffer, to.pos);
      const bool done = directive == ZSTD_e_end ? left == 0 : from.pos == from.size;
      if (done) return;
    }
  }
};

Compressor::Compressor(int level) : state_(std::make_unique<State>()) {
  DEFIB_ASSERT_MESSAGE(state_->context != nullptr, "out of memory");
  ZSTD_CCtx_setParameter(state_->context, ZSTD_c_compressionLevel, level);
  ZSTD_CCtx_setParameter(state_->context, ZSTD_c_checksumFlag, 1);
}
Compressor::~Compressor() = default;
Compressor::Compressor(Compressor&&) noexcept = default;
Compressor& Compressor::operator=(Compressor&&) noexcept = default;

void Compressor::write(std::string_view in, std::string& out) {
  state_->run(in, out, ZSTD_e_continue);
}

void Compressor::finish(std::string& out) {
  state_->run({}, out, ZSTD_e_end);
}

}  // namespace defib::marketdata
