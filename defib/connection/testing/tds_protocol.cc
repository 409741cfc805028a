#include "defib/connection/testing/tds_protocol.h"

#include <algorithm>

namespace defib::connection::testing::tds {
namespace {

constexpr std::size_t kHeader = 8;
constexpr std::size_t kPacket = 4096;
constexpr std::uint32_t kVersion74 = 0x04000074;  // as its bytes stand in LOGINACK

template <typename T>
void put(std::string& out, T value) {  // little-endian
  for (std::size_t i = 0; i < sizeof(T); ++i) {
    out += static_cast<char>(static_cast<std::uint64_t>(value) >> (8 * i));
  }
}

template <typename T>
std::optional<T> get(std::string_view bytes, std::size_t at) {
  if (at > bytes.size() || bytes.size() - at < sizeof(T)) return std::nullopt;
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < sizeof(T); ++i) {
    value |= static_cast<std::uint64_t>(static_cast<unsigned char>(bytes[at + i])) << (8 * i);
  }
  return static_cast<T>(value);
}

void put_short_text(std::string& out, std::string_view text) {
  put<std::uint8_t>(out, static_cast<std::uint8_t>(text.size()));
  out += to_ucs2(text);
}

std::string token(std::uint8_t id, const std::string& body) {
  std::string out;
  put(out, id);
  put(out, static_cast<std::uint16_t>(body.size()));
  return out + body;
}

}  // namespace

std::string to_ucs2(std::string_view text) {
  std::string out;
  for (const char c : text) {
    out += static_cast<unsigned char>(c) < 0x80 ? c : '?';
    out += '\0';
  }
  return out;
}

std::string from_ucs2(std::string_view bytes) {
  std::string out;
  for (std::size_t i = 0; i + 1 < bytes.size(); i += 2) {
    const bool ascii = bytes[i + 1] == 0 && static_cast<unsigned char>(bytes[i]) < 0x80;
    out += ascii ? bytes[i] : '?';
  }
  return out;
}

std::variant<Message, ReadError> read_message(std::string_view bytes) {
  Message message;
  while (true) {
    const std::string_view rest = bytes.substr(message.consumed);
    if (rest.size() < kHeader) return ReadError::kIncomplete;
    const std::size_t size = (static_cast<std::size_t>(static_cast<unsigned char>(rest[2])) << 8) |
                             static_cast<unsigned char>(rest[3]);
    if (size < kHeader) return ReadError::kMalformed;
    const auto type = static_cast<std::uint8_t>(rest[0]);
    if (message.consumed != 0 && type != message.type) return ReadError::kMalformed;
    if (rest.size() < size) return ReadError::kIncomplete;
    message.type = type;
    message.body += rest.substr(kHeader, size - kHeader);
    message.consumed += size;
    if (message.body.size() > kMaxMessage) return ReadError::kMalformed;
    if ((rest[1] & 1) != 0) return message;
  }
}

std::optional<Login> read_login(std::string_view body) {
  // Offsets and lengths (in characters) of the texts begin at byte 36.
  Login login;
  const auto text = [&](std::size_t at) -> std::optional<std::string> {
    const auto offset = get<std::uint16_t>(body, at);
    const auto length = get<std::uint16_t>(body, at + 2);
    if (!offset || !length) return std::nullopt;
    const std::size_t bytes = static_cast<std::size_t>(*length) * 2;
    if (*offset > body.size() || body.size() - *offset < bytes) return std::nullopt;
    return std::string(body.substr(*offset, bytes));
  };
  const auto host = text(36), user = text(40), password = text(44), application = text(48),
             server = text(52), database = text(68);
  if (!host || !user || !password || !application || !server || !database) return std::nullopt;
  login.host = from_ucs2(*host);
  login.user = from_ucs2(*user);
  std::string plain = *password;
  for (char& c : plain) {
    const auto mixed = static_cast<unsigned char>(static_cast<unsigned char>(c) ^ 0xA5U);
    c = static_cast<char>((mixed << 4) | (mixed >> 4));
  }
  login.password = from_ucs2(plain);
  login.application = from_ucs2(*application);
  login.server = from_ucs2(*server);
  login.database = from_ucs2(*database);
  return login;
}

std::optional<std::string> read_batch(std::string_view body) {
  const auto headers = get<std::uint32_t>(body, 0);
  if (!headers || *headers < 4 || *headers > body.size()) return std::nullopt;
  return from_ucs2(body.substr(*headers));
}

int read_transaction(std::string_view body) {
  const auto headers = get<std::uint32_t>(body, 0);
  if (!headers || *headers < 4 || *headers > body.size()) return -1;
  const auto type = get<std::uint16_t>(body, *headers);
  return type ? *type : -1;
}

