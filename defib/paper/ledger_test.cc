#include "defib/paper/ledger.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>

#include "defib/paper/testing.h"

namespace defib::paper {
namespace {

using testing::kStart;

class LedgerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/paper-ledger-XXXXXX";
    directory_ = mkdtemp(pattern);
    path_ = directory_ + "/ledger.jsonl";
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  // The ledger and a core that was rebuilt from it.
  struct Opened {
    std::unique_ptr<Ledger> ledger;
    std::unique_ptr<Core> core;
  };
  Result<Opened> open(std::uint64_t seed = 1) {
    Core::Options options;
    options.seed = seed;
    Opened opened;
    opened.core = std::make_unique<Core>(options);
    DEFIB_TRY_ASSIGN(opened.ledger,
                     Ledger::open(files_, path_, seed, options.symbols,
                                  [&](const Event& event) { return opened.core->replay(event); }));
    return opened;
  }
  std::string content() { return *os::read_file(files_, path_); }
  void write(const std::string& text) {
    auto file = files_.open(path_, os::OpenMode::kCreate);
    ASSERT_TRUE(file.has_value());
    ASSERT_TRUE((*file)->truncate(0).has_value());
    ASSERT_TRUE((*file)->write_at(0, text).has_value());
  }
  // A ledger of a busy venue; returns the state at its end.
  std::string fill(int operations) {
    auto opened = open();
    EXPECT_TRUE(opened.has_value());
    Core core = testing::make_core();
    os::Random random(77);
    Micros now = kStart;
    for (int i = 0; i < operations; ++i) {
      testing::random_operation(core, random, now);
      EXPECT_TRUE(opened->ledger->append(core.take_events()).has_value());
    }
    return core.digest();
  }

  os::Files& files_ = os::real_files();
  std::string directory_;
  std::string path_;
};

TEST_F(LedgerTest, RebuildsTheStateThatWroteIt) {
  const std::string digest = fill(2000);
  const auto opened = open();
  ASSERT_TRUE(opened.has_value()) << opened.error().to_text();
  EXPECT_EQ(opened->core->digest(), digest);
}

TEST_F(LedgerTest, EveryKindOfEventSurvivesEncoding) {
  const std::vector<Symbol> symbols = default_symbols();
  Core core = testing::make_core();
  core.record(OrderRefused{"id\"\n\x01", Refusal::kDuplicate, -2010, "Duplicate", "drop_reply"});
  core.record(FaultFired{"rule", "ban", "GET", "/x"});
  ASSERT_TRUE(core.set_price(1, testing::dec("3100")).has_value());
  core.set_status(2, SymbolStatus::kBreak);
  ASSERT_TRUE(core.place(testing::limit("a", Side::kBuy, "61000", "0.1")).has_value());
  ASSERT_TRUE(core.place(testing::limit("b", Side::kBuy, "50000", "0.1")).has_value());
  core.cancel(2, "c");
  NewOrder waiting =
      testing::stop(testing::limit("d", Side::kSell, "59000", "0.1"), "59500", false);
  ASSERT_TRUE(core.place(waiting).has_value());
  ASSERT_TRUE(core.set_price(0, testing::dec("59400")).has_value());
  core.advance(kStart + 60'000'000);
  std::set<std::size_t> kinds;
  for (const Event& event : core.take_events()) {
    kinds.insert(event.body.index());
    const std::string line = encode_event(event, symbols, true);
    const auto decoded = decode_event(line, symbols);
    ASSERT_TRUE(decoded.has_value()) << decoded.error().to_text() << "\n" << line;
    EXPECT_TRUE(decoded->more);
    EXPECT_EQ(encode_event(decoded->event, symbols, true), line);
  }
  EXPECT_EQ(kinds.size(), std::variant_size_v<decltype(Event::body)>) << "a kind was not tried";
}

// The venue may be killed inside a write: at every cut the ledger opens with whole batches only.
TEST_F(LedgerTest, TornTailIsCutAtTheLastWholeBatch) {
  fill(60);
  const std::string whole = content();
  for (std::size_t size = whole.size(); size > whole.size() - 1500; size -= 7) {
    write(whole.substr(0, size));
    auto opened = open();
    ASSERT_TRUE(opened.has_value()) << opened.error().to_text();
    const std::string kept = content();
    ASSERT_LE(kept.size(), size);
    ASSERT_TRUE(kept.ends_with("\n"));
    ASSERT_EQ(kept.find("\"more\":true", kept.rfind('\n', kept.size() - 2)), std::string::npos);
    opened->core->start(kStart + 20'000'000);
    ASSERT_EQ(opened->core->check_invariants(), "");
    ASSERT_TRUE(opened->ledger->append(opened->core->take_events()).has_value());
    opened->ledger.reset();
    ASSERT_TRUE(open().has_value());
  }
}

TEST_F(LedgerTest, DamageBeforeTheEndIsAnErrorThatNamesTheLine) {
  fill(60);
  const std::string whole = content();
  std::size_t line_begin = 0;
  for (int line = 1; line < 20; ++line) {
    std::string damaged = whole;
    damaged[line_begin + 12] ^= 1;
    write(damaged);
    const auto opened = open();
    ASSERT_FALSE(opened.has_value());
    EXPECT_EQ(opened.error().code(), Code::kCorrupted);
    EXPECT_EQ(opened.error().field("line"), std::to_string(line));
    line_begin = whole.find('\n', line_begin) + 1;
  }
}

TEST_F(LedgerTest, MissingLineIsAnError) {
  fill(60);
  std::string text = content();
  const std::size_t tenth = [&] {
    std::size_t at = 0;
    for (int i = 0; i < 10; ++i) at = text.find('\n', at) + 1;
    return at;
  }();
  text.erase(tenth, text.find('\n', tenth) + 1 - tenth);
  write(text);
  EXPECT_THAT(open().error().message(), ::testing::HasSubstr("contradicts"));
}

TEST_F(LedgerTest, ForeignFilesAreRefusedAndLeftAlone) {
  const std::string foreign = "{\"hello\":1}\n";
  write(foreign);
  EXPECT_EQ(open().error().code(), Code::kCorrupted);
  write(std::string(200'000, 'x'));
  EXPECT_EQ(open().error().code(), Code::kCorrupted);
  EXPECT_EQ(content().size(), 200'000U);
}

TEST_F(LedgerTest, IsHeldByOneVenueAndOneSeed) {
  fill(5);
  EXPECT_EQ(open(2).error().code(), Code::kInvalidArgument);
  const auto first = open();
  ASSERT_TRUE(first.has_value());
  EXPECT_EQ(open().error().code(), Code::kDatabaseLocked);
}

}  // namespace
}  // namespace defib::paper
