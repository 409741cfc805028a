// Codec: arguments, results and records as bytes, and types as text.
//
// Encoded: integers and floating-point numbers little-endian in their own size, bool as one byte,
// lengths as 32 bits, and then one value after the other, without padding. Supported are integers,
// enumerations, float, double, bool, std::string (std::string_view and const char* to send),
// std::vector, std::span<const T> (to send, and as a parameter), std::optional, std::variant,
// std::array, std::pair, std::tuple, std::map, aggregates of up to 24 such members (no bases, no C
// arrays), Secret, Utf8, and what has a WireForm.
//
// schema<T>() is the type's structure as text ("{s,i8,[f8]}"); two sides whose texts are equal
// understand one another. Grammar: docs/formats/call.md.
//
// Invariant: a Decoder trusts nothing: every length is checked against what is left before
// anything is allocated, and a value outside its type's range is a failure. The range of an
// enumeration is that of its underlying type, and a std::string is any bytes, as in C++; OneOf,
// Between and Utf8 are for those of which less is a value.
// Thread rule: pure.

#pragma once

#include <array>
#include <bit>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace defib::call {

static_assert(std::endian::native == std::endian::little, "the codec copies native integers");

// How a type of yours travels, as a type that the codec knows:
//
//   template <> struct defib::call::WireForm<Date> {
//     using Type = std::int32_t;
//     static Type to(const Date& date) { return date.days(); }
//     static std::optional<Date> from(const Type& days) { return Date::of_days(days); }
//   };
//
// from() gives nothing where the value is none of the type: the receiver then refuses the message.
template <typename T>
struct WireForm;

// The WireForm of an enumeration that has these values and no others:
//
//   template <> struct defib::call::WireForm<Side> : defib::call::OneOf<Side::kBuy, Side::kSell>
//   {};
template <auto first, decltype(first)... others>
struct OneOf {
  using Enum = decltype(first);
  using Type = std::underlying_type_t<Enum>;
  static constexpr Type to(Enum value) { return static_cast<Type>(value); }
  static constexpr std::optional<Enum> from(Type value) {
    const bool known = value == to(first) || (... || (value == to(others)));
    return known ? std::optional(static_cast<Enum>(value)) : std::nullopt;
  }
};
// ... and of one whose values lie without a gap between two of them, which both belong to it.
template <auto first, decltype(first) last>
struct Between {
  using Enum = decltype(first);
  using Type = std::underlying_type_t<Enum>;
  static constexpr Type to(Enum value) { return static_cast<Type>(value); }
  static constexpr std::optional<Enum> from(Type value) {
    const bool known = value >= to(first) && value <= to(last);
    return known ? std::optional(static_cast<Enum>(value)) : std::nullopt;
  }
};

template <typename Rep, typename Period>
struct WireForm<std::chrono::duration<Rep, Period>> {
  using Type = Rep;
  static Type to(std::chrono::duration<Rep, Period> duration) { return duration.count(); }
  static std::optional<std::chrono::duration<Rep, Period>> from(Type count) {
    return std::chrono::duration<Rep, Period>(count);
  }
};

// A text that no summary, error or log shows, such as a key.
struct Secret {
  std::string value;
  friend bool operator==(const Secret&, const Secret&) = default;
};

// A text that is valid UTF-8, or is not received. (A std::string may be any bytes.)
struct Utf8 {
  std::string value;
  friend bool operator==(const Utf8&, const Utf8&) = default;
};

// As Unicode 15 defines it (table 3-7): no overlong form, no surrogate, nothing beyond U+10FFFF.
constexpr bool is_utf8(std::string_view text) {
  std::size_t i = 0;
  const auto byte_in = [&](unsigned low, unsigned high) {
    if (i >= text.size()) return false;
    const auto byte = static_cast<unsigned char>(text[i]);
    if (byte < low || byte > high) return false;
    ++i;
    return true;
  };
  const auto rest = [&](int count) {
    while (count > 0 && byte_in(0x80, 0xbf)) --count;
    return count == 0;
  };
  while (i < text.size()) {
    const bool valid = byte_in(0x00, 0x7f) || (byte_in(0xc2, 0xdf) && rest(1)) ||
                       (byte_in(0xe0, 0xe0) && byte_in(0xa0, 0xbf) && rest(1)) ||
                       (byte_in(0xed, 0xed) && byte_in(0x80, 0x9f) && rest(1)) ||
                       (byte_in(0xe1, 0xef) && rest(2)) ||
                       (byte_in(0xf0, 0xf0) && byte_in(0x90, 0xbf) && rest(2)) ||
                       (byte_in(0xf1, 0xf3) && rest(3)) ||
                       (byte_in(0xf4, 0xf4) && byte_in(0x80, 0x8f) && rest(2));
    if (!valid) return false;
  }
  return true;
}

