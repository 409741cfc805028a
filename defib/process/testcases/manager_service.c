/* A whole service on the recovery manager's C face, as C11 sees it. It exits with 0 when everything
 * was as expected, else with the number of the line that was not. Usage: PROGRAM STATE_FILE */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "defib/process/agent_c.h"
#include "defib/process/recovery_manager_c.h"

#define EXPECT(condition)                                     \
  do {                                                        \
    if (!(condition)) {                                       \
      fprintf(stderr, "line %d: %s\n", __LINE__, #condition); \
      exit(1);                                                \
    }                                                         \
  } while (0)

struct venue {
  int connected;
  int recoveries;
  int cleanups;
  int crossings;
};

static int send_order(void* data, defib_error* error) {
  const struct venue* venue = data;
  if (venue->connected) return 0;
  snprintf(error->message, sizeof error->message, "the venue is not connected");
  error->code = -7; /* Unavailable */
  return 1;
}

static int reconnect(void* data, const defib_callback_context* context, defib_error* error) {
  struct venue* venue = data;
  (void)error;
  ++venue->recoveries;
  EXPECT(strstr(defib_callback_reason(context), "not connected") != NULL);
  EXPECT(!defib_callback_stop_requested(context));
  if (defib_callback_attempt(context) < 2) return -1; /* without a message */
  venue->connected = 1;
  return 0;
}

static int cancel_orders(void* data, const defib_callback_context* context, defib_error* error) {
  (void)context;
  (void)error;
  ++((struct venue*)data)->cleanups;
  return 0;
}

static void on_health(void* data, const char* resource, int alarmed, double percent,
                      double threshold) {
  struct venue* venue = data;
  if (strcmp(resource, "memory") == 0 && alarmed && percent >= threshold) ++venue->crossings;
}

int main(int argc, char** argv) {
  struct venue venue = {0, 0, 0, 0};
  defib_error error;
  char text[4096];
  EXPECT(argc >= 2);

  char program[] = "x", option[] = "--log-level", level[] = "loud", other[] = "--mine";
  char* words[] = {program, option, level, other, NULL};
  int count = 4;
  EXPECT(defib_configure_logging(&count, words, &error) == -2 && count == 4);
  EXPECT(strstr(error.message, "loud") != NULL && strstr(error.action, "warning") != NULL);
  snprintf(level, sizeof level, "off");
  EXPECT(defib_configure_logging(&count, words, &error) == 0 && count == 2);
  EXPECT(strcmp(words[1], "--mine") == 0 && words[2] == NULL);

  defib_manager_options options;
  memset(&options, 0xff, sizeof options);
  EXPECT(defib_manager_create(&options, &error) == NULL && error.code == -2);
  defib_manager_options_init(&options);
  EXPECT(options.max_restarts == 5 && options.max_recovery_attempts == 3);
  EXPECT(options.restart_delay_ms == 30000 && options.health_check_interval_ms == 60000);
  EXPECT(options.memory_percent == 80 && options.cpu_percent == 90 && options.disk_percent == 90);
  options.attempt_delay_ms = 0;
  options.memory_percent = 300;
  EXPECT(defib_manager_create(&options, &error) == NULL && error.code == -43);
  EXPECT(strcmp(error.kind, "ConfigBadValue") == 0);
  options.memory_percent = 0.001;
  options.state_file = argv[1];
  defib_manager* manager = defib_manager_create(&options, &error);
  EXPECT(manager != NULL && error.code == 0);

  EXPECT(defib_manager_add_recovery(manager, "reconnect", reconnect, &venue, 5000) == 0);
  EXPECT(defib_manager_add_recovery(manager, "nothing", NULL, &venue, 0) == -2);
  EXPECT(defib_manager_add_cleanup(manager, "cancel", cancel_orders, &venue, 0) == 0);
  EXPECT(defib_manager_on_health(manager, on_health, &venue) == 0);
  defib_manager_ready(manager);
  defib_manager_beat(manager);
  defib_manager_set_active_connections(manager, 1);
  defib_manager_set_active_positions(manager, 2);
  EXPECT(defib_manager_set(manager, "epoch", "{\"number\":7}", &error) == 0);
  EXPECT(defib_manager_set(manager, "epoch", "{", &error) == -50);
  EXPECT(defib_manager_set(manager, "status", "1", &error) == -2);

  EXPECT(defib_manager_scope(manager, "order_execution", send_order, &venue, &error) == -7);
  EXPECT(error.recovered == 1 && strstr(error.message, "order_execution") != NULL);
  EXPECT(venue.recoveries == 2);
  EXPECT(defib_manager_scope(manager, "order_execution", send_order, &venue, &error) == 0);
  EXPECT(defib_manager_failure_count(manager) == 2); /* the operation's, and the first call's */
  EXPECT(defib_manager_recovery_attempts(manager) == 0);
  EXPECT(defib_manager_check_health(manager, &error) == 0 && venue.crossings == 1);
  EXPECT(defib_manager_save(manager, &error) == 0);

  const size_t size = defib_manager_state(manager, text, sizeof text);
  EXPECT(size < sizeof text && size == strlen(text));
  EXPECT(strstr(text, "\"active_positions\":2") != NULL && strstr(text, "\"number\":7") != NULL);
  char small[8];
  EXPECT(defib_manager_state(manager, small, sizeof small) > sizeof small && strlen(small) == 7);
  EXPECT(defib_manager_state(manager, NULL, 0) > 0);
  EXPECT(defib_manager_system_info(manager, text, sizeof text) < sizeof text);
  EXPECT(strstr(text, "memory_usage_mb") != NULL && strstr(text, "\"status\"") != NULL);
  EXPECT(defib_manager_restart_count(manager) == 0);
  EXPECT(defib_manager_restart_limit_reached(manager) == 0);

  EXPECT(defib_manager_shutdown_requested(manager) == 0);
  defib_manager_request_shutdown(manager);
  EXPECT(defib_manager_wait_for_shutdown(manager, 10000) == 1);
  EXPECT(defib_manager_shutdown(manager, "done", &error) == 0 && venue.cleanups == 1);
  EXPECT(defib_manager_overruns(manager) == 0);
  defib_manager_destroy(manager);
  defib_manager_destroy(NULL);
  return 0;
}
