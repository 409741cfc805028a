// FaultProxy: a TCP proxy on loopback that breaks on request what passes through it.
//
// Thread rule: any thread; the forwarding is done by one thread of its own.

#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "defib/base/error.h"
#include "defib/os/clock.h"
#include "defib/os/fd.h"

namespace defib::connection::testing {

class FaultProxy {
 public:
  enum class Mode {
    kPass,
    kBlackHole,    // takes all bytes and forwards none, in both directions
    kBlackHoleUp,  // the server's answers pass, the client's requests do not
    kBlackHoleDown,
    kSilent,  // accepts, and speaks to nobody
    kRefuse,  // no listener: connections are refused
  };
  // What to do when the client sends a COMMIT (by its text, in any letters).
  enum class Cut {
    kNone,
    kRequest,  // the request is dropped and both sides are reset
    kReply,    // the request is forwarded; when the reply comes it is dropped, and both are reset
    kReplyBlackHole,  // the reply is swallowed and nothing more passes
  };

  static Result<std::unique_ptr<FaultProxy>> start(std::uint16_t upstream_port);
  ~FaultProxy();

  std::uint16_t port() const { return port_; }
  // Another server behind the same port, for new connections.
  void set_upstream(std::uint16_t port) { upstream_ = port; }
  Result<> set_mode(Mode mode);
  void set_delay(os::Duration delay) { delay_ns_ = delay.count(); }
  // The next `count` commits are cut; 0: none.
  void cut_commits(Cut cut, int count = 1);
  int cuts_done() const { return cuts_done_.load(); }
  void reset_all();      // RST to both sides
  void close_all();      // FIN to both sides
  void half_open_all();  // the server's side is closed, and the client is not told
  int connections() const { return connections_.load(); }
  std::int64_t accepted() const { return accepted_.load(); }

 private:
  struct Pair {
    os::Fd client, server;
    std::string to_server, to_client;
    bool cut_reply = false;
    bool swallow = false;
    bool half_open = false;
    std::int64_t held_until_ns = 0;
  };
  FaultProxy() = default;
  void run();
  void accept_one();
  bool pump(Pair& pair);
  bool take_from_client(Pair& pair);
  bool take_from_server(Pair& pair);
  bool is_cut_commit(std::string_view bytes);
  void apply_orders();

  std::uint16_t port_ = 0;
  std::atomic<std::uint16_t> upstream_{0};
  std::atomic<Mode> mode_{Mode::kPass};
  std::atomic<std::int64_t> delay_ns_{0};
  std::atomic<int> connections_{0}, cuts_done_{0};
  std::atomic<std::int64_t> accepted_{0};
  std::atomic<int> order_{0};  // 1 reset, 2 close, 3 half-open
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;
  Cut cut_ = Cut::kNone;  // guarded by mutex_
  int cuts_left_ = 0;     // guarded by mutex_
  os::Fd listener_;       // guarded by mutex_
  os::Fd wake_read_, wake_write_;
  std::list<Pair> pairs_;
  std::thread thread_;
};

}  // namespace defib::connection::testing
