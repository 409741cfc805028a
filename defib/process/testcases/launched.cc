// A service that shows how it was launched, or that makes its end difficult. One behaviour a word:
//
//   launched show FILE          writes user, groups, limits, ... as lines KEY VALUE to FILE; runs
//   launched scatter            leaves three descendants in sessions of their own, each started by
//   a
//                               process that has ended (double fork), with all descriptors closed;
//                               runs
//   launched line N             has N descendants, each in a session of its own and the child of
//   the
//                               one before; the last holds a lock. A start that finds it held says
//                               so in `met`. Runs
//   launched bomb               forks as often as it can, and so does every child, until killed
//   launched signals FILE       notes each of SIGINT, SIGHUP, SIGTERM in FILE, and goes on
//   launched ready              says READY=1; runs
//   launched swell MB           touches memory up to so much, then runs
//   launched swell-child MB     a child does so, again and again; the service goes on
//   launched hook FILE CODE     appends a line about its DEFIB_ variables to FILE, ends with CODE
//   launched hang FILE          appends such a line, starts a child, and hangs with it
//   launched stamp FILE         appends "service" to FILE; runs
//   launched stamp-exit FILE CODE   appends "service" to FILE, ends with CODE
//
// Every process that is left has the path of VICTIM_DIR in its environment, by which a test finds
// it.

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "defib/process/testcases/send_notify.h"

namespace {

[[noreturn]] void run() {
  while (true) pause();
}

void append(const char* file, const std::string& line) {
  const int fd = open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (write(fd, line.data(), line.size()) != static_cast<ssize_t>(line.size())) _exit(99);
  close(fd);
}

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "-";
}

std::string status_field(const std::string& key) {
  std::FILE* file = std::fopen("/proc/self/status", "r");
  char line[512];
  std::string found = "-";
  while (file != nullptr && std::fgets(line, sizeof line, file) != nullptr) {
    if (std::strncmp(line, key.c_str(), key.size()) != 0 || line[key.size()] != ':') continue;
    found = line + key.size() + 1;
    while (!found.empty() && (found.back() == '\n' || found.back() == ' ')) found.pop_back();
    while (!found.empty() && (found.front() == '\t' || found.front() == ' ')) found.erase(0, 1);
  }
  if (file != nullptr) std::fclose(file);
  return found;
}

std::string file_text(const char* path) {
  char text[4096] = {};
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  const ssize_t size = read(fd, text, sizeof text - 1);
  close(fd);
  std::string result(text, size > 0 ? static_cast<std::size_t>(size) : 0);
  while (!result.empty() && result.back() == '\n') result.pop_back();
  return result;
}

std::string limit(int resource) {
  rlimit value{};
  getrlimit(static_cast<__rlimit_resource>(resource), &value);
  return std::to_string(value.rlim_cur) + "/" + std::to_string(value.rlim_max);
}

void show(const char* file) {
  std::string text;
  const auto line = [&](const std::string& key, const std::string& value) {
    text += key + " " + value + "\n";
  };
  line("uid", status_field("Uid"));
  line("gid", status_field("Gid"));
  line("groups", status_field("Groups"));
  line("no_new_privs", status_field("NoNewPrivs"));
  line("ambient", status_field("CapAmb"));
  line("effective", status_field("CapEff"));
  const mode_t mask = umask(0);
  char octal[8];
  std::snprintf(octal, sizeof octal, "%03o", mask);
  line("umask", octal);
  line("nice", std::to_string(getpriority(PRIO_PROCESS, 0)));
  line("oom_score_adj", file_text("/proc/self/oom_score_adj"));
  line("nofile", limit(RLIMIT_NOFILE));
  line("core", limit(RLIMIT_CORE));
  char* directory = getcwd(nullptr, 0);
  line("directory", directory != nullptr ? directory : "-");
  for (const char* name : {"USER", "HOME", "SHELL", "PATH", "VICTIM_DIR", "LEFT_OVER"}) {
    line(name, variable(name));
  }
  // By its name, as programs do that log to /dev/stdout.
  const int again = open("/dev/stdout", O_WRONLY | O_CLOEXEC);
  line("stdout", again >= 0 ? "opened" : std::strerror(errno));
  // In one piece: whoever sees the file sees all of it.
  const std::string temporary = std::string(file) + ".tmp";
  append(temporary.c_str(), text);
  rename(temporary.c_str(), file);
}

