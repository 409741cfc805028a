// The server: libmicrohttpd with one thread a connection. It was chosen because it can close a
// connection without an answer and in the middle of one, holds any number of idle connections open,
// and bounds what it reads.

#include <arpa/inet.h>
#include <fmt/format.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <strings.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <exception>
#include <map>
#include <mutex>
#include <thread>

#include "defib/base/assert.h"
#include "defib/wire/http.h"

namespace defib::wire {
namespace {

constexpr std::size_t kMaxHeadBytes = 64 << 10;  // request line and headers

struct SocketAddress {
  sockaddr_storage storage = {};
  bool is_ipv6 = false;
};

Result<SocketAddress> parse_address(const std::string& host, std::uint16_t port) {
  SocketAddress address;
  auto* ipv4 = reinterpret_cast<sockaddr_in*>(&address.storage);
  auto* ipv6 = reinterpret_cast<sockaddr_in6*>(&address.storage);
  const char* text = host == "localhost" ? "127.0.0.1" : host.c_str();
  if (inet_pton(AF_INET, text, &ipv4->sin_addr) == 1) {
    ipv4->sin_family = AF_INET;
    ipv4->sin_port = htons(port);
  } else if (inet_pton(AF_INET6, text, &ipv6->sin6_addr) == 1) {
    ipv6->sin6_family = AF_INET6;
    ipv6->sin6_port = htons(port);
    address.is_ipv6 = true;
  } else {
    return Error(Code::kInvalidArgument, fmt::format("'{}' is not an address to listen on", host))
        .suggest("write an IPv4 or IPv6 address, such as 127.0.0.1");
  }
  return address;
}

// One request while it arrives. Lives in libmicrohttpd's per-request pointer.
struct Exchange {
  HttpRequest request;
  bool begun = false;
};

struct ResponseDeleter {
  void operator()(MHD_Response* response) const { MHD_destroy_response(response); }
};
using Response = std::unique_ptr<MHD_Response, ResponseDeleter>;

Response plain_response(std::string_view body) {
  return Response(MHD_create_response_from_buffer(body.size(), const_cast<char*>(body.data()),
                                                  MHD_RESPMEM_MUST_COPY));
}

// The first half of the announced body, then an error, on which libmicrohttpd closes.
ssize_t read_half(void* user, std::uint64_t position, char* to, std::size_t max) {
  const auto& body = *static_cast<const std::string*>(user);
  const std::size_t half = body.size() / 2;
  if (position >= half) return MHD_CONTENT_READER_END_WITH_ERROR;
  const std::size_t count = std::min(max, half - static_cast<std::size_t>(position));
  std::memcpy(to, body.data() + position, count);
  return static_cast<ssize_t>(count);
}

void free_body(void* user) {
  delete static_cast<std::string*>(user);
}

Response cut_response(std::string body) {
  const std::size_t size = body.size();
  return Response(MHD_create_response_from_callback(size, 32 << 10, &read_half,
                                                    new std::string(std::move(body)), &free_body));
}

bool is_framing_header(std::string_view name) {
  constexpr std::string_view kNames[] = {"content-length", "transfer-encoding"};
  return std::any_of(std::begin(kNames), std::end(kNames), [name](std::string_view framing) {
    return name.size() == framing.size() &&
           strncasecmp(name.data(), framing.data(), name.size()) == 0;
  });
}

MHD_Result queue(MHD_Connection* connection, int status, const Response& response) {
  return MHD_queue_response(connection, static_cast<unsigned>(status), response.get());
}

MHD_Result answer_plainly(MHD_Connection* connection, int status, std::string_view text) {
  const Response response = plain_response(text);
  MHD_add_response_header(response.get(), "Connection", "close");
  return queue(connection, status, response);
}

MHD_Result collect_header(void* user, MHD_ValueKind, const char* key, std::size_t key_size,
                          const char* value, std::size_t value_size) {
  auto& headers = *static_cast<Headers*>(user);
  headers.emplace_back(std::string(key, key_size),
                       value == nullptr ? std::string() : std::string(value, value_size));
  return MHD_YES;
}

// Called first for each request, with the target as the client wrote it.
void* on_request_line(void*, const char* target, MHD_Connection*) {
  auto exchange = std::make_unique<Exchange>();
  exchange->request.url = target;
  return exchange.release();
}

void on_request_end(void*, MHD_Connection*, void** user, MHD_RequestTerminationCode) {
  delete static_cast<Exchange*>(std::exchange(*user, nullptr));
}

}  // namespace

// Ends connections that take too long, whatever they do meanwhile. libmicrohttpd's own limit is on
// silence only.
class Deadlines {
 public:
  explicit Deadlines(os::Duration limit) : limit_(limit) {
    if (limit.count() > 0)
      thread_ = std::jthread([this](const std::stop_token& stop) { watch(stop); });
  }
  void opened(MHD_Connection* connection) {
    if (limit_.count() == 0) return;
    const auto* info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    if (info == nullptr) return;
    const std::lock_guard lock(mutex_);
    open_[connection] = {info->connect_fd, os::real_clock().mono_ns(), false};
    changed_.notify_all();
  }
  void closed(MHD_Connection* connection) {
    const std::lock_guard lock(mutex_);
    open_.erase(connection);
  }
  // While the handler works, the client waits for us and not we for it.
  void working(MHD_Connection* connection, bool on) {
    const std::lock_guard lock(mutex_);
    const auto found = open_.find(connection);
    if (found == open_.end()) return;
    found->second.working = on;
    found->second.since_mono_ns = os::real_clock().mono_ns();
  }

