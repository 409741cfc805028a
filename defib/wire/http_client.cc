// One libcurl easy handle, which keeps its connections between requests.
//
// Two things about libcurl decide how outcomes are told apart. It calls the pre-request function
// once a connection stands and before the first byte of a request, so a failure before that call
// is known to have had no effect. And it silently sends a request again when a reused connection
// dies without an answer (lib/transfer.c, Curl_retry_request), which calls the pre-request function
// a second time: there we refuse, unless the request is safe to repeat.

#include <curl/curl.h>
#include <fmt/format.h>
#include <strings.h>

#include <algorithm>
#include <charconv>
#include <exception>
#include <mutex>

#include "defib/base/assert.h"
#include "defib/wire/http.h"

namespace defib::wire {
namespace {

constexpr std::size_t kMaxHeaderBytes = 256 << 10;
// Below the idle time-outs that servers use (nginx: 75 s, Node.js: 5 s), because a connection that
// is closed by the server in the same moment costs an unknown outcome.
constexpr long kMaxIdleSeconds = 4;

bool is_token(std::string_view text) {
  constexpr std::string_view kOthers = "!#$%&'*+-.^_`|~";
  return !text.empty() && std::all_of(text.begin(), text.end(), [&](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           kOthers.find(c) != std::string_view::npos;
  });
}

bool is_printable(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) {
    const auto value = static_cast<unsigned char>(c);
    return value == '\t' || (value >= 0x20 && value != 0x7f);
  });
}

// The address without the query, which may hold signatures and keys.
std::string_view without_query(std::string_view url) {
  return url.substr(0, url.find('?'));
}

long to_milliseconds(os::Duration duration) {
  const auto count = std::chrono::duration_cast<std::chrono::milliseconds>(duration).count();
  return static_cast<long>(std::clamp<std::int64_t>(count, 1, 24L * 3600 * 1000));  // 0: never
}

std::string_view trim(std::string_view text) {
  const auto is_space = [](char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; };
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  return text;
}

Result<> check(const HttpRequest& request) {
  const auto refuse = [](std::string message) {
    return Error(Code::kInvalidArgument, std::move(message));
  };
  if (!is_token(request.method)) return refuse("the HTTP method is malformed");
  if (request.url.empty() || !is_printable(request.url) ||
      request.url.find_first_of(" \t") != std::string::npos) {
    return refuse("the URL is empty or holds spaces or control characters");
  }
  for (const auto& [name, value] : request.headers) {
    if (!is_token(name) || !is_printable(value)) {
      return refuse(fmt::format("the HTTP header '{}' is malformed", is_token(name) ? name : "?"));
    }
  }
  return {};
}

// What libcurl's callbacks see of one exchange.
struct Exchange {
  HttpResponse response;
  std::size_t max_body = 0;
  std::size_t header_bytes = 0;
  int times_sent = 0;
  bool may_repeat = false;
  bool headers_complete = false;
  bool too_large = false;
  // Of stream() alone.
  const HttpClient::OnPart* on_part = nullptr;
  os::Duration stall_timeout{0};
  std::int64_t last_byte_mono_ns = 0;
  curl_off_t received = 0;
  bool stopped = false;
  bool stalled = false;
  std::string callback_threw;
  bool streams() const {
    return on_part != nullptr && response.status >= 200 && response.status <= 299;
  }
};

// "HTTP/1.1 200 OK" has 200.
int status_of(std::string_view line) {
  line.remove_prefix(std::min(line.find(' ') + 1, line.size()));
  int status = 0;
  std::from_chars(line.data(), line.data() + line.size(), status);
  return status;
}

size_t on_header(char* data, size_t size, size_t count, void* user) {
  auto& exchange = *static_cast<Exchange*>(user);
  const std::string_view raw(data, size * count);
  exchange.header_bytes += raw.size();
  if (exchange.header_bytes > kMaxHeaderBytes) {
    exchange.too_large = true;
    return 0;
  }
  const std::string_view line = trim(raw);
  if (raw.starts_with("HTTP/")) {  // Anew for each answer: 100 Continue comes before the real one.
    exchange.response.headers.clear();
    exchange.response.status = status_of(line);
    exchange.headers_complete = false;
  } else if (line.empty()) {
    exchange.headers_complete = true;
  } else if (const std::size_t colon = line.find(':'); colon != std::string_view::npos) {
    exchange.response.headers.emplace_back(line.substr(0, colon), trim(line.substr(colon + 1)));
  }
  return raw.size();
}

bool pass_on(Exchange& exchange, std::string_view part) {
  try {
    exchange.stopped = !(*exchange.on_part)(exchange.response, part);
  } catch (const std::exception& exception) {
    exchange.callback_threw = exception.what();
  } catch (...) {
    exchange.callback_threw = "an exception of an unknown type";
  }
  exchange.last_byte_mono_ns = os::real_clock().mono_ns();
  return !exchange.stopped && exchange.callback_threw.empty();
}

