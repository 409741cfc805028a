// Any bytes as queue and as book: reading ends, nothing that fails its checksum is believed, and
// what is read can be planned, rendered and kept again.

#include <cstdint>
#include <string>
#include <string_view>

#include "defib/alert/book.h"
#include "defib/alert/message.h"
#include "defib/alert/queue.h"
#include "defib/alert/receiver.h"
#include "defib/base/assert.h"
#include "defib/os/sim_files.h"

namespace {

// As the queue's file and as the receivers': each record is an event or counts as damaged, and what
// was read once is not read again.
void fuzz_files(std::string_view text) {
  using namespace defib;
  os::SimFiles files;
  DEFIB_ASSERT(files.create_dirs("/s/alerts").has_value());
  for (const char* name : {"/s/alerts/queue", "/s/alerts/receivers.json"}) {
    DEFIB_ASSERT(files.open(name, os::OpenMode::kCreate).has_value());
    files.set_content(name, std::string(text));
  }
  alert::Queue queue(files, alert::queue_path("/s"));
  const auto batch = queue.read({});
  DEFIB_ASSERT(batch.has_value());
  const auto rest = queue.read(batch->end);
  DEFIB_ASSERT(rest.has_value() && (batch->end.offset == 0 || rest->events.empty()));
  DEFIB_ASSERT(batch->events.empty() || queue.append({batch->events.front()}).has_value());
  const auto receivers = alert::load_receivers(files, "/s");
  if (!receivers) return;
  DEFIB_ASSERT(alert::save_receivers(files, "/s", *receivers).has_value());
  alert::Book book;
  book.set_receivers(*receivers);
  alert::Event event;
  event.id = event.service = event.cause = "x";
  for (std::int64_t now = 1; now < 3; ++now) {
    event.id += 'x';
    book.apply(event, now);
    for (const alert::Receiver& receiver : *receivers) {
      for (const alert::Message& message : book.take(receiver, 8, now)) {
        book.finish(message, {now == 2, false, {}}, now);
      }
      static_cast<void>(book.next_due(receiver, now));
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace defib;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  static_cast<void>(alert::decode_line(text));
  fuzz_files(text);
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
