// paper-venue: the paper exchange as a program, and the audit of its ledger.

#include <fmt/core.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <string>
#include <vector>

#include "defib/os/event_loop.h"
#include "defib/os/files.h"
#include "defib/paper/audit.h"
#include "defib/paper/service.h"
#include "defib/wire/http.h"

namespace {

using namespace defib;
using wire::Json;

constexpr int kDone = 0;
constexpr int kFailed = 1;
constexpr int kWrongUsage = 2;
constexpr int kRefused = 3;

// Each open connection holds one, and so does each delayed request.
constexpr int kConnections = 256;
constexpr int kAdminConnections = 16;
constexpr int kBinanceWeight = 6'000;
constexpr os::Duration kTick = std::chrono::milliseconds(10);

struct ServeArguments {
  std::uint16_t port = 0;
  std::uint16_t admin_port = 0;
  std::string ledger;
  std::uint64_t seed = 1;
  std::string api_key;
  std::string api_secret_file;
  std::string faults_file;
  double speed = 1;
  std::string maker_fee;  // empty: the dialect's usual one
  std::string taker_fee;
  int weight_limit = kBinanceWeight;
  int order_limit = 100;
  std::vector<std::string> deposits;
  std::string dialect = "binance";
  bool margin = false;
};

struct AuditArguments {
  std::string ledger;
  std::string intents;
  bool json = false;
};

// Of the lowest volume, as the exchanges publish them. Binance spot takes them from what is
// received.
struct UsualFees {
  std::string_view dialect;
  std::string_view maker;
  std::string_view taker;
  bool in_quote;
};
constexpr std::array<UsualFees, 4> kUsualFees = {{{"binance", "0.001", "0.001", false},
                                                  {"binance_futures", "0.0002", "0.0005", true},
                                                  {"kraken", "0.0025", "0.004", true},
                                                  {"coinbase", "0.004", "0.006", true}}};

const UsualFees& fees_of(std::string_view dialect) {
  for (const UsualFees& fees : kUsualFees) {
    if (fees.dialect == dialect) return fees;
  }
  return kUsualFees.front();
}

int exit_code_of(const Error& error) {
  switch (error.code()) {
    case Code::kDatabaseLocked:
      return kRefused;
    case Code::kInvalidArgument:
    case Code::kMalformed:
    case Code::kWrongUsage:
    case Code::kNotFound:
      return kWrongUsage;
    default:
      return kFailed;
  }
}

int report(const Error& error, bool json = false) {
  if (json) {
    fmt::print("{}\n", Json::object({{"error", wire::to_json(error)}}).dump());
  } else {
    fmt::print(stderr, "{}\n", error.to_text());
  }
  return exit_code_of(error);
}

Result<std::string> read_secret(const std::string& path) {
  DEFIB_TRY_ASSIGN(std::string secret, os::read_file(os::real_files(), path, 4096));
  while (!secret.empty() && (secret.back() == '\n' || secret.back() == '\r')) secret.pop_back();
  if (secret.empty()) {
    return Error(Code::kInvalidArgument, fmt::format("the secret file {} is empty", path));
  }
  return secret;
}

Result<Decimal> read_fee(const std::string& text) {
  DEFIB_TRY_ASSIGN(const Decimal fee, Decimal::parse(text));
  if (fee < Decimal() || fee > Decimal::from_units(Decimal::kScale / 10)) {
    return Error(Code::kInvalidArgument, fmt::format("a fee must be from 0 to 0.1, not {}", text));
  }
  return fee;
}

// "USDT=1000000".
Result<std::pair<std::string, Decimal>> read_deposit(const std::string& text) {
  const std::size_t equals = text.find('=');
  if (equals == std::string::npos) {
    return Error(Code::kInvalidArgument,
                 fmt::format("a deposit is written ASSET=AMOUNT, not '{}'", text));
  }
  DEFIB_TRY_ASSIGN(const Decimal amount, Decimal::parse(text.substr(equals + 1)));
  return std::pair(text.substr(0, equals), amount);
}

Result<paper::Service::Options> service_options(const ServeArguments& arguments) {
  paper::Service::Options options;
  options.core.seed = arguments.seed;
  const UsualFees& usual_fees = fees_of(arguments.dialect);
  const auto or_usual = [](const std::string& given, std::string_view otherwise) {
    return given.empty() ? std::string(otherwise) : given;
  };
  DEFIB_TRY_ASSIGN(options.core.maker_fee,
                   read_fee(or_usual(arguments.maker_fee, usual_fees.maker)));
  DEFIB_TRY_ASSIGN(options.core.taker_fee,
                   read_fee(or_usual(arguments.taker_fee, usual_fees.taker)));
  options.core.fees_in_quote = usual_fees.in_quote;
  options.core.market_step_us = std::max<paper::Micros>(
      static_cast<paper::Micros>(static_cast<double>(paper::kMarketStepUs) / arguments.speed), 1);
  options.binance.api_key = arguments.api_key;
  DEFIB_TRY_ASSIGN(options.binance.api_secret, read_secret(arguments.api_secret_file));
  options.binance.limits = {arguments.weight_limit, arguments.order_limit};
  std::vector<std::string> usual = {"USDT=1000000", "BTC=10", "ETH=100", "SOL=5000"};
  options.dialect = arguments.dialect;
  if (arguments.dialect == "kraken") {
    options.core.symbols = paper::kraken_symbols();
    options.kraken.api_key = arguments.api_key;
    options.kraken.api_secret = options.binance.api_secret;
    options.kraken.margin = arguments.margin;
    if (arguments.weight_limit != kBinanceWeight)
      options.kraken.counter_max = arguments.weight_limit;
    usual = {"ZUSD=1000000", "XXBT=10", "XETH=100", "SOL=5000"};
  } else if (arguments.dialect == "binance_futures") {
    options.futures = {arguments.api_key, options.binance.api_secret, arguments.margin};
  } else if (arguments.dialect == "coinbase") {
    options.core.symbols = paper::coinbase_symbols();
    options.coinbase.api_key = arguments.api_key;
    // What the venue keeps of a key is its public half.
    options.coinbase.public_key = options.binance.api_secret + "\n";
    if (arguments.weight_limit != kBinanceWeight) {
      options.coinbase.requests_per_second = arguments.weight_limit;
    }
    usual = {"USD=1000000", "BTC=10", "ETH=100", "SOL=5000"};
  }
  options.ledger_path = arguments.ledger;
  for (const std::string& text : arguments.deposits.empty() ? usual : arguments.deposits) {
    DEFIB_TRY_ASSIGN(auto deposit, read_deposit(text));
    options.deposits.push_back(std::move(deposit));
  }
  if (!arguments.faults_file.empty()) {
    DEFIB_TRY_ASSIGN(const std::string lines,
                     os::read_file(os::real_files(), arguments.faults_file));
    DEFIB_TRY_ASSIGN(options.faults, paper::parse_fault_rules(lines));
  }
  return options;
}

Result<int> serve(const ServeArguments& arguments) {
  DEFIB_TRY_ASSIGN(const auto loop, os::EventLoop::create());
  // Before any thread exists, so that only the loop sees them.
  DEFIB_TRY(loop->watch_signals({SIGTERM, SIGINT}, [&](int) { loop->stop(); }));
  DEFIB_TRY_ASSIGN(paper::Service::Options options, service_options(arguments));
  DEFIB_TRY_ASSIGN(const auto service,
                   paper::Service::open(std::move(options), os::real_files(), os::real_clock()));
  wire::HttpServer::Options http;
  http.port = arguments.port;
  http.threads = kConnections;
  DEFIB_TRY_ASSIGN(const auto server,
                   wire::HttpServer::start(http, [&](const wire::HttpRequest& request) {
                     return service->trade(request);
                   }));
  wire::HttpServer::Options admin_http;
  admin_http.port = arguments.admin_port;
  admin_http.threads = kAdminConnections;
  DEFIB_TRY_ASSIGN(const auto admin,
                   wire::HttpServer::start(admin_http, [&](const wire::HttpRequest& request) {
                     return service->administer(request);
                   }));
  fmt::print("{}\n", Json::object({{"schema", "defib.paper_venue/1"},
                                   {"port", static_cast<int>(server->port())},
                                   {"admin_port", static_cast<int>(admin->port())},
                                   {"pid", static_cast<int>(getpid())}})
                         .dump());
  std::fflush(stdout);
  loop->run_every(kTick, [&] {
    service->tick();
    if (service->failed()) loop->stop();
  });
  DEFIB_TRY(loop->run());
  if (service->failed()) {
    return Error(Code::kIoError, fmt::format("the ledger {} cannot be written", arguments.ledger));
  }
  return kDone;
}

Result<int> run_audit(const AuditArguments& arguments) {
  std::optional<std::vector<paper::Intent>> intents;
  if (!arguments.intents.empty()) {
    DEFIB_TRY_ASSIGN(const std::string text, os::read_file(os::real_files(), arguments.intents));
    DEFIB_TRY_ASSIGN(intents, paper::parse_intents(text));
  }
  DEFIB_TRY_ASSIGN(const paper::AuditReport report,
                   paper::audit(os::real_files(), arguments.ledger, intents));
  if (arguments.json) {
    fmt::print("{}\n", report.to_json().dump());
  } else {
    fmt::print("{}", report.to_text());
  }
  return report.ok() ? kDone : kFailed;
}

void add_serve_options(CLI::App& app, ServeArguments& arguments) {
  app.add_option("--port", arguments.port, "port of the venue on 127.0.0.1; 0: any free one");
  app.add_option("--admin-port", arguments.admin_port,
                 "port of the administration on 127.0.0.1; 0: any free one");
  app.add_option("--ledger", arguments.ledger, "the ledger's file; an existing one is continued");
  app.add_option("--seed", arguments.seed, "seed of the market and of the faults' chances")
      ->check(CLI::Range(std::uint64_t{0}, std::uint64_t{1} << 62))
      ->capture_default_str();
  app.add_option("--api-key", arguments.api_key, "the client's key (letters and digits)");
  app.add_option("--api-secret-file", arguments.api_secret_file,
                 "file with the client's secret (coinbase: its public key, PEM)");
  app.add_option("--dialect", arguments.dialect, "which exchange's language it speaks")
      ->check(CLI::IsMember({"binance", "binance_futures", "kraken", "coinbase"}))
      ->capture_default_str();
  app.add_flag("--margin", arguments.margin,
               "a margin account (kraken), hedge mode (binance_futures)");
  app.add_option("--faults", arguments.faults_file, "fault plan, one JSON object a line");
  app.add_option("--speed", arguments.speed, "market steps per 100 ms")
      ->check(CLI::Range(0.001, 1000.0))
      ->capture_default_str();
  app.add_option("--maker-fee", arguments.maker_fee,
                 "part of a trade (default: the exchange's for small accounts; binance 0.001, "
                 "binance_futures 0.0002, kraken 0.0025, coinbase 0.004)");
  app.add_option("--taker-fee", arguments.taker_fee,
                 "the same of who takes (binance 0.001, binance_futures 0.0005, kraken 0.004, "
                 "coinbase 0.006)");
  app.add_option("--weight-limit", arguments.weight_limit,
                 "request weight a minute (kraken: points of the counter; coinbase: requests a "
                 "second); 0: none")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--order-limit", arguments.order_limit, "new orders in 10 seconds; 0: none")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--deposit", arguments.deposits,
                 "ASSET=AMOUNT of a new ledger, repeatable (default: USDT=1000000 BTC=10 ETH=100 "
                 "SOL=5000)");
}

