#include "apps/defib-trade/campaign_world.h"

#include <fmt/core.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <utility>

#include "defib/os/files.h"
#include "defib/trading/intents.h"
#include "defib/trading/ledger.h"
#include "defib/trading/reconcile.h"

namespace defib::campaign {
namespace {

using namespace std::chrono_literals;

constexpr const char* kKrakenSecret =
    "kQH5HW/8p1uGOVjbgWA7FunAmGO8lsSUXNsu3eow76sz84Q18fWxnyRzBHCd3pd5nE9qa99HAZtuZuj6F1huXg==";
constexpr const char* kCoinbaseKey = "organizations/o/apiKeys/k";
constexpr os::Duration kTick = 2ms;
// Of one life, really; what takes longer hangs.
constexpr int kLifeLimitMs = 60'000;
constexpr int kTries = 10;
// Of the frozen market: longer than any campaign.
constexpr paper::Micros kNeverUs = std::int64_t{1} << 60;

// In memory where there is a place for it: what SIGKILL leaves behind is the same, and no life
// waits for a disk.
std::string temporary_dir() {
  const char* memory = "/dev/shm";
  const std::filesystem::path base = ::access(memory, W_OK) == 0
                                         ? std::filesystem::path(memory)
                                         : std::filesystem::temp_directory_path();
  std::string pattern = (base / "defib-campaign-XXXXXX").string();
  DEFIB_ASSERT(::mkdtemp(pattern.data()) != nullptr);
  return pattern;
}

// One key pair for all worlds of this process: {private, public}.
const std::pair<std::string, std::string>& coinbase_keys() {
  static const auto keys = [] {
    const std::string dir = temporary_dir();
    const std::string path = dir + "/key.pem";
    const auto openssl = [](std::vector<std::string> arguments) {
      arguments.insert(arguments.begin(), "openssl");
      const auto output = os::run_command(arguments, 10'000);
      DEFIB_ASSERT(output && output->status.success());
    };
    openssl({"genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", path});
    openssl({"pkey", "-in", path, "-pubout", "-out", path + ".pub"});
    std::pair made(os::read_file(os::real_files(), path, 4096).value(),
                   os::read_file(os::real_files(), path + ".pub", 4096).value());
    std::filesystem::remove_all(dir);
    return made;
  }();
  return keys;
}

void write(const std::string& path, std::string_view text) {
  std::ofstream(path) << text;
  ::chmod(path.c_str(), 0600);
}

std::string quoted_list(const std::vector<std::string>& items) {
  std::string text;
  for (const std::string& item : items) {
    text += fmt::format("{}\"{}\"", text.empty() ? "" : ", ", item);
  }
  return text;
}

}  // namespace

const std::vector<Language>& languages() {
  static const std::vector<Language> all = {{"binance",
                                             {"BTCUSDT", "ETHUSDT"},
                                             paper::default_symbols(),
                                             {{"USDT", "1000000"}, {"BTC", "10"}, {"ETH", "100"}},
                                             "/api/v3/order"},
                                            {"binance_futures",
                                             {"BTCUSDT", "ETHUSDT"},
                                             paper::default_symbols(),
                                             {{"USDT", "1000000"}, {"BTC", "10"}, {"ETH", "100"}},
                                             "/fapi/v1/order"},
                                            {"kraken",
                                             {"XBTUSD", "ETHUSD"},
                                             paper::kraken_symbols(),
                                             {{"ZUSD", "1000000"}, {"XXBT", "10"}, {"XETH", "100"}},
                                             "/0/private/AddOrder"},
                                            {"coinbase",
                                             {"BTC-USD", "ETH-USD"},
                                             paper::coinbase_symbols(),
                                             {{"USD", "1000000"}, {"BTC", "10"}, {"ETH", "100"}},
                                             "/api/v3/brokerage/orders"}};
  return all;
}

std::string Verdict::problems() const {
  std::string text = audit.ok() ? "" : audit.to_text();
  for (const std::string& item : unexplained) text += "unexplained: " + item + "\n";
  return text;
}

World::World(WorldOptions options)
    : options_(std::move(options)),
      dir_(temporary_dir()),
      clock_(dir_ + "/clock", SharedClock::kEngineStep),
      venue_clock_(dir_ + "/clock", SharedClock::kVenueStep) {
  open_venue();
  write_config();
}

World::~World() {
  close_venue();
  if (!keep_) std::filesystem::remove_all(dir_);
}

void World::open_venue() {
  paper::Service::Options options;
  const Language& language = options_.language;
  options.dialect = language.kind;
  options.ledger_path = dir_ + "/venue.jsonl";
  options.core.seed = options_.seed;
  options.core.symbols = language.rules;
  options.core.maker_fee = options.core.taker_fee = Decimal();
  if (frozen_) options.core.market_step_us = kNeverUs;
  options.binance = {"key", "secret", {}};
  options.futures = {.api_key = "key", .api_secret = "secret"};
  options.kraken = {.api_key = "key", .api_secret = kKrakenSecret};
  if (language.kind == "coinbase") {
    options.coinbase.api_key = kCoinbaseKey;
    options.coinbase.public_key = coinbase_keys().second;
  }
  if (!frozen_) {
    options.binance.limits = {0, 0};
    options.kraken.counter_max = 0;
    options.coinbase.requests_per_second = 0;
  }
  for (const auto& [asset, amount] : language.deposits) {
    options.deposits.emplace_back(asset, Decimal::parse(amount).value());
  }
  auto service = paper::Service::open(std::move(options), os::real_files(), venue_clock_);
  DEFIB_ASSERT_MESSAGE(service.has_value(), "the campaign's venue does not open");
  service_ = std::move(*service);
  wire::HttpServer::Options http;
  http.port = port_;
  auto server = wire::HttpServer::start(
      http, [this](const wire::HttpRequest& request) { return serve(request); });
  DEFIB_ASSERT_MESSAGE(server.has_value(), "the campaign's venue does not listen");
  server_ = std::move(*server);
  port_ = server_->port();
  ticker_ = std::jthread([this](const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      service_->tick();
      os::real_clock().sleep_for(kTick);
    }
  });
}

void World::close_venue() {
  ticker_ = std::jthread();
  server_.reset();
  service_.reset();
}

void World::freeze_venue() {
  close_venue();
  frozen_ = true;
  open_venue();
  write_config();
}

wire::HttpServer::Reply World::serve(const wire::HttpRequest& request) {
  wire::HttpServer::Reply reply = service_->trade(request);
  const int status = reply.response.status;
  if (status == 429 || status == 418 ||
      reply.response.body.find("Rate limit exceeded") != std::string::npos) {
    ++refused_for_rate_;
  }
  return reply;
}

void World::write_config() const {
  const bool coinbase = options_.language.kind == "coinbase";
  write(dir_ + "/key.txt", coinbase ? kCoinbaseKey : "key");
  write(dir_ + "/secret.txt", account().api_secret);
  write(dir_ + "/defib.toml", fmt::format(R"(
[venue]
kind = "{}"
url = "http://127.0.0.1:{}"
api_key = "file:{}/key.txt"
api_secret = "file:{}/secret.txt"
recv_window_ms = 1000
visibility_lag_ms = 300
rate_file = "{}/rates"
{}
timeout = "{}ms"
symbols = [{}]

[trading]
owner = "tst"
checkpoint_every = "500ms"
strategies = ["child"]

[trading.limits]
max_unknown_intents = 1000
max_orders_per_second = 10000

[trading.gates]
max_crashes = 1000000
max_volatility = "0.9"

[trading.ramp]
check_after = "10ms"
settle = "0s"
watch = "20ms"
check_every = "10ms"
)",
                                          options_.language.kind, port_, dir_, dir_, dir_,
                                          frozen_ ? "" : "rate_capacity = 0", frozen_ ? 5'000 : 150,
                                          quoted_list(options_.language.symbols)));
}

