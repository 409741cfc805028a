#include "defib/connection/testing/tds_responder.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>

namespace defib::connection::testing {
namespace {

constexpr std::size_t kMaxTold = 1 << 20;

}  // namespace

Result<std::unique_ptr<TdsResponder>> TdsResponder::start() {
  std::unique_ptr<TdsResponder> responder(new TdsResponder);
  responder->listener_ = os::Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  if (::bind(responder->listener_.get(), reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      ::listen(responder->listener_.get(), 64) != 0) {
    return os::system_error("listen");
  }
  ::getsockname(responder->listener_.get(), reinterpret_cast<sockaddr*>(&address), &size);
  responder->port_ = ntohs(address.sin_port);
  responder->acceptor_ = std::thread([raw = responder.get()] { raw->accept_loop(); });
  return responder;
}

TdsResponder::~TdsResponder() {
  stopping_ = true;
  ::shutdown(listener_.get(), SHUT_RDWR);
  acceptor_.join();
  close_all();
  for (std::thread& thread : threads_) thread.join();
}

void TdsResponder::fail_logins(std::int32_t number, const std::string& text) {
  const std::lock_guard lock(mutex_);
  login_error_ = number;
  login_text_ = text;
}

void TdsResponder::route_to(std::uint16_t port) {
  const std::lock_guard lock(mutex_);
  route_ = port;
}

void TdsResponder::answer(const std::string& word, Answer answer) {
  const std::lock_guard lock(mutex_);
  answers_[word] = std::move(answer);
}

void TdsResponder::forget_answers() {
  const std::lock_guard lock(mutex_);
  answers_.clear();
}

std::optional<tds::Login> TdsResponder::last_login() const {
  const std::lock_guard lock(mutex_);
  return last_login_;
}

void TdsResponder::close_all() {
  const std::lock_guard lock(mutex_);
  for (const int fd : open_) ::shutdown(fd, SHUT_RDWR);
}

void TdsResponder::accept_loop() {
  while (!stopping_) {
    const int fd = ::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0) return;
    const std::lock_guard lock(mutex_);
    open_.push_back(fd);
    threads_.emplace_back([this, fd] { serve(fd); });
  }
}

std::string TdsResponder::reply_to_login(const tds::Login& login, bool& close) {
  const std::lock_guard lock(mutex_);
  ++logins_;
  last_login_ = login;
  if (login_error_ != 0) {
    close = true;
    return tds::error(login_error_, login_text_, 14) + tds::done(true);
  }
  std::string out = tds::database_change(login.database.empty() ? "master" : login.database);
  out += tds::login_ack() + tds::packet_size_change();
  if (route_ != 0) out += tds::routing("127.0.0.1", route_);
  return out + tds::done(false);
}

std::optional<std::string> TdsResponder::reply_to_text(const std::string& text, std::string& told,
                                                       bool& close) {
  ++statements_;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [word, answer] : answers_) {
      if (text.find(word) == std::string::npos) continue;
      if (answer.silent) return std::nullopt;
      if (answer.hang_up) {
        close = true;
        return std::nullopt;
      }
      if (answer.error != 0) return tds::error(answer.error, answer.text) + tds::done(true);
    }
  }
  constexpr std::string_view kRemember = "/* remember ";
  if (const std::size_t at = text.find(kRemember); at != std::string::npos) {
    const std::size_t from = at + kRemember.size();
    const std::string word = text.substr(from, text.find(' ', from) - from);
    const bool kept = told.find(word) != std::string::npos;
    return tds::row_set({std::string(kept ? "kept" : "")}) + tds::done(false, 1);
  }
  if (told.size() < kMaxTold) told += text + "\n";
  if (text.find("@@SPID") != std::string::npos) {
    return tds::row_set({std::int32_t{51}, std::string(), std::int32_t{0},
                         std::string("Microsoft SQL Server (responder)"), std::string()}) +
           tds::done(false, 1);
  }
  if (text.starts_with("SELECT")) return tds::row_set({std::int32_t{1}}) + tds::done(false, 1);
  return tds::done(false);
}

std::optional<std::string> TdsResponder::reply_to(const tds::Message& message, std::string& told,
                                                  bool& close) {
  switch (static_cast<tds::PacketType>(message.type)) {
    case tds::PacketType::kLogin: {
      const auto login = tds::read_login(message.body);
      close = !login;
      return login ? std::optional(reply_to_login(*login, close)) : std::nullopt;
    }
    case tds::PacketType::kBatch: {
      const auto text = tds::read_batch(message.body);
      close = !text;
      return text ? reply_to_text(*text, told, close) : std::nullopt;
    }
    case tds::PacketType::kTransaction: {
      const int type = tds::read_transaction(message.body);
      const char* word = type == 5 ? "BEGIN" : type == 7 ? "COMMIT" : "ROLLBACK";
      auto reply = reply_to_text(word, told, close);
      if (!reply || static_cast<unsigned char>(reply->front()) == 0xAA) return reply;
      // A commit or rollback may begin the next one at once.
      return tds::transaction_change(type == 5 ? 8 : type == 7 ? 9 : 10) + tds::done(false);
    }
    case tds::PacketType::kAttention:
      return std::string("\xFD\x20\0\0\0\0\0\0\0\0\0\0\0", 13);
    default:
      return tds::error(2812, "the responder knows no procedures") + tds::done(true);
  }
}

void TdsResponder::serve(int fd) {
  std::string bytes;
  char buffer[8192];
  std::string told;  // all statements of the session
  bool close = false;
  while (!close) {
    const auto read = tds::read_message(bytes);
    if (const auto* message = std::get_if<tds::Message>(&read)) {
      std::string out;
      if (message->type == static_cast<std::uint8_t>(tds::PacketType::kPrelogin)) {
        out = tds::prelogin_reply();
      } else if (const auto reply = reply_to(*message, told, close)) {
        out = tds::packets(tds::PacketType::kReply, *reply);
      }
      bytes.erase(0, message->consumed);
      if (!out.empty() && ::send(fd, out.data(), out.size(), MSG_NOSIGNAL) < 0) break;
      continue;
    }
    if (std::get<tds::ReadError>(read) == tds::ReadError::kMalformed) break;
    const ssize_t got = ::recv(fd, buffer, sizeof buffer, 0);
    if (got <= 0) break;
    bytes.append(buffer, static_cast<std::size_t>(got));
  }
  const std::lock_guard lock(mutex_);
  std::erase(open_, fd);
  ::close(fd);
}

}  // namespace defib::connection::testing
