#include "defib/call/schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "defib/base/visible_text.h"

namespace defib::call {
namespace {

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

// Sizes beyond it are no sizes that a ring could hold, and are told as none.
constexpr std::uint64_t kMaxFixedSize = std::uint64_t{1} << 32;

void lay_out_aggregate(Type& type) {
  if (type.parts.empty()) {
    type.size = type.align = 1;
    return;
  }
  std::uint64_t end = 0;
  std::uint64_t align = 1;
  for (const Type& part : type.parts) {
    if (part.size == 0) return;
    end = (end + part.align - 1) / part.align * part.align + part.size;
    align = std::max(align, part.align);
    if (end > kMaxFixedSize) return;
  }
  type.size = (end + align - 1) / align * align;
  type.align = align;
}

// Fills in what follows from the parts.
void complete(Type& type) {
  type.has_secret = type.kind == TypeKind::kSecret ||
                    std::ranges::any_of(type.parts, [](const Type& t) { return t.has_secret; });
  switch (type.kind) {
    case TypeKind::kVoid:
      type.size = type.align = 1;  // As an empty struct.
      break;
    case TypeKind::kSigned:
    case TypeKind::kUnsigned:
    case TypeKind::kFloat:
      type.size = type.align = type.width;
      break;
    case TypeKind::kArray:
      if (type.count == 0) {
        type.size = type.align = 1;  // As libstdc++ has std::array<T, 0>.
      } else if (type.parts[0].size != 0 && type.count <= kMaxFixedSize / type.parts[0].size) {
        type.size = type.count * type.parts[0].size;
        type.align = type.parts[0].align;
      }
      break;
    case TypeKind::kAggregate:
      lay_out_aggregate(type);
      break;
    default:
      break;
  }
}

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Result<Type> type_alone() {
    DEFIB_TRY(check_length());
    DEFIB_TRY_ASSIGN(Type type, this->type(0));
    if (at_ != text_.size()) return wrong("the end");
    return type;
  }

  Result<Signature> signature() {
    DEFIB_TRY(check_length());
    Signature signature;
    DEFIB_TRY_ASSIGN(signature.name, name());
    DEFIB_TRY_ASSIGN(signature.parameters, list(')', ',', 0));
    if (take("->")) {
      DEFIB_TRY_ASSIGN(signature.result, type(0));
    } else if (take("=>")) {
      signature.is_stream = true;
      DEFIB_TRY(record(signature));
    } else {
      return wrong("'->' or '=>'");
    }
    if (at_ != text_.size()) return wrong("the end");
    return signature;
  }

 private:
  Error wrong(std::string_view expected) const {
    const std::string_view shown = text_.substr(0, 200);
    return Error(Code::kApiMismatch,
                 fmt::format("the plugin's signature '{}{}' cannot be read: at byte {}, {} is "
                             "expected",
                             visible_text(shown), shown.size() < text_.size() ? "..." : "", at_,
                             expected))
        .with("offset", static_cast<std::int64_t>(at_))
        .suggest("use a client of the plugin's own version");
  }
  Result<> check_length() const {
    if (text_.size() <= kMaxSignatureText) return {};
    return wrong(fmt::format("a text of at most {} bytes", kMaxSignatureText));
  }
  bool take(std::string_view word) {
    if (!text_.substr(at_).starts_with(word)) return false;
    at_ += word.size();
    return true;
  }

  // Up to and with the '('.
  Result<std::string> name() {
    const std::size_t end = text_.find('(');
    const std::string_view name = text_.substr(0, end);
    const bool readable = std::ranges::all_of(name, [](char c) { return c > 0x20 && c < 0x7f; });
    if (end == text_.npos || name.empty() || name.size() > kMaxMethodName || !readable) {
      return wrong(
          fmt::format("a name of at most {} printable characters and '('", kMaxMethodName));
    }
    at_ = end + 1;
    return std::string(name);
  }

  Result<> record(Signature& signature) {
    if (!take("r")) {
      DEFIB_TRY_ASSIGN(signature.result, type(0));
      return {};
    }
    const std::size_t start = at_;
    DEFIB_TRY_ASSIGN(signature.record_size, number(kMaxFixedSize));
    if (signature.record_size == 0) {
      at_ = start;
      return wrong("a size above 0");
    }
    signature.result.reset();
    if (at_ == text_.size()) return {};
    DEFIB_TRY_ASSIGN(Type structure, type(0));
    signature.result = std::move(structure);
    return {};
  }

