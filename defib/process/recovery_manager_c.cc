#include "defib/process/recovery_manager_c.h"

#include <algorithm>
#include <cstring>
#include <exception>

#include "defib/obs/log.h"
#include "defib/process/recovery_manager.h"

using defib::Code;
using defib::Error;
using defib::Result;
namespace process = defib::process;

struct defib_manager {
  std::unique_ptr<process::RecoveryManager> manager;
};

struct defib_callback_context {
  const process::CallbackContext& context;
};

namespace {

template <std::size_t kSize>
void copy_text(char (&to)[kSize], std::string_view from) {
  const std::size_t size = std::min(from.size(), kSize - 1);
  std::memcpy(to, from.data(), size);
  to[size] = '\0';
}

int report(const Error& from, defib_error* to) {
  if (to != nullptr) {
    *to = defib_error{};
    to->code = from.number();
    to->recovered = process::was_recovered(from) ? 1 : 0;
    copy_text(to->kind, from.kind());
    copy_text(to->message, from.to_line());
    copy_text(to->action, from.suggested_action());
  }
  return from.number();
}

int report(const Result<>& from, defib_error* to) {
  if (!from) return report(from.error(), to);
  if (to != nullptr) *to = defib_error{};
  return 0;
}

// A function of this face: whatever is thrown inside becomes an error.
template <typename Function>
int guarded(defib_error* error, const Function& function) noexcept {
  try {
    return report(function(), error);
  } catch (const std::exception& thrown) {
    return report(Error(Code::kInternal, thrown.what()), error);
  } catch (...) {
    return report(Error(Code::kInternal, "an exception of an unknown type"), error);
  }
}

template <typename Value, typename Function>
Value guarded_value(Value otherwise, const Function& function) noexcept {
  try {
    return function();
  } catch (...) {
    return otherwise;  // Out of memory, and nothing to tell it with.
  }
}

Result<> needs(bool given, const char* what) {
  if (given) return {};
  return Error(Code::kInvalidArgument, std::string(what) + " must not be NULL");
}

// What a C function that failed has told.
Error told(const char* name, int code, const defib_error& error) {
  const std::string_view message(error.message, strnlen(error.message, sizeof error.message));
  // A code of defib's own is kept; -1 is what functions in C return for anything.
  const int number = error.code != 0 ? error.code : code;
  const auto known = number < -1 ? defib::find_code(std::to_string(number)) : std::nullopt;
  const bool failure = known && known->error_class != defib::ErrorClass::kNone;
  return Error(failure ? known->code : Code::kCallbackThrew,
               message.empty() ? std::string(name) + " returned " + std::to_string(code)
                               : std::string(message));
}

process::RecoveryCallback wrap(const std::string& name, defib_callback callback, void* data) {
  return [name, callback, data](const process::CallbackContext& context) -> Result<> {
    const defib_callback_context seen{context};
    defib_error error = {};
    const int code = callback(data, &seen, &error);
    if (code == 0) return {};
    return told(name.c_str(), code, error);
  };
}

process::RecoveryOptions to_options(const defib_manager_options& from) {
  process::RecoveryOptions options;
  if (from.state_file != nullptr) options.state_file = from.state_file;
  options.max_restarts = from.max_restarts;
  options.max_recovery_attempts = from.max_recovery_attempts;
  options.restart_delay = std::chrono::milliseconds(from.restart_delay_ms);
  options.health_check_interval = std::chrono::milliseconds(from.health_check_interval_ms);
  options.callback_timeout = std::chrono::milliseconds(from.callback_timeout_ms);
  options.attempt_delay = std::chrono::milliseconds(from.attempt_delay_ms);
  options.health.memory_percent = from.memory_percent;
  options.health.cpu_percent = from.cpu_percent;
  options.health.disk_percent = from.disk_percent;
  options.monitor_thread = from.monitor_thread != 0;
  options.handle_signals = from.handle_signals != 0;
  return options;
}

std::size_t copy_json(const defib::wire::Json& json, char* to, std::size_t size) {
  const std::string text = json.dump();
  if (to != nullptr && size > 0) {
    const std::size_t fits = std::min(text.size(), size - 1);
    std::memcpy(to, text.data(), fits);
    to[fits] = '\0';
  }
  return text.size();
}

std::string_view text_of(const char* text) {
  return text != nullptr ? std::string_view(text) : std::string_view();
}

}  // namespace