std::string packets(PacketType type, std::string_view body) {
  std::string out;
  std::uint8_t number = 1;
  do {
    const std::size_t part = std::min(body.size(), kPacket - kHeader);
    const std::size_t size = part + kHeader;
    out += static_cast<char>(type);
    out += static_cast<char>(part == body.size() ? 1 : 0);
    out += static_cast<char>(size >> 8);
    out += static_cast<char>(size & 0xFF);
    out += std::string("\0\x33", 2);  // the session's number
    out += static_cast<char>(number++);
    out += '\0';
    out += body.substr(0, part);
    body.remove_prefix(part);
  } while (!body.empty());
  return out;
}

std::string prelogin_reply() {
  // VERSION at 11 of 6 bytes, ENCRYPTION at 17 of 1 byte: not supported.
  std::string body("\0\0\x0b\0\x06\x01\0\x11\0\x01\xff", 11);
  body += std::string("\x10\0\x10\0\0\0", 6);
  body += '\x02';
  return packets(PacketType::kReply, body);
}

std::string login_ack() {
  std::string body;
  put<std::uint8_t>(body, 1);
  put(body, kVersion74);
  put_short_text(body, "Microsoft SQL Server");
  body += std::string("\x10\0\x10\0", 4);
  return token(0xAD, body);
}

std::string database_change(std::string_view name) {
  std::string body;
  put<std::uint8_t>(body, 1);
  put_short_text(body, name);
  put_short_text(body, "master");
  return token(0xE3, body);
}

std::string packet_size_change() {
  std::string body;
  put<std::uint8_t>(body, 4);
  put_short_text(body, "4096");
  put_short_text(body, "4096");
  return token(0xE3, body);
}

std::string routing(std::string_view host, std::uint16_t port) {
  std::string value;
  put<std::uint8_t>(value, 0);  // TCP
  put(value, port);
  put(value, static_cast<std::uint16_t>(host.size()));
  value += to_ucs2(host);
  std::string body;
  put<std::uint8_t>(body, 20);
  put(body, static_cast<std::uint16_t>(value.size()));
  body += value;
  put<std::uint16_t>(body, 0);
  return token(0xE3, body);
}

std::string transaction_change(int type) {
  std::string body;
  put(body, static_cast<std::uint8_t>(type));
  const std::string number("\x01\0\0\0\x33\0\0\0", 8);
  if (type == 8) {
    put<std::uint8_t>(body, 8);
    body += number;
    put<std::uint8_t>(body, 0);
  } else {
    put<std::uint8_t>(body, 0);
    put<std::uint8_t>(body, 8);
    body += number;
  }
  return token(0xE3, body);
}

std::string error(std::int32_t number, std::string_view text, std::uint8_t severity) {
  std::string body;
  put(body, number);
  put<std::uint8_t>(body, 1);
  put(body, severity);
  put(body, static_cast<std::uint16_t>(text.size()));
  body += to_ucs2(text);
  put_short_text(body, "responder");
  put_short_text(body, "");
  put<std::uint32_t>(body, 1);
  return token(0xAA, body);
}

std::string row_set(const std::vector<Cell>& row) {
  std::string out, values;
  put<std::uint8_t>(out, 0x81);
  put(out, static_cast<std::uint16_t>(row.size()));
  put<std::uint8_t>(values, 0xD1);
  for (const Cell& cell : row) {
    put<std::uint32_t>(out, 0);
    put<std::uint16_t>(out, 1);  // nullable
    if (const auto* number = std::get_if<std::int32_t>(&cell)) {
      put<std::uint8_t>(out, 0x26);
      put<std::uint8_t>(out, 4);
      put<std::uint8_t>(values, 4);
      put(values, *number);
    } else {
      const std::string bytes = to_ucs2(std::get<std::string>(cell));
      put<std::uint8_t>(out, 0xE7);
      put<std::uint16_t>(out, 400);
      out += std::string("\x09\x04\xD0\0\x34", 5);
      put(values, static_cast<std::uint16_t>(bytes.size()));
      values += bytes;
    }
    put_short_text(out, "c");
  }
  return out + values;
}

std::string done(bool failed, std::uint64_t rows) {
  std::string out;
  put<std::uint8_t>(out, 0xFD);
  put<std::uint16_t>(out, static_cast<std::uint16_t>((failed ? 2 : 0) | (rows > 0 ? 0x10 : 0)));
  put<std::uint16_t>(out, 0xC1);
  put(out, rows);
  return out;
}

}  // namespace defib::connection::testing::tds
