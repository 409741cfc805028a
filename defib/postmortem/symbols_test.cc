// Names, files and lines: from debug files, from kept tables, of stripped and deleted programs, and
// never from a wrong file; and what is left where reading them fails.

#include <elf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "defib/base/bytes.h"
#include "defib/os/files.h"
#include "defib/os/process.h"
#include "defib/postmortem/debug_files.h"
#include "defib/postmortem/guarded.h"
#include "defib/postmortem/report.h"
#include "defib/postmortem/symbol_cache.h"
#include "defib/postmortem/symbolize.h"
#include "defib/postmortem/symbolizer.h"
#include "defib/postmortem/symbols_test_util.h"
#include "defib/postmortem/unwind.h"

namespace defib::postmortem {
namespace {

using ::testing::AnyOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

// Of the crashed thread: where the others are at that moment differs from run to run.
std::string text_of(const wire::Json& threads) {
  std::string text;
  for (const wire::Json& thread : threads.items()) {
    if (!thread["crashed"].as_bool()) continue;
    text += fmt::format("thread {}{}\n", thread["crashed"].as_bool(),
                        thread["unwind_error"].as_string());
    for (const wire::Json& frame : thread["frames"].items()) {
      text += fmt::format("  {} {} {} {} {} {} {}\n", frame["kind"].as_string(),
                          frame["offset"].as_string(), frame["function"].as_string(),
                          frame["file"].as_string(), frame["line"].as_int(),
                          frame["inlined"].as_bool(), frame["build_id"].as_string());
    }
  }
  return text;
}

class DebugFiles : public InDirectory {};

TEST_F(DebugFiles, AreFoundByBuildId) {
  const std::string id = id_of(victim_path("null_dereference"));
  ASSERT_GE(id.size(), 8U);
  const std::string program =
      split("null_dereference",
            at(fmt::format("store/.build-id/{}/{}.debug", id.substr(0, 2), id.substr(2))));
  expect_nameless(unwound(program));
  SymbolOptions options;
  options.debug_dirs = {at("store")};
  const Unwound result = unwound(program, options);
  expect_named(result);
  EXPECT_THAT(result.gaps, IsEmpty());
  // The machine's own place is asked too; here it lies under another root.
  std::filesystem::create_directories(at("root/usr/lib"));
  std::filesystem::rename(at("store"), at("root/usr/lib/debug"));
  SymbolOptions rooted;
  rooted.sysroot = at("root");
  expect_named(unwound(program, rooted));
}

TEST_F(DebugFiles, AreFoundByDebugLinkBesideTheProgramAndInDotDebug) {
  const std::string program = split("null_dereference", at("program.sym"));
  tool({"objcopy", "--add-gnu-debuglink=" + at("program.sym"), program});
  expect_named(unwound(program));
  std::filesystem::create_directory(at(".debug"));
  std::filesystem::rename(at("program.sym"), at(".debug/program.sym"));
  expect_named(unwound(program));
  std::filesystem::remove(at(".debug/program.sym"));
  expect_nameless(unwound(program));
}

// As they lie where a program was stripped: `objcopy --only-keep-debug x x.debug && strip x`.
TEST_F(DebugFiles, AreFoundBesideACopyOfTheStrippedProgram) {
  const std::string program = split("null_dereference", at("kept/program.debug"));
  std::filesystem::copy_file(program, at("kept/program"));
  SymbolOptions options;
  options.debug_dirs = {at("kept")};
  const Unwound result = unwound(program, options);
  expect_named(result);
  EXPECT_THAT(result.gaps, IsEmpty());
  // Of two that have names the whole program is as good.
  std::filesystem::copy_file(victim_path("null_dereference"), at("kept/program"),
                             std::filesystem::copy_options::overwrite_existing);
  expect_named(unwound(program, options));
}

TEST_F(DebugFiles, OfAProgramWithoutBuildIdAreCheckedByTheLinksChecksum) {
  const std::string program = at("program");
  std::filesystem::copy_file(victim_path("null_dereference"), program);
  tool({"objcopy", "--remove-section=.note.gnu.build-id", program});
  tool({"objcopy", "--only-keep-debug", program, at("program.sym")});
  tool({"strip", program});
  tool({"objcopy", "--add-gnu-debuglink=" + at("program.sym"), program});
  expect_named(unwound(program));
  std::ofstream(at("program.sym"), std::ios::app) << "x";
  const Unwound result = unwound(program);
  expect_nameless(result);
  EXPECT_THAT(result.gaps, Contains(HasSubstr("its checksum is not the one")));
}

TEST_F(DebugFiles, OfAnotherBuildAreRefusedAndTheReportSaysSo) {
  const std::string id = id_of(victim_path("null_dereference"));
  const std::string place =
      at(fmt::format("store/.build-id/{}/{}.debug", id.substr(0, 2), id.substr(2)));
  const std::string program = split("null_dereference", place);
  std::filesystem::remove(place);
  tool({"objcopy", "--only-keep-debug", victim_path("wild_pointer"), place});
  SymbolOptions options;
  options.debug_dirs = {at("store")};
  const Unwound result = unwound(program, options);
  expect_nameless(result);
  EXPECT_THAT(result.gaps,
              Contains(AllOf(HasSubstr(place), HasSubstr("its build id is " + id_of(place)))));
  RunningVictim victim(program);
  auto snapshot = victim.capture();
  ASSERT_TRUE(snapshot);
  const wire::Json json = to_json(make_report(std::move(*snapshot), {}, options));
  EXPECT_THAT(json["gaps"].dump(), HasSubstr("not used for names"));
}

TEST_F(DebugFiles, SymbolsInsideTheProgramAreRead) {
  // "minidebuginfo": a compressed symbol table in a section of the stripped program.
  const std::string program = split("null_dereference", at("program.sym"));
  tool({"objcopy", "--strip-debug", victim_path("null_dereference"), at("mini")});
  if (!os::run_command({"xz", "--version"}, kToolTimeoutMs)) GTEST_SKIP() << "xz is not there";
  tool({"xz", at("mini")});
  tool({"objcopy", "--add-section", ".gnu_debugdata=" + at("mini.xz"), program});
  std::filesystem::remove(at("program.sym"));
  const Frame frame = crashed_stack(unwound(program).stacks).frames.at(0);
  EXPECT_THAT(frame.function, HasSubstr("fill_order"));
  EXPECT_EQ(frame.line, 0);
}

TEST_F(DebugFiles, ADeletedProgramIsReadThroughItsDescriptor) {
  const std::string program = at("program");
  std::filesystem::copy_file(victim_path("null_dereference"), program);
  RunningVictim victim(program);
  ASSERT_TRUE(victim.wait_for_crash());
  std::filesystem::remove(program);
  // Another one has taken its name meanwhile, as after an upgrade.
  std::filesystem::copy_file(victim_path("wild_pointer"), program);
  const auto snapshot = victim.capture();
  ASSERT_TRUE(snapshot);
  expect_named(unwind(*snapshot));
}

TEST(Frames, OfCodeThatNoModuleHoldsAreMarkedAndWalkedOver) {
  RunningVictim victim(victim_path("jit_frame"));
  const auto snapshot = victim.capture();
  ASSERT_TRUE(snapshot);
  const Unwound result = unwind(*snapshot);
  SCOPED_TRACE(text_of(result.stacks));
  const auto& frames = crashed_stack(result.stacks).frames;
  ASSERT_GE(frames.size(), 4U);
  EXPECT_THAT(frames[0].function, HasSubstr("price_quote"));
  EXPECT_EQ(frames[0].kind, FrameKind::kModule);
  EXPECT_EQ(frames[1].kind, FrameKind::kJit);
  EXPECT_EQ(frames[1].module, "");
  EXPECT_EQ(frames[1].function, "");
  EXPECT_THAT(frames[2].function, HasSubstr("run_strategy"));
  EXPECT_EQ(frames[2].line, marked_line("jit_frame", "// call"));
  EXPECT_EQ(frames[3].function, "main");
}

TEST(Frames, OfASignalHandlersReturnAreMarkedAndTheInterruptedFunctionFollows) {
  RunningVictim victim(victim_path("in_signal_handler"));
  const auto snapshot = victim.capture();
  ASSERT_TRUE(snapshot);
  const Unwound result = unwind(*snapshot);
  SCOPED_TRACE(text_of(result.stacks));
  const auto& frames = crashed_stack(result.stacks).frames;
  ASSERT_GE(frames.size(), 4U);
  EXPECT_THAT(frames[0].function, HasSubstr("count_trade"));
  EXPECT_EQ(frames[1].kind, FrameKind::kSignal);
  EXPECT_TRUE(std::ranges::any_of(frames, [](const Frame& frame) {
    return frame.function.find("match_orders") != std::string::npos;
  }));
  EXPECT_EQ(std::ranges::count(frames, FrameKind::kSignal, &Frame::kind), 1);
}

TEST(Frames, OfAJumpIntoNowhereAreMarkedAndTheCallerFollows) {
  RunningVictim victim(victim_path("null_call"));
  const auto snapshot = victim.capture();
  ASSERT_TRUE(snapshot);
  const Unwound result = unwind(*snapshot);
  SCOPED_TRACE(text_of(result.stacks));
  const auto& frames = crashed_stack(result.stacks).frames;
  ASSERT_GE(frames.size(), 2U);
  EXPECT_EQ(frames[0].kind, FrameKind::kUnknown);
  EXPECT_THAT(frames[1].function, HasSubstr("notify_listener"));
  EXPECT_EQ(frames[1].line, marked_line("null_call"));
}

TEST(Frames, HaveKindAndBuildIdInTheReport) {
  RunningVictim victim(victim_path("jit_frame"));
  auto snapshot = victim.capture();
  ASSERT_TRUE(snapshot);
  const wire::Json json = to_json(make_report(std::move(*snapshot), {}));
  const auto& frames = json["threads"].items().at(0)["frames"].items();
  EXPECT_EQ(frames.at(0)["kind"].as_string(), "module");
  EXPECT_EQ(frames.at(1)["kind"].as_string(), "jit");
  EXPECT_EQ(frames.at(1)["build_id"].as_string(), "");
  EXPECT_EQ(frames.at(0)["build_id"].as_string().size(), 40U);
  for (const FrameKind kind : {FrameKind::kModule, FrameKind::kVdso, FrameKind::kSignal,
                               FrameKind::kJit, FrameKind::kData, FrameKind::kUnknown}) {
    EXPECT_EQ(frame_kind_from(to_string(kind)), kind);
  }
  EXPECT_EQ(frame_kind_from("x"), FrameKind::kUnknown);
}

TEST(Frames, OfGlibcHaveTheirUsualNamesForTheVerdict) {
  ThreadStack stack;
  stack.crashed = true;
  stack.frames.resize(2);
  stack.frames[0].function = "__GI___libc_free";
  stack.frames[1].function = "main";
  EXPECT_THAT(facts_from(Snapshot(), {stack}).top_functions,
              ::testing::ElementsAre("__libc_free", "main"));
}

class Symbolize : public InDirectory {};

TEST_F(Symbolize, OfAStrippedProgramsReportGivesThatOfTheWholeOne) {
  for (const std::string victim : {"null_dereference", "inlined", "in_signal_handler"}) {
    SCOPED_TRACE(victim);
    const std::string program = split(victim, at("kept/program.debug"));
    RunningVictim stripped(program);
    auto bare = stripped.capture();
    RunningVictim whole(victim_path(victim));
    auto named = whole.capture();
    ASSERT_TRUE(bare && named);
    const wire::Json without = to_json(make_report(std::move(*bare), {}));
    const wire::Json with = to_json(make_report(std::move(*named), {}));
    ASSERT_NE(text_of(without["threads"]), text_of(with["threads"]));
    SymbolOptions options;
    options.debug_dirs = {at("kept")};
    const auto later = symbolize_report(without, options);
    ASSERT_TRUE(later) << later.error().to_text();
    EXPECT_EQ(text_of((*later)["threads"]), text_of(with["threads"]));
    EXPECT_EQ((*later)["gaps"], without["gaps"]);
    // Elsewhere: the program is not there, only what was split off it.
    std::filesystem::remove(program);
    options.sysroot = "/nonexistent";
    const auto elsewhere = symbolize_report(without, options);
    ASSERT_TRUE(elsewhere);
    const auto& frame = (*elsewhere)["threads"].items()[0]["frames"].items()[0];
    EXPECT_EQ(frame, (*later)["threads"].items()[0]["frames"].items()[0]);
    std::filesystem::remove_all(at("kept"));
  }
}

TEST_F(Symbolize, ChecksTheBuildIdOfWhatItFinds) {
  const std::string program = split("null_dereference", at("unused/program.debug"));
  RunningVictim stripped(program);
  auto bare = stripped.capture();
  ASSERT_TRUE(bare);
  const wire::Json without = to_json(make_report(std::move(*bare), {}));
  std::filesystem::create_directory(at("kept"));
  std::filesystem::copy_file(victim_path("wild_pointer"), at("kept/program"));
  SymbolOptions options;
  options.debug_dirs = {at("kept")};
  const auto later = symbolize_report(without, options);
  ASSERT_TRUE(later);
  EXPECT_EQ(text_of((*later)["threads"]), text_of(without["threads"]));
  EXPECT_THAT((*later)["gaps"].dump(), HasSubstr("kept/program: not used for names"));
}

TEST_F(Symbolize, AnIncidentHasNoModulesAndFramesTellTheirBuildId) {
  const std::string program = split("null_dereference", at("kept/program.debug"));
  RunningVictim stripped(program);
  auto bare = stripped.capture();
  ASSERT_TRUE(bare);
  const wire::Json report = to_json(make_report(std::move(*bare), {}));
  const wire::Json incident = wire::Json::object({{"id", "x"}, {"threads", report["threads"]}});
  SymbolOptions options;
  options.debug_dirs = {at("kept")};
  const auto later = symbolize_report(incident, options);
  ASSERT_TRUE(later);
  EXPECT_THAT((*later)["threads"].dump(), HasSubstr("null_dereference.cc"));
  EXPECT_EQ(symbolize_report(wire::Json::object(), options).error().code(), Code::kInvalidArgument);
}

TEST_F(Symbolize, LinesNameModuleOffsetAndPerhapsABuildId) {
  const std::string id = id_of(victim_path("null_dereference"));
  const auto queries = parse_queries(fmt::format(
      "\n{0}+0x11\n/a b0 12\t\n  {0} {1} 0x11 \n{0} - 11\n", victim_path("null_dereference"), id));
  ASSERT_TRUE(queries) << queries.error().to_text();
  ASSERT_EQ(queries->size(), 4U);
  EXPECT_EQ(queries->at(0).offset, 0x11U);
  EXPECT_EQ(queries->at(1).build_id, "b0");
  EXPECT_EQ(queries->at(1).offset, 0x12U);
  EXPECT_EQ(queries->at(2).build_id, id);
  EXPECT_EQ(queries->at(3).build_id, "");
  for (const std::string text : {"x", "x+", "+1", "x+0x", "a b z", "a b 1 2", "x+g"}) {
    EXPECT_EQ(parse_queries("ok+1\n" + text).error().field("line"), "2") << text;
  }
}

TEST_F(Symbolize, AnAddressIsAnsweredAndAWrongBuildIdIsNot) {
  RunningVictim victim(victim_path("inlined"));
  const auto snapshot = victim.capture();
  ASSERT_TRUE(snapshot);
  const Unwound live = unwind(*snapshot);
  const Frame& frame = crashed_stack(live.stacks).frames.at(0);
  const std::string other = id_of(victim_path("wild_pointer"));
  const Symbolized result = symbolize({{frame.module, frame.build_id, frame.offset},
                                       {frame.module, "", frame.offset},
                                       {frame.module, other, frame.offset},
                                       {"/nonexistent", "", 1}},
                                      {});
  ASSERT_EQ(result.answers.size(), 4U);
  ASSERT_EQ(result.answers[0].size(), 3U);
  EXPECT_THAT(result.answers[0][0].function, HasSubstr("set_quantity"));
  EXPECT_EQ(result.answers[0][0].line, marked_line("inlined"));
  EXPECT_TRUE(result.answers[0][0].inlined);
  EXPECT_FALSE(result.answers[0][2].inlined);
  EXPECT_EQ(result.answers[1], result.answers[0]);
  EXPECT_THAT(result.answers[2], IsEmpty());
  EXPECT_THAT(result.answers[3], IsEmpty());
  EXPECT_THAT(result.gaps, Contains(HasSubstr("and that of the module " + frame.module)));
  EXPECT_THAT(result.gaps, Contains(HasSubstr("/nonexistent: no file of it was found")));
}

SymbolTableBuilder small_table() {
  SymbolTableBuilder builder;
  builder.add(0, {});
  builder.add(16, {{"inner", "/a.cc", 3, true}, {"outer", "/b.cc", 7, false}});
  builder.add(20, {{"inner", "/a.cc", 3, true}, {"outer", "/b.cc", 7, false}});
  builder.add(24, {{"outer", "/b.cc", 8, false}});
  builder.add(40, {});
  return builder;
}

TEST(SymbolTable, AnswersWithTheRangeThatAnAddressLiesIn) {
  const std::string bytes = small_table().finish("key", true, 1 << 20);
  const auto table = SymbolTable::open(bytes, "key");
  ASSERT_TRUE(table);
  EXPECT_TRUE(table->has_lines());
  EXPECT_THAT(table->find(15), IsEmpty());
  ASSERT_EQ(table->find(16).size(), 2U);
  EXPECT_EQ(table->find(16)[0], (Location{"inner", "/a.cc", 3, true}));
  EXPECT_EQ(table->find(23)[1], (Location{"outer", "/b.cc", 7, false}));
  EXPECT_EQ(table->find(39)[0], (Location{"outer", "/b.cc", 8, false}));
  EXPECT_THAT(table->find(40), IsEmpty());
  EXPECT_THAT(table->find(UINT64_MAX), IsEmpty());
  EXPECT_EQ(small_table().finish("key", true, 16), "");
}

TEST(SymbolTable, IsRefusedWithAnyByteWrongCutOrOfAnotherFile) {
  const std::string bytes = small_table().finish("key", true, 1 << 20);
  EXPECT_FALSE(SymbolTable::open(bytes, "kex"));
  EXPECT_FALSE(SymbolTable::open(bytes + "x", "key"));
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    std::string flipped = bytes;
    flipped[i] = static_cast<char>(flipped[i] ^ 0x10);
    EXPECT_FALSE(SymbolTable::open(flipped, "key")) << i;
    EXPECT_FALSE(SymbolTable::open(bytes.substr(0, i), "key")) << i;
  }
}

TEST(SymbolTable, WithHostileContentAndARightChecksumStillEnds) {
  const std::string good = small_table().finish("key", true, 1 << 20);
  constexpr std::size_t kBody = 40;
  for (std::size_t i = kBody; i + 4 <= good.size(); ++i) {
    for (const std::uint32_t value : {0U, 1U, 0x7fffffffU, UINT32_MAX}) {
      std::string bytes = good;
      store_value(bytes.data() + i, value);
      store_value(bytes.data() + 12, crc32c(std::string_view(bytes).substr(16)));
      const auto table = SymbolTable::open(bytes, "key");
      if (!table) continue;  // The key was hit.
      for (std::uint64_t offset = 0; offset < 48; ++offset) {
        EXPECT_LE(table->find(offset).size(), kMaxInlineDepth + 1);
      }
    }
  }
}

class Cache : public InDirectory {
 protected:
  static Module module_of(const std::string& path) {
    auto module = module_of_file(path);
    EXPECT_TRUE(module);
    return module ? std::move(*module) : Module();
  }
  SymbolOptions options() {
    SymbolOptions result;
    result.cache_dir = at("symbols");
    return result;
  }
  std::string table_file() {
    for (const auto& entry : std::filesystem::directory_iterator(at("symbols"))) {
      if (entry.path().extension() == ".symbols") return entry.path();
    }
    return {};
  }
};

// For every address of a program the table says what the debug information says.
TEST_F(Cache, TableSaysWhatTheDebugInformationSays) {
  for (const std::string name : {"inlined", "uncaught_exception_optimized", "null_dereference"}) {
    SCOPED_TRACE(name);
    std::vector<Module> modules;
    modules.push_back(module_of(victim_path(name)));
    const SymbolOptions plain;
    ElfSession session(modules, plain, {}, [](std::size_t) {});
    DwarfSymbols made(session.module(0), session.bias(0));
    const std::string bytes = made.make_table("key", kMaxSymbolTableBytes);
    const auto table = SymbolTable::open(bytes, "key");
    ASSERT_TRUE(table);
    DwarfSymbols fresh(session.module(0), session.bias(0));
    std::size_t named = 0;
    std::size_t inlined = 0;
    const auto size = std::filesystem::file_size(victim_path(name));
    for (std::uint64_t offset = 0; offset < size; ++offset) {
      const auto expected = fresh.locate(offset);
      ASSERT_EQ(table->find(offset), expected) << std::hex << offset;
      named += !expected.empty() && !expected[0].file.empty();
      inlined += expected.size() > 1;
    }
    EXPECT_GT(named, 100U);
    EXPECT_GT(inlined, 0U);
  }
}

TEST_F(Cache, AWarmReportEqualsAColdOneAndUsesTheTables) {
  RunningVictim victim(victim_path("inlined"));
  ASSERT_TRUE(victim.wait_for_crash());
  const auto mapped = modules_of_process(victim.pid());
  ASSERT_TRUE(mapped);
  const auto snapshot = victim.capture();
  ASSERT_TRUE(snapshot);
  std::vector<Module> modules;
  for (const Module& module : snapshot->modules) {
    if (module.build_id.empty() || !module.file.valid()) continue;
    modules.push_back({module.start,
                       module.end,
                       module.path,
                       module.build_id,
                       os::Fd(::fcntl(module.file.get(), F_DUPFD_CLOEXEC, 0)),
                       {}});
  }
  EXPECT_GE(modules.size(), 3U);
  ASSERT_EQ(mapped->size(), modules.size());
  for (std::size_t i = 0; i < modules.size(); ++i) {
    EXPECT_EQ(SymbolCache::key_of(mapped->at(i)), SymbolCache::key_of(modules[i]));
  }
  const auto warmed = warm_symbols(modules, options());
  ASSERT_TRUE(warmed) << warmed.error().to_text();
  EXPECT_EQ(static_cast<std::size_t>(warmed->made), modules.size());
  const Unwound cold = unwind(*snapshot);
  EXPECT_EQ(text_of(unwind(*snapshot, options()).stacks), text_of(cold.stacks));
  const auto again = warm_symbols(modules, options());
  ASSERT_TRUE(again);
  EXPECT_EQ(again->made, 0);
  EXPECT_EQ(again->kept, warmed->made);
  // It is really the tables that are read: one that says something else is believed.
  const Module& program = modules.front();
  SymbolTableBuilder lies;
  lies.add(0, {{"planted", "", 0, false}});
  const auto cache = SymbolCache::open(at("symbols"), false);
  ASSERT_TRUE(cache);
  ASSERT_TRUE(cache->store(program, lies.finish(SymbolCache::key_of(program), true, 1 << 20)));
  EXPECT_EQ(crashed_stack(unwind(*snapshot, options()).stacks).frames.at(0).function, "planted");
}

TEST_F(Cache, ADamagedTableIsNotBelieved) {
  const std::string program = at("program");
  std::filesystem::copy_file(victim_path("null_dereference"), program);
  std::vector<Module> modules;
  modules.push_back(module_of(program));
  ASSERT_TRUE(warm_symbols(modules, options()));
  const std::string path = table_file();
  {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(200);
    file.put('\x55');
    file.put('\xaa');
  }
  expect_named(unwound(program, options()));
  std::filesystem::resize_file(path, 100);
  expect_named(unwound(program, options()));
  std::filesystem::remove(path);
  std::filesystem::create_directory(path);
  expect_named(unwound(program, options()));
}

TEST_F(Cache, ATableOfAnotherFileWithTheSameBuildIdIsNotBelieved) {
  const std::string real = at("real");
  const std::string forged = at("forged");
  std::filesystem::copy_file(victim_path("null_dereference"), real);
  std::filesystem::copy_file(victim_path("null_dereference"), forged);
  const Module forger = module_of(forged);
  const auto cache = SymbolCache::open(at("symbols"), true);
  ASSERT_TRUE(cache);
  SymbolTableBuilder lies;
  lies.add(0, {{"planted", "", 0, false}});
  ASSERT_TRUE(cache->store(forger, lies.finish(SymbolCache::key_of(forger), true, 1 << 20)));
  EXPECT_TRUE(cache->has(forger));
  EXPECT_FALSE(cache->has(module_of(real)));
  expect_named(unwound(real, options()));
}

TEST_F(Cache, ADirectoryThatOthersMayWriteToIsNotUsed) {
  std::filesystem::create_directory(at("symbols"));
  ASSERT_EQ(::chmod(at("symbols").c_str(), 0777), 0);
  const auto cache = SymbolCache::open(at("symbols"), true);
  ASSERT_FALSE(cache);
  EXPECT_EQ(cache.error().code(), Code::kPermissionDenied);
  const Unwound result = unwound(victim_path("null_dereference"), options());
  expect_named(result);
  EXPECT_THAT(result.gaps, Contains(HasSubstr("symbol tables are not used")));
  std::filesystem::remove(at("symbols"));
  std::filesystem::create_directory(at("elsewhere"));
  std::filesystem::create_symlink(at("elsewhere"), at("symbols"));
  EXPECT_FALSE(SymbolCache::open(at("symbols"), true));
}

TEST_F(Cache, IsBoundedAndTheLongestUnusedGoFirst) {
  const auto cache = SymbolCache::open(at("symbols"), true);
  ASSERT_TRUE(cache);
  std::vector<Module> modules;
  for (int i = 0; i < 4; ++i) {
    const std::string copy = at(fmt::format("program{}", i));
    std::filesystem::copy_file(victim_path("null_dereference"), copy);
    modules.push_back(module_of(copy));
    SymbolTableBuilder builder;
    builder.add(0, {{std::string(1000, 'x'), "", 0, false}});
    const std::string key = SymbolCache::key_of(modules.back());
    ASSERT_TRUE(cache->store(modules.back(), builder.finish(key, true, 1 << 20)));
    const timespec times[2] = {{1000 + i, 0}, {1000 + i, 0}};
    for (const auto& entry : std::filesystem::directory_iterator(at("symbols"))) {
      struct stat status;
      ::stat(entry.path().c_str(), &status);
      if (status.st_mtim.tv_sec > 100'000) {
        ::utimensat(AT_FDCWD, entry.path().c_str(), times, 0);
      }
    }
  }
  std::ofstream(at("symbols/x.symbols.tmp")) << "left behind";
  EXPECT_TRUE(cache->has(modules[0]));  // Used just now; so the second one is the oldest.
  cache->evict(3 * 1300);
  EXPECT_TRUE(cache->has(modules[0]));
  EXPECT_FALSE(cache->has(modules[1]));
  EXPECT_TRUE(cache->has(modules[2]));
  EXPECT_FALSE(std::filesystem::exists(at("symbols/x.symbols.tmp")));
  cache->evict(0);
  for (const Module& module : modules) EXPECT_FALSE(cache->has(module));
}

TEST_F(Cache, ATableMadeWithoutDebugInformationGivesWayToADebugFile) {
  const std::string id = id_of(victim_path("null_dereference"));
  const std::string place =
      at(fmt::format("store/.build-id/{}/{}.debug", id.substr(0, 2), id.substr(2)));
  const std::string program = split("null_dereference", place);
  std::vector<Module> modules;
  modules.push_back(module_of(program));
  ASSERT_TRUE(warm_symbols(modules, options()));
  expect_nameless(unwound(program, options()));
  SymbolOptions later = options();
  later.debug_dirs = {at("store")};
  expect_named(unwound(program, later));
  const auto again = warm_symbols(modules, later);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->made, 1);
  expect_named(unwound(program, options()));
}

