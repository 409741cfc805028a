#include "defib/postmortem/process_facts.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "defib/os/clock.h"
#include "defib/os/fd.h"
#include "defib/os/process.h"

namespace defib::postmortem {
namespace {

using testing::HasSubstr;

std::int64_t soon() {
  return os::real_clock().mono_ns() + 5'000'000'000;
}

TEST(ProcessFacts, NamesDescriptorsAndTheSocketsBehindThem) {
  const os::Fd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(listener.get(), 1), 0);
  socklen_t size = sizeof address;
  ::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &size);
  const os::Fd file(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));

  const ProcessFacts facts = read_process(::getpid(), "live", soon());
  EXPECT_TRUE(facts.gaps.empty());
  Redactor redactor;
  const wire::Json json = to_json(facts, redactor);
  bool found_socket = false, found_file = false;
  for (const wire::Json& one : json["descriptors"].items()) {
    if (one["fd"].as_int() == listener.get()) {
      found_socket = true;
      EXPECT_EQ(one["socket"]["local"].as_string(),
                "127.0.0.1:" + std::to_string(ntohs(address.sin_port)));
      EXPECT_EQ(one["socket"]["state"].as_string(), "LISTEN");
    }
    if (one["fd"].as_int() == file.get()) {
      found_file = true;
      EXPECT_EQ(one["target"].as_string(), os::process_exe(::getpid()).value());
    }
  }
  EXPECT_TRUE(found_socket && found_file);
  EXPECT_GT(json["limits"].size(), 10U);
  EXPECT_EQ(json["comm"].as_string(), facts.comm);
  EXPECT_THAT(std::string(json["maps"].as_string()), HasSubstr("[stack]"));
}

TEST(ProcessFacts, EndsAtItsDeadlineAndSaysWhatIsMissing) {
  const ProcessFacts facts = read_process(::getpid(), "live", 0);
  EXPECT_TRUE(facts.environment.empty());
  ASSERT_FALSE(facts.gaps.empty());
  EXPECT_THAT(facts.gaps, testing::Contains("environ: there was no time left"));
  EXPECT_THAT(facts.gaps, testing::Contains(HasSubstr("descriptors: cut")));
}

TEST(ProcessFacts, HaveTheCodeAroundAnAddressAlsoAtTheBeginningOfItsMapping) {
  auto* pages = static_cast<char*>(
      ::mmap(nullptr, 2 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(pages, MAP_FAILED);
  ASSERT_EQ(::munmap(pages, 4096), 0);
  pages[4096 + 10] = 'x';
  const auto pc = reinterpret_cast<std::uint64_t>(pages + 4096 + 10);
  const ProcessFacts facts = read_process(::getpid(), "crash", soon(), pc);
  EXPECT_EQ(facts.code_address, pc - 10);
  ASSERT_GT(facts.code.size(), 10U);
  EXPECT_EQ(facts.code[10], 'x');
  ::munmap(pages + 4096, 4096);
}

TEST(ProcessFacts, OfAProcessThatIsGoneSaysSo) {
  const ProcessFacts facts = read_process(1 << 30, "live", soon());
  EXPECT_THAT(facts.gaps, testing::ElementsAre("the process: it was gone"));
}

TEST(SocketTables, AreReadAsTheKernelWritesThem) {
  const auto tcp = parse_socket_table(
      "tcp",
      "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout "
      "inode\n"
      "   0: 0100007F:1F90 0200007F:C001 01 00000010:00000020 00:00000000 00000000  1000        0 "
      "4711 1 0000000000000000\n"
      "   1: garbage\n");
  ASSERT_EQ(tcp.size(), 1U);
  EXPECT_EQ(tcp[0].local, "127.0.0.1:8080");
  EXPECT_EQ(tcp[0].remote, "127.0.0.2:49153");
  EXPECT_EQ(tcp[0].state, "ESTABLISHED");
  EXPECT_EQ(tcp[0].send_queue, 16U);
  EXPECT_EQ(tcp[0].receive_queue, 32U);
  EXPECT_EQ(tcp[0].inode, 4711U);
  const auto six = parse_socket_table(
      "tcp6",
      "   0: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A "
      "00000000:00000000 00:00000000 00000000     0        0 12 1 0\n");
  ASSERT_EQ(six.size(), 1U);
  EXPECT_EQ(six[0].local, "[::1]:80");
  const auto local = parse_socket_table(
      "unix",
      "Num       RefCount Protocol Flags    Type St Inode Path\n"
      "0000000000000000: 00000002 00000000 00010000 0001 01 23 /run/with blank.sock\n");
  ASSERT_EQ(local.size(), 1U);
  EXPECT_EQ(local[0].local, "/run/with blank.sock");
  EXPECT_EQ(local[0].state, "LISTEN");
}

}  // namespace
}  // namespace defib::postmortem
