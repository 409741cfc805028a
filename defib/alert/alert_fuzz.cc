// Any bytes as queue and as book: reading ends, nothing that fails its checksum is believed, and
// what is read can be planned, rendered and kept again.

#include <cstdint>
#include <string>
#include <string_view>

#include "defib/alert/book.h"
#include "defib/alert/message.h"
#include "defib/base/assert.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace defib;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  static_cast<void>(alert::decode_line(text));
  auto json = wire::Json::parse(text);
  if (!json) return 0;
  // What was written is read; one byte less is not.
  const std::string line = alert::encode_line(*json);
  DEFIB_ASSERT(alert::decode_line(line).has_value());
  DEFIB_ASSERT(!alert::decode_line(std::string_view(line).substr(0, line.size() - 1)).has_value());
  alert::Receiver receiver;
  receiver.name = "r";
  receiver.repeat_interval = std::chrono::seconds(1);
  alert::Book book = alert::Book::from_json(*json);
  book.set_receivers({receiver});
  constexpr std::int64_t kNow = 1'700'000'000'000'000'000;
  if (const auto event = alert::Event::from_json(*json)) book.apply(*event, kNow);
  for (const alert::Message& message : book.take(receiver, 8, kNow)) {
    static_cast<void>(alert::plain_body(message).dump());
    static_cast<void>(alert::alertmanager_body({message}).dump());
    static_cast<void>(alert::mail_text(message, {"a@b", {"c@d"}, "h"}));
    book.finish(message, {true, false, {}}, kNow);
  }
  static_cast<void>(book.next_due(receiver, kNow));
  book.prune(kNow);
  const wire::Json kept = book.to_json();
  DEFIB_ASSERT(alert::Book::from_json(kept).to_json() == kept);
  return 0;
}