TEST_F(Cache, OneWriterAtATime) {
  const auto cache = SymbolCache::open(at("symbols"), true);
  ASSERT_TRUE(cache);
  const auto lock = cache->lock();
  ASSERT_TRUE(lock);
  EXPECT_EQ(warm_symbols({}, options()).error().code(), Code::kDatabaseLocked);
}

TEST(Guarded, KeepsWhatWasWrittenBeforeACrash) {
  const auto result = run_guarded(
      [](const GuardOutput& output) {
        output.write("one");
        output.mark(7);
        output.write("two");
        ::raise(SIGSEGV);
      },
      {});
  ASSERT_TRUE(result);
  EXPECT_FALSE(result->finished);
  EXPECT_THAT(result->failure, HasSubstr("SIGSEGV"));
  EXPECT_THAT(result->records, ::testing::ElementsAre("one", "two"));
  EXPECT_EQ(result->mark, 7U);
}

TEST(Guarded, WhatIsDoneMeanwhileIsDoneOnceWhateverBecomesOfTheChild) {
  for (const bool fails : {false, true}) {
    int calls = 0;
    std::vector<std::size_t> records;
    const auto losses = run_guarded_parts(
        2,
        [&](const std::set<std::size_t>& left_out, const GuardOutput& output) {
          output.mark(1);
          if (fails && !left_out.contains(1)) ::abort();
          output.write("done");
        },
        {}, [&](const auto& given) { records.push_back(given.size()); }, [&] { ++calls; });
    EXPECT_EQ(calls, 1);
    EXPECT_EQ(losses.size(), fails ? 1U : 0U);
    ASSERT_FALSE(records.empty());
    EXPECT_EQ(records.back(), 1U);
  }
}

