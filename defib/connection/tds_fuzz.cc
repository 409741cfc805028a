// What clients of the responder send: read whole or refused, within its bounds.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>

#include "defib/base/assert.h"
#include "defib/connection/testing/tds_protocol.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace tds = defib::connection::testing::tds;
  std::string_view bytes(reinterpret_cast<const char*>(data), size);
  while (!bytes.empty()) {
    const auto read = tds::read_message(bytes);
    const auto* message = std::get_if<tds::Message>(&read);
    if (message == nullptr) break;
    DEFIB_ASSERT(message->consumed > 0 && message->consumed <= bytes.size());
    (void)tds::read_login(message->body);
    (void)tds::read_batch(message->body);
    (void)tds::read_transaction(message->body);
    // What is written is read as the same.
    const std::string again =
        tds::packets(static_cast<tds::PacketType>(message->type), message->body);
    const auto second = tds::read_message(again);
    const auto* same = std::get_if<tds::Message>(&second);
    DEFIB_ASSERT(same != nullptr && same->body == message->body);
    bytes.remove_prefix(message->consumed);
  }
  return 0;
}
