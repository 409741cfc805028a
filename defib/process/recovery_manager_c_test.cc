// The C face from where it is meant to be used: a program in C, and Python.

#include "defib/process/recovery_manager_c.h"

#include <gtest/gtest.h>

#include "defib/os/process.h"
#include "defib/process/manager_test_util.h"
#include "defib/process/persisted_state.h"

namespace defib::process {
namespace {

TEST(ManagerInC, AProgramInCUsesAllOfIt) {
  const TemporaryDirectory dir;
  const auto run = os::run_command(
      {os::own_program_dir() + "/process_manager_service", dir / "state.json"}, 30'000);
  ASSERT_TRUE(run);
  EXPECT_TRUE(run->status.success()) << run->text;
  const auto state = PersistedState::open(os::real_files(), dir / "state.json");
  ASSERT_TRUE(state);
  EXPECT_TRUE(state->stopped_cleanly());
  EXPECT_EQ(state->value()["epoch"]["number"].as_int(), 7);
}

TEST(ManagerInC, AnExceptionDoesNotLeaveIt) {
  defib_error error;
  defib_manager_options options;
  defib_manager_options_init(&options);
  options.state_file = "";
  options.handle_signals = 0;
  defib_manager* manager = defib_manager_create(&options, &error);
  ASSERT_NE(manager, nullptr) << error.message;
  const auto throws = [](void*, defib_error*) -> int { throw 7; };
  EXPECT_EQ(defib_manager_scope(manager, "odd", throws, nullptr, &error), -10);
  EXPECT_NE(std::string(error.message).find("threw int"), std::string::npos);
  EXPECT_EQ(error.recovered, 0);
  EXPECT_EQ(defib_manager_scope(nullptr, "none", throws, nullptr, &error), -2);
  EXPECT_EQ(defib_manager_scope(manager, nullptr, nullptr, nullptr, nullptr), -2);
  defib_manager_destroy(manager);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
constexpr char kScript[] = R"(
import ctypes, json, sys
class Error(ctypes.Structure):
    _fields_ = [("code", ctypes.c_int32), ("recovered", ctypes.c_int32),
                ("kind", ctypes.c_char * 32),
                ("message", ctypes.c_char * 512), ("action", ctypes.c_char * 256)]
class Options(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("state_file", ctypes.c_char_p),
                ("max_restarts", ctypes.c_int32), ("max_recovery_attempts", ctypes.c_int32),
                ("restart_delay_ms", ctypes.c_uint32),
                ("health_check_interval_ms", ctypes.c_uint32),
                ("callback_timeout_ms", ctypes.c_uint32), ("attempt_delay_ms", ctypes.c_uint32),
                ("memory_percent", ctypes.c_double), ("cpu_percent", ctypes.c_double),
                ("disk_percent", ctypes.c_double), ("monitor_thread", ctypes.c_int32),
                ("handle_signals", ctypes.c_int32)]
Operation = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(Error))
Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.POINTER(Error))
library = ctypes.CDLL(sys.argv[1])
library.defib_manager_create.restype = ctypes.c_void_p
error, options = Error(), Options()
library.defib_manager_options_init(ctypes.byref(options))
assert options.size == ctypes.sizeof(Options), (options.size, ctypes.sizeof(Options))
options.state_file = sys.argv[2].encode()
manager = ctypes.c_void_p(library.defib_manager_create(ctypes.byref(options), ctypes.byref(error)))
assert manager.value, error.message
recovered = []
@Callback
def reconnect(data, context, error):
    recovered.append(1)
    return 0
@Operation
def fails(data, error):
    error[0].message = b"from Python"
    return 1
library.defib_manager_add_recovery(manager, b"reconnect", reconnect, None, 5000)
library.defib_manager_ready(manager)
assert library.defib_manager_scope(manager, b"work", fails, None, ctypes.byref(error)) == -10
assert error.recovered == 1 and b"from Python" in error.message and recovered == [1]
size = library.defib_manager_system_info(manager, None, 0)
text = ctypes.create_string_buffer(size + 256)
library.defib_manager_system_info(manager, text, len(text))
assert json.loads(text.value)["status"] == "running"
assert library.defib_manager_shutdown(manager, b"done", None) == 0
library.defib_manager_destroy(manager)
# The agent's own calls are in it too.
assert library.defib_attach() in (0, 1)
)";

TEST(ManagerInC, PythonUsesItThroughTheSharedLibrary) {
  const TemporaryDirectory dir;
  const auto run =
      os::run_command({"python3", "-c", kScript,
                       os::own_program_dir() + "/../lib/libdefib-manager.so", dir / "state.json"},
                      30'000);
  ASSERT_TRUE(run);
  EXPECT_TRUE(run->status.success()) << run->text;
}
#endif

}  // namespace
}  // namespace defib::process
