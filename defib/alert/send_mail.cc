// SMTP by libcurl: STARTTLS (required) on smtp://, TLS from the first byte on smtps://.

#include <curl/curl.h>
#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>

#include "defib/alert/message.h"
#include "defib/alert/send_deliver.h"

namespace defib::alert {
namespace {

struct EasyDeleter {
  void operator()(CURL* curl) const { curl_easy_cleanup(curl); }
};
struct ListDeleter {
  void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};

struct Upload {
  std::string_view rest;
};

size_t read_upload(char* to, size_t size, size_t count, void* user) {
  auto& upload = *static_cast<Upload*>(user);
  const std::size_t take = std::min(size * count, upload.rest.size());
  std::memcpy(to, upload.rest.data(), take);
  upload.rest.remove_prefix(take);
  return take;
}

size_t ignore_answer(char*, size_t size, size_t count, void*) {
  return size * count;
}

std::string host_name() {
  char name[256] = {};
  if (gethostname(name, sizeof name - 1) != 0 || name[0] == '\0') return "localhost";
  return name;
}

// The server's own words are in `code`; 5xx is final (RFC 5321, 4.2.1), save that a login or a
// policy is cured on this side or theirs.
bool is_refusal(CURLcode failed, long code) {
  return failed != CURLE_LOGIN_DENIED && code >= 500 && code < 600;
}

}  // namespace

Attempt send_mail(const Receiver& receiver, const Message& message) {
  static std::once_flag once;
  std::call_once(once, [] { curl_global_init(CURL_GLOBAL_DEFAULT); });
  std::string user, password;
  if (!receiver.password.empty()) {
    auto name = resolve(receiver.user);
    if (!name) return {false, false, name.error().to_line()};
    auto word = resolve(receiver.password);
    if (!word) return {false, false, word.error().to_line()};
    user = std::move(*name);
    password = std::move(*word);
  }
  const std::string host = host_name();
  const std::string text = mail_text(message, {receiver.from, receiver.to, host});
  Upload upload{text};
  curl_slist* recipients = nullptr;
  for (const std::string& address : receiver.to) {
    recipients = curl_slist_append(recipients, fmt::format("<{}>", address).c_str());
  }
  const std::unique_ptr<curl_slist, ListDeleter> owned(recipients);
  const std::unique_ptr<CURL, EasyDeleter> curl(curl_easy_init());
  if (!curl || recipients == nullptr) return {false, false, "libcurl has no memory"};
  char reason[CURL_ERROR_SIZE] = {};
  bool set = true;
  const auto option = [&](CURLoption name, auto value) {
    set = curl_easy_setopt(curl.get(), name, value) == CURLE_OK && set;
  };
  // The path is the name that EHLO says.
  const std::string url = receiver.server + "/" + host;
  option(CURLOPT_ERRORBUFFER, reason);
  option(CURLOPT_URL, url.c_str());
  option(CURLOPT_PROTOCOLS_STR, "smtp,smtps");
  option(CURLOPT_PROXY, "");
  option(CURLOPT_NOSIGNAL, 1L);
  option(CURLOPT_USE_SSL,
         static_cast<long>(receiver.tls_required ? CURLUSESSL_ALL : CURLUSESSL_NONE));
  option(CURLOPT_SSLVERSION, static_cast<long>(CURL_SSLVERSION_TLSv1_2));
  if (!receiver.ca_file.empty()) option(CURLOPT_CAINFO, receiver.ca_file.c_str());
  if (!password.empty()) {
    option(CURLOPT_USERNAME, user.c_str());
    option(CURLOPT_PASSWORD, password.c_str());
  }
  const std::string envelope = fmt::format("<{}>", receiver.from);
  option(CURLOPT_MAIL_FROM, envelope.c_str());
  option(CURLOPT_MAIL_RCPT, recipients);
  option(CURLOPT_UPLOAD, 1L);
  option(CURLOPT_READFUNCTION, &read_upload);
  option(CURLOPT_READDATA, static_cast<void*>(&upload));
  option(CURLOPT_WRITEFUNCTION, &ignore_answer);
  const auto limit =
      std::chrono::duration_cast<std::chrono::milliseconds>(receiver.timeout).count();
  option(CURLOPT_TIMEOUT_MS, static_cast<long>(limit));
  option(CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(limit));
  if (!set) return {false, true, "this libcurl lacks what SMTP with TLS needs"};
  const CURLcode done = curl_easy_perform(curl.get());
  if (done == CURLE_OK) return {true, false, {}};
  long code = 0;
  curl_easy_getinfo(curl.get(), CURLINFO_RESPONSE_CODE, &code);
  // libcurl's reason names hosts and codes, never the password.
  return {false, is_refusal(done, code),
          fmt::format("{}: {} (answer {})", receiver.server,
                      reason[0] != '\0' ? reason : curl_easy_strerror(done), code)};
}

}  // namespace defib::alert
