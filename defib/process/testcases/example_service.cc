#include <cstdio>
#include <cstdlib>
#include <stdexcept>

#include "defib/obs/log.h"
#include "defib/process/recovery_manager.h"

using namespace std::chrono_literals;
using defib::Result;
namespace process = defib::process;

// A venue that loses its connection after every third order.
struct Venue {
  int orders = 0;
  bool connected = true;
  void send_order() {
    if (!connected) throw std::runtime_error("not connected");
    connected = ++orders % 3 != 0;
  }
};

int main(int argc, char** argv) {
  if (auto logging = defib::obs::configure_logging(argc, argv); !logging) {
    std::fprintf(stderr, "%s\n", logging.error().to_text().c_str());
    return 2;
  }
  auto manager = process::RecoveryManager::create({.state_file = "system_state.json"});
  if (!manager) {
    std::fprintf(stderr, "%s\n", manager.error().to_text().c_str());
    return 2;
  }
  process::RecoveryManager& recovery = **manager;
  Venue venue;
  venue.orders = static_cast<int>(recovery.get("orders").as_int());

  recovery.add_recovery("reconnect", [&] { venue.connected = true; }, 5s);
  recovery.add_cleanup(
      "cancel open orders",
      [&]() -> Result<> {
        recovery.set_active_positions(0);
        return {};
      },
      5s);

  recovery.ready();
  const int limit = argc > 1 ? std::atoi(argv[1]) : 0;  // 0: until it is told to stop
  for (int i = 0; (limit == 0 || i < limit) && !recovery.wait_for_shutdown(1ms); ++i) {
    recovery.beat();
    auto sent = recovery.exception_scope("order_execution", [&] { venue.send_order(); });
    if (!sent && !process::was_recovered(sent.error())) return 1;  // restarted by the supervisor
    static_cast<void>(recovery.set("orders", venue.orders));
    recovery.set_active_positions(venue.orders);
  }
  return recovery.shutdown("the work is done") ? 0 : 1;
}
