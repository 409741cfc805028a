#include "defib/process/supervisor.h"

#include <fmt/core.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <cerrno>

#include "defib/process/guardian.h"
#include "defib/process/supervised.h"

namespace defib::process {

namespace {

// How long shutdown waits for reports of crashes to be written before it ends the shims.
constexpr os::Duration kCaptureGrace = std::chrono::seconds(5);
constexpr os::Duration kShutdownStep = std::chrono::milliseconds(20);

}  // namespace

struct Supervisor::Core {
  explicit Core(SupervisionContext with) : context(std::move(with)) {}

  SupervisionContext context;
  std::map<std::string, std::unique_ptr<Supervised>> services;
  std::map<std::string, std::unique_ptr<Supervised>> begun;  // and not yet added
  os::EventLoop::TimerId shutdown_timer = 0;
  std::function<void()> shutdown_done;
  std::int64_t captures_until = 0;
  std::size_t shims_left = 0;
  std::vector<std::string> leaving;  // removed; gone with the timer
  os::EventLoop::TimerId leave_timer = 0;
  os::Fd clock_watch;  // readable when somebody sets the wall clock

  Result<Supervised*> find(const std::string& name) {
    const auto found = services.find(name);
    if (found != services.end()) return found->second.get();
    return Error(Code::kServiceUnknown, fmt::format("there is no service '{}'", name))
        .with("service", name);
  }
  void shutdown_step();
  void end_shims();
  Result<> watch_clock();
  void arm_clock_watch();
};

Supervisor::Supervisor(std::unique_ptr<Core> core) : core_(std::move(core)) {}

Supervisor::~Supervisor() {
  core_->context.loop.cancel(core_->shutdown_timer);
  core_->context.loop.cancel(core_->leave_timer);
  if (core_->clock_watch.valid()) core_->context.loop.unwatch(core_->clock_watch.get());
}

// What is stamped by the wall clock must follow its steps, or a reboot would misread it. The kernel
// tells of them: a timer that is far away is cancelled.
Result<> Supervisor::Core::watch_clock() {
  clock_watch = os::Fd(::timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK | TFD_CLOEXEC));
  if (!clock_watch.valid()) return os::system_error("timerfd_create");
  arm_clock_watch();
  return context.loop.watch(clock_watch.get(), EPOLLIN, [this](std::uint32_t) {
    std::uint64_t ignored = 0;
    if (::read(clock_watch.get(), &ignored, sizeof ignored) < 0 && errno == EAGAIN) return;
    arm_clock_watch();
    for (auto& [name, service] : services) service->clock_stepped();
  });
}

void Supervisor::Core::arm_clock_watch() {
  itimerspec far = {};
  far.it_value.tv_sec = 4'000'000'000;  // 2096
  static_cast<void>(::timerfd_settime(clock_watch.get(),
                                      TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &far, nullptr));
}

Result<std::unique_ptr<Supervisor>> Supervisor::create(os::EventLoop& loop, Options options,
                                                       SupervisorObserver& observer) {
  os::Files& files = options.files != nullptr ? *options.files : os::real_files();
  DEFIB_TRY_ASSIGN(StateDir dir, StateDir::open(files, options.state_dir));
  DEFIB_TRY_ASSIGN(Programs programs, find_programs(options.program_dir));
  // A service whose shim is killed becomes our child, so that its exit status is not lost.
  if (::prctl(PR_SET_CHILD_SUBREAPER, 1) != 0) return os::system_error("prctl");
  std::unique_ptr<Core> core(new Core({loop,
                                       files,
                                       loop.clock(),
                                       observer,
                                       std::move(dir),
                                       std::move(programs),
                                       CgroupPlaces(),
                                       {},
                                       std::make_unique<Sampler>(loop),
                                       nullptr}));
  DEFIB_TRY(core->watch_clock());
  return std::unique_ptr<Supervisor>(new Supervisor(std::move(core)));
  // Owned on every path.
}  // NOLINT(clang-analyzer-cplusplus.NewDeleteLeaks)

void Supervisor::begin(const std::vector<ServiceSpec>& specs) {
  for (const ServiceSpec& spec : specs) {
    if (core_->services.contains(spec.name)) continue;
    if (auto service = Supervised::begin(core_->context, spec)) {
      core_->begun.insert_or_assign(spec.name, std::move(*service));
    }
  }
}

Result<> Supervisor::add(ServiceSpec spec) {
  const std::string name = spec.name;
  if (core_->services.contains(name)) {
    return Error(Code::kAlreadyExists, fmt::format("there is a service '{}' already", name))
        .with("service", name);
  }
  std::unique_ptr<Supervised> service;
  if (auto begun = core_->begun.extract(name)) {
    service = std::move(begun.mapped());
  } else {
    DEFIB_TRY_ASSIGN(service, Supervised::begin(core_->context, std::move(spec)));
  }
  DEFIB_TRY(service->open());
  core_->services.emplace(name, std::move(service));
  return {};
}

Result<> Supervisor::update(ServiceSpec spec) {
  DEFIB_TRY_ASSIGN(Supervised * service, core_->find(spec.name));
  return service->update(std::move(spec));
}