template <>
struct WireForm<Utf8> {
  using Type = std::string;
  static const std::string& to(const Utf8& text) { return text.value; }
  static std::optional<Utf8> from(Type text) {
    if (!is_utf8(text)) return std::nullopt;
    return Utf8{std::move(text)};
  }
};

namespace detail {

template <typename T>
concept HasWireForm = requires { typename WireForm<T>::Type; };

template <typename T>
inline constexpr bool kDependentFalse = false;

template <typename T, template <typename...> class Template>
inline constexpr bool kIsA = false;
template <template <typename...> class Template, typename... A>
inline constexpr bool kIsA<Template<A...>, Template> = true;

template <typename T>
inline constexpr bool kIsArray = false;
template <typename T, std::size_t n>
inline constexpr bool kIsArray<std::array<T, n>> = true;

template <typename T>
inline constexpr bool kIsSpan = false;
template <typename T, std::size_t n>
inline constexpr bool kIsSpan<std::span<T, n>> = true;

template <typename T>
inline constexpr bool kIsText =
    std::is_same_v<T, std::string> || std::is_same_v<T, std::string_view> ||
    std::is_same_v<T, const char*>;

// Converts to whatever a member is.
struct Anything {
  template <typename T>
  operator T() const;  // NOLINT(google-explicit-constructor)
};

template <typename T, std::size_t... i>
constexpr bool initializable(std::index_sequence<i...>) {
  return requires { T{((void)i, Anything{})...}; };
}

inline constexpr std::size_t kMostMembers = 24;

template <typename T, std::size_t n = kMostMembers>
constexpr std::size_t member_count() {
  if constexpr (initializable<T>(std::make_index_sequence<n>{})) {
    return n;
  } else if constexpr (n == 0) {
    return 0;
  } else {
    return member_count<T, n - 1>();
  }
}

// Calls `use(member...)` with references to the aggregate's members in their order.
template <typename T, typename Use>
constexpr decltype(auto) with_members(T& value, Use&& use) {
  constexpr std::size_t n = member_count<std::remove_const_t<T>>();
  static_assert(
      !initializable<std::remove_const_t<T>>(std::make_index_sequence<kMostMembers + 1>{}),
      "an aggregate has at most 24 members, and no C array among them");
#define DEFIB_MEMBERS(count, ...)               \
  if constexpr (n == count) {                   \
    auto& [__VA_ARGS__] = value;                \
    return std::forward<Use>(use)(__VA_ARGS__); \
  }
  if constexpr (n == 0) return std::forward<Use>(use)();
  // clang-format off
  DEFIB_MEMBERS(1, a)
  DEFIB_MEMBERS(2, a, b)
  DEFIB_MEMBERS(3, a, b, c)
  DEFIB_MEMBERS(4, a, b, c, d)
  DEFIB_MEMBERS(5, a, b, c, d, e)
  DEFIB_MEMBERS(6, a, b, c, d, e, f)
  DEFIB_MEMBERS(7, a, b, c, d, e, f, g)
  DEFIB_MEMBERS(8, a, b, c, d, e, f, g, h)
  DEFIB_MEMBERS(9, a, b, c, d, e, f, g, h, i)
  DEFIB_MEMBERS(10, a, b, c, d, e, f, g, h, i, j)
  DEFIB_MEMBERS(11, a, b, c, d, e, f, g, h, i, j, k)
  DEFIB_MEMBERS(12, a, b, c, d, e, f, g, h, i, j, k, l)
  DEFIB_MEMBERS(13, a, b, c, d, e, f, g, h, i, j, k, l, m)
  DEFIB_MEMBERS(14, a, b, c, d, e, f, g, h, i, j, k, l, m, o)
  DEFIB_MEMBERS(15, a, b, c, d, e, f, g, h, i, j, k, l, m, o, p)
  DEFIB_MEMBERS(16, a, b, c, d, e, f, g, h, i, j, k, l, m, o, p, q)
  DEFIB_MEMBERS(17, a, b, c, d, e, f, g, h, i, j, k, l, m, o, p, q, r)
  DEFIB_MEMBERS(18, a, b, c, d, e, f, g, h, i, j, k, l, m, o, p, q, r, s)
  DEFIB_MEMBERS(19, a, b, c, d, e, f, g, h, i, j, k, l, m, o, p, q, r, s, t)
  DEFIB_MEMBERS(20, a, b, c, d, e, f, g, h, i, j, k, l, m, o, p, q, r, s, t, u)
  DEFIB_MEMBERS(21, a, b, c, d, e, f, g, h, i, j, k, l, m, o, p, q, r, s, t, u, v)
  DEFIB_MEMBERS(22, a, b, c, d, e, f, g, h, i, j, k, l, m, o, p, q, r, s, t, u, v, w)
  DEFIB_MEMBERS(23, a, b, c, d, e, f, g, h, i, j, k, l, m, o, p, q, r, s, t, u, v, w, x)
  DEFIB_MEMBERS(24, a, b, c, d, e, f, g, h, i, j, k, l, m, o, p, q, r, s, t, u, v, w, x, y)
  // clang-format on
#undef DEFIB_MEMBERS
}

// Of an enumeration without an underlying type that is written down, some numbers are no value.
template <typename T>
concept FixedEnum = std::is_enum_v<T> && requires { T{std::underlying_type_t<T>{}}; };

template <typename T>
inline constexpr bool kIsBool = std::is_same_v<T, bool>;
template <typename T>
  requires std::is_enum_v<T>
inline constexpr bool kIsBool<T> = std::is_same_v<std::underlying_type_t<T>, bool>;

// Travels as it lies in memory: all its bits are a value, or it is a bool.
template <typename T>
inline constexpr bool kIsScalar =
    !HasWireForm<T> && (std::is_integral_v<T> || std::is_floating_point_v<T> || FixedEnum<T>);

// No bool, nothing whose reading would be undefined for some bits, nothing whose value is checked.
template <typename T>
struct AnyBits {
  static constexpr bool value = [] {
    constexpr bool kPlain =
        std::is_trivially_copyable_v<T> && std::is_default_constructible_v<T> && !HasWireForm<T>;
    if constexpr (kPlain && kIsScalar<T>) {
      return !kIsBool<T>;
    } else if constexpr (kPlain && kIsArray<T>) {
      return AnyBits<typename T::value_type>::value;
    } else if constexpr (kPlain && std::is_aggregate_v<T>) {
      using Check = decltype(with_members(std::declval<T&>(), [](auto&... member) {
        return std::bool_constant<(AnyBits<std::remove_cvref_t<decltype(member)>>::value && ...)>{};
      }));
      return Check::value;
    } else {
      return false;
    }
  }();
};

}  // namespace detail

