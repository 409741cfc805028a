// Names of data sources: parsing ends, never shows the password, and is the same twice.

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "defib/base/assert.h"
#include "defib/connection/dsn.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace defib::connection;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto dsn = Dsn::parse(text);
  if (!dsn) {
    DEFIB_ASSERT(!dsn.error().to_text().empty());
    return 0;
  }
  DEFIB_ASSERT(dsn->hosts.size() <= Dsn::kMaxHosts);
  for (const HostPort& host : dsn->hosts) DEFIB_ASSERT(!host.host.empty() && host.port != 0);
  const std::string shown = dsn->redacted();
  const bool long_enough = dsn->password.size() > 8;
  const bool elsewhere = dsn->server_name().find(dsn->password) != std::string::npos ||
                         dsn->user.find(dsn->password) != std::string::npos ||
                         dsn->odbc_driver.find(dsn->password) != std::string::npos;
  DEFIB_ASSERT(!long_enough || elsewhere || shown.find(dsn->password) == std::string::npos);
  const auto again = Dsn::parse(text);
  DEFIB_ASSERT(again && again->redacted() == shown);
  return 0;
}
