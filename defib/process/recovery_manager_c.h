/* The recovery manager's C face: recovery_manager.h for services in C, and for everything that can
 * call C (libdefib-manager.so: Python's ctypes, Go, Rust). It needs the C++ runtime, so the library
 * that `defib run` preloads does not have it; link defib::agent, or load libdefib-manager.so.
 *
 * Functions that can fail return 0 for done and else the error's code (negative, `defib explain
 * CODE`), and fill *error where it is not NULL. Texts are cut to their arrays, and always end with
 * a zero byte. No function lets a C++ exception out. Every function from any thread. */

#ifndef DEFIB_PROCESS_RECOVERY_MANAGER_C_H_
#define DEFIB_PROCESS_RECOVERY_MANAGER_C_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct defib_manager defib_manager;

/* What happened, and what to do next. A callback that fails may fill code and message. */
typedef struct defib_error {
  int32_t code; /* 0: none */
  int32_t
      recovered; /* of defib_manager_scope(): 1 where the recovery callbacks have all succeeded */
  char kind[32]; /* "CallbackThrew" */
  char message[512]; /* with its causes, on one line */
  char action[256];  /* what to do next */
} defib_error;

/* Set `size` to sizeof the struct, by defib_manager_options_init(); 0 or NULL in a field then means
 * what the comment says. */
typedef struct defib_manager_options {
  size_t size;
  const char* state_file;            /* "system_state.json"; "": nothing is kept */
  int32_t max_restarts;              /* 5 */
  int32_t max_recovery_attempts;     /* 3 */
  uint32_t restart_delay_ms;         /* 30000 */
  uint32_t health_check_interval_ms; /* 60000 */
  uint32_t callback_timeout_ms;      /* 30000: of callbacks without their own */
  uint32_t attempt_delay_ms;         /* 100 */
  double memory_percent;             /* 80; 0: not watched */
  double cpu_percent;                /* 90 */
  double disk_percent;               /* 90 */
  int32_t monitor_thread;            /* 0: the service calls defib_manager_check_health() */
  int32_t handle_signals;            /* 1: SIGTERM and SIGINT request the shutdown */
} defib_manager_options;

/* Why a callback is called. Valid during the call only. */
typedef struct defib_callback_context defib_callback_context;
const char* defib_callback_reason(const defib_callback_context* context);
int defib_callback_attempt(const defib_callback_context* context);
/* 1: its time is over or the service shuts down, and it should return. */
int defib_callback_stop_requested(const defib_callback_context* context);

/* 0: done; everything else: failed, with what it put into *error (never NULL). */
typedef int (*defib_operation)(void* data, defib_error* error);
typedef int (*defib_callback)(void* data, const defib_callback_context* context,
                              defib_error* error);
/* A resource ("memory" "cpu" "disk") runs short (alarmed 1) or is well again (0). */
typedef void (*defib_health_callback)(void* data, const char* resource, int alarmed, double percent,
                                      double threshold);

void defib_manager_options_init(defib_manager_options* options);
/* NULL options: all defaults. NULL where it fails. */
defib_manager* defib_manager_create(const defib_manager_options* options, defib_error* error);
/* Without defib_manager_shutdown() before it the end counts as unclean. The callbacks' data must
 * live until here, and longer where defib_manager_overruns() is not 0. */
void defib_manager_destroy(defib_manager* manager);

/* Runs the operation; where it fails, records it, runs the recovery callbacks, and returns the
 * error. */
int defib_manager_scope(defib_manager* manager, const char* name, defib_operation operation,
                        void* data, defib_error* error);
/* timeout_ms 0: the option's. */
int defib_manager_add_recovery(defib_manager* manager, const char* name, defib_callback callback,
                               void* data, uint32_t timeout_ms);
int defib_manager_add_cleanup(defib_manager* manager, const char* name, defib_callback callback,
                              void* data, uint32_t timeout_ms);
int defib_manager_on_health(defib_manager* manager, defib_health_callback callback, void* data);
int defib_manager_force_recovery(defib_manager* manager, const char* reason, defib_error* error);
int defib_manager_run_cleanup(defib_manager* manager, int again, defib_error* error);
int defib_manager_shutdown(defib_manager* manager, const char* reason, defib_error* error);

int defib_manager_shutdown_requested(const defib_manager* manager);
/* 1: requested within the time. */
int defib_manager_wait_for_shutdown(const defib_manager* manager, uint32_t timeout_ms);
void defib_manager_request_shutdown(defib_manager* manager);
void defib_manager_ready(defib_manager* manager);
void defib_manager_beat(defib_manager* manager);
void defib_manager_set_status(defib_manager* manager, const char* status);
void defib_manager_set_active_connections(defib_manager* manager, int64_t count);
void defib_manager_set_active_positions(defib_manager* manager, int64_t count);
/* A field of the service's own, as JSON text. */
int defib_manager_set(defib_manager* manager, const char* name, const char* json,
                      defib_error* error);
int defib_manager_save(defib_manager* manager, defib_error* error);
int defib_manager_check_health(defib_manager* manager, defib_error* error);

/* JSON texts. They return the length without the zero byte; where that is `size` or more, the text
 * was cut, and a longer buffer is needed (NULL with 0 asks for the length). */
size_t defib_manager_state(const defib_manager* manager, char* to, size_t size);
size_t defib_manager_restored(const defib_manager* manager, char* to, size_t size);
size_t defib_manager_system_info(defib_manager* manager, char* to, size_t size);

uint64_t defib_manager_failure_count(const defib_manager* manager);
int defib_manager_recovery_attempts(const defib_manager* manager);
int defib_manager_restart_count(const defib_manager* manager);
/* 1: more unclean ends in a row than max_restarts. */
int defib_manager_restart_limit_reached(const defib_manager* manager);
int defib_manager_overruns(const defib_manager* manager);

/* Takes "--log-level LEVEL" (also with '=') out of the arguments, else LOG_LEVEL of the
 * environment, and sets the level of defib's own log: debug, info, warning, error, off. */
int defib_configure_logging(int* argc, char** argv, defib_error* error);

#ifdef __cplusplus
}
#endif

#endif /* DEFIB_PROCESS_RECOVERY_MANAGER_C_H_ */