// Of types whose every bit pattern is a value, so that they may be read where they lie although
// somebody else can write there. Says so for a type of yours that the test cannot look into:
//   template <> inline constexpr bool defib::call::kAnyBitsAreAValue<Tick> = true;
template <typename T>
inline constexpr bool kAnyBitsAreAValue = detail::AnyBits<T>::value;

class Encoder {
 public:
  explicit Encoder(std::string& out) : out_(out) {}

  template <typename T>
  void put(const T& value) {
    using namespace detail;
    if constexpr (HasWireForm<T>) {
      put(WireForm<T>::to(value));
    } else if constexpr (std::is_same_v<T, Secret>) {
      put(value.value);
    } else if constexpr (kIsScalar<T>) {
      raw(&value, sizeof value);
    } else if constexpr (kIsText<T>) {
      const std::string_view text(value);
      length(text.size());
      raw(text.data(), text.size());
    } else if constexpr (kIsA<T, std::vector> || kIsSpan<T>) {
      length(value.size());
      elements(value);
    } else if constexpr (kIsArray<T>) {
      elements(value);
    } else if constexpr (kIsA<T, std::map>) {
      length(value.size());
      for (const auto& [key, mapped] : value) {
        put(key);
        put(mapped);
      }
    } else if constexpr (kIsA<T, std::optional>) {
      put(value.has_value());
      if (value) put(*value);
    } else if constexpr (kIsA<T, std::variant>) {
      put(static_cast<std::uint8_t>(value.index()));
      std::visit([&](const auto& held) { put(held); }, value);
    } else if constexpr (kIsA<T, std::pair> || kIsA<T, std::tuple>) {
      std::apply([&](const auto&... member) { (put(member), ...); }, value);
    } else if constexpr (std::is_same_v<T, std::monostate>) {
    } else if constexpr (std::is_aggregate_v<T>) {
      with_members(value, [&](const auto&... member) { (put(member), ...); });
    } else {
      static_assert(kDependentFalse<T>, "give the type a defib::call::WireForm");
    }
  }