TEST(Guarded, EndsAHangAtTheDeadline) {
  GuardLimits limits;
  limits.time = std::chrono::milliseconds(50);
  const auto result = run_guarded(
      [](const GuardOutput& output) {
        output.write("one");
        while (true) ::pause();
      },
      limits);
  ASSERT_TRUE(result);
  EXPECT_FALSE(result->finished);
  EXPECT_EQ(result->failure, "did not end in 50 ms");
}

TEST(Guarded, BoundsMemoryAndOutput) {
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  GuardLimits small;
  small.memory_bytes = 64 << 20;
  const auto memory = run_guarded(
      [](const GuardOutput&) {
        const std::string large(std::size_t{256} << 20, 'x');
        ::_exit(large.empty() ? 1 : 0);
      },
      small);
  ASSERT_TRUE(memory);
  EXPECT_FALSE(memory->finished);
  EXPECT_EQ(memory->failure, "out of memory");
#endif
  GuardLimits short_output;
  short_output.output_bytes = 1000;
  const auto output = run_guarded(
      [](const GuardOutput& out) {
        out.write(std::string(400, 'a'));
        out.write(std::string(4000, 'b'));
      },
      short_output);
  ASSERT_TRUE(output);
  EXPECT_FALSE(output->finished);
  EXPECT_THAT(output->records, ::testing::ElementsAre(std::string(400, 'a')));
}

