#include "defib/wire/http.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "defib/os/clock.h"
#include "defib/os/fd.h"
#include "defib/os/socket.h"

namespace defib::wire {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

sockaddr_in loopback(std::uint16_t port) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

std::string url_of(std::uint16_t port, std::string_view path = "/") {
  return "http://127.0.0.1:" + std::to_string(port) + std::string(path);
}

// A connection seen byte by byte.
class RawConnection {
 public:
  explicit RawConnection(int fd) : fd_(fd) {}
  static RawConnection to(std::uint16_t port) {
    RawConnection connection(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const sockaddr_in address = loopback(port);
    EXPECT_EQ(
        connect(connection.fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address),
        0);
    return connection;
  }
  void send(std::string_view bytes) {
    EXPECT_EQ(::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
  }
  // As much as the peer takes.
  void send_while_open(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t count = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (count <= 0) return;
      bytes.remove_prefix(static_cast<std::size_t>(count));
    }
  }
  void finish_sending() { shutdown(fd_.get(), SHUT_WR); }
  // Until the text ends with `end`, or the peer closes (or 10 s have passed).
  std::string read_until(std::string_view end) {
    std::string text;
    char c = 0;
    while (!text.ends_with(end) && readable() && recv(fd_.get(), &c, 1, 0) == 1) text += c;
    return text;
  }
  std::string read_all() {
    std::string text;
    char buffer[4096];
    while (readable()) {
      const ssize_t count = recv(fd_.get(), buffer, sizeof buffer, 0);
      if (count <= 0) break;
      text.append(buffer, static_cast<std::size_t>(count));
    }
    return text;
  }
  // The head of a request and as much body as its Content-Length says; empty at the end.
  std::string read_request() {
    std::string text = read_until("\r\n\r\n");
    const std::size_t at = text.find("Content-Length: ");
    if (at == std::string::npos) return text;
    std::string body(std::stoul(text.substr(at + 16)), '\0');
    if (body.empty()) return text;  // recv() of nothing would wait.
    recv(fd_.get(), body.data(), body.size(), MSG_WAITALL);
    return text + body;
  }
  // Close with a reset instead of an end.
  void reset() {
    const linger now = {1, 0};
    setsockopt(fd_.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
    fd_.reset();
  }

 private:
  bool readable() {
    pollfd poll_fd = {fd_.get(), POLLIN, 0};
    return poll(&poll_fd, 1, 10'000) == 1;
  }
  os::Fd fd_;
};

// A server whose every byte is scripted: `script` runs once a connection, one after another.
class RawServer {
 public:
  using Script = std::function<void(RawConnection& connection, int number)>;
  explicit RawServer(Script script) : script_(std::move(script)) {
    listener_ = os::Fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address = loopback(0);
    EXPECT_EQ(bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(listen(listener_.get(), 16), 0);
    socklen_t size = sizeof address;
    getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    thread_ = std::jthread([this] { run(); });
  }
  ~RawServer() { shutdown(listener_.get(), SHUT_RDWR); }
  std::string url(std::string_view path = "/") const { return url_of(port_, path); }
  int connections() const { return connections_; }
  int requests() const { return requests_; }
  void count_request() { ++requests_; }

 private:
  void run() {
    for (;;) {
      const int fd = accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC);
      if (fd < 0) return;
      RawConnection connection(fd);
      script_(connection, connections_++);
    }
  }
  Script script_;
  os::Fd listener_;
  std::uint16_t port_ = 0;
  std::atomic<int> connections_ = 0;
  std::atomic<int> requests_ = 0;
  std::jthread thread_;
};

// Answers each first request of a connection by `answer`, and closes.
RawServer::Script answer_once(std::string answer) {
  return [answer](RawConnection& connection, int) {
    if (connection.read_request().empty()) return;
    connection.send(answer);
  };
}

HttpRequest request(std::string method, std::string url, std::string body = {}) {
  return {
      .method = std::move(method), .url = std::move(url), .headers = {}, .body = std::move(body)};
}

HttpServer::Reply reply(int status, std::string body, Headers headers = {}) {
  return {{status, std::move(headers), std::move(body)}, HttpServer::Delivery::kNormal};
}

std::unique_ptr<HttpServer> serve(HttpServer::Handler handler, HttpServer::Options options = {}) {
  auto server = HttpServer::start(options, std::move(handler));
  EXPECT_TRUE(server.has_value()) << server.error().to_line();
  return std::move(*server);
}

class Event {
 public:
  void set() {
    const std::lock_guard lock(mutex_);
    set_ = true;
    changed_.notify_all();
  }
  bool wait() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(10), [this] { return set_; });
  }

 private:
  std::mutex mutex_;  // guards set_
  std::condition_variable changed_;
  bool set_ = false;
};

// ---- client and server together

TEST(Http, ARequestArrivesAsItWasSentAndSoDoesTheAnswer) {
  HttpRequest seen;
  const auto server = serve([&](const HttpRequest& r) {
    seen = r;
    return reply(201, std::string("a\0b", 3), {{"X-Venue", "paper"}, {"Content-Type", "x/y"}});
  });
  HttpClient client;
  HttpRequest sent = request("POST", url_of(server->port(), "/api/v3/order?s=a%20b&x=1+2&s=c"),
                             std::string("\0\xff body", 7));
  sent.headers = {{"X-Key", "k, 1"}, {"X-Empty", ""}};
  const auto answer = client.send(sent);
  ASSERT_TRUE(answer.has_value()) << answer.error().to_line();
  EXPECT_EQ(answer->status, 201);
  EXPECT_EQ(answer->body, std::string("a\0b", 3));
  EXPECT_EQ(answer->header("x-venue"), "paper");
  EXPECT_EQ(answer->header("content-type"), "x/y");
  EXPECT_EQ(answer->header("absent"), "");
  EXPECT_EQ(seen.method, "POST");
  EXPECT_EQ(seen.url, "/api/v3/order?s=a%20b&x=1+2&s=c");
  EXPECT_EQ(seen.body, sent.body);
  EXPECT_EQ(seen.header("x-key"), "k, 1");
  EXPECT_EQ(seen.header("expect"), "");
  EXPECT_EQ(seen.header("content-type"), "") << "nothing that the caller did not ask for";
}

TEST(Http, EveryMethodIsCarriedWithAndWithoutBody) {
  const auto server =
      serve([](const HttpRequest& r) { return reply(200, r.method + ":" + r.body); });
  HttpClient client;
  for (const char* method : {"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"}) {
    for (const char* body : {"", "text"}) {
      const auto answer = client.send(request(method, url_of(server->port()), body));
      ASSERT_TRUE(answer.has_value()) << method << answer.error().to_line();
      EXPECT_EQ(answer->body, std::string(method) + ":" + body);
    }
  }
  const auto head = client.send(request("HEAD", url_of(server->port())));
  ASSERT_TRUE(head.has_value()) << head.error().to_line();
  EXPECT_EQ(head->body, "");
  EXPECT_EQ(head->header("Content-Length"), "5");
}

TEST(Http, AnyStatusIsASuccess) {
  std::atomic<int> status = 0;
  const auto server = serve([&](const HttpRequest&) {
    return reply(status, status == 204 ? "" : "body", {{"Location", "/elsewhere"}});
  });
  HttpClient client;
  for (const int s : {200, 204, 302, 404, 429, 500, 503}) {
    status = s;
    const auto answer = client.send(request("POST", url_of(server->port())));
    ASSERT_TRUE(answer.has_value()) << s << answer.error().to_line();
    EXPECT_EQ(answer->status, s);
  }
}

TEST(Http, OneConnectionCarriesManyRequests) {
  std::mutex mutex;
  std::vector<std::thread::id> threads;  // guarded by mutex; one thread a connection
  const auto server = serve([&](const HttpRequest&) {
    const std::lock_guard lock(mutex);
    threads.push_back(std::this_thread::get_id());
    return reply(200, "ok");
  });
  HttpClient client;
  for (int i = 0; i < 200; ++i) {
    ASSERT_TRUE(client.send(request(i % 2 ? "POST" : "GET", url_of(server->port()))).has_value());
  }
  EXPECT_EQ(threads.size(), 200U);
  EXPECT_EQ(std::count(threads.begin(), threads.end(), threads.front()), 200);
}

TEST(Http, AnOrderRoundTripIsShort) {
  const auto server = serve([](const HttpRequest& r) { return reply(200, r.body); });
  HttpClient client;
  const os::Clock& clock = os::real_clock();
  std::vector<std::int64_t> took;
  const HttpRequest order =
      request("POST", url_of(server->port(), "/order"), std::string(200, 'x'));
  for (int i = 0; i < 1000; ++i) {
    const std::int64_t start = clock.mono_ns();
    ASSERT_TRUE(client.send(order).has_value());
    took.push_back(clock.mono_ns() - start);
  }
  std::sort(took.begin(), took.end());
  RecordProperty("p50_us", static_cast<int>(took[500] / 1000));
  RecordProperty("p99_us", static_cast<int>(took[990] / 1000));
  std::cout << "round trip p50 " << took[500] / 1000 << " us, p99 " << took[990] / 1000 << " us\n";
  // Nagle's algorithm against delayed acknowledgement would cost 40 ms.
  EXPECT_LT(took[500], 20'000'000);
}

TEST(Http, ASlowHandlerDelaysNobodyElse) {
  Event entered, release;
  const auto server = serve([&](const HttpRequest& r) {
    if (r.url == "/slow") {
      entered.set();
      release.wait();
    }
    return reply(200, "ok");
  });
  std::jthread slow([&] {
    HttpClient client;
    EXPECT_TRUE(client.send(request("GET", url_of(server->port(), "/slow"))).has_value());
  });
  ASSERT_TRUE(entered.wait());
  std::vector<HttpClient> clients(20);  // each keeps its connection
  for (HttpClient& client : clients) {
    EXPECT_TRUE(client.send(request("GET", url_of(server->port(), "/fast"))).has_value());
  }
  release.set();
}

TEST(Http, LargeBodiesPassInBothDirections) {
  const auto server = serve([](const HttpRequest& r) { return reply(200, r.body); });
  HttpClient client;
  std::string body(5 << 20, 'a');
  for (std::size_t i = 0; i < body.size(); i += 7) body[i] = static_cast<char>(i);
  const auto answer = client.send(request("POST", url_of(server->port()), body));
  ASSERT_TRUE(answer.has_value()) << answer.error().to_line();
  EXPECT_TRUE(answer->body == body);
}

// ---- faults on purpose

TEST(HttpServer, DropsAConnectionWithoutAByteOfAnswer) {
  const auto server = serve([](const HttpRequest&) {
    return HttpServer::Reply{{200, {}, "never seen"}, HttpServer::Delivery::kDropConnection};
  });
  RawConnection raw = RawConnection::to(server->port());
  raw.send("POST /order HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nbuy");
  EXPECT_EQ(raw.read_all(), "");
  HttpClient client;
  const auto answer = client.send(request("POST", url_of(server->port()), "buy"));
  ASSERT_FALSE(answer.has_value());
  EXPECT_EQ(answer.error().code(), Code::kHttpOutcomeUnknown);
}

TEST(HttpServer, CutsABodyInTheMiddle) {
  const auto server = serve([](const HttpRequest&) {
    return HttpServer::Reply{{200, {}, std::string(1000, 'x')}, HttpServer::Delivery::kCutBody};
  });
  RawConnection raw = RawConnection::to(server->port());
  raw.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
  const std::string answer = raw.read_all();
  EXPECT_THAT(answer, HasSubstr("Content-Length: 1000\r\n"));
  EXPECT_EQ(answer.size() - answer.find("\r\n\r\n") - 4, 500U);
  HttpClient client;
  for (const char* method : {"GET", "POST"}) {
    const auto cut = client.send(request(method, url_of(server->port())));
    ASSERT_FALSE(cut.has_value()) << method;
    EXPECT_EQ(cut.error().code(), Code::kHttpOutcomeUnknown);
  }
}

// ---- the server against the world

TEST(HttpServer, AnswersPipelinedRequestsInOrder) {
  const auto server = serve([](const HttpRequest& r) { return reply(200, "<" + r.url + ">"); });
  RawConnection raw = RawConnection::to(server->port());
  raw.send(
      "GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\n"
      "Connection: close\r\n\r\n");
  const std::string answer = raw.read_all();
  EXPECT_LT(answer.find("</1>"), answer.find("</2>"));
  EXPECT_NE(answer.find("</2>"), std::string::npos);
}

TEST(HttpServer, ReadsChunkedBodiesAndBodiesThatArriveInPieces) {
  const auto server = serve([](const HttpRequest& r) { return reply(200, "<" + r.body + ">"); });
  RawConnection chunked = RawConnection::to(server->port());
  chunked.send(
      "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
      "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n");
  EXPECT_THAT(chunked.read_until("<abcde>"), HasSubstr("200 OK"));
  RawConnection pieces = RawConnection::to(server->port());
  for (const char c : std::string("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")) {
    pieces.send({&c, 1});
  }
  EXPECT_THAT(pieces.read_until("<abc>"), HasSubstr("200 OK"));
}

TEST(HttpServer, MalformedRequestsNeverReachTheHandler) {
  std::atomic<int> handled = 0;
  const auto server = serve([&](const HttpRequest&) {
    ++handled;
    return reply(200, "ok");
  });
  for (const std::string& bytes :
       {std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11), std::string("GET\r\n\r\n"),
        std::string("\r\n\r\n\r\n"), std::string(200'000, 'A'),
        std::string("GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n"),
        std::string("GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab"),
        std::string("GET / HTTP/1.1\r\n\r\n"), std::string("GET / HTTP/9.9\r\nHost: x\r\n\r\n"),
        "GET /" + std::string(100'000, 'a') + " HTTP/1.1\r\nHost: x\r\n\r\n"}) {
    RawConnection raw = RawConnection::to(server->port());
    raw.send(bytes);
    raw.finish_sending();
    const std::string answer = raw.read_all();
    EXPECT_EQ(answer.find(" 200 "), std::string::npos) << bytes.substr(0, 60);
  }
  EXPECT_EQ(handled, 0);
  HttpClient client;
  EXPECT_TRUE(client.send(request("GET", url_of(server->port()))).has_value()) << "still serving";
}

TEST(HttpServer, ABodyBeyondTheBoundIsRefused) {
  std::atomic<int> handled = 0;
  HttpServer::Options options;
  options.max_body = 1000;
  const auto server = serve(
      [&](const HttpRequest& r) {
        ++handled;
        return reply(200, std::to_string(r.body.size()));
      },
      options);
  HttpClient client;
  EXPECT_EQ(client.send(request("POST", url_of(server->port()), std::string(1000, 'x')))->body,
            "1000");
  RawConnection announced = RawConnection::to(server->port());
  announced.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n");
  EXPECT_THAT(announced.read_all(), HasSubstr(" 413 "));
  RawConnection chunked = RawConnection::to(server->port());
  chunked.send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n" +
               std::string(2000, 'x') + "\r\n0\r\n\r\n");
  EXPECT_EQ(chunked.read_all().find(" 200 "), std::string::npos);
  EXPECT_EQ(handled, 1);
}

TEST(HttpServer, AHandlerThatThrowsIsAnsweredByFiveHundred) {
  const auto server = serve([](const HttpRequest&) -> HttpServer::Reply {
    throw std::runtime_error("the secret reason");
  });
  HttpClient client;
  const auto answer = client.send(request("GET", url_of(server->port())));
  ASSERT_TRUE(answer.has_value()) << answer.error().to_line();
  EXPECT_EQ(answer->status, 500);
  EXPECT_EQ(answer->body.find("secret"), std::string::npos);
}

TEST(HttpServer, AConnectionBeyondTheBoundIsNotServed) {
  HttpServer::Options options;
  options.threads = 2;
  const auto server = serve([](const HttpRequest&) { return reply(200, "ok"); }, options);
  std::vector<RawConnection> raw;
  for (int i = 0; i < 2; ++i) {
    raw.push_back(RawConnection::to(server->port()));
    raw.back().send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    EXPECT_THAT(raw.back().read_until("ok"), HasSubstr(" 200 "));
  }
  HttpClient client(HttpClient::Options{.timeout = std::chrono::milliseconds(300)});
  EXPECT_FALSE(client.send(request("POST", url_of(server->port()))).has_value());
  raw.clear();
  // A slot becomes free as soon as the server has seen the end.
  bool served = false;
  for (int i = 0; i < 50 && !served; ++i) {
    served = client.send(request("GET", url_of(server->port()))).has_value();
  }
  EXPECT_TRUE(served);
}

TEST(HttpServer, APortInUseIsAnErrorThatNamesIt) {
  const auto server = serve([](const HttpRequest&) { return reply(200, "ok"); });
  HttpServer::Options options;
  options.port = server->port();
  const auto second = HttpServer::start(options, [](const HttpRequest&) { return reply(200, ""); });
  ASSERT_FALSE(second.has_value());
  EXPECT_EQ(second.error().code(), Code::kHttpListenFailed);
  EXPECT_THAT(second.error().message(), HasSubstr(std::to_string(server->port())));
  EXPECT_THAT(second.error().message(), HasSubstr("in use"));
  options.host = "not an address";
  EXPECT_EQ(
      HttpServer::start(options, [](const HttpRequest&) { return reply(200, ""); }).error().code(),
      Code::kInvalidArgument);
}

TEST(HttpServer, APortIsFreeAgainAtOnceAfterAStop) {
  std::uint16_t port = 0;
  for (int i = 0; i < 5; ++i) {
    HttpServer::Options options;
    options.port = port;
    const auto server = serve([](const HttpRequest&) { return reply(200, "ok"); }, options);
    port = server->port();
    HttpClient client;
    EXPECT_TRUE(client.send(request("GET", url_of(port))).has_value());
  }
}

// ---- the client against the world

TEST(HttpClient, NobodyListeningIsConnectFailed) {
  const std::uint16_t port = *os::free_port();
  HttpClient client;
  const auto answer = client.send(request("POST", url_of(port, "/x?signature=abc"), "order"));
  ASSERT_FALSE(answer.has_value());
  EXPECT_EQ(answer.error().code(), Code::kHttpConnectFailed);
  EXPECT_EQ(answer.error().to_text().find("abc"), std::string::npos) << "queries stay private";
  EXPECT_EQ(answer.error().field("url"), url_of(port, "/x"));
}

TEST(HttpClient, MalformedRequestsAreRefusedBeforeAnythingIsSent) {
  RawServer server([&](RawConnection&, int) {});
  HttpClient client;
  std::vector<HttpRequest> requests = {
      request("", server.url()),
      request("GE T", server.url()),
      request("GET", ""),
      request("GET", server.url("/a b")),
      request("GET", server.url("/\r\n")),
      request("GET", "file:///etc/passwd"),
      request("GET", "http://[::1"),
      request("GET\r\n", server.url()),
  };
  requests.push_back(request("GET", server.url()));
  requests.back().headers = {{"X", "a\r\nInjected: 1"}};
  requests.push_back(request("GET", server.url()));
  requests.back().headers = {{"X: y", "a"}};
  for (const HttpRequest& r : requests) {
    const auto answer = client.send(r);
    ASSERT_FALSE(answer.has_value()) << r.method << " " << r.url;
    EXPECT_EQ(answer.error().code(), Code::kInvalidArgument) << answer.error().to_line();
  }
  EXPECT_EQ(server.connections(), 0);
}

struct BadAnswer {
  const char* what;
  std::string bytes;
};

TEST(HttpClient, EveryIncompleteAnswerIsOutcomeUnknownAndTheRequestWasSentOnce) {
  const std::vector<BadAnswer> answers = {
      {"nothing", ""},
      {"garbage", "\x01\x02\x03 not http at all\r\n\r\n"},
      {"status line cut", "HTTP/1.1 20"},
      {"headers cut", "HTTP/1.1 200 OK\r\nContent-Length: 2"},
      {"headers without end", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"},
      {"body cut", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"},
      {"chunk cut", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"},
      {"last chunk missing", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"},
      {"bad chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nab\r\n"},
      {"no length", "HTTP/1.1 200 OK\r\n\r\nperhaps all, perhaps not"},
      {"only 100 Continue", "HTTP/1.1 100 Continue\r\n\r\n"},
      {"contradicting lengths",
       "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 4\r\n\r\nabcd"},
  };
  for (const BadAnswer& bad : answers) {
    std::atomic<int> requests = 0;
    RawServer server([&](RawConnection& connection, int) {
      if (connection.read_request().empty()) return;
      ++requests;
      connection.send(bad.bytes);
    });
    HttpClient client;
    const auto answer = client.send(request("POST", server.url("/order"), "buy 1"));
    ASSERT_FALSE(answer.has_value()) << bad.what;
    EXPECT_EQ(answer.error().code(), Code::kHttpOutcomeUnknown)
        << bad.what << ": " << answer.error().to_line();
    EXPECT_EQ(requests, 1) << bad.what;
  }
}

TEST(HttpClient, AResetAfterTheRequestIsOutcomeUnknown) {
  RawServer server([&](RawConnection& connection, int) {
    connection.read_request();
    connection.reset();
  });
  HttpClient client;
  const auto answer = client.send(request("DELETE", server.url("/order")));
  ASSERT_FALSE(answer.has_value());
  EXPECT_EQ(answer.error().code(), Code::kHttpOutcomeUnknown);
  EXPECT_EQ(server.connections(), 1);
}

TEST(HttpClient, AnAnswerWithoutLengthIsCompleteForAGet) {
  RawServer server(answer_once("HTTP/1.0 200 OK\r\n\r\nhealthy"));
  HttpClient client;
  const auto answer = client.send(request("GET", server.url()));
  ASSERT_TRUE(answer.has_value()) << answer.error().to_line();
  EXPECT_EQ(answer->body, "healthy");
}

TEST(HttpClient, ASilentServerIsOutcomeUnknownAtTheDeadline) {
  Event done;
  RawServer server([&](RawConnection& connection, int) {
    connection.read_request();
    done.wait();
  });
  HttpClient client(HttpClient::Options{.timeout = std::chrono::milliseconds(50)});
  const std::int64_t start = os::real_clock().mono_ns();
  const auto answer = client.send(request("POST", server.url()));
  const std::int64_t took = os::real_clock().mono_ns() - start;
  done.set();
  ASSERT_FALSE(answer.has_value());
  EXPECT_EQ(answer.error().code(), Code::kHttpOutcomeUnknown);
  EXPECT_GE(took, 45'000'000);
  EXPECT_LT(took, 5'000'000'000);
}

TEST(HttpClient, AnEndlessAnswerEndsAtTheDeadlineOrTheBound) {
  RawServer server([&](RawConnection& connection, int) {
    connection.read_request();
    connection.send("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + std::string(3000, 'x'));
    connection.read_all();  // until the client gives up
  });
  HttpClient bounded(HttpClient::Options{.max_body = 2000});
  const auto large = bounded.send(request("POST", server.url()));
  ASSERT_FALSE(large.has_value());
  EXPECT_EQ(large.error().code(), Code::kHttpOutcomeUnknown);
  EXPECT_THAT(large.error().message(), HasSubstr("larger than 2000 bytes"));
  HttpClient hasty(HttpClient::Options{.timeout = std::chrono::milliseconds(50)});
  const auto late = hasty.send(request("GET", server.url()));
  ASSERT_FALSE(late.has_value());
  EXPECT_EQ(late.error().code(), Code::kHttpOutcomeUnknown);
}

TEST(HttpClient, EndlessHeadersAreBounded) {
  RawServer server([&](RawConnection& connection, int) {
    connection.read_request();
    std::string headers = "HTTP/1.1 200 OK\r\n";
    for (int i = 0; i < 20'000; ++i) headers += "X-Filler: " + std::string(30, 'x') + "\r\n";
    connection.send_while_open(headers + "Content-Length: 0\r\n\r\n");
  });
  HttpClient client;
  const auto answer = client.send(request("POST", server.url()));
  ASSERT_FALSE(answer.has_value());
  EXPECT_EQ(answer.error().code(), Code::kHttpOutcomeUnknown);
}

TEST(HttpClient, AnIdleConnectionThatTheServerClosedIsReplacedAndTheRequestSentOnce) {
  std::atomic<int> requests = 0;
  Event closed;
  RawServer server([&](RawConnection& connection, int number) {
    if (connection.read_request().empty()) return;
    ++requests;
    connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    if (number == 0) {
      connection = RawConnection(-1);  // closes
      closed.set();
    }
  });
  HttpClient client;
  ASSERT_TRUE(client.send(request("POST", server.url(), "1")).has_value());
  ASSERT_TRUE(closed.wait());
  const auto second = client.send(request("POST", server.url(), "2"));
  ASSERT_TRUE(second.has_value()) << second.error().to_line();
  EXPECT_EQ(requests, 2);
  EXPECT_EQ(server.connections(), 2);
}

// The server takes a second request on a kept connection and closes without an answer: libcurl by
// itself would send it again on a new connection, and an order would be placed twice.
class ReusedConnectionDies : public testing::Test {
 protected:
  std::atomic<int> requests_ = 0;
  RawServer server_{[this](RawConnection& connection, int number) {
    for (int i = 0;; ++i) {
      if (connection.read_request().empty()) return;
      ++requests_;
      if (number == 0 && i == 1) return;
      connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    }
  }};
};

class ReusedConnectionDiesOn
    : public ReusedConnectionDies,
      public testing::WithParamInterface<std::pair<std::string, std::string>> {};

TEST_P(ReusedConnectionDiesOn, AnEffectAndItIsNeverSentTwice) {
  const auto& [method, body] = GetParam();
  HttpClient client;
  ASSERT_TRUE(client.send(request("GET", server_.url())).has_value());
  const auto answer = client.send(request(method, server_.url("/order"), body));
  ASSERT_FALSE(answer.has_value());
  EXPECT_EQ(answer.error().code(), Code::kHttpOutcomeUnknown) << answer.error().to_line();
  EXPECT_EQ(requests_, 2);
  // The client is usable afterwards.
  const auto next = client.send(request(method, server_.url("/order"), body));
  EXPECT_TRUE(next.has_value()) << next.error().to_line();
  EXPECT_EQ(requests_, 3);
}

INSTANTIATE_TEST_SUITE_P(Methods, ReusedConnectionDiesOn,
                         testing::Values(std::pair{"POST", "buy 1"}, std::pair{"POST", ""},
                                         std::pair{"PUT", "buy 1"}, std::pair{"DELETE", ""},
                                         std::pair{"PATCH", "x"}));

TEST_F(ReusedConnectionDies, AGetIsSentAnew) {
  HttpClient client;
  ASSERT_TRUE(client.send(request("GET", server_.url())).has_value());
  const auto answer = client.send(request("GET", server_.url()));
  ASSERT_TRUE(answer.has_value()) << answer.error().to_line();
  EXPECT_EQ(requests_, 3);
}

// ---- text

// ---- answers piece by piece

TEST(HttpStream, APieceIsPassedOnBeforeTheNextWasSent) {
  Event first_seen;
  RawServer server([&](RawConnection& connection, int) {
    if (connection.read_request().empty()) return;
    connection.send(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Kind: dbn\r\n\r\n3\r\nabc\r\n");
    EXPECT_TRUE(first_seen.wait());
    connection.send("4\r\ndefg\r\n0\r\n\r\n");
  });
  std::string body;
  HttpClient client;
  const auto answer = client.stream(request("POST", server.url(), "a=1"), {},
                                    [&](const HttpResponse& head, std::string_view part) {
                                      EXPECT_EQ(head.status, 200);
                                      EXPECT_EQ(head.header("X-Kind"), "dbn");
                                      body += part;
                                      first_seen.set();
                                      return true;
                                    });
  ASSERT_TRUE(answer.has_value()) << answer.error().to_line();
  EXPECT_EQ(answer->status, 200);
  EXPECT_EQ(answer->body, "");
  EXPECT_EQ(body, "abcdefg");
}

TEST(HttpStream, AnAnswerMayBeLongerThanTheBoundOfWhatIsHeld) {
  const std::string large(4 << 20, 'x');
  const auto server = serve([&](const HttpRequest&) { return reply(200, large); });
  HttpClient client(HttpClient::Options{.max_body = 1000});
  std::size_t bytes = 0;
  ASSERT_TRUE(client.stream(request("GET", url_of(server->port())), {},
                            [&](const HttpResponse&, std::string_view part) {
                              bytes += part.size();
                              return true;
                            }));
  EXPECT_EQ(bytes, large.size());
}

TEST(HttpStream, AnErrorStatusIsReturnedAndNotPassedOn) {
  const auto server = serve([](const HttpRequest&) { return reply(422, "why", {{"X-A", "b"}}); });
  HttpClient client;
  const auto answer = client.stream(request("POST", url_of(server->port()), "x"), {},
                                    [](const HttpResponse&, std::string_view) -> bool {
                                      ADD_FAILURE();
                                      return true;
                                    });
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->status, 422);
  EXPECT_EQ(answer->body, "why");
}

TEST(HttpStream, TheReceiverEndsItAndTheClientGoesOn) {
  const std::string large(4 << 20, 'x');
  const auto server = serve([&](const HttpRequest&) { return reply(200, large); });
  HttpClient client;
  int parts = 0;
  const auto answer =
      client.stream(request("GET", url_of(server->port())), {},
                    [&](const HttpResponse&, std::string_view) { return ++parts < 2; });
  ASSERT_TRUE(answer.has_value()) << answer.error().to_line();
  EXPECT_EQ(parts, 2);
  EXPECT_EQ(client.send(request("GET", url_of(server->port())))->body.size(), large.size());
}

TEST(HttpStream, AReceiverThatThrowsIsAnError) {
  const auto server = serve([](const HttpRequest&) { return reply(200, "body"); });
  HttpClient client;
  const auto answer = client.stream(request("GET", url_of(server->port())), {},
                                    [](const HttpResponse&, std::string_view) -> bool {
                                      throw std::runtime_error("no more room");
                                    });
  ASSERT_FALSE(answer.has_value());
  EXPECT_EQ(answer.error().code(), Code::kCallbackThrew);
  EXPECT_THAT(answer.error().message(), HasSubstr("no more room"));
}

TEST(HttpStream, ACutIsOutcomeUnknownAfterWhatCame) {
  RawServer server(answer_once("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabcd"));
  std::string body;
  HttpClient client;
  const auto answer = client.stream(request("POST", server.url(), "x"), {},
                                    [&](const HttpResponse&, std::string_view part) {
                                      body += part;
                                      return true;
                                    });
  ASSERT_FALSE(answer.has_value());
  EXPECT_EQ(answer.error().code(), Code::kHttpOutcomeUnknown);
  EXPECT_EQ(body, "abcd");
}

TEST(HttpStream, ASilentServerIsToldFromASlowReceiver) {
  Event done;
  RawServer server([&](RawConnection& connection, int) {
    if (connection.read_request().empty()) return;
    connection.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabcd");
    EXPECT_TRUE(done.wait());
  });
  HttpClient client;
  const auto started = os::real_clock().mono_ns();
  const auto answer =
      client.stream(request("GET", server.url()), {.stall_timeout = std::chrono::milliseconds(300)},
                    [](const HttpResponse&, std::string_view) {
                      // Longer than the limit, and the receiver's own affair.
                      os::real_clock().sleep_for(std::chrono::milliseconds(400));
                      return true;
                    });
  done.set();
  ASSERT_FALSE(answer.has_value());
  EXPECT_EQ(answer.error().code(), Code::kHttpOutcomeUnknown);
  EXPECT_THAT(answer.error().message(), HasSubstr("nothing came for 300 ms"));
  EXPECT_LT(os::real_clock().mono_ns() - started, 5'000'000'000);
}

TEST(HttpText, PercentEncodingRoundTripsEveryByte) {
  std::string all;
  for (int i = 0; i < 256; ++i) all += static_cast<char>(i);
  std::string back;
  ASSERT_TRUE(url_decode(url_encode(all), back));
  EXPECT_EQ(back, all);
  EXPECT_EQ(url_encode("aZ9-._~ /+&=%"), "aZ9-._~%20%2F%2B%26%3D%25");
  for (const char* malformed : {"%", "%4", "%zz", "a%2", "%%20"}) {
    EXPECT_FALSE(url_decode(malformed, back)) << malformed;
  }
}

TEST(HttpText, AQueryIsReadInOrder) {
  EXPECT_THAT(parse_query("b=2&a=1%202&&c&d=&e=x=y&b=+"),
              ElementsAre(Pair("b", "2"), Pair("a", "1 2"), Pair("c", ""), Pair("d", ""),
                          Pair("e", "x=y"), Pair("b", " ")));
  EXPECT_TRUE(parse_query("").empty());
}

}  // namespace
}  // namespace defib::wire