void scatter() {
  for (int i = 0; i < 3; ++i) {
    const pid_t middle = fork();
    if (middle == 0) {
      setsid();
      if (fork() == 0) {
        setsid();
        for (int fd = 0; fd < 1024; ++fd) close(fd);
        signal(SIGTERM, SIG_IGN);
        signal(SIGHUP, SIG_IGN);
        run();
      }
      _exit(0);
    }
    waitpid(middle, nullptr, 0);
  }
}

void line(int length) {
  const std::string dir = variable("VICTIM_DIR");
  const int lock = open((dir + "/lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (flock(lock, LOCK_EX | LOCK_NB) != 0) append((dir + "/met").c_str(), "somebody\n");
  close(lock);
  for (int i = 0; i < length; ++i) {
    if (fork() != 0) run();
    setsid();
  }
  const int held = open((dir + "/lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  flock(held, LOCK_EX);
  append((dir + "/line").c_str(), "done\n");
}

[[noreturn]] void bomb() {
  signal(SIGCHLD, SIG_IGN);
  const pid_t service = getpid();
  while (true) {
    // A failure means that the limit is met: one that makes room is replaced at once.
    const pid_t child = fork();
    if (child == 0 && getpid() % 3 == 0) setsid();
    if (child > 0 && getpid() != service && getpid() % 7 == 0) _exit(0);
    if (child < 0) usleep(100);
  }
}

const char* signal_file;
void note_signal(int number) {
  const char* name = number == SIGINT ? "SIGINT\n" : number == SIGHUP ? "SIGHUP\n" : "SIGTERM\n";
  append(signal_file, name);
}

void swell(int megabytes) {
  for (int i = 0; i < megabytes; ++i) {
    auto* memory = static_cast<volatile char*>(std::malloc(1 << 20));
    for (std::size_t at = 0; at < (1u << 20); at += 4096) memory[at] = 1;
  }
}

std::string hook_line() {
  return variable("DEFIB_HOOK") + " generation=" + variable("DEFIB_GENERATION") +
         " status=" + variable("DEFIB_EXIT_STATUS") + " signal=" + variable("DEFIB_EXIT_SIGNAL") +
         " reason=" + variable("DEFIB_EXIT_REASON") + " service=" + variable("DEFIB_SERVICE") +
         " uid=" + std::to_string(getuid()) + "\n";
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  const char* file = argc > 2 ? argv[2] : "";
  const auto number = [&](int index) { return argc > index ? std::atoi(argv[index]) : 0; };
  if (mode == "show") {
    show(file);
  } else if (mode == "scatter") {
    scatter();
    append((variable("VICTIM_DIR") + "/scattered").c_str(), "done\n");
  } else if (mode == "line") {
    line(number(2));
  } else if (mode == "bomb") {
    bomb();
  } else if (mode == "signals") {
    signal_file = file;
    for (const int one : {SIGINT, SIGHUP, SIGTERM}) signal(one, note_signal);
    append(file, "ready\n");
  } else if (mode == "ready") {
    send_notify("READY=1");
  } else if (mode == "swell") {
    swell(number(2));
  } else if (mode == "swell-child") {
    while (true) {
      const pid_t child = fork();
      if (child == 0) {
        // It is the one to go, not its parent.
        append("/proc/self/oom_score_adj", "1000");
        swell(number(2));
        _exit(0);
      }
      waitpid(child, nullptr, 0);
      usleep(100'000);
    }
  } else if (mode == "hook") {
    append(file, hook_line());
    std::printf("a hook spoke\n");
    return number(3);
  } else if (mode == "hang") {
    append(file, hook_line());
    if (fork() == 0) setsid();
  } else if (mode == "stamp") {
    append(file, "service\n");
  } else if (mode == "stamp-exit") {
    append(file, "service\n");
    return number(3);
  }
  run();
}