#define DEFIB_EXPORT extern "C" __attribute__((visibility("default")))

DEFIB_EXPORT const char* defib_callback_reason(const defib_callback_context* context) {
  return context->context.reason.c_str();
}
DEFIB_EXPORT int defib_callback_attempt(const defib_callback_context* context) {
  return context->context.attempt;
}
DEFIB_EXPORT int defib_callback_stop_requested(const defib_callback_context* context) {
  return context->context.stop.stop_requested() ? 1 : 0;
}

DEFIB_EXPORT void defib_manager_options_init(defib_manager_options* options) {
  const process::RecoveryOptions defaults;
  const auto ms = [](defib::os::Duration time) {
    return static_cast<std::uint32_t>(time.count() / 1'000'000);
  };
  *options = defib_manager_options{};
  options->size = sizeof *options;
  options->max_restarts = defaults.max_restarts;
  options->max_recovery_attempts = defaults.max_recovery_attempts;
  options->restart_delay_ms = ms(defaults.restart_delay);
  options->health_check_interval_ms = ms(defaults.health_check_interval);
  options->callback_timeout_ms = ms(defaults.callback_timeout);
  options->attempt_delay_ms = ms(defaults.attempt_delay);
  options->memory_percent = defaults.health.memory_percent;
  options->cpu_percent = defaults.health.cpu_percent;
  options->disk_percent = defaults.health.disk_percent;
  options->handle_signals = defaults.handle_signals ? 1 : 0;
}

DEFIB_EXPORT defib_manager* defib_manager_create(const defib_manager_options* options,
                                                 defib_error* error) {
  defib_manager* created = nullptr;
  guarded(error, [&]() -> Result<> {
    process::RecoveryOptions wanted;
    if (options != nullptr) {
      if (options->size != sizeof *options) {
        return Error(Code::kInvalidArgument,
                     "the options are of another version, or were not set up")
            .suggest("call defib_manager_options_init() first");
      }
      wanted = to_options(*options);
    }
    DEFIB_TRY_ASSIGN(auto manager, process::RecoveryManager::create(std::move(wanted)));
    created = new defib_manager{std::move(manager)};
    return {};
  });
  return created;
}

DEFIB_EXPORT void defib_manager_destroy(defib_manager* manager) {
  delete manager;
}

DEFIB_EXPORT int defib_manager_scope(defib_manager* manager, const char* name,
                                     defib_operation operation, void* data, defib_error* error) {
  return guarded(error, [&]() -> Result<> {
    DEFIB_TRY(needs(manager != nullptr && operation != nullptr, "manager and operation"));
    return manager->manager->exception_scope(text_of(name), [&]() -> Result<> {
      defib_error inner = {};
      const int code = operation(data, &inner);
      if (code == 0) return {};
      return told("the operation", code, inner);
    });
  });
}

DEFIB_EXPORT int defib_manager_add_recovery(defib_manager* manager, const char* name,
                                            defib_callback callback, void* data,
                                            uint32_t timeout_ms) {
  return guarded(nullptr, [&]() -> Result<> {
    DEFIB_TRY(needs(manager != nullptr && callback != nullptr, "manager and callback"));
    manager->manager->add_recovery(std::string(text_of(name)),
                                   wrap(std::string(text_of(name)), callback, data),
                                   std::chrono::milliseconds(timeout_ms));
    return {};
  });
}

DEFIB_EXPORT int defib_manager_add_cleanup(defib_manager* manager, const char* name,
                                           defib_callback callback, void* data,
                                           uint32_t timeout_ms) {
  return guarded(nullptr, [&]() -> Result<> {
    DEFIB_TRY(needs(manager != nullptr && callback != nullptr, "manager and callback"));
    manager->manager->add_cleanup(std::string(text_of(name)),
                                  wrap(std::string(text_of(name)), callback, data),
                                  std::chrono::milliseconds(timeout_ms));
    return {};
  });
}

DEFIB_EXPORT int defib_manager_on_health(defib_manager* manager, defib_health_callback callback,
                                         void* data) {
  return guarded(nullptr, [&]() -> Result<> {
    DEFIB_TRY(needs(manager != nullptr && callback != nullptr, "manager and callback"));
    manager->manager->health().on_crossing([=](const process::HealthCrossing& crossing) {
      callback(data, process::to_string(crossing.resource).data(), crossing.alarmed ? 1 : 0,
               crossing.percent, crossing.threshold);
    });
    return {};
  });
}