// Called at least once a second, also while nothing happens.
int on_progress(void* user, curl_off_t, curl_off_t received, curl_off_t, curl_off_t) {
  auto& exchange = *static_cast<Exchange*>(user);
  const std::int64_t now = os::real_clock().mono_ns();
  if (received != exchange.received) {
    exchange.received = received;
    exchange.last_byte_mono_ns = now;
  }
  exchange.stalled = now - exchange.last_byte_mono_ns > exchange.stall_timeout.count();
  return exchange.stalled ? 1 : 0;
}

size_t on_body(char* data, size_t size, size_t count, void* user) {
  auto& exchange = *static_cast<Exchange*>(user);
  const std::size_t bytes = size * count;
  if (exchange.streams()) return pass_on(exchange, {data, bytes}) ? bytes : 0;
  if (bytes > exchange.max_body - exchange.response.body.size()) {
    exchange.too_large = true;
    return 0;
  }
  exchange.response.body.append(data, bytes);
  return bytes;
}

int on_before_request(void* user, char*, char*, int, int) {
  auto& exchange = *static_cast<Exchange*>(user);
  if (exchange.times_sent > 0 && !exchange.may_repeat) return CURL_PREREQFUNC_ABORT;
  ++exchange.times_sent;
  return CURL_PREREQFUNC_OK;
}

bool has_body_method(const HttpRequest& request) {
  return !request.body.empty() || request.method == "POST" || request.method == "PUT" ||
         request.method == "PATCH";
}

// True where two lengths are announced, of which libcurl believes one.
bool lengths_contradict(const HttpResponse& response) {
  const std::string_view first = response.header("Content-Length");
  return std::any_of(response.headers.begin(), response.headers.end(), [&](const auto& header) {
    return header.second != first && strcasecmp(header.first.c_str(), "Content-Length") == 0;
  });
}

// True where the answer's own framing proves that it is whole.
bool end_is_proven(const HttpRequest& request, const HttpResponse& response) {
  return request.method == "HEAD" || response.status == 204 || response.status == 304 ||
         !response.header("Content-Length").empty() ||
         !response.header("Transfer-Encoding").empty();
}

void initialize_library() {
  static std::once_flag once;
  std::call_once(once, [] {
    DEFIB_ASSERT_MESSAGE(curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK, "libcurl");
  });
}

struct ListDeleter {
  void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};
using List = std::unique_ptr<curl_slist, ListDeleter>;

void append(List& list, const std::string& line) {
  curl_slist* longer = curl_slist_append(list.get(), line.c_str());
  DEFIB_ASSERT_MESSAGE(longer != nullptr, "out of memory");
  [[maybe_unused]] const curl_slist* before = list.release();  // a part of the longer one now
  list.reset(longer);
}

List header_list(const HttpRequest& request) {
  List list;
  for (const auto& [name, value] : request.headers) {
    // libcurl removes a header where the value is empty, unless it is written with a semicolon.
    append(list, value.empty() ? fmt::format("{};", name) : fmt::format("{}: {}", name, value));
  }
  // What libcurl would add by itself.
  append(list, "Expect:");
  if (request.header("Content-Type").empty()) append(list, "Content-Type:");
  return list;
}

}  // namespace

struct HttpClient::Impl {
  Options options;
  CURL* curl = nullptr;
  char reason[CURL_ERROR_SIZE] = {};

