// The control socket: how the command line asks a supervising process to do something.
//
// A UNIX stream of frames (wire/frame.h), one JSON request and one answer each:
//   {"op":"status"}                          {"services":[...]}
//   {"op":"stop","name":"engine"}            {"ok":true} when it has stopped
//   {"op":"start"|"restart"|"reset","name"}  {"ok":true} when it runs, or its failure
//   {"op":"reload"}                          {"ok":true,"added","changed","removed"}
// A failure is {"error":{...}} in the form of every --json error. Only processes of the same user
// (and root) are answered.
//
// `defib daemon` listens on STATE/control.sock, `defib run` on STATE/services/NAME/control.sock.
// Thread rule: the server on the loop's thread; call() blocks its caller.

#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "defib/base/error.h"
#include "defib/os/event_loop.h"
#include "defib/os/fd.h"
#include "defib/wire/frame.h"
#include "defib/wire/json.h"

namespace defib::daemon {

inline constexpr std::string_view kControlSocket = "control.sock";

class ControlServer {
 public:
  // Answers a request now or later, once. Answering a connection that is gone does nothing.
  using Answer = std::function<void(const wire::Json& answer)>;
  using Handler = std::function<void(const wire::Json& request, Answer answer)>;

  static Result<std::unique_ptr<ControlServer>> listen(os::EventLoop& loop, std::string path,
                                                       Handler handler);
  ~ControlServer();
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;

 private:
  static constexpr std::size_t kMaxConnections = 64;
  struct Connection {
    os::Fd fd;
    wire::FrameDecoder decoder;
    std::string unsent;
  };
  ControlServer(os::EventLoop& loop, std::string path, Handler handler)
      : loop_(loop), path_(std::move(path)), handler_(std::move(handler)) {}
  void accept();
  void receive(std::uint64_t id, std::uint32_t events);
  void flush(std::uint64_t id);
  void send(std::uint64_t id, const wire::Json& answer);
  void drop(std::uint64_t id);

  os::EventLoop& loop_;
  std::string path_;
  Handler handler_;
  os::Fd listener_;
  std::map<std::uint64_t, Connection> connections_;
  std::uint64_t next_id_ = 1;
  // Outlived by answers that come when the server is gone.
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

// One request. DaemonNotRunning where nobody listens, Timeout, or the error that was answered.
Result<wire::Json> call_control(const std::string& socket_path, const wire::Json& request,
                                os::Duration timeout);

// The form in which errors travel, back into an Error.
Error error_from_json(const wire::Json& json);

}  // namespace defib::daemon
