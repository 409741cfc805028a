// Sockets that outlive the service: what is passed, what is kept, who gives it back.

#include "defib/process/kept_sockets.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include "defib/os/socket.h"
#include "defib/process/supervisor_test_util.h"

namespace defib::process {
namespace {

TEST(SocketSpecs, AreReadWithTheirNames) {
  const auto specs =
      parse_sockets({"tcp:127.0.0.1:8080", "admin=unix:/run/x.sock", "udp:[::1]:53"});
  ASSERT_TRUE(specs) << specs.error().to_text();
  EXPECT_EQ(specs->at(0).name, "socket0");
  EXPECT_EQ(specs->at(1).name, "admin");
  EXPECT_EQ(specs->at(1).path, "/run/x.sock");
  EXPECT_EQ(specs->at(2).type, SOCK_DGRAM);
  EXPECT_EQ(specs->at(2).address.ss_family, AF_INET6);
}

TEST(SocketSpecs, ThatMakeNoSenseAreRefused) {
  for (const char* text :
       {"", "8080", "tcp:8080", "tcp:127.0.0.1", "tcp:127.0.0.1:0", "tcp:127.0.0.1:65536",
        "tcp:localhost:80", "tcp:[::1:80", "unix:relative", "sctp:127.0.0.1:1", "a:b=unix:/x",
        " =unix:/x", "=unix:/x"}) {
    const auto parsed = parse_sockets({text});
    ASSERT_FALSE(parsed) << text;
    EXPECT_EQ(parsed.error().code(), Code::kConfigBadValue) << text;
  }
  EXPECT_FALSE(parse_sockets({"unix:/x", "unix:/x"}));
  EXPECT_FALSE(parse_sockets({"a=unix:/x", "a=unix:/y"}));
  EXPECT_FALSE(parse_sockets(std::vector<std::string>(17, "unix:/x")));
  EXPECT_FALSE(parse_sockets({"unix:/" + std::string(107, 'x')}));
}

class SocketService : public SupervisorTest {
 protected:
  ServiceSpec serving() {
    if (port_ == 0) port_ = *os::free_port();
    ServiceSpec spec = victim({"serve"});
    spec.argv[0] = program("process_agent_victim");
    spec.expects_ready = true;
    spec.sockets = {"web=tcp:127.0.0.1:" + std::to_string(port_), "unix:" + dir_ + "/s"};
    return spec;
  }
  int try_connect(bool tcp) const {
    sockaddr_in inet{};
    inet.sin_family = AF_INET;
    inet.sin_port = htons(port_);
    inet.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    sockaddr_un local{};
    local.sun_family = AF_UNIX;
    (dir_ + "/s").copy(local.sun_path, sizeof local.sun_path - 1);
    const int fd = ::socket(tcp ? AF_INET : AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int failed = tcp ? ::connect(fd, reinterpret_cast<sockaddr*>(&inet), sizeof inet)
                           : ::connect(fd, reinterpret_cast<sockaddr*>(&local), sizeof local);
    if (failed == 0) return fd;
    ::close(fd);
    return -1;
  }
  // Who answers; the connection is made at once, the answer may take until a restart is done.
  pid_t ask(bool tcp = true) {
    const int fd = try_connect(tcp);
    EXPECT_GE(fd, 0) << "the connection was refused";
    char text[32] = {};
    bool answered = false;
    run_until([&] {
      answered = ::recv(fd, text, sizeof text - 1, MSG_DONTWAIT) > 0;
      return answered || fd < 0;
    });
    ::close(fd);
    return std::atoi(text);
  }
  std::uint16_t port_ = 0;
};

TEST_F(SocketService, GetsItsSocketsAndKeepsTheirQueuesOverRestarts) {
  start(serving());
  run_until([&] { return status().ready && status().restart_ready; });
  EXPECT_EQ(ask(true), status().pid);
  EXPECT_EQ(ask(false), status().pid);
  for (int round = 0; round < 3; ++round) {
    const pid_t before = status().pid;
    kill_one(before, SIGKILL);
    const pid_t after = ask(round % 2 == 0);
    EXPECT_NE(after, before);
    run_until([&] { return status().pid == after && status().restart_ready; });
  }
  std::ifstream passed(dir_ + "/sockets");
  for (std::string line; std::getline(passed, line);) EXPECT_EQ(line, "mine 2 web:socket1");
}

TEST_F(SocketService, KeepsThemOverTheDeathsOfShimAndSupervisor) {
  start(serving());
  run_until([&] { return status().ready; });
  const auto restarts_with_sockets = [&] {
    run_until([&] { return status().ready && status().restart_ready; });
    const pid_t before = status().pid;
    EXPECT_EQ(ask(), before);
    kill_one(before, SIGKILL);
    const pid_t after = ask();
    EXPECT_NE(after, before);
    run_until([&] { return status().pid == after && status().ready; });
  };
  kill_shim();
  run_until([&] { return seen_->new_shims.size() == 1; });
  restarts_with_sockets();
  abandon_supervisor();
  make_supervisor();
  ASSERT_TRUE(supervisor_->add(serving()));
  restarts_with_sockets();
  // Both: only the service has them any more.
  const pid_t shim = status().shim_pid;
  const pid_t service = status().pid;
  abandon_supervisor();
  kill_one(shim, SIGKILL);
  ::waitpid(shim, nullptr, 0);
  make_supervisor();
  ASSERT_TRUE(supervisor_->add(serving()));
  EXPECT_EQ(status().pid, service);
  restarts_with_sockets();
}

TEST_F(SocketService, IsNotStartedWhereItsPortIsInUse) {
  const ServiceSpec spec = serving();
  KeptSockets other;
  ASSERT_TRUE(other.open({spec.sockets[0]}, 0));
  make_supervisor();
  ASSERT_TRUE(supervisor_->add(spec));
  const auto started = supervisor_->start("victim");
  ASSERT_FALSE(started);
  EXPECT_EQ(started.error().code(), Code::kAddressInUse);
  EXPECT_EQ(started.error().field("socket"), "tcp:127.0.0.1:" + std::to_string(port_));
  EXPECT_TRUE(seen_->starts.empty());
  ASSERT_TRUE(other.open({}, 0));
  ASSERT_TRUE(supervisor_->start("victim"));
  run_until([&] { return status().ready; });
}

TEST_F(SocketService, GetsBackWhatItStored) {
  ServiceSpec spec = victim({"store", "thing"});
  spec.argv[0] = program("process_agent_victim");
  spec.expects_ready = true;
  start(spec);
  run_until([&] { return status().ready && status().restart_ready; });
  EXPECT_EQ(status().status_text, "found none");
  kill_service(SIGKILL);
  run_until([&] { return status().generation == 2 && status().ready && status().restart_ready; });
  EXPECT_EQ(status().status_text, "found x");
  // It removed it; the third stores anew, and that outlives the shim too.
  kill_service(SIGKILL);
  run_until([&] { return status().generation == 3 && status().ready; });
  EXPECT_EQ(status().status_text, "found none");
  kill_shim();
  run_until([&] { return seen_->new_shims.size() == 1 && status().restart_ready; });
  kill_service(SIGKILL);
  run_until([&] { return status().generation == 4 && status().ready; });
  EXPECT_EQ(status().status_text, "found x");
}

}  // namespace
}  // namespace defib::process
