// A service that speaks sd_notify as it is told, one word after another:
//
//   say:TEXT            one datagram; "\n" in it separates fields
//   child:TEXT          a child process says it, and ends
//   agent:CALL[:ARG]    a call of the agent's C face
//   successor[:HOW]     starts another process, names it by MAINPID= and ends. HOW: wrong, with a
//                       wrong inode; fd, by MAINPIDFD=1; no-fd, without the descriptor; null-fd,
//                       with another kind of one; own-fd, with that of a process that is not its
//                       child; stay, goes on until it is killed; outlived, goes on and ends the
//                       other process, whose pid is its status then
//   sleep:MS            waits
//   on-term:MS:CODE:TEXT  at SIGTERM: says TEXT, waits so long, ends with CODE
//   exit:CODE           ends
//   run                 runs until killed (also what follows the last word)

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cstddef>
#include <cstring>
#include <string>
#include <vector>

#include "defib/process/agent_c.h"
#include "defib/process/testcases/send_notify.h"

namespace {

volatile sig_atomic_t terminated = 0;

void say(std::string text) {
  for (std::size_t at = 0; (at = text.find("\\n", at)) != std::string::npos;)
    text.replace(at, 2, "\n");
  send_notify(text);
}

void sleep_ms(long ms) {
  timespec left = {ms / 1000, ms % 1000 * 1'000'000};
  while (nanosleep(&left, &left) != 0 && errno == EINTR) {
  }
}

// Until SIGTERM, where that is waited for; else for ever.
[[noreturn]] void run(long ms, int code, const std::string& text) {
  sigset_t term, before;
  sigemptyset(&term);
  sigaddset(&term, SIGTERM);
  sigprocmask(SIG_BLOCK, &term, &before);
  while (terminated == 0) sigsuspend(&before);
  if (!text.empty()) say(text);
  sleep_ms(ms);
  _exit(code);
}

void call_agent(const std::string& call, const std::string& argument) {
  const long number = std::atol(argument.c_str());
  int done = 0;
  if (call == "ready") done = defib_ready();
  if (call == "reloading") done = defib_reloading();
  if (call == "stopping") done = defib_stopping();
  if (call == "errno") done = defib_error_number(static_cast<int>(number));
  if (call == "bus_error") done = defib_bus_error(argument.c_str());
  if (call == "varlink_error") done = defib_varlink_error(argument.c_str());
  if (call == "exit_status") done = defib_exit_status(static_cast<int>(number));
  if (call == "watchdog") done = defib_watchdog();
  if (call == "trigger") done = defib_watchdog_trigger();
  if (call == "watchdog_usec") done = defib_watchdog_deadline(static_cast<uint64_t>(number));
  if (call == "extend") done = defib_extend_timeout(static_cast<uint64_t>(number));
  if (call == "access") done = defib_notify_access(argument.c_str());
  if (call == "restart_reset") done = defib_restart_reset();
  if (call == "barrier") done = defib_barrier(static_cast<int>(number));
  if (done != 1) _exit(96);
}

[[noreturn]] void hand_over(const std::string& how) {
  const pid_t child = fork();
  if (child == 0) {
    setsid();
    while (true) pause();
  }
  if (how == "wrong") {
    say("MAINPID=" + std::to_string(child) + "\nMAINPIDFDID=1\nREADY=1");
  } else if (how.ends_with("fd")) {
    const int fd = how == "null-fd"  ? open("/dev/null", O_RDONLY | O_CLOEXEC)
                   : how == "no-fd"  ? -1
                   : how == "own-fd" ? static_cast<int>(syscall(SYS_pidfd_open, getppid(), 0))
                                     : static_cast<int>(syscall(SYS_pidfd_open, child, 0));
    send_notify("MAINPIDFD=1\nREADY=1", fd);
  } else {
    if (defib_main_pid(child) != 1 || defib_ready() != 1) _exit(96);
  }
  if (defib_barrier(5000) != 1) _exit(96);
  if (how == "outlived") {
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    say("STATUS=" + std::to_string(child));
  }
  while (how == "stay" || how == "outlived") pause();
  _exit(0);
}

std::vector<std::string> split(const std::string& word) {
  std::vector<std::string> parts(1);
  const bool text_last = word.starts_with("say:") || word.starts_with("child:");
  for (const char c : word) {
    if (c == ':' && (parts.size() < (text_last ? 2u : 4u))) {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  parts.resize(4);
  return parts;
}

}  // namespace

int main(int argc, char** argv) {
  long term_ms = 0;
  int term_code = 0;
  std::string term_text;
  for (int i = 1; i < argc; ++i) {
    const std::vector<std::string> parts = split(argv[i]);
    const std::string& word = parts[0];
    if (word == "say") say(parts[1]);
    if (word == "child") {
      if (const pid_t child = fork(); child == 0) {
        say(parts[1]);
        _exit(0);
      } else {
        waitpid(child, nullptr, 0);
      }
    }
    if (word == "agent") call_agent(parts[1], parts[2]);
    if (word == "successor") hand_over(parts[1]);
    if (word == "sleep") sleep_ms(std::atol(parts[1].c_str()));
    if (word == "exit") _exit(std::atoi(parts[1].c_str()));
    if (word == "on-term") {
      term_ms = std::atol(parts[1].c_str());
      term_code = std::atoi(parts[2].c_str());
      term_text = parts[3];
      signal(SIGTERM, [](int) { terminated = 1; });
    }
  }
  if (argc > 1) run(term_ms, term_code, term_text);
  return 0;
}