 private:
  void raw(const void* data, std::size_t size) {
    out_.append(static_cast<const char*>(data), size);
  }
  void length(std::size_t size) {
    // What is longer than a message may be is refused when it is sent, by its size.
    const auto small = static_cast<std::uint32_t>(size);
    raw(&small, sizeof small);
  }
  template <typename C>
  void elements(const C& values) {
    using T = std::remove_cv_t<typename C::value_type>;
    if constexpr (detail::kIsScalar<T> && !std::is_same_v<C, std::vector<bool>>) {
      raw(values.data(), values.size() * sizeof(T));
    } else {
      for (const T& value : values) put(value);
    }
  }
  std::string& out_;
};

// What a parameter or result of type T is kept in by who receives it.
template <typename T>
struct StoredAs {
  using Type = std::remove_cvref_t<T>;
};
template <>
struct StoredAs<std::string_view> {
  using Type = std::string;
};
template <typename T, std::size_t n>
struct StoredAs<std::span<T, n>> {
  using Type = std::vector<std::remove_cv_t<T>>;
};
template <typename T>
using Stored = typename StoredAs<std::remove_cvref_t<T>>::Type;

class Decoder {
 public:
  explicit Decoder(std::string_view bytes) : left_(bytes) {}

  // False where the bytes are no T; then nothing may be read any more.
  template <typename T>
  [[nodiscard]] bool get(T& value) {
    using namespace detail;
    if constexpr (HasWireForm<T>) {
      Stored<typename WireForm<T>::Type> wire{};
      if (!get(wire)) return false;
      auto made = WireForm<T>::from(std::move(wire));
      if (!made) return false;
      value = std::move(*made);
      return true;
    } else if constexpr (std::is_same_v<T, Secret>) {
      return get(value.value);
    } else if constexpr (kIsBool<T> && kIsScalar<T>) {
      std::uint8_t byte = 0;
      if (!raw(&byte, 1) || byte > 1) return false;
      value = static_cast<T>(byte == 1);
      return true;
    } else if constexpr (kIsScalar<T>) {
      return raw(&value, sizeof value);
    } else if constexpr (std::is_same_v<T, std::string>) {
      std::uint32_t size = 0;
      if (!get(size) || size > left_.size()) return false;
      value.assign(left_.data(), size);
      left_.remove_prefix(size);
      return true;
    } else if constexpr (kIsA<T, std::vector>) {
      return vector(value);
    } else if constexpr (kIsArray<T>) {
      for (auto& element : value) {
        if (!get(element)) return false;
      }
      return true;
    } else if constexpr (kIsA<T, std::map>) {
      return map(value);
    } else if constexpr (kIsA<T, std::optional>) {
      bool has = false;
      value.reset();
      return get(has) && (!has || get(value.emplace()));
    } else if constexpr (kIsA<T, std::variant>) {
      std::uint8_t index = 0;
      return get(index) && alternative(value, index);
    } else if constexpr (kIsA<T, std::pair> || kIsA<T, std::tuple>) {
      return std::apply([&](auto&... member) { return (get(member) && ...); }, value);
    } else if constexpr (std::is_same_v<T, std::monostate>) {
      return true;
    } else if constexpr (std::is_aggregate_v<T>) {
      return with_members(value, [&](auto&... member) { return (get(member) && ...); });
    } else {
      static_assert(kDependentFalse<T>, "give the type a defib::call::WireForm");
    }
  }
  bool done() const { return left_.empty(); }

