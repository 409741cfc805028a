// Codecs: values of C++ types as bytes of a store.
//
// KeyCodec keeps order: the bytes of two keys compare (as unsigned bytes, as the store does) the
// way the keys compare. Built in are bool, integers, enums, std::string, and pairs and tuples of
// those; integers stand in big-endian order with the sign bit turned, strings inside pairs and
// tuples with an end mark (a zero byte becomes 00 FF, the end is 00 00). A key that is nothing but
// a string is its own bytes. Codec is for values: integers (little-endian) and std::string are
// built in.
//
// Every other type gets a codec by specialization. There is none for structs as they lie in memory,
// on purpose: what is stored has to be readable by the next version of the program too.
//
//   template <>
//   struct defib::store::Codec<Order> {
//     static std::string encode(const Order& order);
//     static std::optional<Order> decode(std::string_view bytes);  // total: any bytes
//   };
//
// Thread rule: pure functions.

#pragma once

#include <bit>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

namespace defib::store {

template <typename T>
struct Codec;

// append() adds a key's bytes to `out`; take() reads one from the front of `in`, which it shortens,
// and is false where there is none.
template <typename T>
struct KeyCodec;

namespace codec_detail {

template <std::integral T>
void append_big_endian(T value, std::string& out) {
  using Unsigned = std::make_unsigned_t<T>;
  auto bits = static_cast<Unsigned>(value);
  if constexpr (std::is_signed_v<T>) bits ^= Unsigned{1} << (sizeof(T) * 8 - 1);
  for (std::size_t i = sizeof(T); i-- > 0;) out += static_cast<char>(bits >> (i * 8) & 0xff);
}

template <std::integral T>
bool take_big_endian(std::string_view& in, T& value) {
  using Unsigned = std::make_unsigned_t<T>;
  if (in.size() < sizeof(T)) return false;
  Unsigned bits = 0;
  for (std::size_t i = 0; i < sizeof(T); ++i) {
    bits = static_cast<Unsigned>(bits << 7 << 1 | static_cast<unsigned char>(in[i]));
  }
  if constexpr (std::is_signed_v<T>) bits ^= Unsigned{1} << (sizeof(T) * 8 - 1);
  value = static_cast<T>(bits);
  in.remove_prefix(sizeof(T));
  return true;
}

}  // namespace codec_detail

template <std::integral T>
struct KeyCodec<T> {
  static void append(T value, std::string& out) { codec_detail::append_big_endian(value, out); }
  static bool take(std::string_view& in, T& value) {
    return codec_detail::take_big_endian(in, value);
  }
};

template <>
struct KeyCodec<bool> {
  static void append(bool value, std::string& out) { out += value ? '\1' : '\0'; }
  static bool take(std::string_view& in, bool& value) {
    if (in.empty() || static_cast<unsigned char>(in[0]) > 1) return false;
    value = in[0] == '\1';
    in.remove_prefix(1);
    return true;
  }
};

template <typename T>
  requires std::is_enum_v<T>
struct KeyCodec<T> {
  using Number = std::underlying_type_t<T>;
  static void append(T value, std::string& out) {
    KeyCodec<Number>::append(static_cast<Number>(value), out);
  }
  static bool take(std::string_view& in, T& value) {
    Number number{};
    if (!KeyCodec<Number>::take(in, number)) return false;
    value = static_cast<T>(number);
    return true;
  }
};

template <>
struct KeyCodec<std::string> {
  static void append(std::string_view value, std::string& out) {
    for (const char c : value) {
      out += c;
      if (c == '\0') out += '\xff';
    }
    out.append(2, '\0');
  }
  static bool take(std::string_view& in, std::string& value) {
    value.clear();
    for (std::size_t at = 0; at + 1 < in.size(); ++at) {
      if (in[at] != '\0') {
        value += in[at];
      } else if (in[at + 1] == '\xff') {
        value += in[at++];
      } else if (in[at + 1] == '\0') {
        in.remove_prefix(at + 2);
        return true;
      } else {
        return false;
      }
    }
    return false;
  }
};

template <typename... Parts>
struct KeyCodec<std::tuple<Parts...>> {
  static void append(const std::tuple<Parts...>& key, std::string& out) {
    std::apply([&](const Parts&... parts) { (KeyCodec<Parts>::append(parts, out), ...); }, key);
  }
  static bool take(std::string_view& in, std::tuple<Parts...>& key) {
    return std::apply([&](Parts&... parts) { return (KeyCodec<Parts>::take(in, parts) && ...); },
                      key);
  }
};

template <typename A, typename B>
struct KeyCodec<std::pair<A, B>> {
  static void append(const std::pair<A, B>& key, std::string& out) {
    KeyCodec<A>::append(key.first, out);
    KeyCodec<B>::append(key.second, out);
  }
  static bool take(std::string_view& in, std::pair<A, B>& key) {
    return KeyCodec<A>::take(in, key.first) && KeyCodec<B>::take(in, key.second);
  }
};

// A whole key.
template <typename Key, typename Coding = KeyCodec<Key>>
std::string encode_key(const Key& key) {
  if constexpr (std::is_same_v<Coding, KeyCodec<std::string>>) {
    return key;
  } else {
    std::string out;
    Coding::append(key, out);
    return out;
  }
}
// nullopt where the bytes are no such key, or more than one.
template <typename Key, typename Coding = KeyCodec<Key>>
std::optional<Key> decode_key(std::string_view bytes) {
  if constexpr (std::is_same_v<Coding, KeyCodec<std::string>>) {
    return std::string(bytes);
  } else {
    Key key{};
    if (!Coding::take(bytes, key) || !bytes.empty()) return std::nullopt;
    return key;
  }
}

template <std::integral T>
struct Codec<T> {
  static_assert(std::endian::native == std::endian::little, "formats are little-endian");
  static std::string encode(T value) {
    return {reinterpret_cast<const char*>(&value), sizeof value};
  }
  static std::optional<T> decode(std::string_view bytes) {
    if (bytes.size() != sizeof(T)) return std::nullopt;
    T value;
    std::memcpy(&value, bytes.data(), sizeof value);
    return value;
  }
};

template <>
struct Codec<bool> {
  static std::string encode(bool value) { return std::string(1, value ? '\1' : '\0'); }
  static std::optional<bool> decode(std::string_view bytes) {
    if (bytes.size() != 1 || static_cast<unsigned char>(bytes[0]) > 1) return std::nullopt;
    return bytes[0] == '\1';
  }
};

template <>
struct Codec<std::string> {
  static std::string encode(std::string_view value) { return std::string(value); }
  static std::optional<std::string> decode(std::string_view bytes) { return std::string(bytes); }
};

}  // namespace defib::store