 private:
  struct Open {
    int fd = -1;
    std::int64_t since_mono_ns = 0;
    bool working = false;
  };
  void watch(const std::stop_token& stop) {
    std::unique_lock lock(mutex_);
    while (!stop.stop_requested()) {
      if (open_.empty()) {
        changed_.wait(lock, stop, [&] { return !open_.empty(); });
        continue;
      }
      const std::int64_t now = os::real_clock().mono_ns();
      for (auto& [connection, one] : open_) {
        // Its thread closes the descriptor only after closed().
        if (!one.working && now - one.since_mono_ns > limit_.count()) {
          ::shutdown(one.fd, SHUT_RDWR);
        }
      }
      changed_.wait_for(lock, stop, limit_ / 4, [] { return false; });
    }
  }
  const os::Duration limit_;
  std::mutex mutex_;  // guards open_
  std::condition_variable_any changed_;
  std::map<MHD_Connection*, Open> open_;
  std::jthread thread_;
};

struct HttpServer::Impl {
  Options options;
  Handler handler;
  Deadlines deadlines;
  MHD_Daemon* daemon = nullptr;
  std::uint16_t port = 0;
  std::atomic<bool> started = false;
  std::string start_log;  // what libmicrohttpd said until `started`; then nobody writes it

  Impl(Options the_options, Handler the_handler)
      : options(std::move(the_options)),
        handler(std::move(the_handler)),
        deadlines(options.request_timeout) {}
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl() {
    if (daemon != nullptr) MHD_stop_daemon(daemon);
  }

  static void on_log(void* user, const char* format, va_list arguments) {
    auto& self = *static_cast<Impl*>(user);
    if (self.started) return;  // From here on it speaks of peers that went away.
    char line[512];
    if (std::vsnprintf(line, sizeof line, format, arguments) > 0) self.start_log += line;
  }

  // Called with the headers, then with each part of the body, then once more at its end.
  static MHD_Result on_request(void* user, MHD_Connection* connection, const char*,
                               const char* method, const char*, const char* part,
                               std::size_t* part_size, void** exchange_pointer) {
    auto& self = *static_cast<Impl*>(user);
    auto& exchange = *static_cast<Exchange*>(*exchange_pointer);
    if (!exchange.begun) {
      exchange.begun = true;
      exchange.request.method = method;
      MHD_get_connection_values_n(connection, MHD_HEADER_KIND, &collect_header,
                                  &exchange.request.headers);
      if (self.announces_too_much(exchange.request)) {
        return answer_plainly(connection, MHD_HTTP_CONTENT_TOO_LARGE, "the body is too large\n");
      }
      return MHD_YES;
    }
    if (*part_size > 0) {
      std::string& body = exchange.request.body;
      if (*part_size > self.options.max_body - body.size()) return MHD_NO;  // Closes.
      body.append(part, *part_size);
      *part_size = 0;
      return MHD_YES;
    }
    self.deadlines.working(connection, true);
    const MHD_Result queued = self.answer(connection, exchange.request);
    self.deadlines.working(connection, false);
    return queued;
  }

