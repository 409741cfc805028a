// The part of MS-TDS (Tabular Data Stream, Microsoft's open specification) that a responder needs:
// what clients send is read, what servers send is written. TDS 7.2 to 7.4.
//
// Thread rule: pure functions.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace defib::connection::testing::tds {

inline constexpr std::size_t kMaxMessage = 1 << 20;

enum class PacketType : std::uint8_t {
  kBatch = 0x01,
  kRpc = 0x03,
  kReply = 0x04,
  kAttention = 0x06,
  kTransaction = 0x0E,
  kLogin = 0x10,
  kPrelogin = 0x12,
};

// The message at the beginning of `bytes`, from all its packets; nothing where it is not complete.
struct Message {
  std::uint8_t type = 0;
  std::string body;
  std::size_t consumed = 0;
};
enum class ReadError { kIncomplete, kMalformed };
std::variant<Message, ReadError> read_message(std::string_view bytes);

struct Login {
  std::string host, user, password, application, server, database;
};
std::optional<Login> read_login(std::string_view body);
// The text of a batch, without its headers.
std::optional<std::string> read_batch(std::string_view body);
// Of a transaction manager's request: 5 begin, 7 commit, 8 rollback; -1 where it is malformed.
int read_transaction(std::string_view body);

// One or more packets.
std::string packets(PacketType type, std::string_view body);

std::string prelogin_reply();
std::string login_ack();
std::string database_change(std::string_view name);
std::string packet_size_change();
// ENVCHANGE 20: go on to that server instead.
std::string routing(std::string_view host, std::uint16_t port);
// ENVCHANGE 8, 9, 10.
std::string transaction_change(int type);
std::string error(std::int32_t number, std::string_view text, std::uint8_t severity = 16);
using Cell = std::variant<std::int32_t, std::string>;
std::string row_set(const std::vector<Cell>& row);
std::string done(bool failed, std::uint64_t rows = 0);

// Two bytes a character; what is not ASCII becomes '?', both ways.
std::string to_ucs2(std::string_view text);
std::string from_ucs2(std::string_view bytes);

}  // namespace defib::connection::testing::tds
