// Byte ranges and the little-endian codec that every persistent format of the project uses.
//
// Writer appends to a std::string; Reader walks a range and never reads outside of it: after the
// first overrun every further read returns zero and ok() is false, so a decoder checks once at the
// end.

#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

namespace defib {

static_assert(std::endian::native == std::endian::little, "formats are little-endian");

using Bytes = std::span<const std::byte>;

inline Bytes as_bytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}
inline std::string_view as_text(Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

template <typename T>
  requires std::is_trivially_copyable_v<T>
T load(const void* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}
template <typename T>
  requires std::is_trivially_copyable_v<T>
void store_value(void* to, T value) {
  std::memcpy(to, &value, sizeof value);
}

class Writer {
 public:
  explicit Writer(std::string& out) : out_(out) {}
  void u8(std::uint8_t value) { raw(value); }
  void u16(std::uint16_t value) { raw(value); }
  void u32(std::uint32_t value) { raw(value); }
  void u64(std::uint64_t value) { raw(value); }
  void i64(std::int64_t value) { raw(value); }
  void bytes(std::string_view value) { out_.append(value); }
  // u32 length, then the bytes.
  void text(std::string_view value) {
    u32(static_cast<std::uint32_t>(value.size()));
    bytes(value);
  }

 private:
  template <typename T>
  void raw(T value) {
    out_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  std::string& out_;
};

class Reader {
 public:
  explicit Reader(std::string_view in) : in_(in) {}
  std::uint8_t u8() { return raw<std::uint8_t>(); }
  std::uint16_t u16() { return raw<std::uint16_t>(); }
  std::uint32_t u32() { return raw<std::uint32_t>(); }
  std::uint64_t u64() { return raw<std::uint64_t>(); }
  std::int64_t i64() { return raw<std::int64_t>(); }
  std::string_view bytes(std::size_t size) {
    if (size > in_.size()) {
      ok_ = false;
      in_ = {};
      return {};
    }
    const std::string_view value = in_.substr(0, size);
    in_.remove_prefix(size);
    return value;
  }
  std::string_view text() { return bytes(u32()); }

  bool ok() const { return ok_; }
  std::size_t remaining() const { return in_.size(); }
  // All was read, and nothing was missing.
  bool finished() const { return ok_ && in_.empty(); }

 private:
  template <typename T>
  T raw() {
    const std::string_view value = bytes(sizeof(T));
    return value.size() == sizeof(T) ? load<T>(value.data()) : T{};
  }
  std::string_view in_;
  bool ok_ = true;
};

// Lower-case hexadecimal.
std::string to_hex(Bytes bytes);
// nullopt-free: returns false when `hex` is not an even number of hexadecimal digits.
bool from_hex(std::string_view hex, std::string& out);

// Everything but 0x20..0x7e, and the backslash, as \t \n \\ or \xHH (../docs/cli.md).
std::string escape(std::string_view raw);
// False where an escape is malformed.
bool unescape(std::string_view escaped, std::string& out);

// CRC32C (Castagnoli) as in RFC 3720, Appendix B.4; crc32c("123456789") == 0xE3069283.
// `seed` is the result for the bytes before, or 0.
std::uint32_t crc32c(std::string_view bytes, std::uint32_t seed = 0);

// SHA-256 (FIPS 180-4).
std::string sha256(std::string_view bytes);      // 32 bytes
std::string sha256_hex(std::string_view bytes);  // 64 digits

}  // namespace defib