  explicit Impl(Options the_options) : options(std::move(the_options)) {
    initialize_library();
    curl = curl_easy_init();
    DEFIB_ASSERT_MESSAGE(curl != nullptr, "libcurl");
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl() { curl_easy_cleanup(curl); }

  template <typename Value>
  void set(CURLoption option, Value value) {
    DEFIB_ASSERT_MESSAGE(curl_easy_setopt(curl, option, value) == CURLE_OK, "libcurl option");
  }

  void prepare(const HttpRequest& request, curl_slist* headers, Exchange& exchange) {
    curl_easy_reset(curl);  // Keeps the connections.
    reason[0] = '\0';
    set(CURLOPT_ERRORBUFFER, reason);
    set(CURLOPT_URL, request.url.c_str());
    set(CURLOPT_PROTOCOLS_STR, "http,https");
    set(CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
    set(CURLOPT_PROXY, "");
    set(CURLOPT_NOSIGNAL, 1L);
    set(CURLOPT_MAXAGE_CONN, kMaxIdleSeconds);
    set(CURLOPT_CONNECTTIMEOUT_MS, to_milliseconds(options.connect_timeout));
    set(CURLOPT_TIMEOUT_MS, to_milliseconds(options.timeout));
    if (!options.ca_file.empty()) set(CURLOPT_CAINFO, options.ca_file.c_str());
    set(CURLOPT_HTTPHEADER, headers);
    if (request.method == "HEAD") {
      set(CURLOPT_NOBODY, 1L);
    } else {
      if (has_body_method(request)) {
        set(CURLOPT_POSTFIELDS, request.body.data());
        set(CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(request.body.size()));
      }
      set(CURLOPT_CUSTOMREQUEST, request.method.c_str());
    }
    set(CURLOPT_HEADERFUNCTION, &on_header);
    set(CURLOPT_HEADERDATA, static_cast<void*>(&exchange));
    set(CURLOPT_WRITEFUNCTION, &on_body);
    set(CURLOPT_WRITEDATA, static_cast<void*>(&exchange));
    set(CURLOPT_PREREQFUNCTION, &on_before_request);
    set(CURLOPT_PREREQDATA, static_cast<void*>(&exchange));
  }

  Result<HttpResponse> perform(const HttpRequest& request, Exchange& exchange) {
    const CURLcode code = curl_easy_perform(curl);
    if (exchange.stopped) return std::move(exchange.response);
    if (!exchange.callback_threw.empty()) {
      return Error(Code::kCallbackThrew,
                   fmt::format("the receiver of the answer threw: {}", exchange.callback_threw));
    }
    if (code != CURLE_OK) return failure(request, exchange, code);
    long status = 0;
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    exchange.response.status = static_cast<int>(status);
    const bool whole = exchange.headers_complete && !lengths_contradict(exchange.response) &&
                       (exchange.may_repeat || end_is_proven(request, exchange.response));
    if (!whole) {
      return Error(Code::kHttpOutcomeUnknown,
                   fmt::format("{} {}: sent, but the end of the answer cannot be told from a cut",
                               request.method, without_query(request.url)))
          .with("method", request.method)
          .with("url", without_query(request.url))
          .with("status", status);
    }
    return std::move(exchange.response);
  }

  Error failure(const HttpRequest& request, const Exchange& exchange, CURLcode code) const {
    const std::string_view target = without_query(request.url);
    const auto describe = [&](Code error_code, std::string_view what, std::string_view why) {
      return Error(error_code, fmt::format("{} {}: {} ({})", request.method, target, what, why))
          .with("method", request.method)
          .with("url", target);
    };
    if (code == CURLE_URL_MALFORMAT || code == CURLE_UNSUPPORTED_PROTOCOL) {
      if (exchange.times_sent == 0) {
        return describe(Code::kInvalidArgument, "the URL is not usable", text_of(code));
      }
    }
    if (exchange.times_sent == 0) {
      return describe(Code::kHttpConnectFailed, "no connection, nothing was sent", text_of(code));
    }
    std::string why = text_of(code);
    if (exchange.too_large) {
      why = fmt::format("the answer is larger than {} bytes", options.max_body);
    } else if (exchange.stalled) {
      why = fmt::format("nothing came for {}", os::format_duration(exchange.stall_timeout));
    } else if (code == CURLE_ABORTED_BY_CALLBACK) {
      why = "the server closed the connection without an answer";
    }
    return describe(Code::kHttpOutcomeUnknown, "sent, but no complete answer came", why);
  }

  std::string text_of(CURLcode code) const {
    return reason[0] != '\0' ? reason : curl_easy_strerror(code);
  }
};

HttpClient::HttpClient(Options options) : impl_(std::make_unique<Impl>(std::move(options))) {}
HttpClient::~HttpClient() = default;
HttpClient::HttpClient(HttpClient&&) noexcept = default;
HttpClient& HttpClient::operator=(HttpClient&&) noexcept = default;

Result<HttpResponse> HttpClient::send(const HttpRequest& request) {
  DEFIB_TRY(check(request));
  const List headers = header_list(request);
  Exchange exchange;
  exchange.max_body = impl_->options.max_body;
  exchange.may_repeat = request.method == "GET" || request.method == "HEAD";
  impl_->prepare(request, headers.get(), exchange);
  return impl_->perform(request, exchange);
}

Result<HttpResponse> HttpClient::stream(const HttpRequest& request, const StreamOptions& options,
                                        const OnPart& on_part) {
  DEFIB_TRY(check(request));
  const List headers = header_list(request);
  Exchange exchange;
  exchange.max_body = impl_->options.max_body;
  // What was passed on cannot be taken back: no request is sent twice here.
  exchange.may_repeat = false;
  exchange.on_part = &on_part;
  exchange.stall_timeout = options.stall_timeout;
  exchange.last_byte_mono_ns = os::real_clock().mono_ns();
  impl_->prepare(request, headers.get(), exchange);
  impl_->set(CURLOPT_TIMEOUT_MS,
             options.timeout.count() > 0 ? to_milliseconds(options.timeout) : 0L);
  if (options.stall_timeout.count() > 0) {
    impl_->set(CURLOPT_NOPROGRESS, 0L);
    impl_->set(CURLOPT_XFERINFOFUNCTION, &on_progress);
    impl_->set(CURLOPT_XFERINFODATA, static_cast<void*>(&exchange));
  }
  return impl_->perform(request, exchange);
}

}  // namespace defib::wire