 private:
  bool raw(void* to, std::size_t size) {
    if (size > left_.size()) return false;
    std::memcpy(to, left_.data(), size);
    // Who sent the bytes may change them meanwhile: what was checked must be what is used, so the
    // compiler may not read them again.
    asm volatile("" : : : "memory");
    left_.remove_prefix(size);
    return true;
  }
  template <typename T>
  bool vector(std::vector<T>& value) {
    std::uint32_t size = 0;
    value.clear();
    // Every element takes a byte at least, so that a length costs no more than was sent.
    if (!get(size) || size > left_.size()) return false;
    if constexpr (detail::kIsScalar<T> && !detail::kIsBool<T>) {
      if (size > left_.size() / sizeof(T)) return false;
      value.resize(size);
      // An empty vector has no data to copy to.
      return size == 0 || raw(value.data(), size * sizeof(T));
    } else {
      static_assert(!std::is_empty_v<T>, "elements of nothing could be of any number");
      for (std::uint32_t i = 0; i < size; ++i) {
        T element{};
        if (!get(element)) return false;
        value.push_back(std::move(element));
      }
      return true;
    }
  }
  template <typename K, typename V>
  bool map(std::map<K, V>& value) {
    std::uint32_t size = 0;
    value.clear();
    if (!get(size) || size > left_.size()) return false;
    for (std::uint32_t i = 0; i < size; ++i) {
      K key{};
      V mapped{};
      if (!get(key) || !get(mapped)) return false;
      if (!value.emplace(std::move(key), std::move(mapped)).second) return false;
    }
    return true;
  }
  template <typename V, std::size_t i = 0>
  bool alternative(V& value, std::size_t index) {
    if constexpr (i == std::variant_size_v<V>) {
      return false;
    } else {
      if (index != i) return alternative<V, i + 1>(value, index);
      return get(value.template emplace<i>());
    }
  }
  std::string_view left_;
};

template <typename T>
std::string encode(const T& value) {
  std::string bytes;
  Encoder(bytes).put(value);
  return bytes;
}

// Nothing where the bytes are not exactly one T.
template <typename T>
std::optional<T> decode(std::string_view bytes) {
  T value{};
  Decoder decoder(bytes);
  if (!decoder.get(value) || !decoder.done()) return std::nullopt;
  return value;
}

namespace detail {

template <typename T>
void append_schema(std::string& out);

template <typename... T>
void append_schemas(std::string& out) {
  bool first = true;
  ((out += first ? "" : ",", first = false, append_schema<T>(out)), ...);
}

template <typename T>
struct Parts;
template <template <typename...> class Template, typename... A>
struct Parts<Template<A...>> {
  static void append(std::string& out, char separator) {
    bool first = true;
    ((out += first ? std::string() : std::string(1, separator), first = false,
      append_schema<A>(out)),
     ...);
  }
};

template <typename T>
void append_schema(std::string& out) {
  if constexpr (HasWireForm<T>) {
    append_schema<typename WireForm<T>::Type>(out);
  } else if constexpr (std::is_same_v<T, Secret>) {
    out += "k";
  } else if constexpr (std::is_void_v<T> || std::is_same_v<T, std::monostate>) {
    out += "v";
  } else if constexpr (std::is_same_v<T, bool>) {
    out += "b";
  } else if constexpr (std::is_enum_v<T>) {
    static_assert(FixedEnum<T>, "write the enumeration's underlying type down");
    append_schema<std::underlying_type_t<T>>(out);
  } else if constexpr (std::is_integral_v<T>) {
    out += std::is_signed_v<T> ? 'i' : 'u';
    out += static_cast<char>('0' + sizeof(T));
  } else if constexpr (std::is_floating_point_v<T>) {
    static_assert(sizeof(T) <= 8, "long double differs from machine to machine");
    out += 'f';
    out += static_cast<char>('0' + sizeof(T));
  } else if constexpr (kIsText<T>) {
    out += 's';
  } else if constexpr (kIsA<T, std::vector> || kIsSpan<T>) {
    out += '[';
    append_schema<std::remove_cv_t<typename T::value_type>>(out);
    out += ']';
  } else if constexpr (kIsArray<T>) {
    out += std::to_string(std::tuple_size_v<T>) + "*";
    append_schema<typename T::value_type>(out);
  } else if constexpr (kIsA<T, std::map>) {
    out += "m(";
    append_schemas<typename T::key_type, typename T::mapped_type>(out);
    out += ')';
  } else if constexpr (kIsA<T, std::optional>) {
    out += '?';
    append_schema<typename T::value_type>(out);
  } else if constexpr (kIsA<T, std::variant>) {
    out += '<';
    Parts<T>::append(out, '|');
    out += '>';
  } else if constexpr (kIsA<T, std::pair> || kIsA<T, std::tuple>) {
    out += '{';
    Parts<T>::append(out, ',');
    out += '}';
  } else if constexpr (std::is_aggregate_v<T>) {
    // Never called: only its type names the members' types.
    auto types = [](auto&... member) {
      return std::tuple<std::remove_cvref_t<decltype(member)>*...>{};
    };
    using Types = decltype(with_members(std::declval<T&>(), types));
    out += '{';
    [&]<typename... M>(std::tuple<M*...>*) {
      append_schemas<M...>(out);
    }(static_cast<Types*>(nullptr));
    out += '}';
  } else {
    static_assert(kDependentFalse<T>, "give the type a defib::call::WireForm");
  }
}

}  // namespace detail