TEST(Guarded, ThePartThatFailsIsLeftOut) {
  std::vector<std::string> last;
  const auto losses = run_guarded_parts(
      4,
      [](const std::set<std::size_t>& left_out, const GuardOutput& output) {
        for (std::uint32_t part = 0; part < 4; ++part) {
          if (left_out.contains(part)) continue;
          output.mark(part);
          if (part == 1 || part == 2) std::abort();
          output.write(std::to_string(part));
        }
      },
      {}, [&](const auto& records) { last.assign(records.begin(), records.end()); });
  ASSERT_EQ(losses.size(), 2U);
  EXPECT_EQ(losses[0].part, 1U);
  EXPECT_EQ(losses[1].part, 2U);
  EXPECT_THAT(last, ::testing::ElementsAre("0", "3"));
}

class Hostile : public InDirectory {};

TEST_F(Hostile, WithoutTimeThereAreStacksWithModuleAndOffset) {
  RunningVictim victim(victim_path("null_dereference"));
  const auto snapshot = victim.capture();
  ASSERT_TRUE(snapshot);
  SymbolOptions options;
  options.time_limit = std::chrono::milliseconds(0);
  const Unwound none = unwind(*snapshot, options);
  const Unwound all = unwind(*snapshot);
  SCOPED_TRACE(text_of(none.stacks));
  ASSERT_EQ(none.stacks.size(), all.stacks.size());
  EXPECT_THAT(none.gaps, Contains(HasSubstr("frames may have no names")));
  const auto& frames = crashed_stack(none.stacks).frames;
  const auto& expected = crashed_stack(all.stacks).frames;
  // The program keeps frame pointers.
  ASSERT_GE(frames.size(), 2U);
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(frames[i].pc, expected[i].pc);
    EXPECT_EQ(frames[i].module, expected[i].module);
    EXPECT_EQ(frames[i].offset, expected[i].offset);
  }
}

