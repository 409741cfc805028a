// HTTP/1.1: a client (libcurl) and a server (libmicrohttpd), neither of which shows its library.
// Linked by defib::http; defib::wire alone brings no HTTP into a program.

#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/clock.h"

namespace defib::wire {

using Headers = std::vector<std::pair<std::string, std::string>>;

struct HttpRequest {
  std::string method = "GET";
  std::string url;  // client: "http://127.0.0.1:8080/path?query"; server: path and query
  Headers headers;
  std::string body;
  // Case-insensitive; empty where absent.
  std::string_view header(std::string_view name) const;
};

struct HttpResponse {
  int status = 0;
  Headers headers;
  std::string body;
  // Case-insensitive; empty where absent.
  std::string_view header(std::string_view name) const;
};

// Keeps its connections alive. Thread rule: one thread at a time; make one a thread.
//
// Errors tell what a caller must know about effects: HttpConnectFailed = no byte of the request
// left this machine; HttpOutcomeUnknown = the request may have been executed (time-out, reset, cut
// or oversized answer after sending began). Any complete answer, whatever its status, is a success
// here. Redirects are answers too. Malformed requests are InvalidArgument, and nothing is sent.
//
// Invariant: a request other than GET and HEAD is sent at most once. A reused connection that turns
// out to be closed is HttpOutcomeUnknown for them, and a GET is sent anew. Where an answer's end
// shows only by the end of the connection (no length, not chunked), it is complete for GET, and
// HttpOutcomeUnknown for the rest. Proxy settings of the environment are not used.
class HttpClient {
 public:
  struct Options {
    os::Duration connect_timeout = std::chrono::seconds(5);
    os::Duration timeout = std::chrono::seconds(10);  // of the whole exchange
    std::size_t max_body = 64 << 20;                  // larger answers are refused
    std::string ca_file{};  // of the authorities to trust for https; empty: the system's
  };
  explicit HttpClient(Options options);
  HttpClient() : HttpClient(Options()) {}
  ~HttpClient();
  HttpClient(HttpClient&&) noexcept;
  HttpClient& operator=(HttpClient&&) noexcept;
  Result<HttpResponse> send(const HttpRequest& request);

  // The same for answers too long to hold: the body of an answer of status 200 to 299 goes to
  // `on_part` piece by piece as it arrives, with the answer's status and headers; false ends the
  // exchange, which is a success then. Any other answer's body is returned as by send(). The errors
  // are those of send(); parts may have been delivered before one. CallbackThrew where `on_part`
  // threw. A slow `on_part` slows the sender down, and its own time is not counted as a stall.
  struct StreamOptions {
    os::Duration timeout{0};  // of the whole exchange; 0: none
    // Without a byte from the server, before and between the parts; looked at once a second. 0:
    // none.
    os::Duration stall_timeout = std::chrono::seconds(100);
  };
  using OnPart = std::function<bool(const HttpResponse& head, std::string_view part)>;
  Result<HttpResponse> stream(const HttpRequest& request, const StreamOptions& options,
                              const OnPart& on_part);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Answers every request by one handler. Each open connection has a thread, so that a slow handler
// or peer delays nobody else; the number of connections is bounded.
// Thread rule: the handler is called from many threads at once. An exception that leaves it is
// answered by 500.
class HttpServer {
 public:
  // What becomes of the connection after the handler.
  enum class Delivery {
    kNormal,          // send the response
    kDropConnection,  // close without a byte of answer (fault injection)
    kCutBody,         // announce the whole length, send half of the body, close
  };
  struct Reply {
    HttpResponse response;
    Delivery delivery = Delivery::kNormal;
  };
  using Handler = std::function<Reply(const HttpRequest& request)>;

  struct Options {
    std::string host = "127.0.0.1";
    std::uint16_t port = 0;  // 0: any free one
    int threads = 64;        // connections at the same time; further ones are closed unserved
    std::size_t max_body = 8 << 20;         // of a request; 413 beyond
    std::chrono::seconds idle_timeout{75};  // closes a connection that says nothing; 0: never
    // Closes a connection whose request has not arrived in full after so long, or whose answer was
    // not taken, however busy it looks (a client that sends a byte at a time); 0: never.
    os::Duration request_timeout{0};
  };
  // Listens before it returns. HttpListenFailed names the address and its holder's error.
  static Result<std::unique_ptr<HttpServer>> start(Options options, Handler handler);
  ~HttpServer();  // stops and joins
  std::uint16_t port() const;

 private:
  struct Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Percent-encodes everything but unreserved characters (RFC 3986, 2.3).
std::string url_encode(std::string_view text);
// False where an escape is malformed. '+' is a space, as in forms.
bool url_decode(std::string_view text, std::string& out);
// "a=1&b=2" in order, decoded; a part without '=' has an empty value.
std::vector<std::pair<std::string, std::string>> parse_query(std::string_view query);

}  // namespace defib::wire
