// Core files as they come: cut off, damaged, sparse and huge, of another machine. Each gives what
// it holds and says what it lacks, and none makes the reader wait.

#include "defib/postmortem/core.h"

#include <elf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

#include "defib/base/bytes.h"
#include "defib/os/clock.h"
#include "defib/os/fd.h"
#include "defib/os/files.h"
#include "defib/os/process.h"
#include "defib/postmortem/collect.h"
#include "defib/postmortem/report.h"

namespace defib::postmortem {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

constexpr std::uint64_t kStackStart = 0x7ffff0000000, kStackBytes = 8192;
constexpr std::uint64_t kCodeStart = 0x400000, kCodeBytes = 4096;

template <typename T>
void put(std::string& bytes, std::size_t at, T value) {
  if (bytes.size() < at + sizeof value) bytes.resize(at + sizeof value);
  std::memcpy(bytes.data() + at, &value, sizeof value);
}

std::string note(std::uint32_t type, std::string value) {
  std::string bytes;
  put<std::uint32_t>(bytes, 0, 5);
  put<std::uint32_t>(bytes, 4, static_cast<std::uint32_t>(value.size()));
  put<std::uint32_t>(bytes, 8, type);
  bytes += std::string("CORE\0\0\0\0", 8);
  value.resize((value.size() + 3) / 4 * 4);
  return bytes + value;
}

std::string thread_note(std::uint16_t machine, std::int32_t tid, std::int32_t signal) {
  const bool arm = machine == EM_AARCH64;
  std::string status(112 + (arm ? 34 : 27) * 8 + 8, '\0');
  put<std::int32_t>(status, 0, signal);
  put<std::int16_t>(status, 12, SIGSEGV);
  put<std::int32_t>(status, 32, tid);
  // user_regs_struct: rip 16, rsp 19; user_pt_regs: x0.. 31 sp, 32 pc.
  put<std::uint64_t>(status, 112 + (arm ? 32 : 16) * 8, kCodeStart + 0x10);
  put<std::uint64_t>(status, 112 + (arm ? 31 : 19) * 8, kStackStart + 0x100);
  put<std::uint64_t>(status, 112 + (arm ? 5 : 5) * 8, 0xabcd);  // x5, or rbx
  return note(NT_PRSTATUS, status);
}

std::string signal_note(std::int32_t signal, std::int32_t code, std::uint64_t address) {
  std::string info(24, '\0');
  put<std::int32_t>(info, 0, signal);
  put<std::int32_t>(info, 8, code);
  put<std::uint64_t>(info, 16, address);
  return note(NT_SIGINFO, info);
}

// A core with one thread at kCodeStart + 0x10, whose program is mapped from `exe`.
struct CoreShape {
  std::uint16_t machine = EM_X86_64;
  std::string exe = "/srv/engine";
  std::string code = std::string(kCodeBytes, '\x90');
  std::uint64_t stack_at = 0;  // in the file; 0: behind the code
  std::string threads = {};    // their notes; empty: of one that crashed
};
std::string make_core(const CoreShape& shape) {
  std::string info(136, '\0');
  put<std::int32_t>(info, 24, 4711);
  info.replace(40, 6, "engine");
  std::string files;
  put<std::uint64_t>(files, 0, 1);
  put<std::uint64_t>(files, 8, 4096);
  put<std::uint64_t>(files, 16, kCodeStart);
  put<std::uint64_t>(files, 24, kCodeStart + kCodeBytes);
  put<std::uint64_t>(files, 32, 0);
  files += shape.exe + '\0';
  std::string auxv;
  put<std::uint64_t>(auxv, 0, AT_ENTRY);
  put<std::uint64_t>(auxv, 8, kCodeStart);
  const std::string threads = shape.threads.empty() ? thread_note(shape.machine, 4711, SIGSEGV) +
                                                          signal_note(SIGSEGV, SEGV_MAPERR, 8)
                                                    : shape.threads;
  const std::string notes =
      threads + note(NT_PRPSINFO, info) + note(NT_FILE, files) + note(NT_AUXV, auxv);
  constexpr std::size_t kTable = sizeof(Elf64_Ehdr), kNotes = kTable + 3 * sizeof(Elf64_Phdr);
  const std::uint64_t code_at = (kNotes + notes.size() + 4095) / 4096 * 4096;
  const std::uint64_t stack_at = shape.stack_at != 0 ? shape.stack_at : code_at + kCodeBytes;
  Elf64_Ehdr head{};
  std::memcpy(head.e_ident, ELFMAG, SELFMAG);
  head.e_ident[EI_CLASS] = ELFCLASS64;
  head.e_ident[EI_DATA] = ELFDATA2LSB;
  head.e_type = ET_CORE;
  head.e_machine = shape.machine;
  head.e_phoff = kTable;
  head.e_phentsize = sizeof(Elf64_Phdr);
  head.e_phnum = 3;
  const Elf64_Phdr segments[] = {
      {PT_NOTE, 0, kNotes, 0, 0, notes.size(), 0, 4},
      {PT_LOAD, PF_R | PF_X, code_at, kCodeStart, 0, kCodeBytes, kCodeBytes, 4096},
      {PT_LOAD, PF_R | PF_W, stack_at, kStackStart, 0, kStackBytes, kStackBytes, 4096}};
  std::string core(code_at, '\0');
  std::memcpy(core.data(), &head, sizeof head);
  std::memcpy(core.data() + kTable, segments, sizeof segments);
  std::memcpy(core.data() + kNotes, notes.data(), notes.size());
  core += shape.code;
  if (shape.stack_at == 0) core += std::string(kStackBytes, '\0');
  return core;
}

class AnyCore : public ::testing::Test {
 protected:
  AnyCore() {
    char name[] = "/tmp/core-XXXXXX";
    dir_ = mkdtemp(name);
  }
  ~AnyCore() override { (void)os::run_command({"rm", "-r", dir_}, 5000); }
  std::string write(const std::string& bytes, const std::string& name = "core") {
    const std::string path = os::join_path(dir_, name);
    const os::Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0700));
    EXPECT_EQ(::write(fd.get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
    return path;
  }
  std::string dir_;
};

TEST_F(AnyCore, OfThisMachineIsWhole) {
  const auto snapshot = read_core(write(make_core({})));
  ASSERT_TRUE(snapshot) << snapshot.error().to_text();
  ASSERT_EQ(snapshot->threads.size(), 1U);
  EXPECT_EQ(snapshot->threads[0].registers.pc(), kCodeStart + 0x10);
  EXPECT_EQ(snapshot->exe, "/srv/engine");
  EXPECT_EQ(snapshot->comm, "engine");
  EXPECT_THAT(snapshot->gaps, Contains(HasSubstr("/srv/engine: not readable")));
  EXPECT_EQ(snapshot->gaps.size(), 1U);
}

// What gdb writes: each thread's siginfo, and no signal but the current one. The one that crashed
// need not be the first.
TEST_F(AnyCore, OfADebuggerNamesTheThreadThatCrashed) {
  CoreShape shape;
  const auto thread = [](std::int32_t tid) { return thread_note(EM_X86_64, tid, 0); };
  shape.threads = thread(1) + signal_note(SIGSTOP, SI_TKILL, 0) + thread(2) +
                  signal_note(SIGSEGV, SEGV_MAPERR, 8) + thread(3) +
                  signal_note(SIGSTOP, SI_TKILL, 0);
  const auto snapshot = read_core(write(make_core(shape)));
  ASSERT_TRUE(snapshot) << snapshot.error().to_text();
  ASSERT_EQ(snapshot->threads.size(), 3U);
  EXPECT_EQ(snapshot->threads[0].tid, 2);
  EXPECT_TRUE(snapshot->threads[0].crashed);
  EXPECT_FALSE(snapshot->threads[1].crashed || snapshot->threads[2].crashed);
  EXPECT_EQ(snapshot->signal.signal, SIGSEGV);
  EXPECT_EQ(snapshot->signal.fault_address, 8U);
}

// It has stopped the process, which did not crash.
TEST_F(AnyCore, OfADebuggersStopIsOfALivingProcess) {
  CoreShape shape;
  std::string status = thread_note(EM_X86_64, 1, 0);
  put<std::int16_t>(status, 20 + 12, SIGTRAP);  // behind the note's own head
  shape.threads = status + signal_note(SIGTRAP, TRAP_BRKPT, 0);
  const auto snapshot = read_core(write(make_core(shape)));
  ASSERT_TRUE(snapshot) << snapshot.error().to_text();
  EXPECT_FALSE(snapshot->threads.at(0).crashed);
  EXPECT_EQ(snapshot->signal.signal, 0);
}

TEST_F(AnyCore, OfAnotherMachineGivesRegistersAndMapsAndSaysWhatItNeeds) {
  auto snapshot = read_core(write(make_core({EM_AARCH64})));
  ASSERT_TRUE(snapshot) << snapshot.error().to_text();
  ASSERT_EQ(snapshot->threads.size(), 1U);
  const Registers& registers = snapshot->threads[0].registers;
  EXPECT_EQ(registers.machine, Machine::kAArch64);
  EXPECT_EQ(registers.pc(), kCodeStart + 0x10);
  EXPECT_EQ(registers.sp(), kStackStart + 0x100);
  EXPECT_EQ(registers.values[5], 0xabcdU);
  EXPECT_EQ(registers.name(5), "x5");
  EXPECT_EQ(snapshot->maps.size(), 2U);
  EXPECT_THAT(snapshot->gaps, Contains(HasSubstr("another machine (AArch64)")));
  const Report report = make_report(std::move(*snapshot), {});
  EXPECT_EQ(report.classification.cause, Cause::null_dereference);
  ASSERT_FALSE(report.threads.at(0).frames.empty());
  EXPECT_EQ(report.threads[0].frames[0].pc, kCodeStart + 0x10);
  EXPECT_THAT(to_text(report), HasSubstr("AArch64"));
}

TEST_F(AnyCore, OfAnUnknownMachineIsRefusedWithItsNumber) {
  const auto snapshot = read_core(write(make_core({EM_RISCV})));
  ASSERT_FALSE(snapshot);
  EXPECT_THAT(snapshot.error().message(), HasSubstr("unknown machine (243)"));
}

TEST_F(AnyCore, CutOffAnywhereGivesWhatIsThere) {
  const std::string whole = make_core({});
  std::size_t read = 0;
  for (std::size_t size = 0; size < whole.size(); size += size < 2048 ? 7 : 509) {
    const auto snapshot = read_core(write(whole.substr(0, size)));
    if (!snapshot) {
      EXPECT_EQ(snapshot.error().code(), Code::kCoreUnreadable);
      continue;
    }
    ++read;
    EXPECT_THAT(snapshot->gaps, Contains(HasSubstr("cut off"))) << size;
    EXPECT_FALSE(snapshot->threads.empty());
  }
  EXPECT_GT(read, 10U);  // the notes come first
}

// Each byte of the heads and notes changed once; that there is an answer is the test.
TEST_F(AnyCore, DamagedAnywhereEnds) {
  const std::string whole = make_core({});
  const std::int64_t began = os::real_clock().mono_ns();
  for (std::size_t at = 0; at < 1500; at += 3) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ (at % 2 == 0 ? 0xff : 0x80));
    auto snapshot = read_core(write(damaged));
    if (snapshot) make_report(std::move(*snapshot), {});
  }
  EXPECT_LT(os::real_clock().mono_ns() - began, 60'000'000'000);
}