DEFIB_EXPORT int defib_manager_force_recovery(defib_manager* manager, const char* reason,
                                              defib_error* error) {
  return guarded(error, [&] { return manager->manager->force_recovery(text_of(reason)); });
}
DEFIB_EXPORT int defib_manager_run_cleanup(defib_manager* manager, int again, defib_error* error) {
  return guarded(error, [&] { return manager->manager->run_cleanup(again != 0); });
}
DEFIB_EXPORT int defib_manager_shutdown(defib_manager* manager, const char* reason,
                                        defib_error* error) {
  return guarded(error, [&] { return manager->manager->shutdown(text_of(reason)); });
}

DEFIB_EXPORT int defib_manager_shutdown_requested(const defib_manager* manager) {
  return manager->manager->shutdown_requested() ? 1 : 0;
}
DEFIB_EXPORT int defib_manager_wait_for_shutdown(const defib_manager* manager,
                                                 uint32_t timeout_ms) {
  return manager->manager->wait_for_shutdown(std::chrono::milliseconds(timeout_ms)) ? 1 : 0;
}
DEFIB_EXPORT void defib_manager_request_shutdown(defib_manager* manager) {
  manager->manager->request_shutdown();
}
DEFIB_EXPORT void defib_manager_ready(defib_manager* manager) {
  manager->manager->ready();
}
DEFIB_EXPORT void defib_manager_beat(defib_manager* manager) {
  manager->manager->beat();
}
DEFIB_EXPORT void defib_manager_set_status(defib_manager* manager, const char* status) {
  guarded(nullptr, [&]() -> Result<> {
    manager->manager->set_status(text_of(status));
    return {};
  });
}
DEFIB_EXPORT void defib_manager_set_active_connections(defib_manager* manager, int64_t count) {
  manager->manager->set_active_connections(count);
}
DEFIB_EXPORT void defib_manager_set_active_positions(defib_manager* manager, int64_t count) {
  manager->manager->set_active_positions(count);
}

DEFIB_EXPORT int defib_manager_set(defib_manager* manager, const char* name, const char* json,
                                   defib_error* error) {
  return guarded(error, [&]() -> Result<> {
    DEFIB_TRY_ASSIGN(auto value, defib::wire::Json::parse(text_of(json)));
    return manager->manager->set(text_of(name), std::move(value));
  });
}

DEFIB_EXPORT int defib_manager_save(defib_manager* manager, defib_error* error) {
  return guarded(error, [&] { return manager->manager->save(); });
}
DEFIB_EXPORT int defib_manager_check_health(defib_manager* manager, defib_error* error) {
  return guarded(error, [&]() -> Result<> {
    DEFIB_TRY(manager->manager->health().check());
    return {};
  });
}

DEFIB_EXPORT size_t defib_manager_state(const defib_manager* manager, char* to, size_t size) {
  return guarded_value<std::size_t>(0,
                                    [&] { return copy_json(manager->manager->state(), to, size); });
}
DEFIB_EXPORT size_t defib_manager_restored(const defib_manager* manager, char* to, size_t size) {
  return guarded_value<std::size_t>(
      0, [&] { return copy_json(manager->manager->restored(), to, size); });
}
DEFIB_EXPORT size_t defib_manager_system_info(defib_manager* manager, char* to, size_t size) {
  return guarded_value<std::size_t>(
      0, [&] { return copy_json(manager->manager->system_info(), to, size); });
}

DEFIB_EXPORT uint64_t defib_manager_failure_count(const defib_manager* manager) {
  return manager->manager->failure_count();
}
DEFIB_EXPORT int defib_manager_recovery_attempts(const defib_manager* manager) {
  return manager->manager->recovery_attempts();
}
DEFIB_EXPORT int defib_manager_restart_count(const defib_manager* manager) {
  return manager->manager->restart_report().restart_count;
}
DEFIB_EXPORT int defib_manager_restart_limit_reached(const defib_manager* manager) {
  return manager->manager->restart_report().limit_reached ? 1 : 0;
}
DEFIB_EXPORT int defib_manager_overruns(const defib_manager* manager) {
  return manager->manager->overruns();
}

DEFIB_EXPORT int defib_configure_logging(int* argc, char** argv, defib_error* error) {
  return guarded(error, [&] { return defib::obs::configure_logging(*argc, argv); });
}