  static void on_connection(void* user, MHD_Connection* connection, void**,
                            MHD_ConnectionNotificationCode what) {
    auto& self = *static_cast<Impl*>(user);
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
      self.deadlines.opened(connection);
    } else {
      self.deadlines.closed(connection);
    }
  }

  bool announces_too_much(const HttpRequest& request) const {
    const std::string_view text = request.header("Content-Length");
    std::uint64_t length = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), length);
    return error == std::errc::result_out_of_range ||
           (error == std::errc() && length > options.max_body);
  }

  MHD_Result answer(MHD_Connection* connection, const HttpRequest& request) const {
    Reply reply;
    try {
      reply = handler(request);
    } catch (const std::exception&) {
      return answer_plainly(connection, MHD_HTTP_INTERNAL_SERVER_ERROR, "internal error\n");
    }
    if (reply.delivery == Delivery::kDropConnection) return MHD_NO;
    HttpResponse& response = reply.response;
    DEFIB_ASSERT_MESSAGE(response.status >= 100 && response.status <= 999, "HTTP status");
    Response out = reply.delivery == Delivery::kCutBody ? cut_response(std::move(response.body))
                                                        : plain_response(response.body);
    for (const auto& [name, value] : response.headers) {
      if (is_framing_header(name)) continue;  // Follows from the body.
      DEFIB_ASSERT_MESSAGE(
          MHD_add_response_header(out.get(), name.c_str(), value.c_str()) == MHD_YES,
          "a malformed header in an answer");
    }
    return queue(connection, response.status, out);
  }
};

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HttpServer::~HttpServer() = default;
std::uint16_t HttpServer::port() const {
  return impl_->port;
}

Result<std::unique_ptr<HttpServer>> HttpServer::start(Options options, Handler handler) {
  DEFIB_ASSERT(options.threads > 0 && handler != nullptr);
  DEFIB_TRY_ASSIGN(const SocketAddress address, parse_address(options.host, options.port));
  auto impl = std::make_unique<Impl>(std::move(options), std::move(handler));
  const unsigned flags = MHD_USE_THREAD_PER_CONNECTION | MHD_USE_INTERNAL_POLLING_THREAD |
                         MHD_USE_POLL | MHD_USE_ERROR_LOG | MHD_USE_ITC |
                         (address.is_ipv6 ? static_cast<unsigned>(MHD_USE_IPv6) : 0U);
  // The logger comes first, so that it hears of everything after it.
  impl->daemon = MHD_start_daemon(
      flags, 0, nullptr, nullptr, &Impl::on_request, impl.get(),  //
      MHD_OPTION_EXTERNAL_LOGGER, &Impl::on_log, impl.get(),      //
      MHD_OPTION_SOCK_ADDR, &address.storage,                     //
      MHD_OPTION_CONNECTION_LIMIT, static_cast<unsigned>(impl->options.threads),
      MHD_OPTION_CONNECTION_TIMEOUT, static_cast<unsigned>(impl->options.idle_timeout.count()),
      MHD_OPTION_CONNECTION_MEMORY_LIMIT, kMaxHeadBytes,               //
      MHD_OPTION_STRICT_FOR_CLIENT, 1,                                 //
      MHD_OPTION_LISTEN_BACKLOG_SIZE, 128U,                            //
      MHD_OPTION_URI_LOG_CALLBACK, &on_request_line, nullptr,          //
      MHD_OPTION_NOTIFY_CONNECTION, &Impl::on_connection, impl.get(),  //
      MHD_OPTION_NOTIFY_COMPLETED, &on_request_end, nullptr, MHD_OPTION_END);
  if (impl->daemon == nullptr) {
    std::string reason = impl->start_log;
    while (!reason.empty() && (reason.back() == '\n' || reason.back() == '.')) reason.pop_back();
    // The library does not know the port of an address that it is given, and says 0.
    if (reason.starts_with("Failed to bind")) reason.erase(0, reason.rfind(": ") + 2);
    return Error(Code::kHttpListenFailed,
                 fmt::format("cannot listen on {}:{}: {}", impl->options.host, impl->options.port,
                             reason))
        .with("host", impl->options.host)
        .with("port", impl->options.port);
  }
  impl->started = true;
  const MHD_DaemonInfo* info = MHD_get_daemon_info(impl->daemon, MHD_DAEMON_INFO_BIND_PORT);
  DEFIB_ASSERT_MESSAGE(info != nullptr, "libmicrohttpd does not tell its port");
  impl->port = info->port;
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

}  // namespace defib::wire
