// One gateway of the historical interface: requests with the key, answers as JSON or as a stream,
// and the service's errors as ours. Only historical.cc uses it.
// Thread rule: one thread at a time.

#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "defib/base/error.h"
#include "defib/marketdata/historical.h"
#include "defib/wire/http.h"

namespace defib::marketdata {

using Parameters = std::vector<std::pair<std::string, std::string>>;

class Gateway {
 public:
  struct Settings {
    std::string url;  // without a final slash
    std::string key;
    std::string ca_file;
    HistoricalLimits limits;
  };
  explicit Gateway(Settings settings);

  // POST, and the body of a good answer as it is.
  Result<std::string> post_text(std::string_view method, const Parameters& parameters);
  Result<wire::Json> get(std::string_view method, const Parameters& parameters);
  Result<wire::Json> post(std::string_view method, const Parameters& parameters);
  // POST; the good answer's body goes to `on_part`. Errors before the first part are final ones;
  // those after it are wire's own.
  Result<wire::HttpResponse> stream(std::string_view method, const Parameters& parameters,
                                    const wire::HttpClient::OnPart& on_part);

 private:
  wire::HttpRequest request(std::string_view http_method, std::string_view method,
                            const Parameters& parameters) const;
  Result<std::string> body_of(Result<wire::HttpResponse> answer, std::string_view method) const;
  Error refused(const wire::HttpResponse& answer, std::string_view method) const;
  Error unreachable(const Error& cause, std::string_view method) const;
  // Without the key, in whichever form a server may repeat it.
  std::string redact(std::string text) const;

  Settings settings_;
  std::string authorization_;
  wire::HttpClient client_;
};

// "a=1&b=2", percent-encoded.
std::string encode_form(const Parameters& parameters);
std::string base64(std::string_view bytes);

}  // namespace defib::marketdata