Result<> Supervisor::remove(const std::string& name) {
  DEFIB_TRY_ASSIGN(Supervised * service, core_->find(name));
  if (service->alive()) {
    return Error(Code::kAlreadyExists, fmt::format("the service '{}' still runs", name))
        .suggest(fmt::format("stop it first: `defib stop {}`", name));
  }
  service->end_shim([this, name] {
    // Not from inside of the object that is to go.
    core_->leaving.push_back(name);
    if (core_->leave_timer != 0) return;
    core_->leave_timer = core_->context.loop.run_after(os::Duration(0), [core = core_.get()] {
      core->leave_timer = 0;
      for (const std::string& one : std::exchange(core->leaving, {})) {
        if (const auto found = core->services.find(one); found != core->services.end()) {
          forget_lock(found->second->name_lock());
          core->services.erase(found);
        }
      }
    });
  });
  return {};
}

Result<> Supervisor::start(const std::string& name) {
  DEFIB_TRY_ASSIGN(Supervised * service, core_->find(name));
  return service->start();
}

Result<> Supervisor::stop(const std::string& name) {
  DEFIB_TRY_ASSIGN(Supervised * service, core_->find(name));
  return service->stop();
}

Result<> Supervisor::restart(const std::string& name) {
  DEFIB_TRY_ASSIGN(Supervised * service, core_->find(name));
  return service->restart();
}

Result<> Supervisor::reset(const std::string& name) {
  DEFIB_TRY_ASSIGN(Supervised * service, core_->find(name));
  return service->reset();
}

Result<> Supervisor::signal(const std::string& name, int signal) {
  DEFIB_TRY_ASSIGN(Supervised * service, core_->find(name));
  return service->signal(signal);
}

Result<> Supervisor::report_health(const std::string& name, recovery::Health health,
                                   const std::string& detail, std::optional<LimitAction> action) {
  DEFIB_TRY_ASSIGN(Supervised * service, core_->find(name));
  service->report_health(health, detail, action);
  return {};
}

Result<> Supervisor::report_ready(const std::string& name) {
  DEFIB_TRY_ASSIGN(Supervised * service, core_->find(name));
  service->report_ready();
  return {};
}

Result<> Supervisor::replace(const std::string& name, StopReason reason, Error why) {
  DEFIB_TRY_ASSIGN(Supervised * service, core_->find(name));
  return service->replace(reason, std::move(why));
}

Result<> Supervisor::pass_through(const std::string& name, int stdout_fd, int stderr_fd) {
  DEFIB_TRY_ASSIGN(Supervised * service, core_->find(name));
  return service->pass_through(stdout_fd, stderr_fd);
}

Result<> Supervisor::feed_log(const std::string& name, bool on) {
  DEFIB_TRY_ASSIGN(Supervised * service, core_->find(name));
  return service->feed_log(on);
}

RunOutput Supervisor::run_output(const std::string& name, const RunWindow& window) const {
  return read_run_output(core_->context.dir.service_dir(name), window);
}

std::vector<ServiceStatus> Supervisor::known_status() const {
  std::vector<ServiceStatus> all;
  for (const auto& [name, service] : core_->services) all.push_back(service->status(false));
  return all;
}

Result<ServiceStatus> Supervisor::known_status(const std::string& name) const {
  DEFIB_TRY_ASSIGN(const Supervised* service, core_->find(name));
  return service->status(false);
}

std::vector<ServiceStatus> Supervisor::status() const {
  std::vector<ServiceStatus> all;
  for (const auto& [name, service] : core_->services) all.push_back(service->status());
  return all;
}

Result<ServiceStatus> Supervisor::status(const std::string& name) const {
  DEFIB_TRY_ASSIGN(const Supervised* service, core_->find(name));
  return service->status();
}

Sampler& Supervisor::sampler() {
  return *core_->context.sampler;
}

const StateDir& Supervisor::state_dir() const {
  return core_->context.dir;
}

void Supervisor::keep_locks_for_upgrade() const {
  for (const auto& [name, service] : core_->services) keep_lock_for_upgrade(service->name_lock());
}

void Supervisor::shutdown(std::function<void()> done) {
  core_->shutdown_done = std::move(done);
  for (auto& [name, service] : core_->services) {
    // A service that cannot be told now is told again at the next step.
    static_cast<void>(service->stop().has_value());
  }
  core_->captures_until = core_->context.clock.mono_ns() + kCaptureGrace.count();
  core_->shutdown_timer =
      core_->context.loop.run_every(kShutdownStep, [core = core_.get()] { core->shutdown_step(); });
}

void Supervisor::Core::shutdown_step() {
  bool busy = false;
  for (auto& [name, service] : services) {
    busy = busy || service->alive() ||
           (service->capturing() && context.clock.mono_ns() < captures_until);
  }
  if (busy) return;
  context.loop.cancel(shutdown_timer);
  shutdown_timer = 0;
  end_shims();
}

void Supervisor::Core::end_shims() {
  shims_left = services.size();
  if (shims_left == 0) return std::exchange(shutdown_done, nullptr)();
  for (auto& [name, service] : services) {
    service->end_shim([this] {
      if (--shims_left > 0 || !shutdown_done) return;
      context.cgroups.remove_empty();
      context.loop.post(std::exchange(shutdown_done, {}));
    });
  }
}

}  // namespace defib::process