venue::AccountOptions World::account() const {
  const std::string& kind = options_.language.kind;
  venue::AccountOptions options;
  options.kind = kind;
  options.url = fmt::format("http://127.0.0.1:{}", port_);
  options.api_key = kind == "coinbase" ? kCoinbaseKey : "key";
  options.api_secret = kind == "coinbase" ? coinbase_keys().first
                       : kind == "kraken" ? kKrakenSecret
                                          : "secret";
  options.symbols = options_.language.symbols;
  if (!frozen_) options.rate_capacity = 0;
  options.rate_file = dir_ + "/rates";  // one account, one limit, for engines and judge
  options.patience = 24h;
  options.clock = &clock_;
  return options;
}

std::unique_ptr<venue::Venue> World::connect() const {
  auto made = venue::make_venue(account());
  DEFIB_ASSERT_MESSAGE(made.has_value(), "the campaign's adapter does not open");
  return std::move(*made);
}

void World::faults(const std::string& lines) {
  for (const auto& [method, body] : {std::pair("DELETE", std::string()), {"POST", lines}}) {
    if (std::string_view(method) == "POST" && lines.empty()) continue;
    const auto reply = service_->administer({method, "/paper/faults", {}, body});
    ASSERT_EQ(reply.response.status, 200) << reply.response.body;
  }
}

std::uint64_t World::orders_at_venue() const {
  const auto reply = service_->administer({"GET", "/paper/state", {}, {}});
  return static_cast<std::uint64_t>(
      wire::Json::parse(reply.response.body).value()["orders"].as_int(-1));
}

