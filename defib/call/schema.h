// Schema: the types of methods as their text, read back.
//
// A plugin tells what it offers as texts such as "price(s,i4)->f8" (codec.h writes them). Here such
// a text becomes a Signature, with which a program that was not compiled against the plugin's
// declaration can encode arguments and decode results (json_codec.h). Grammar and meaning:
// docs/formats/call.md.
//
// Invariants:
//   - The text comes from a worker, and may be anything: it is read with bounds on its length, on
//     the depth of types (which bounds all recursion over them) and on their number.
//   - text(parse_type(t)) == t: one type has one text.
// Thread rule: plain values and pure functions.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"

namespace defib::call {

inline constexpr std::size_t kMaxSignatureText = 16 << 10;
inline constexpr std::size_t kMaxMethodName = 128;
inline constexpr int kMaxTypeDepth = 24;
inline constexpr std::size_t kMaxTypes = 2048;  // in one signature
inline constexpr std::size_t kMaxAlternatives = 256;
inline constexpr std::uint64_t kMaxArray = std::uint64_t{1} << 32;

enum class TypeKind : std::uint8_t {
  kVoid,       // v: nothing
  kBool,       // b
  kSigned,     // i1 i2 i4 i8
  kUnsigned,   // u1 u2 u4 u8
  kFloat,      // f4 f8
  kText,       // s
  kSecret,     // k: a text that nobody shows
  kList,       // [T]
  kArray,      // n*T
  kMap,        // m(K,V)
  kOptional,   // ?T
  kVariant,    // <T|U>
  kAggregate,  // {T,U}
};

struct Type {
  TypeKind kind = TypeKind::kVoid;
  std::uint8_t width = 0;   // bytes, of numbers
  std::uint64_t count = 0;  // of an array
  std::vector<Type> parts;  // the types that it is made of
  bool has_secret = false;  // it, or one of its parts
  // As it lies in memory, with each member at the next multiple of its alignment. 0: it has no
  // fixed size, or not every bit pattern is a value of it.
  std::uint64_t size = 0;
  std::uint64_t align = 0;
};

struct Signature {
  std::string name;
  std::vector<Type> parameters;
  bool is_stream = false;
  // The method's result, or the stream's record. Of records that travel as they lie and whose
  // structure their text does not tell, nothing.
  std::optional<Type> result = Type{};
  std::uint64_t record_size = 0;  // of records that travel as they lie; 0: encoded

  bool has_secret() const;
};

// ApiMismatch with the byte offset (also as the field "offset") and what was expected there.
Result<Type> parse_type(std::string_view text);
// "price(s,i4)->f8", "ticks(s)=>r24{i8,i8,i8}".
Result<Signature> parse_signature(std::string_view text);

std::string to_text(const Type& type);
std::string to_text(const Signature& signature);
// What a person would give for it: "a whole number from 0 to 255", "a list of [i8]".
std::string in_words(const Type& type);

}  // namespace defib::call
