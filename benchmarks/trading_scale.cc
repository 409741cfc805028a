// From the crash of an engine with 100,000 open orders over three venues (Binance spot, Kraken,
// Coinbase) to the decision of every gate: three paper venues in this process, and
// trading_bench_gate, which recovers as an engine does. Once without the venues' rate limits; once
// with them, against the time that the recovery itself predicts.

#include "benchmarks/trading_scale.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <utility>
#include <vector>

#include "defib/os/files.h"
#include "defib/os/process.h"
#include "defib/paper/service.h"
#include "defib/trading/checkpoint.h"
#include "defib/trading/config.h"
#include "defib/trading/ledger.h"
#include "defib/wire/http.h"

namespace defib::bench {
namespace {

using wire::Json;

constexpr int kOrdersEach = 33'334;
constexpr int kInOneUpdate = 1'000;
constexpr paper::Micros kNeverUs = std::int64_t{1} << 60;  // the market stands still
constexpr int kLimitMs = 60'000;
constexpr const char* kKrakenSecret =
    "kQH5HW/8p1uGOVjbgWA7FunAmGO8lsSUXNsu3eow76sz84Q18fWxnyRzBHCd3pd5nE9qa99HAZtuZuj6F1huXg==";

Decimal dec(std::string_view text) {
  return Decimal::parse(text).value();
}

struct Exchange {
  std::string kind;
  std::string symbol;
  std::string quote;
  std::unique_ptr<paper::Service> service;
  std::unique_ptr<wire::HttpServer> server;
};

struct Keys {
  std::string coinbase_public;
};

paper::Service::Options options_of(const Exchange& exchange, const Keys& keys,
                                   const std::string& dir, bool limits) {
  paper::Service::Options options;
  options.dialect = exchange.kind;
  options.ledger_path = dir + "/" + exchange.kind + ".jsonl";
  options.core.maker_fee = options.core.taker_fee = Decimal();
  options.core.market_step_us = kNeverUs;
  if (exchange.kind == "kraken") options.core.symbols = paper::kraken_symbols();
  if (exchange.kind == "coinbase") options.core.symbols = paper::coinbase_symbols();
  options.binance = {"key", "secret", {}};
  options.kraken = {.api_key = "key", .api_secret = kKrakenSecret};
  options.coinbase.api_key = "key";
  options.coinbase.public_key = keys.coinbase_public;
  if (!limits) {
    options.binance.limits = {0, 0};
    options.kraken.counter_max = 0;
    options.coinbase.requests_per_second = 0;
  }
  return options;
}

// The venue's own ledger of an account with that many resting orders.
Result<> fill_ledger(const Exchange& exchange, const paper::Service::Options& options) {
  paper::Core core(options.core);
  DEFIB_TRY_ASSIGN(
      const auto ledger,
      paper::Ledger::open(os::real_files(), options.ledger_path, options.core.seed, core.symbols(),
                          [&](const paper::Event& event) { return core.replay(event); }));
  core.start(os::real_clock().wall_ns() / 1'000);
  DEFIB_TRY(core.deposit(exchange.quote, dec("1000000")));
  for (int i = 0; i < kOrdersEach; ++i) {
    paper::NewOrder order;
    order.client_id = fmt::format("dfb00001{:08}", i);
    order.symbol = *core.find_symbol(exchange.symbol);
    order.quantity = dec("0.00015");
    order.price = Decimal::from_integer(40'000 + i % 1'000);
    if (!core.place(order)) return Error(Code::kInternal, "the venue refuses an order");
  }
  return ledger->append(core.take_events());
}

Result<> serve(Exchange& exchange, paper::Service::Options options) {
  exchange.server.reset();
  exchange.service.reset();
  DEFIB_TRY_ASSIGN(exchange.service,
                   paper::Service::open(std::move(options), os::real_files(), os::real_clock()));
  DEFIB_TRY_ASSIGN(exchange.server,
                   wire::HttpServer::start(
                       {}, [service = exchange.service.get()](const wire::HttpRequest& request) {
                         return service->trade(request);
                       }));
  return {};
}

// What an engine believes that placed them all, and died.
Result<> believe(const trading::TradingConfig& config, const trading::VenueConfig& account,
                 const std::string& state_dir) {
  DEFIB_TRY_ASSIGN(const auto venue, trading::open_venue(account));
  DEFIB_TRY_ASSIGN(
      const auto store,
      store::Store::open(trading::account_store_dir(state_dir, config, account.name), {}));
  const os::Clock& clock = os::real_clock();
  DEFIB_TRY_ASSIGN(const auto ids, trading::IdSource::begin_boot(*store, clock, config.owner));
  DEFIB_TRY_ASSIGN(const auto intents, trading::IntentLog::open(*store, config.intent_durability));
  DEFIB_TRY_ASSIGN(const auto ledger, trading::Ledger::open(*store, *intents));
  DEFIB_TRY(ledger->initialize(*venue, account.symbols, clock.wall_ns()));
  DEFIB_TRY_ASSIGN(const std::vector<venue::Order> orders, venue->open_orders(""));
  if (orders.size() != kOrdersEach) return Error(Code::kInternal, "not all orders are listed");
  for (std::size_t from = 0; from < orders.size(); from += kInOneUpdate) {
    trading::LedgerUpdate update(*ledger);
    for (std::size_t i = from; i < std::min(from + kInOneUpdate, orders.size()); ++i) {
      const venue::Order& order = orders[i];
      trading::Intent intent;
      intent.id = order.client_id;
      intent.venue = account.name;
      intent.symbol = order.symbol;
      intent.quantity = order.quantity;
      intent.price = intent.reference_price = order.price;
      intent.strategy = "maker";
      intent.venue_order_id = order.venue_id;
      intent.state = trading::IntentState::kAccepted;
      update.set_intent(std::move(intent));
      DEFIB_TRY(update.set_order(order, "placed"));
    }
    DEFIB_TRY(update.commit(clock.wall_ns()));
  }
  std::map<std::string, Decimal> marks;
  for (const std::string& symbol : account.symbols) {
    DEFIB_TRY_ASSIGN(const venue::Quote quote, venue->quote(symbol));
    marks[symbol] = quote.mid();
  }
  DEFIB_TRY(trading::write_checkpoint(
      *store,
      trading::make_checkpoint(ledger->state(), marks, ids.epoch(), clock.wall_ns(), account.name),
      config.intent_durability));
  return store->close();
}

void write(const std::string& path, std::string_view text) {
  std::ofstream(path) << text;
  ::chmod(path.c_str(), 0600);
}

std::string config_text(const std::vector<Exchange>& exchanges, const std::string& dir,
                        bool limits) {
  std::string text;
  for (const Exchange& exchange : exchanges) {
    text += fmt::format(R"({}
name = "{}"
kind = "{}"
url = "http://127.0.0.1:{}"
api_key = "file:{}/key.txt"
api_secret = "file:{}/{}.secret"
{}
timeout = "30s"
symbols = ["{}"]
)",
                        text.empty() ? "[venue]" : "[[venues]]", exchange.kind, exchange.kind,
                        exchange.server->port(), dir, dir, exchange.kind,
                        limits ? "" : "rate_capacity = 0", exchange.symbol);
  }
  return text + R"(
[trading]
owner = "dfb"
strategies = ["maker"]
[trading.limits]
[trading.gates]
max_crashes = 1000
max_volatility = "0.9"
)";
}

struct Sample {
  double ms = 0;  // from the start of the new process to the last gate's decision
  Json told;
};

Result<Sample> crash_to_gate(const std::string& dir) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return Error(Code::kSystemCallFailed, "pipe");
  os::SpawnOptions options;
  options.argv = {TRADING_BENCH_GATE, dir + "/defib.toml", dir + "/state"};
  options.fds = {{ends[1], 1}};
  options.parent_death_signal = SIGKILL;
  const std::int64_t start = os::real_clock().mono_ns();
  DEFIB_TRY_ASSIGN(os::Child child, os::spawn(options));
  ::close(ends[1]);
  std::string line;
  char c = 0;
  pollfd readable = {ends[0], POLLIN, 0};
  while (::poll(&readable, 1, kLimitMs) == 1 && ::read(ends[0], &c, 1) == 1 && c != '\n') line += c;
  Sample sample;
  sample.ms = static_cast<double>(os::real_clock().mono_ns() - start) / 1e6;
  static_cast<void>(child.signal(SIGKILL));  // the next crash
  static_cast<void>(child.wait());
  ::close(ends[0]);
  DEFIB_TRY_ASSIGN(sample.told, Json::parse(line));
  return sample;
}