// Debug information of random bytes, many times over: it never takes more than its own names.
TEST_F(Hostile, RuinedDebugInformationCostsNamesAndNothingElse) {
  const std::string program = at("program");
  std::filesystem::copy_file(victim_path("inlined"), program);
  RunningVictim victim(program);
  ASSERT_TRUE(victim.wait_for_crash());
  auto snapshot = victim.capture();
  ASSERT_TRUE(snapshot);
  const Unwound good = unwind(*snapshot);
  const auto whole = os::read_file(os::real_files(), program);
  ASSERT_TRUE(whole);
  // Behind the code lies what only we read.
  const std::size_t from = whole->find(".debug_info") != std::string::npos ? whole->size() / 4 : 0;
  std::uint32_t random = 12345;
  const char* rounds = std::getenv("DEFIB_HOSTILE_ROUNDS");
  const int count = rounds != nullptr ? std::atoi(rounds) : 12;
  for (int round = 0; round < count; ++round) {
    std::string bytes = *whole;
    for (int i = 0; i < 1 << (round % 12); ++i) {
      random = random * 1664525 + 1013904223;
      const std::size_t at_byte = from + random % (bytes.size() - from);
      random = random * 1664525 + 1013904223;
      bytes[at_byte] = static_cast<char>(random >> 24);
    }
    const std::string other = at(fmt::format("ruined{}", round));
    std::ofstream(other, std::ios::binary) << bytes;
    for (Module& module : snapshot->modules) {
      if (module.path != program) continue;
      module.file = os::Fd(::open(other.c_str(), O_RDONLY | O_CLOEXEC));
    }
    SymbolOptions options;
    options.time_limit = std::chrono::milliseconds(4000);
    const Unwound result = unwind(*snapshot, options);
    ASSERT_EQ(result.stacks.size(), good.stacks.size());
    for (const ThreadStack& stack : result.stacks) ASSERT_FALSE(stack.frames.empty());
    EXPECT_EQ(crashed_stack(result.stacks).frames[0].pc, crashed_stack(good.stacks).frames[0].pc);
    std::filesystem::remove(other);
  }
}