  // Without leading zeros.
  Result<std::uint64_t> number(std::uint64_t most) {
    std::uint64_t value = 0;
    const std::size_t start = at_;
    while (at_ < text_.size() && is_digit(text_[at_])) {
      if (at_ > start && text_[start] == '0') return wrong("a number without leading zeros");
      value = value * 10 + static_cast<std::uint64_t>(text_[at_] - '0');
      if (value > most) return wrong(fmt::format("a number of at most {}", most));
      ++at_;
    }
    if (at_ == start) return wrong("a number");
    return value;
  }

  // Types up to and with the closing sign.
  Result<std::vector<Type>> list(char close, char separator, int depth) {
    std::vector<Type> types;
    const std::string_view end(&close, 1);
    if (take(end)) return types;
    for (;;) {
      DEFIB_TRY_ASSIGN(Type type, this->type(depth));
      types.push_back(std::move(type));
      if (take(end)) return types;
      if (!take(std::string_view(&separator, 1))) {
        return wrong(fmt::format("'{}' or '{}'", separator, close));
      }
    }
  }

  Result<Type> type(int depth) {
    if (depth == kMaxTypeDepth) return wrong(fmt::format("a type of depth {}", kMaxTypeDepth));
    if (++types_ > kMaxTypes) return wrong(fmt::format("at most {} types", kMaxTypes));
    if (at_ == text_.size()) return wrong("a type");
    Type type;
    if (is_digit(text_[at_])) {
      DEFIB_TRY(array(type, depth));
    } else {
      DEFIB_TRY(by_letter(type, depth));
    }
    complete(type);
    return type;
  }

  Result<> array(Type& type, int depth) {
    type.kind = TypeKind::kArray;
    DEFIB_TRY_ASSIGN(type.count, number(kMaxArray));
    if (!take("*")) return wrong("'*'");
    return part(type, depth);
  }

  Result<> part(Type& type, int depth) {
    DEFIB_TRY_ASSIGN(Type part, this->type(depth + 1));
    type.parts.push_back(std::move(part));
    return {};
  }

  Result<> by_letter(Type& type, int depth) {
    const char letter = text_[at_++];
    switch (letter) {
      case 'v':
        type.kind = TypeKind::kVoid;
        return {};
      case 'b':
        type.kind = TypeKind::kBool;
        return {};
      case 's':
        type.kind = TypeKind::kText;
        return {};
      case 'k':
        type.kind = TypeKind::kSecret;
        return {};
      case 'i':
      case 'u':
        type.kind = letter == 'i' ? TypeKind::kSigned : TypeKind::kUnsigned;
        return width(type, "1248");
      case 'f':
        type.kind = TypeKind::kFloat;
        return width(type, "48");
      case '?':
        type.kind = TypeKind::kOptional;
        return part(type, depth);
      case '[':
        type.kind = TypeKind::kList;
        DEFIB_TRY(part(type, depth));
        return take("]") ? Result<>() : wrong("']'");
      case 'm':
        return map(type, depth);
      case '<': {
        type.kind = TypeKind::kVariant;
        DEFIB_TRY_ASSIGN(type.parts, list('>', '|', depth + 1));
        const bool some = !type.parts.empty() && type.parts.size() <= kMaxAlternatives;
        return some ? Result<>() : wrong(fmt::format("1 to {} alternatives", kMaxAlternatives));
      }
      case '{': {
        type.kind = TypeKind::kAggregate;
        DEFIB_TRY_ASSIGN(type.parts, list('}', ',', depth + 1));
        return {};
      }
      default:
        --at_;
        return wrong("a type");
    }
  }

  Result<> width(Type& type, std::string_view allowed) {
    if (at_ == text_.size() || !allowed.contains(text_[at_])) {
      return wrong(fmt::format("one of the sizes {}", allowed));
    }
    type.width = static_cast<std::uint8_t>(text_[at_++] - '0');
    return {};
  }

  Result<> map(Type& type, int depth) {
    type.kind = TypeKind::kMap;
    if (!take("(")) return wrong("'('");
    DEFIB_TRY(part(type, depth));
    if (!take(",")) return wrong("','");
    DEFIB_TRY(part(type, depth));
    return take(")") ? Result<>() : wrong("')'");
  }

