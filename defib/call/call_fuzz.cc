// What a worker tells, as any bytes. The first byte chooses:
//   0  a signature: it is refused, or written as the same text
//   1  a signature and a value of its result, divided by a zero byte: what is decoded is encoded to
//      bytes that decode to the same
//   2  a value of one of the types below: the typed Decoder and the decoder to JSON agree whether
//      it is one, and both encode what they read to the same bytes
//   3  JSON arguments for a signature, divided by a zero byte: they are refused, or what is encoded
//      decodes

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "defib/base/assert.h"
#include "defib/call/codec.h"
#include "defib/call/json_codec.h"
#include "defib/call/schema.h"
#include "defib/call/testcases/victims_api.h"

namespace defib::call {
namespace {

using wire::Json;

// The parameters of a method as one type.
Type all_parameters(const Signature& signature) {
  Type type;
  type.kind = TypeKind::kAggregate;
  type.parts = signature.parameters;
  return type;
}

// One of the type, as the only argument.
Result<std::string> encode_one(const Type& type, const Json& value) {
  Signature signature;
  signature.name = "fuzz";
  signature.parameters.push_back(type);
  return encode_arguments(signature, Json::array({value}));
}

void look_at_value(const Type& type, std::string_view bytes) {
  const Decoded decoded = decode_json(type, bytes);
  if (decoded.problem != DecodeProblem::kNone) return;
  const auto again = encode_one(type, decoded.value);
  // The only values that one can read and not write: maps whose keys are equal as JSON.
  if (!again) return;
  const Decoded second = decode_json(type, *again);
  DEFIB_ASSERT(second.problem == DecodeProblem::kNone);
  DEFIB_ASSERT(second.value == decoded.value);
  // As text, too.
  const auto parsed = Json::parse(decoded.value.dump());
  DEFIB_ASSERT(parsed.has_value());
}

void look_at_signature(std::string_view text) {
  const auto signature = parse_signature(text);
  if (!signature) {
    DEFIB_ASSERT(!signature.error().field("offset").empty());
    return;
  }
  DEFIB_ASSERT(to_text(*signature) == text);
  for (const Type& type : signature->parameters) DEFIB_ASSERT(!in_words(type).empty());
}

template <typename T>
void compare(std::string_view bytes) {
  const auto type = parse_type(schema<T>());
  DEFIB_ASSERT(type.has_value());
  const auto typed = decode<T>(bytes);
  const Decoded dynamic = decode_json(*type, bytes);
  if (dynamic.problem == DecodeProblem::kTooLarge) return;
  DEFIB_ASSERT(typed.has_value() == (dynamic.problem == DecodeProblem::kNone));
  if (!typed) return;
  // JSON has one NaN, and one order of a map is as good as another: compared as JSON.
  const Decoded canonical = decode_json(*type, encode(*typed));
  DEFIB_ASSERT(canonical.problem == DecodeProblem::kNone);
  std::string summary;
  summarize(summary, *typed);
}

void compare_one(std::string_view bytes) {
  if (bytes.empty()) return;
  const char which = bytes.front();
  bytes.remove_prefix(1);
  switch (which & 7) {
    case 0:
      return compare<testcases::Spread>(bytes);
    case 1:
      return compare<std::vector<std::string>>(bytes);
    case 2:
      return compare<std::map<std::int32_t, std::optional<bool>>>(bytes);
    case 3:
      return compare<std::variant<std::monostate, double, std::vector<std::uint8_t>>>(bytes);
    case 4:
      return compare<std::tuple<float, std::array<std::uint16_t, 3>, Secret>>(bytes);
    case 5:
      return compare<std::vector<bool>>(bytes);
    case 6:
      return compare<std::pair<std::string, std::string>>(bytes);
    default:
      return compare<testcases::Tick>(bytes);
  }
}

void look_at_record(const Signature& signature, std::string_view bytes) {
  if (!signature.result || signature.result->size != signature.record_size ||
      bytes.size() < signature.record_size) {
    return;
  }
  const Decoded decoded = decode_record(*signature.result, bytes.substr(0, signature.record_size));
  DEFIB_ASSERT(decoded.problem != DecodeProblem::kBroken);
}

}  // namespace
}  // namespace defib::call

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace defib::call;
  if (size < 2) return 0;
  std::string_view input(reinterpret_cast<const char*>(data), size);
  const char mode = input.front();
  input.remove_prefix(1);
  if ((mode & 3) == 0) {
    look_at_signature(input);
    return 0;
  }
  if ((mode & 3) == 2) {
    compare_one(input);
    return 0;
  }
  const std::size_t end = input.find('\0');
  if (end == input.npos) return 0;
  const auto signature = parse_signature(input.substr(0, end));
  if (!signature) return 0;
  const std::string_view rest = input.substr(end + 1);
  if ((mode & 3) == 1) {
    if (signature->record_size != 0) {
      look_at_record(*signature, rest);
    } else if (signature->result) {
      look_at_value(*signature->result, rest);
    }
    return 0;
  }
  const auto arguments = defib::wire::Json::parse(rest);
  if (!arguments) return 0;
  const auto bytes = encode_arguments(*signature, *arguments);
  if (!bytes) return 0;
  const Decoded decoded = decode_json(all_parameters(*signature), *bytes);
  DEFIB_ASSERT(decoded.problem != DecodeProblem::kBroken);
  std::string summary;
  summarize_arguments(summary, *signature, *arguments);
  return 0;
}
