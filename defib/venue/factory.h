// The adapter of an account, by its kind.

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/clock.h"
#include "defib/venue/venue.h"

namespace defib::venue {

struct AccountOptions {
  std::string name;  // what Venue::name() says; empty: the kind
  std::string kind = "binance";
  std::string url;  // empty: the venue's own
  std::string api_key;
  std::string api_secret;
  std::int64_t recv_window_ms = 1'000;
  std::int64_t visibility_lag_ms = 1'000;
  os::Duration timeout = std::chrono::seconds(5);
  os::Duration patience = std::chrono::seconds(2);  // see Venue::set_patience()
  std::int64_t rate_capacity = -1;                  // -1: the venue's usual; 0: no limit
  bool margin = false;
  std::vector<std::string> symbols;
  std::string token_host;                // coinbase: see coinbase.h
  std::string nonce_file;                // kraken: see kraken.h
  std::string rate_file;                 // keeps count of the rate limit over restarts
  std::vector<std::string> command;      // kind "exec"
  const os::Clock* clock = nullptr;      // null: the real clock
  std::function<void()> after_exchange;  // the failure point "request_sent"; may be empty
};

// InvalidArgument where the kind is unknown or a secret has not the form that the venue gives out.
Result<std::unique_ptr<Venue>> make_venue(AccountOptions options);

}  // namespace defib::venue