template <typename T>
std::string schema() {
  std::string text;
  detail::append_schema<std::remove_cvref_t<T>>(text);
  return text;
}

// Of a record that travels as it lies in memory: its structure and its size.
template <typename T>
std::string record_schema() {
  std::string text = "r" + std::to_string(sizeof(T));
  if constexpr (detail::AnyBits<T>::value) text += schema<T>();
  return text;
}

inline constexpr std::size_t kMaxSummary = 240;

// A value for people: `"ESM4"`, `[1, 2, ... 998 more]`, `{"a", 3}`; a Secret is `***`. Control
// characters are shown as '?'. Bounded by kMaxSummary.
template <typename T>
void summarize(std::string& out, const T& value) {
  using namespace detail;
  constexpr std::size_t kMostElements = 4;
  constexpr std::size_t kMostText = 48;
  const auto list = [&](const auto& values) {
    out += '[';
    std::size_t shown = 0;
    for (const auto& element : values) {
      if (shown == kMostElements || out.size() > kMaxSummary) break;
      if (shown++ > 0) out += ", ";
      summarize<std::remove_cvref_t<decltype(element)>>(out, element);
    }
    if (values.size() > shown) {
      out += ", ... " + std::to_string(values.size() - shown) + " more";
    }
    out += ']';
  };
  const auto members = [&](const auto&... member) {
    bool first = true;
    out += '{';
    ((out += first ? "" : ", ", first = false,
      summarize<std::remove_cvref_t<decltype(member)>>(out, member)),
     ...);
    out += '}';
  };
  if (out.size() > kMaxSummary) return;
  if constexpr (HasWireForm<T>) {
    summarize<typename WireForm<T>::Type>(out, WireForm<T>::to(value));
  } else if constexpr (std::is_same_v<T, Secret>) {
    out += "***";
  } else if constexpr (std::is_same_v<T, bool>) {
    out += value ? "true" : "false";
  } else if constexpr (std::is_enum_v<T>) {
    out += std::to_string(static_cast<std::underlying_type_t<T>>(value));
  } else if constexpr (kIsScalar<T>) {
    out += std::to_string(value);
  } else if constexpr (kIsText<T>) {
    const std::string_view text(value);
    out += '"';
    for (const char c : text.substr(0, kMostText)) {
      out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
    }
    out += text.size() > kMostText ? "...\"" : "\"";
  } else if constexpr (kIsA<T, std::vector> || kIsSpan<T> || kIsArray<T>) {
    list(value);
  } else if constexpr (kIsA<T, std::map>) {
    out += '{' + std::to_string(value.size()) + " entries}";
  } else if constexpr (kIsA<T, std::optional>) {
    if (value) {
      summarize<typename T::value_type>(out, *value);
    } else {
      out += "none";
    }
  } else if constexpr (kIsA<T, std::variant>) {
    std::visit([&](const auto& held) { summarize<std::remove_cvref_t<decltype(held)>>(out, held); },
               value);
  } else if constexpr (kIsA<T, std::pair> || kIsA<T, std::tuple>) {
    std::apply(members, value);
  } else if constexpr (std::is_same_v<T, std::monostate>) {
    out += "none";
  } else {
    with_members(value, members);
  }
}

}  // namespace defib::call
