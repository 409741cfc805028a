#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "defib/base/bytes.h"
#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/postmortem/bundle_archive.h"
#include "defib/postmortem/bundle_code.h"
#include "defib/postmortem/bundle_lines.h"
#include "defib/postmortem/bundle_retention.h"
#include "defib/postmortem/bundle_system.h"
#include "defib/postmortem/bundle_writer.h"
#include "defib/postmortem/kernel_log.h"

namespace defib::postmortem {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

class Bundle : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/defib_bundle_XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    dir_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  std::string path(std::string_view name) const { return os::join_path(dir_, name); }
  std::string read(const std::string& name) const {
    auto text = os::read_file(os::real_files(), path(name));
    return text ? *text : "(missing)";
  }
  static std::int64_t soon() { return os::real_clock().mono_ns() + 60'000'000'000; }
  std::string dir_;
};

TEST_F(Bundle, NamesItsPartsAndWhatIsMissing) {
  auto writer = BundleWriter::create(path("x.bundle/1"), soon());
  ASSERT_TRUE(writer);
  writer->redactor().learn({{"TOKEN", "plantedsecret"}});
  EXPECT_TRUE(writer->add("a.txt", "one plantedsecret\n"));
  EXPECT_TRUE(writer->add_json("b.json", wire::Json::object({{"password", "x"}})));
  writer->missing("c.txt", "plantedsecret: not there");
  writer->set("service", "engine");
  ASSERT_TRUE(writer->finish());
  EXPECT_EQ(read("x.bundle/1/a.txt"), "one [redacted]\n");
  const auto manifest = wire::Json::parse(read("x.bundle/1/manifest.json"));
  ASSERT_TRUE(manifest);
  EXPECT_EQ((*manifest)["redacted"].as_int(), 3);
  ASSERT_EQ((*manifest)["parts"].size(), 2U);
  EXPECT_EQ((*manifest)["parts"].items()[0]["sha256"].as_string(), sha256_hex("one [redacted]\n"));
  EXPECT_EQ((*manifest)["missing"].items()[0]["why"].as_string(), "[redacted]: not there");
  struct stat info;
  ASSERT_EQ(::stat(path("x.bundle/1/a.txt").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0600U);
  ASSERT_EQ(::stat(path("x.bundle/1").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0700U);

  auto again = BundleWriter::reopen(path("x.bundle/1"), soon());
  ASSERT_TRUE(again);
  again->add("c.txt", "now it is");
  again->missing("a.txt", "no reason: it is there");
  ASSERT_TRUE(again->finish());
  const auto after = wire::Json::parse(read("x.bundle/1/manifest.json"));
  EXPECT_EQ((*after)["parts"].size(), 3U);
  EXPECT_EQ((*after)["missing"].size(), 0U);
  EXPECT_EQ((*after)["service"].as_string(), "engine");
}

TEST_F(Bundle, IsBoundedInSizeAndTime) {
  auto writer = BundleWriter::create(path("x.bundle/1"), soon());
  ASSERT_TRUE(writer);
  const std::string line = "0123456789abcde\n";
  std::string text;
  while (text.size() < kMaxPart + 1000) text += line;
  ASSERT_TRUE(writer->add("long.txt", text + "the end\n"));
  const std::string kept = read("x.bundle/1/long.txt");
  EXPECT_LE(kept.size(), kMaxPart);
  EXPECT_TRUE(kept.starts_with("0123"));
  EXPECT_TRUE(kept.ends_with("the end\n"));
  int there = 0;
  for (int i = 0; i < 8; ++i) there += writer->add(fmt::format("{}.txt", i), text) ? 1 : 0;
  ASSERT_TRUE(writer->finish());
  EXPECT_LE((1 + there) * kMaxPart, kMaxBundle);
  const auto manifest = wire::Json::parse(read("x.bundle/1/manifest.json"));
  EXPECT_EQ((*manifest)["missing"].size(), static_cast<std::size_t>(8 - there));
  EXPECT_THAT(std::string((*manifest)["parts"].items()[0]["cut"].as_string()),
              HasSubstr("the last 4 MiB"));

  auto late = BundleWriter::create(path("y.bundle/1"), os::real_clock().mono_ns());
  EXPECT_FALSE(late->add("a.txt", "x"));
  ASSERT_TRUE(late->finish());
  EXPECT_THAT(read("y.bundle/1/manifest.json"), HasSubstr("there was no time left for it"));
}

TEST_F(Bundle, ADiskThatTakesNoMoreIsToldInTheManifest) {
  auto writer = BundleWriter::create(path("x.bundle/1"), soon());
  ASSERT_TRUE(writer);
  // A directory in the way of the part's file.
  ASSERT_EQ(::mkdir(path("x.bundle/1/.a.txt.tmp").c_str(), 0700), 0);
  EXPECT_FALSE(writer->add("a.txt", "x"));
  EXPECT_TRUE(writer->add("b.txt", "x"));
  ASSERT_TRUE(writer->finish());
  const auto manifest = wire::Json::parse(read("x.bundle/1/manifest.json"));
  EXPECT_EQ((*manifest)["missing"].items()[0]["name"].as_string(), "a.txt");
}

TEST_F(Bundle, RetentionRemovesWholeBundlesTheOldestFirst) {
  const auto make = [&](const std::string& id, std::size_t bytes) {
    auto writer = BundleWriter::create(path(id + ".bundle/1"), soon());
    ASSERT_TRUE(writer->add("a.txt", std::string(bytes, 'x')));
    ASSERT_TRUE(writer->finish());
    ASSERT_TRUE(os::write_file_atomically(os::real_files(), path(id + ".jsonl"), "{}\n"));
  };
  const std::string a = "20261101T000000Z-00000a", b = "20261102T000000Z-00000b",
                    c = "20261103T000000Z-00000c", d = "20261104T000000Z-00000d";
  for (const std::string& id : {a, b, c, d}) make(id, 1000);
  ASSERT_EQ(::mkdir(path("mine.bundle").c_str(), 0700), 0);
  const std::int64_t now = os::parse_time("2026-11-04T00:00:10Z");
  BundleRules rules;
  EXPECT_THAT(*apply_retention(dir_, rules, d, now), ElementsAre());
  rules.max_age = std::chrono::hours(49);
  EXPECT_THAT(*apply_retention(dir_, rules, d, now), ElementsAre(a));
  EXPECT_FALSE(os::real_files().exists(path(a + ".bundle")));
  rules.max_count = 2;
  EXPECT_THAT(*apply_retention(dir_, rules, d, now), ElementsAre(b));
  rules.max_total_bytes = 100;
  EXPECT_THAT(*apply_retention(dir_, rules, d, now), ElementsAre(c)) << "the kept one stays";
  EXPECT_TRUE(os::real_files().exists(path(d + ".bundle/1/a.txt")));
  EXPECT_TRUE(os::real_files().exists(path("mine.bundle"))) << "another's name";
  EXPECT_TRUE(os::real_files().exists(path(a + ".jsonl"))) << "incident files stay";
}

TEST_F(Bundle, RetentionFollowsNoLinks) {
  ASSERT_EQ(::mkdir(path("outside").c_str(), 0700), 0);
  ASSERT_TRUE(os::write_file_atomically(os::real_files(), path("outside/precious"), "x"));
  const std::string bundle = path("20260101T000000Z-00000a.bundle");
  ASSERT_EQ(::mkdir(bundle.c_str(), 0700), 0);
  ASSERT_EQ(::symlink(path("outside").c_str(), (bundle + "/1").c_str()), 0);
  ASSERT_TRUE(apply_retention(dir_, {}, "", os::parse_time("2026-11-04T00:00:10Z")));
  EXPECT_FALSE(os::real_files().exists(bundle));
  EXPECT_TRUE(os::real_files().exists(path("outside/precious")));
}

TEST_F(Bundle, TheSameContentIsTheSameArchive) {
  const std::vector<ArchiveEntry> entries = {{"id/b", "two"}, {"id/a", std::string(100'000, 'x')}};
  ASSERT_TRUE(write_archive(path("1.tar.zst"), entries, 1'700'000'000));
  ASSERT_TRUE(write_archive(path("2.tar.zst"), {entries[1], entries[0]}, 1'700'000'000));
  EXPECT_EQ(read("1.tar.zst"), read("2.tar.zst"));
  EXPECT_LT(read("1.tar.zst").size(), 10'000U) << "compressed";
  EXPECT_EQ(read("1.tar.zst").substr(0, 4), "\x28\xb5\x2f\xfd") << "zstd";
  struct stat info;
  ASSERT_EQ(::stat(path("1.tar.zst").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0600U);
  const auto again = write_archive(path("1.tar.zst"), entries, 1);
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code(), Code::kFileExists);
  EXPECT_FALSE(os::real_files().exists(path("1.tar.zst.tmp")));
}

TEST(Disassembly, MarksTheFaultAndFindsTheInstructionsBeforeIt) {
  // mov rax, [rdi+8]; xor eax, eax; mov dword [rax], 1; ret -- behind three bytes of another one.
  const std::string code("\x00\x00\x00\x48\x8b\x47\x08\x31\xc0\xc7\x00\x01\x00\x00\x00\xc3", 16);
  const std::string text = disassemble(Machine::kX86_64, 0x1000, code, 0x1009);
  EXPECT_THAT(text, HasSubstr("=> 0x0000000000001009"));
  EXPECT_THAT(text, HasSubstr("mov dword ptr [rax], 1"));
  EXPECT_THAT(text, HasSubstr("xor eax, eax"));
  EXPECT_THAT(text, HasSubstr("ret"));
  EXPECT_THAT(disassemble(Machine::kX86_64, 0x1000, "\x06\x06", 0x1000), HasSubstr("=>"))
      << "bytes that are no instruction";
  EXPECT_THAT(disassemble(Machine::kX86_64, 0x1000, "ab", 0x9000), Not(HasSubstr("=>")));
  // ldr x0, [x0]; ret
  const std::string arm("\x00\x00\x40\xf9\xc0\x03\x5f\xd6", 8);
  EXPECT_THAT(disassemble(Machine::kAArch64, 0x4000, arm, 0x4004), HasSubstr("ldr x0, [x0]"));
}

TEST(ImportantLines, AreFoundByTheLevelThatTheyName) {
  for (const char* line :
       {"2026-01-01 ERROR x", "level=error msg=x", "[err] x", "panic: x", R"({"level":"fatal"})",
        "E0105 12:00:01.0 7 x.cc:1] x", "Traceback (most recent call last):", "x: Error: y",
        "warn then error"}) {
    EXPECT_EQ(severity_of_line(line), LineSeverity::kError) << line;
  }
  for (const char* line : {"WARN x", "level=warning", "W0105 12:00:01.0 7 x", "[Warning] y"}) {
    EXPECT_EQ(severity_of_line(line), LineSeverity::kWarning) << line;
  }
  for (const char* line : {"", "terror", "info: no errors", "forewarned", "E01 x", "errors=0"}) {
    EXPECT_EQ(severity_of_line(line), LineSeverity::kOther) << line;
  }
  ImportantLines lines;
  for (int i = 0; i < 100; ++i) {
    lines.add(i, "stderr", fmt::format("ERROR e{}.", i));
    lines.add(i, "stdout", fmt::format("WARN w{}.", i));
  }
  const std::string text = lines.to_text();
  EXPECT_THAT(text, HasSubstr("the last 20 errors"));
  EXPECT_THAT(text, HasSubstr("e80."));
  EXPECT_THAT(text, Not(HasSubstr("e79.")));
  EXPECT_THAT(text, HasSubstr("the last 50 warnings"));
  EXPECT_THAT(text, HasSubstr("w50."));
  EXPECT_THAT(text, Not(HasSubstr("w49.")));
}

TEST(KernelMessages, RecordsAreReadAsTheKernelWritesThem) {
  std::int64_t at = 0;
  std::string text;
  ASSERT_TRUE(parse_kernel_record("6,339,5140900,-;x: y; z\n SUBSYSTEM=a\n", at, text));
  EXPECT_EQ(at, 5140900);
  EXPECT_EQ(text, "x: y; z");
  EXPECT_FALSE(parse_kernel_record("no record", at, text));
  EXPECT_FALSE(parse_kernel_record("6,1;x", at, text));
  EXPECT_FALSE(parse_kernel_record("6,1,99999999999999999999,-;x", at, text));
}

TEST(ProcessList, PutsTheServiceFirst) {
  const ProcessList list = processes_json({::getpid()});
  const auto& rows = list.document["processes"].items();
  ASSERT_GE(rows.size(), 2U);
  EXPECT_EQ(rows[0]["pid"].as_int(), ::getpid());
  EXPECT_TRUE(rows[0]["of_service"].as_bool());
  EXPECT_EQ(rows[0]["parent"].as_int(), ::getppid());
  EXPECT_GT(rows[0]["rss_bytes"].as_int(), 1 << 20);
}

}  // namespace
}  // namespace defib::postmortem