Result<> run(const std::string& dir) {
  DEFIB_TRY(os::real_files().create_dirs(dir + "/state"));
  const std::string pem = dir + "/coinbase.secret";
  for (const std::vector<std::string>& command :
       {std::vector<std::string>{"openssl", "genpkey", "-algorithm", "EC", "-pkeyopt",
                                 "ec_paramgen_curve:P-256", "-out", pem},
        {"openssl", "pkey", "-in", pem, "-pubout", "-out", pem + ".pub"}}) {
    DEFIB_TRY(os::run_command(command, 10'000));
  }
  Keys keys;
  DEFIB_TRY_ASSIGN(keys.coinbase_public, os::read_file(os::real_files(), pem + ".pub", 4'096));
  write(dir + "/key.txt", "key");
  write(dir + "/binance.secret", "secret");
  write(dir + "/kraken.secret", kKrakenSecret);
  std::vector<Exchange> exchanges;
  exchanges.push_back({"binance", "BTCUSDT", "USDT", nullptr, nullptr});
  exchanges.push_back({"kraken", "XBTUSD", "ZUSD", nullptr, nullptr});
  exchanges.push_back({"coinbase", "BTC-USD", "USD", nullptr, nullptr});
  for (const bool limits : {false, true}) {
    for (Exchange& exchange : exchanges) {
      const auto options = options_of(exchange, keys, dir, limits);
      if (!limits) DEFIB_TRY(fill_ledger(exchange, options));
      DEFIB_TRY(serve(exchange, options));
    }
    write(dir + "/defib.toml", config_text(exchanges, dir, limits));
    if (!limits) {
      DEFIB_TRY_ASSIGN(const auto config, trading::load_trading_config(dir + "/defib.toml"));
      for (const trading::VenueConfig& account : trading::all_venues(config)) {
        DEFIB_TRY(believe(config, account, dir + "/state"));
      }
    }
    DEFIB_TRY_ASSIGN(const Sample sample, crash_to_gate(dir));
    if (sample.told["open"].as_int() != static_cast<std::int64_t>(exchanges.size())) {
      return Error(Code::kInternal, "a gate stayed closed: " + sample.told.dump());
    }
    constexpr std::string_view kName = "crash with 100,000 open orders over three venues";
    if (!limits) {
      print_trading_row(
          {kName, "start to gates, no rate limits", "ms", sample.ms, "", {}, 2'000.0});
      print_trading_row({kName,
                         "peak memory of the process",
                         "MB",
                         sample.told["peak_kb"].as_double() / 1e3,
                         "",
                         {},
                         300.0});
    } else {
      print_trading_row({kName, "start to gates, with rate limits", "ms", sample.ms,
                         "predicted for reading once", sample.told["predicted_ms"].as_double()});
    }
  }
  return {};
}

}  // namespace

void trading_scale(const std::string& dir) {
  if (const Result<> done = run(dir + "/scale"); !done) {
    fmt::print(stderr, "{}\n", done.error().to_text());
    std::exit(1);
  }
}

}  // namespace defib::bench
