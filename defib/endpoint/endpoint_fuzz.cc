// Any target, method, host and authorization: an answer is given, nothing is changed without the
// token, and a name that is let through is a name.

#include <cstdint>
#include <string>
#include <string_view>

#include "defib/base/assert.h"
#include "defib/daemon/http_helper.h"
#include "defib/endpoint/endpoint.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace defib;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  std::string parts[4];
  std::size_t part = 0;
  for (const char c : text) {
    if (c == '\n' && part < 3) {
      ++part;
    } else {
      parts[part] += c;
    }
  }
  const endpoint::Route route = endpoint::parse_route(parts[0]);
  if (!route.service.empty()) {
    DEFIB_ASSERT(route.service.find_first_of("/\\ \t\r\n\"%") == std::string::npos);
    DEFIB_ASSERT(!route.service.starts_with('.'));
  }
  static endpoint::Endpoint subject([] {
    endpoint::Endpoint::Options options;
    options.state_dir = "/nonexistent";
    options.token = conf::Secret("a-token-that-is-not-guessed-0123456789");
    return options;
  }());
  if (route.what != endpoint::Route::What::kMetrics) {
    wire::HttpRequest request;
    request.url = parts[0];
    request.method = parts[1];
    request.headers = {{"Host", parts[2]}, {"Authorization", parts[3]}};
    const wire::HttpResponse response = subject.handle(request);
    DEFIB_ASSERT(response.status >= 200 && response.status < 600);
    if (route.what == endpoint::Route::What::kChange) DEFIB_ASSERT(response.status >= 400);
  }
  static_cast<void>(daemon::parse_listen(parts[0]));
  static_cast<void>(endpoint::is_local_host(parts[2]));
  return 0;
}
