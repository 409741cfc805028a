// Sensors: what watches one service from outside of its process: probes, the patterns of its
// output, its core files. What they find becomes an event of the service's incident, and an action.
//
// Thread rule: the loop's thread.

#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/daemon/command_run.h"
#include "defib/daemon/core_watch.h"
#include "defib/daemon/health_check.h"
#include "defib/daemon/incident_recorder.h"
#include "defib/daemon/log_watch.h"
#include "defib/daemon/service_config.h"
#include "defib/os/event_loop.h"
#include "defib/os/file_watch.h"
#include "defib/process/supervisor.h"

namespace defib::daemon {

class Sensors {
 public:
  struct Context {
    os::EventLoop& loop;
    os::Files& files;
    process::Supervisor& supervisor;
    IncidentRecorder& recorder;
    os::FileWatch* file_watch = nullptr;  // nullptr: core files are not watched
  };
  // Resolves the names of probes (may block). Nothing is watched before started().
  static Result<std::unique_ptr<Sensors>> create(Context context, const ServiceConfig& config);
  ~Sensors();
  Sensors(const Sensors&) = delete;
  Sensors& operator=(const Sensors&) = delete;

  // A process runs, new or found. `ready`: readiness is not waited for any more.
  void started(pid_t pid, bool ready);
  void exited(const process::ExitReport& report);
  void log(int stream, std::string_view bytes, std::uint64_t lost);
  bool wants_log() const { return log_watch_ != nullptr; }

 private:
  Sensors(Context context, const ServiceConfig& config);
  Result<> make_probes(const ServiceConfig& config);
  void make_core_watch(const ServiceConfig& config);
  void health_changed(std::size_t probe, const HealthChange& change);
  void matched(const LogMatch& match);
  void recover(const LogMatch& match);
  void recovered(const CommandRun::Result& result);
  void replace(const std::string& why);
  void tell_losses();
  void core_found(const CoreReport& report);

  Context context_;
  std::string name_;
  std::string working_directory_;
  RecoverConfig recover_;
  os::Duration healthy_after_;
  std::vector<std::unique_ptr<HealthChecker>> probes_;
  std::size_t ready_probe_ = 0;  // its index + 1; 0: readiness waits for none
  std::unique_ptr<LogWatch> log_watch_;
  std::unique_ptr<CoreWatch> core_watch_;
  std::unique_ptr<CommandRun> recovery_;
  pid_t pid_ = 0;  // 0: not running
  int recoveries_asked_ = 0;
  std::int64_t asked_mono_ns_ = 0;
  std::uint64_t losses_told_ = 0;
  std::int64_t losses_told_mono_ns_ = 0;
};

}  // namespace defib::daemon
