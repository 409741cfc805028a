// JSON codec: JSON values as the bytes that a plugin understands, and back, by a Schema's types.
//
//   type            JSON
//   v               null
//   b               true, false
//   i. u.           whole number
//   f.              number, or "nan" "inf" "-inf"
//   s k             string; bytes that are no UTF-8: {"hex":"00ff"}
//   [T] n*T {T,U}   array
//   m(s,V)          object; with more than 1024 entries, or with keys that are no UTF-8, as m(K,V)
//   m(K,V)          array of [key, value]
//   ?T              null, or T
//   <T|U>           {"0": T} or {"1": U}: the alternative by its place
//
// What decoding writes, encoding reads, and both forms of m(s,V).
//
// Invariant: decoding trusts no byte: every length is checked against what is left, and the values
// that are made are counted, so that a short message cannot take all the memory.
// Thread rule: pure functions.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/call/schema.h"
#include "defib/wire/json.h"

namespace defib::call {

// JSON values in one result or record; each takes 40 bytes at least.
inline constexpr std::size_t kMaxJsonValues = std::size_t{4} << 20;
// Of a map with texts as keys that becomes an object.
inline constexpr std::size_t kMaxObjectMembers = 1024;

// The arguments of a method, encoded. `arguments` is an array with one item a parameter. Errors:
// InvalidArgument, which names the argument, the place in it and what is expected there; where the
// method takes a secret, it shows no given value.
Result<std::string> encode_arguments(const Signature& signature, const wire::Json& arguments);

enum class DecodeProblem : std::uint8_t {
  kNone,
  kBroken,    // the bytes are no value of the type
  kTooLarge,  // more than kMaxJsonValues
};
struct Decoded {
  DecodeProblem problem = DecodeProblem::kNone;
  wire::Json value;
};
// `bytes` are exactly one value.
Decoded decode_json(const Type& type, std::string_view bytes);
// A record as it lies in memory: `bytes` are type.size, which is not 0.
Decoded decode_record(const Type& type, std::string_view bytes);
// Text as JSON has it: {"hex":...} where it is no UTF-8.
wire::Json text_json(std::string_view text);
// A record whose structure is not known: always {"hex":...}.
wire::Json hex_json(std::string_view bytes);

// The arguments for an error or a log, as codec.h's summarize() has them: `"ESM4", [1, 2, ... 998
// more]`, secrets as ***. For arguments that encode_arguments() takes.
void summarize_arguments(std::string& out, const Signature& signature, const wire::Json& arguments);

}  // namespace defib::call