  std::string_view text_;
  std::size_t at_ = 0;
  std::size_t types_ = 0;
};

void append_text(std::string& out, const Type& type);

void append_list(std::string& out, const std::vector<Type>& types, char separator) {
  for (std::size_t i = 0; i < types.size(); ++i) {
    if (i > 0) out += separator;
    append_text(out, types[i]);
  }
}

void append_text(std::string& out, const Type& type) {
  switch (type.kind) {
    case TypeKind::kVoid:
      out += 'v';
      return;
    case TypeKind::kBool:
      out += 'b';
      return;
    case TypeKind::kText:
      out += 's';
      return;
    case TypeKind::kSecret:
      out += 'k';
      return;
    case TypeKind::kSigned:
    case TypeKind::kUnsigned:
    case TypeKind::kFloat: {
      const char letter = type.kind == TypeKind::kSigned     ? 'i'
                          : type.kind == TypeKind::kUnsigned ? 'u'
                                                             : 'f';
      out += fmt::format("{}{}", letter, type.width);
      return;
    }
    case TypeKind::kArray:
      out += fmt::format("{}*", type.count);
      return append_text(out, type.parts[0]);
    case TypeKind::kOptional:
      out += '?';
      return append_text(out, type.parts[0]);
    case TypeKind::kList:
    case TypeKind::kMap:
    case TypeKind::kVariant:
    case TypeKind::kAggregate:
      break;
  }
  struct Signs {
    std::string_view open;
    char separator;
    char close;
  };
  const Signs signs = type.kind == TypeKind::kList      ? Signs{"[", ',', ']'}
                      : type.kind == TypeKind::kMap     ? Signs{"m(", ',', ')'}
                      : type.kind == TypeKind::kVariant ? Signs{"<", '|', '>'}
                                                        : Signs{"{", ',', '}'};
  out += signs.open;
  append_list(out, type.parts, signs.separator);
  out += signs.close;
}

std::string whole_number(const Type& type) {
  const int bits = type.width * 8;
  if (type.kind == TypeKind::kUnsigned) {
    return fmt::format("a whole number from 0 to {}",
                       std::numeric_limits<std::uint64_t>::max() >> (64 - bits));
  }
  const std::int64_t most = std::numeric_limits<std::int64_t>::max() >> (64 - bits);
  return fmt::format("a whole number from {} to {}", -most - 1, most);
}

}  // namespace

bool Signature::has_secret() const {
  return std::ranges::any_of(parameters, [](const Type& type) { return type.has_secret; });
}

Result<Type> parse_type(std::string_view text) {
  return Parser(text).type_alone();
}

Result<Signature> parse_signature(std::string_view text) {
  return Parser(text).signature();
}

std::string to_text(const Type& type) {
  std::string text;
  append_text(text, type);
  return text;
}

std::string to_text(const Signature& signature) {
  std::string text = signature.name + "(";
  append_list(text, signature.parameters, ',');
  text += signature.is_stream ? ")=>" : ")->";
  if (signature.record_size != 0) text += fmt::format("r{}", signature.record_size);
  if (signature.result) append_text(text, *signature.result);
  return text;
}

std::string in_words(const Type& type) {
  switch (type.kind) {
    case TypeKind::kVoid:
      return "null";
    case TypeKind::kBool:
      return "true or false";
    case TypeKind::kSigned:
    case TypeKind::kUnsigned:
      return whole_number(type);
    case TypeKind::kFloat:
      return type.width == 4 ? "a number (32 bits)" : "a number";
    case TypeKind::kText:
      return "a text";
    case TypeKind::kSecret:
      return "a text (a secret)";
    case TypeKind::kList:
      return fmt::format("a list {}", to_text(type));
    case TypeKind::kArray:
      return fmt::format("a list of {} items ({})", type.count, to_text(type));
    case TypeKind::kMap:
      return type.parts[0].kind == TypeKind::kText
                 ? fmt::format("an object ({})", to_text(type))
                 : fmt::format("a list of pairs [key, value] ({})", to_text(type));
    case TypeKind::kOptional:
      return fmt::format("null, or {}", in_words(type.parts[0]));
    case TypeKind::kVariant:
      return fmt::format("{{\"N\": value}} with an alternative's number N from 0 to {} ({})",
                         type.parts.size() - 1, to_text(type));
    case TypeKind::kAggregate:
      return fmt::format("a list of {} values ({})", type.parts.size(), to_text(type));
  }
  return {};
}

}  // namespace defib::call
