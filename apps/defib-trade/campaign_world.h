// The world of a campaign of kills: a paper venue in this process, in one of its dialects, and
// engines as processes (paper_child) that live and die on it, all on one SharedClock.

#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "apps/defib-trade/shared_clock.h"
#include "defib/os/process.h"
#include "defib/os/random.h"
#include "defib/paper/audit.h"
#include "defib/paper/service.h"
#include "defib/trading/config.h"
#include "defib/venue/factory.h"
#include "defib/wire/http.h"

namespace defib::campaign {

struct Language {
  std::string kind;
  std::vector<std::string> symbols;
  std::vector<paper::Symbol> rules;
  std::vector<std::pair<std::string, std::string>> deposits;
  std::string order_path;  // of new orders, for faults
};
const std::vector<Language>& languages();

struct WorldOptions {
  Language language;
  std::uint64_t seed = 1;
};

// How an engine's life is to end: by SIGKILL at the nth passing of a point, or after a while.
struct Death {
  std::string point = "none";
  int nth = 0;
  os::Duration after{0};  // point "none": the real time until SIGKILL; zero: it lives to its end
};

struct Life {
  int orders = 0;
  Death death = {};
  bool blind = false;
  std::string state_dir = {};  // empty: the world's own
};

struct Verdict {
  paper::AuditReport audit;
  std::vector<std::string> unexplained;  // differences that reconciling leaves open
  std::string problems() const;          // empty: proved
};

class World {
 public:
  explicit World(WorldOptions options);
  World(const World&) = delete;
  World& operator=(const World&) = delete;
  ~World();

  // Opens the venue again on its ledger; from now on its market stands still, and its rate limits
  // hold.
  void freeze_venue();
  void faults(const std::string& lines);
  std::uint64_t orders_at_venue() const;
  std::unique_ptr<venue::Venue> connect() const;

  os::ExitStatus live(const Life& life);
  // To its end, without faults; tries again where a busy machine made the venue late.
  os::ExitStatus live_to_the_end(const std::string& state_dir = {});
  // Everything that the engines ever intended against the venue's ledger.
  Verdict judge(const std::string& state_dir = {}) const;
  // What a recovery leaves behind, as text: ledger, open orders, and every intent's fate.
  std::string final_state(const std::string& state_dir) const;

  // What the engines told: by settled intent, the venue's ms since its fence.
  std::map<std::string, std::int64_t> settled() const;
  std::string last_words() const;  // the end of what the engines printed
  int refused_for_rate() const { return refused_for_rate_; }
  const SharedClock& clock() const { return clock_; }
  std::string state_dir() const { return dir_ + "/state"; }
  const std::string& dir() const { return dir_; }
  void keep_files() { keep_ = true; }

 private:
  Result<> judge(const std::string& state_dir, Verdict& verdict) const;
  void open_venue();
  void close_venue();
  void write_config() const;
  venue::AccountOptions account() const;
  wire::HttpServer::Reply serve(const wire::HttpRequest& request);

  WorldOptions options_;
  std::string dir_;
  bool frozen_ = false;
  bool keep_ = false;
  SharedClock clock_;
  SharedClock venue_clock_;
  std::uint16_t port_ = 0;
  std::atomic<int> refused_for_rate_ = 0;
  std::unique_ptr<paper::Service> service_;
  std::unique_ptr<wire::HttpServer> server_;
  std::jthread ticker_;
};

}  // namespace defib::campaign