// The program itself.
class Program : public InDirectory {
 protected:
  os::CommandOutput capture(const std::vector<std::string>& arguments) {
    std::vector<std::string> argv = {DEFIB_CAPTURE_PROGRAM};
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    auto output = os::run_command(argv, kToolTimeoutMs);
    EXPECT_TRUE(output) << (output ? "" : output.error().to_text());
    return output ? std::move(*output) : os::CommandOutput();
  }
  void write(const std::string& name, const std::string& text) { std::ofstream(at(name)) << text; }
};

TEST_F(Program, SymbolizesLinesAndReports) {
  RunningVictim victim(victim_path("inlined"));
  auto snapshot = victim.capture();
  ASSERT_TRUE(snapshot);
  const Report report = make_report(std::move(*snapshot), {});
  const Frame& frame = crashed_stack(report.threads).frames.at(0);
  write("lines", fmt::format("{}+{:#x}\n", frame.module, frame.offset));
  const auto lines = capture({"symbolize", at("lines"), "--json"});
  EXPECT_TRUE(lines.status.success());
  const auto json = wire::Json::parse(lines.text);
  ASSERT_TRUE(json) << lines.text;
  EXPECT_EQ((*json)["schema"].as_string(), "defib.symbols/1");
  const wire::Json& found = (*json)["addresses"].items().at(0)["frames"].items().at(0);
  EXPECT_EQ(found["function"].as_string(), frame.function);
  EXPECT_EQ(found["line"].as_int(), marked_line("inlined"));
  EXPECT_THAT(capture({"symbolize", at("lines")}).text,
              HasSubstr(fmt::format("inlined.cc:{} (inlined)", marked_line("inlined"))));

  const wire::Json document = to_json(report);
  write("report", document.dump());
  const auto again = capture({"symbolize", at("report"), "--json"});
  EXPECT_TRUE(again.status.success()) << again.text;
  EXPECT_EQ(*wire::Json::parse(again.text), document);
  EXPECT_THAT(capture({"symbolize", at("report")}).text, HasSubstr("remove_order"));
}

