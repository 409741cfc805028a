// Arbitrary requests against the dialect, arbitrary lines against the ledger's and the fault plan's
// parsers. The first byte chooses. Requests are signed half of the time, so that both the checks
// and what lies behind them are reached.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "defib/base/assert.h"
#include "defib/paper/audit.h"
#include "defib/paper/binance.h"
#include "defib/paper/ledger.h"
#include "defib/paper/testing.h"

namespace {

using namespace defib;
using namespace defib::paper;

constexpr std::string_view kMethods[] = {"GET", "POST", "DELETE", "PUT"};

// Lines of "METHOD-DIGIT PATH?QUERY [BODY]".
void run_requests(std::string_view text) {
  Core core = paper::testing::make_core();
  FaultPlan faults(1);
  Binance binance(core, faults, {"key", "secret", {0, 0}});
  Micros now = paper::testing::kStart;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.size() < 2) continue;
    const auto choice = static_cast<unsigned char>(line.front());
    line.remove_prefix(1);
    const std::size_t space = std::min(line.find(' '), line.size());
    wire::HttpRequest request;
    request.method = kMethods[choice % 4];
    request.url = std::string(line.substr(0, space));
    request.body = std::string(line.substr(std::min(space + 1, line.size())));
    request.headers.emplace_back("x-mbx-apikey", "key");
    if (choice & 4) {
      const std::size_t question = request.url.find('?');
      if (question == std::string::npos) request.url += '?';
      request.url += "&timestamp=" + std::to_string(now / 1000);
      const std::string query = request.url.substr(request.url.find('?') + 1);
      request.url += "&signature=" + hmac_sha256_hex("secret", query + request.body);
    }
    const Binance::Reply reply = binance.handle(request, now);
    DEFIB_ASSERT(reply.response.status >= 200 && reply.response.status < 600);
    DEFIB_ASSERT(wire::Json::parse(reply.response.body).has_value());
    now += 20'000;
  }
  DEFIB_ASSERT(core.check_invariants().empty());
  // What was recorded reads back, and rebuilds the same state.
  Core replayed(Core::Options{});
  for (const Event& event : core.take_events()) {
    const auto decoded = decode_event(encode_event(event, core.symbols(), false), core.symbols());
    DEFIB_ASSERT(decoded.has_value());
    DEFIB_ASSERT(replayed.replay(decoded->event).has_value());
  }
  DEFIB_ASSERT(replayed.digest() == core.digest());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 4) {
    case 0:
      static_cast<void>(parse_fault_rules(text));
      break;
    case 1:
      static_cast<void>(decode_event(text, default_symbols()));
      static_cast<void>(parse_intents(text));
      break;
    default:
      run_requests(text);
  }
  return 0;
}