TEST_F(AnyCore, OfFiveHundredGigabytesIsReadAsFastAsASmallOne) {
  CoreShape shape;
  shape.stack_at = 500ULL << 30;
  const std::string path = write(make_core(shape));
  ASSERT_EQ(::truncate(path.c_str(), static_cast<off_t>(shape.stack_at + kStackBytes)), 0);
  const std::int64_t began = os::real_clock().mono_ns();
  const auto snapshot = read_core(path);
  ASSERT_TRUE(snapshot) << snapshot.error().to_text();
  EXPECT_EQ(snapshot->threads[0].registers.pc(), kCodeStart + 0x10);
  EXPECT_EQ(snapshot->memory.read_u64(kStackStart + 0x100), 0U);
  EXPECT_LT(os::real_clock().mono_ns() - began, 5'000'000'000);
}

TEST_F(AnyCore, ThatIsAPipeIsRefusedAtOnce) {
  const std::string path = os::join_path(dir_, "pipe");
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  const auto snapshot = read_core(path);
  ASSERT_FALSE(snapshot);
  EXPECT_THAT(snapshot.error().message(), HasSubstr("not a regular file"));
}

// The head of our own program, with its build id, as the core has it in memory.
TEST_F(AnyCore, TakesFilesFromTheOtherMachinesRootAlone) {
  const auto own = os::process_exe(::getpid());
  ASSERT_TRUE(own);
  auto text = os::read_file(os::real_files(), *own, 1ULL << 30);
  ASSERT_TRUE(text);
  CoreShape shape;
  shape.code = text->substr(0, kCodeBytes);
  shape.exe = "/opt/engine";
  const std::string core = write(make_core(shape));
  ASSERT_EQ(::mkdir(os::join_path(dir_, "root").c_str(), 0700), 0);
  ASSERT_EQ(::mkdir(os::join_path(dir_, "root/opt").c_str(), 0700), 0);
  const std::string root = os::join_path(dir_, "root");

  auto snapshot = read_core(core, {{}, root});
  ASSERT_TRUE(snapshot);
  EXPECT_THAT(snapshot->gaps, Contains(HasSubstr("/opt/engine: not readable under " + root)));

  // A link in it leads nowhere but into it.
  ASSERT_EQ(::symlink(own->c_str(), os::join_path(root, "opt/engine").c_str()), 0);
  snapshot = read_core(core, {{}, root});
  ASSERT_TRUE(snapshot);
  EXPECT_FALSE(snapshot->modules.at(0).file.valid());

  ASSERT_EQ(::unlink(os::join_path(root, "opt/engine").c_str()), 0);
  write(*text, "root/opt/engine");
  snapshot = read_core(core, {{}, root});
  ASSERT_TRUE(snapshot);
  EXPECT_FALSE(snapshot->modules.at(0).build_id.empty());
  EXPECT_TRUE(snapshot->modules.at(0).file.valid());
  EXPECT_TRUE(snapshot->gaps.empty()) << snapshot->gaps.front();

  const os::Fd built(::open(own->c_str(), O_RDONLY | O_CLOEXEC));
  const std::string build_id = build_id_in_file(built.get());
  std::string other = *text, bytes;
  ASSERT_TRUE(from_hex(build_id, bytes));
  const std::size_t at = other.find(bytes);
  ASSERT_LT(at, kCodeBytes);
  other[at] = static_cast<char>(other[at] ^ 1);
  write(other, "root/opt/engine");
  snapshot = read_core(core, {{}, root});
  ASSERT_TRUE(snapshot);
  EXPECT_FALSE(snapshot->modules.at(0).file.valid());
  EXPECT_THAT(snapshot->gaps, Contains(HasSubstr("is another build")));
  EXPECT_THAT(snapshot->gaps, Contains(HasSubstr(build_id)));
}

}  // namespace
}  // namespace defib::postmortem