TEST_F(Program, SaysWhatIsWrongWithItsInput) {
  write("lines", "nonsense\n");
  const auto lines = capture({"symbolize", at("lines")});
  EXPECT_EQ(lines.status.code, 2);
  EXPECT_THAT(lines.text, HasSubstr("line 1 names no address"));
  write("other.json", "{\"a\":1}");
  EXPECT_EQ(capture({"symbolize", at("other.json")}).status.code, 2);
  EXPECT_EQ(capture({"symbolize", at("missing")}).status.code, 1);
  EXPECT_EQ(capture({"warm", at("lines"), "--symbol-cache", at("symbols")}).status.code, 2);
}

TEST_F(Program, MakesTablesInAdvance) {
  const std::vector<std::string> warm = {"warm", victim_path("null_dereference"), "--symbol-cache",
                                         at("symbols"), "--json"};
  const auto first = capture(warm);
  EXPECT_TRUE(first.status.success()) << first.text;
  EXPECT_EQ((*wire::Json::parse(first.text))["made"].as_int(), 1);
  const auto second = capture(warm);
  EXPECT_EQ((*wire::Json::parse(second.text))["made"].as_int(), 0);
  EXPECT_EQ((*wire::Json::parse(second.text))["kept"].as_int(), 1);
}

TEST_F(Program, FindsTheTablesBesideItsReport) {
  RunningVictim victim(victim_path("null_dereference"));
  ASSERT_TRUE(victim.wait_for_crash());
  const auto modules = modules_of_process(victim.pid());
  ASSERT_TRUE(modules);
  ASSERT_FALSE(modules->empty());
  SymbolTableBuilder lies;
  lies.add(0, {{"planted", "", 0, false}});
  const auto cache = SymbolCache::open(at("symbols"), true);
  ASSERT_TRUE(cache);
  const std::string key = SymbolCache::key_of(modules->front());
  ASSERT_TRUE(cache->store(modules->front(), lies.finish(key, true, 1 << 20)));
  const auto output = capture({"crash", "--pid", std::to_string(victim.pid()), "--page",
                               fmt::format("/proc/{}/fd/3", victim.pid()), "--page-offset", "0",
                               "--out", at("report.json")});
  EXPECT_TRUE(output.status.success()) << output.text;
  const auto report = os::read_file(os::real_files(), at("report.json"));
  ASSERT_TRUE(report);
  const auto json = wire::Json::parse(*report);
  EXPECT_EQ((*json)["threads"].items().at(0)["frames"].items().at(0)["function"].as_string(),
            "planted");
}

}  // namespace
}  // namespace defib::postmortem