int run(int argc, char** argv) {
  CLI::App app(
      "A paper exchange: the dialects of Binance, Kraken and Coinbase on a deterministic matching "
      "core, with "
      "an "
      "append-only ledger and faults on demand.",
      "paper-venue");
  app.footer(
      "Example:\n  paper-venue --port 8080 --admin-port 8081 --ledger venue.jsonl --seed 7 \\\n"
      "    --api-key demo --api-secret-file secret.txt\n"
      "  paper-venue audit venue.jsonl --intents intents.txt --json\n"
      "Exit codes: 0 done, 1 failed or not proved, 2 wrong usage, 3 the ledger is in use.");
  ServeArguments serving;
  add_serve_options(app, serving);
  AuditArguments auditing;
  CLI::App* audit = app.add_subcommand("audit", "prove from a ledger what became of intents");
  audit->add_option("LEDGER", auditing.ledger, "the venue's ledger")->required();
  audit->add_option("--intents", auditing.intents,
                    "one intent a line: CLIENT_ID accepted|rejected|never_accepted|unknown");
  audit->add_flag("--json", auditing.json, "one JSON document");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kDone : kWrongUsage;
  }
  if (*audit) {
    const Result<int> code = run_audit(auditing);
    return code ? *code : report(code.error(), auditing.json);
  }
  if (serving.ledger.empty() || serving.api_key.empty() || serving.api_secret_file.empty()) {
    return report(Error(Code::kWrongUsage, "--ledger, --api-key and --api-secret-file are needed"));
  }
  const Result<int> code = serve(serving);
  return code ? *code : report(code.error());
}

}  // namespace

int main(int argc, char** argv) {
  return run(argc, argv);
}