os::ExitStatus World::live(const Life& life) {
  const std::string log = dir_ + "/child.log";
  auto file = std::unique_ptr<FILE, int (*)(FILE*)>(std::fopen(log.c_str(), "ae"), &std::fclose);
  DEFIB_ASSERT(file != nullptr);
  os::SpawnOptions options;
  options.argv = {PAPER_CHILD,
                  dir_ + "/defib.toml",
                  life.state_dir.empty() ? state_dir() : life.state_dir,
                  std::to_string(life.orders),
                  life.death.point,
                  std::to_string(life.death.nth),
                  dir_ + "/clock",
                  life.blind ? "blind" : "wise"};
  options.fds = {{::fileno(file.get()), 1}, {::fileno(file.get()), 2}};
  options.parent_death_signal = SIGKILL;
  auto child = os::spawn(options);
  DEFIB_ASSERT_MESSAGE(child.has_value(), "paper_child does not start");
  if (life.death.after.count() > 0) {
    os::real_clock().sleep_for(life.death.after);
    static_cast<void>(child->signal(SIGKILL));  // it may have ended before
  } else {
    pollfd ended = {child->pidfd(), POLLIN, 0};
    if (::poll(&ended, 1, kLifeLimitMs) != 1) {
      ADD_FAILURE() << "an engine hangs\n" << last_words();
      static_cast<void>(child->signal(SIGKILL));
    }
  }
  return child->wait();
}

os::ExitStatus World::live_to_the_end(const std::string& state_dir) {
  os::ExitStatus status;
  for (int i = 0; i < kTries && !status.success(); ++i) {
    status = live({.orders = 0, .death = {}, .blind = false, .state_dir = state_dir});
  }
  return status;
}

Verdict World::judge(const std::string& state_dir) const {
  const std::string dir = state_dir.empty() ? this->state_dir() : state_dir;
  Verdict verdict;
  if (const Result<> judged = judge(dir, verdict); !judged) {
    verdict.unexplained.push_back(judged.error().to_text());
  }
  return verdict;
}

Result<> World::judge(const std::string& state_dir, Verdict& verdict) const {
  DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Snapshot> stored,
                   store::Store::open_read_only(trading::trading_store_dir(state_dir), {}));
  DEFIB_TRY_ASSIGN(const std::string lines, trading::export_intents(*stored));
  DEFIB_TRY_ASSIGN(const trading::LedgerState believed, trading::read_ledger_state(*stored));
  DEFIB_TRY_ASSIGN(std::vector<paper::Intent> intents, paper::parse_intents(lines));
  DEFIB_TRY_ASSIGN(verdict.audit, paper::audit(os::real_files(), dir_ + "/venue.jsonl",
                                               std::move(intents), options_.language.rules));
  DEFIB_TRY_ASSIGN(
      const trading::VenueSnapshot snapshot,
      trading::read_venue(*connect(), believed, *stored, {.symbols = options_.language.symbols}));
  for (const trading::Discrepancy& item : trading::reconcile(believed, snapshot, {})) {
    if (!item.explained) verdict.unexplained.push_back(item.to_json().dump());
  }
  return {};
}

std::string World::final_state(const std::string& state_dir) const {
  const auto stored = store::Store::open_read_only(trading::trading_store_dir(state_dir), {});
  if (!stored) return stored.error().to_text();
  const auto state = trading::read_ledger_state(**stored);
  const auto intents = trading::export_intents(**stored);
  if (!state || !intents) return "unreadable";
  std::string text = *intents;
  for (const auto& [symbol, position] : state->positions) {
    text += fmt::format("position {} {} cost {}\n", symbol, position.quantity.to_string(),
                        position.cost.to_string());
  }
  for (const auto& [asset, total] : state->balances) {
    text += fmt::format("balance {} {}\n", asset, total.to_string());
  }
  for (const auto& [key, tracked] : state->orders) {
    text += fmt::format("order {} {} {} filled {} booked {}\n", key, tracked.order.venue_id,
                        venue::to_string(tracked.order.status), tracked.order.filled.to_string(),
                        tracked.booked.to_string());
  }
  return text;
}

std::map<std::string, std::int64_t> World::settled() const {
  std::map<std::string, std::int64_t> late;
  std::ifstream log(dir_ + "/child.log");
  std::string line;
  while (std::getline(log, line)) {
    std::istringstream words(line);
    std::string event, id;
    std::int64_t ms = 0;
    if (words >> event >> id >> ms && event == "settled") late[id] = ms;
  }
  return late;
}

std::string World::last_words() const {
  constexpr std::size_t kShown = 4'000;
  const auto text = os::read_file(os::real_files(), dir_ + "/child.log");
  if (!text) return {};
  return text->size() <= kShown ? *text : text->substr(text->size() - kShown);
}

}  // namespace defib::campaign
