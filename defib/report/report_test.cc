// Advice for every cause; reports that say what is known, and that no text of the process can
// break out of.

#include <fmt/core.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "defib/base/visible_text.h"
#include "defib/postmortem/classify.h"
#include "defib/report/advice.h"
#include "defib/report/chart.h"
#include "defib/report/document.h"
#include "defib/report/testing/inputs.h"

namespace defib::report {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using wire::Json;

TEST(Advice, IsThereForEveryCauseOfTheContract) {
  const auto advised = advised_causes();
  const std::set<std::string_view> known(advised.begin(), advised.end());
  std::set<std::string_view> titles;
#define DEFIB_CAUSE(name) EXPECT_EQ(known.count(#name), 1U) << #name;
  DEFIB_CAUSES(DEFIB_CAUSE)
#undef DEFIB_CAUSE
  for (const std::string_view cause : advised) {
    AdviceFacts facts;
    facts.cause = cause;
    const Advice advice = advise(facts);
    EXPECT_FALSE(advice.steps.empty()) << cause;
    EXPECT_FALSE(advice.resume.empty()) << cause;
    titles.insert(advise(facts).title);
    for (const AdviceStep& step : advice.steps) {
      EXPECT_EQ(step.command.find('{'), std::string::npos) << step.command;
    }
  }
  EXPECT_EQ(known.size(), advised.size());
}

TEST(Trading, EveryNumberNamesItsEventAndExposureIsDrawn) {
  const auto event = [](int seq, std::string_view name, std::int64_t second, Json fields) {
    Json line = Json::object({{"seq", seq},
                              {"event", name},
                              {"at", fmt::format("2026-11-20T13:06:{:02}.000000000Z", second)}});
    for (const auto& [key, value] : fields.members()) line.set(key, value);
    return line;
  };
  Json timeline = Json::array();
  timeline.push(
      event(4, "decision", 1,
            Json::object({{"id", "decision-1"}, {"verdict", "allow"}, {"rule", "none"}})));
  for (int i = 0; i < 3; ++i) {
    timeline.push(event(5 + i, "ramp_step", 10 + i,
                        Json::object({{"step", i + 1},
                                      {"steps", 3},
                                      {"percent", 50},
                                      {"max_risk", "low"},
                                      {"exposure", fmt::format("{}.5", 100 + i)},
                                      {"exposure_limit", "500000"}})));
  }
  Input input;
  input.incident = Json::object({{"service", "engine"},
                                 {"opened_at", "2026-11-20T13:06:00.000000000Z"},
                                 {"timeline", std::move(timeline)}});
  const Document document = make_document(input);
  const std::string html = to_html(document);
  EXPECT_THAT(html, HasSubstr("event 6"));
  EXPECT_THAT(html, HasSubstr("exposure 101.5 of 500000"));
  EXPECT_THAT(html, HasSubstr("RTS 6"));
  EXPECT_THAT(html, HasSubstr("defib verify ID --head HASH"));
  bool drawn = false;
  for (const Block& block : document.blocks) {
    for (const Chart& chart : block.charts) drawn = drawn || chart.title == "Exposure";
  }
  EXPECT_TRUE(drawn);
  input.incident = Json::object({{"service", "web"}});
  EXPECT_THAT(to_html(make_document(input)), Not(HasSubstr("RTS 6")));
}

TEST(Advice, NamesTheIncidentTheServiceAndTheCore) {
  AdviceFacts facts;
  facts.cause = "segmentation_fault";
  facts.incident = "20261120T130558Z-1a2b3c";
  facts.service = "engine";
  facts.core = "/var/cores/core of it's";
  facts.at = "2026-11-20T13:05:58Z";
  facts.changed = true;
  const std::string text = to_text(advise(facts));
  EXPECT_THAT(text, HasSubstr("defib report 20261120T130558Z-1a2b3c --format text"));
  EXPECT_THAT(text, HasSubstr("defib logs engine --around 2026-11-20T13:05:58Z --window 60s"));
  EXPECT_THAT(text, HasSubstr(R"(defib analyze '/var/cores/core of it'\''s' --full)"));
  facts.changed = false;
  facts.core.clear();
  const std::string without = to_text(advise(facts));
  EXPECT_THAT(without, Not(HasSubstr("--full")));
  EXPECT_THAT(without, Not(HasSubstr("go back to the version before")));
}

// A command is copied into a shell: no name may add to it.
TEST(Advice, CommandsHoldNoNamesThatASHellWouldRun) {
  AdviceFacts facts;
  facts.cause = "log_pattern";
  facts.service = "x; rm -rf ~\n$(id)";
  for (const AdviceStep& step : advise(facts).steps) {
    if (step.command.find("rm -rf") == std::string::npos) continue;
    EXPECT_THAT(step.command, HasSubstr("'x; rm -rf ~$(id)'"));
  }
}

TEST(Advice, OfMemoryThatWasRefusedBlamesNoKernel) {
  AdviceFacts facts;
  facts.cause = "out_of_memory";
  facts.has_stack = true;
  EXPECT_NE(to_text(advise(facts)).find("the kernel killed it"), std::string::npos);
  facts.subtype = "cgroup";
  EXPECT_NE(to_text(advise(facts)).find("the kernel killed it"), std::string::npos);
  facts.subtype = "allocator";
  const std::string refused = to_text(advise(facts));
  EXPECT_EQ(refused.find("kernel"), std::string::npos) << refused;
  EXPECT_NE(refused.find("The stack shows where"), std::string::npos) << refused;
  EXPECT_FALSE(is_cause("out_of_memory/allocator"));
}

TEST(Advice, OfAKillSwitchHowItIsReleased) {
  const Json incident = Json::object(
      {{"id", "i"},
       {"service", "kill"},
       {"outcome", "stopped"},
       {"timeline",
        Json::array().push(Json::object({{"event", "opened"}, {"scope", "strategy:maker"}}))}});
  const std::string text = to_text(advise(advice_facts(incident)));
  EXPECT_THAT(text, HasSubstr("defib kill --release strategy:maker --by"));
  EXPECT_THAT(text, Not(HasSubstr("Unknown cause")));
  Input input;
  input.incident = incident;
  const Document document = make_document(input);
  EXPECT_EQ(document.title, "kill switch: strategy:maker");
}

TEST(Advice, ADisconnectedExchangeComesFirst) {
  Json incident = testing::incident();
  EXPECT_FALSE(advice_facts(incident).venue_disconnected);
  Json timeline = incident["timeline"];
  timeline.push(Json::object({{"event", "detected"}, {"line", "venue disconnected"}}));
  incident.set("timeline", std::move(timeline));
  const AdviceFacts facts = advice_facts(incident);
  EXPECT_TRUE(facts.venue_disconnected);
  const Advice advice = advise(facts);
  EXPECT_THAT(advice.title, HasSubstr("connection was lost as well"));
  EXPECT_EQ(advice.steps.front().command, "defib reconcile");
  EXPECT_THAT(advice.resume, HasSubstr("ledger and venue agree"));
}

TEST(VisibleText, LeavesWordsAndTakesWhatSteers) {
  EXPECT_EQ(visible_text("preis 5 €\tok\n"), "preis 5 €\tok\n");
  EXPECT_EQ(visible_text("a\x1b[31mb"), "a\xef\xbf\xbd[31mb");
  EXPECT_EQ(visible_text(std::string("a\0b", 3)),
            "a\xef\xbf\xbd"
            "b");
  EXPECT_EQ(visible_text("\xe2\x80\xae"), "\xef\xbf\xbd");  // right to left from here
  EXPECT_EQ(visible_text("\xc0\xaf\xff"), "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
  EXPECT_EQ(visible_text("\xed\xa0\x80").find("\xed"), std::string::npos);  // a surrogate
  EXPECT_EQ(visible_text("\xe2\x82"), "\xef\xbf\xbd\xef\xbf\xbd");          // cut
}

TEST(Html, SaysAllThatIsKnown) {
  const std::string html = to_html(make_document(testing::input()));
  for (const char* part :
       {"engine: null_dereference", "read_level", "book.cc:41", "What to do", "rip", "worker-2",
        "ERROR going down", "binary /srv/engine replaced", "<svg", "Seen", "MODE", "paper",
        "maps.txt: the process was gone", "=&gt; 0x401136"}) {
    EXPECT_THAT(html, HasSubstr(part));
  }
}

TEST(Html, NeedsNoNetwork) {
  const std::string html = to_html(make_document(testing::input()));
  for (const char* reference : {"http:", "https:", "src=", "href=", "url(", "@import", "<script",
                                "<link", "<iframe", "<img"}) {
    EXPECT_THAT(html, Not(HasSubstr(reference)));
  }
  EXPECT_THAT(html, HasSubstr("default-src 'none'"));
}

// The same attack in every place that a process, or its output, can write to.
TEST(Html, NoTextOfTheProcessBecomesMarkup) {
  const std::string attack =
      "</td></pre><script>alert('x')</script><img src=x onerror=\"a()\">&lt;";
  const std::string html = to_html(make_document(testing::hostile(attack)));
  EXPECT_THAT(html, Not(HasSubstr("<script")));
  EXPECT_THAT(html, Not(HasSubstr("<img")));
  EXPECT_THAT(html, Not(HasSubstr("onerror=\"")));
  EXPECT_THAT(html, HasSubstr("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;"));
  // As often as it stands there, it is text.
  std::size_t shown = 0;
  for (std::size_t at = html.find("alert("); at != html.npos; at = html.find("alert(", at + 1)) {
    EXPECT_EQ(html.substr(at - 14, 14), "&lt;script&gt;");
    ++shown;
  }
  EXPECT_GE(shown, 15U);
}

TEST(Html, IsWholeWhereNothingIsKnown) {
  Input input;
  input.incident = Json::object({{"id", "x"}, {"service", "engine"}});
  const std::string html = to_html(make_document(input));
  EXPECT_THAT(html, HasSubstr("the incident has no bundle"));
  EXPECT_THAT(html, HasSubstr("Unknown cause"));
}

TEST(Html, IsBoundedByWhatAFloodLeaves) {
  Input input = testing::input();
  input.log.clear();
  for (int i = 0; i < 200'000; ++i) input.log += "a line of a flood\n";
  input.log += "the last line\n";
  const std::string html = to_html(make_document(input));
  EXPECT_LT(html.size(), 300'000U);
  EXPECT_THAT(html, HasSubstr("the last line"));
}

TEST(TextForm, SteersNoTerminal) {
  const std::string text = to_text(make_document(testing::hostile("\x1b[2J\x07<b>")));
  EXPECT_EQ(text.find('\x1b'), text.npos);
  EXPECT_EQ(text.find('\x07'), text.npos);
  EXPECT_THAT(text, HasSubstr("<b>"));
}

TEST(Charts, HaveAScaleWhateverTheNumbersAre) {
  Chart flat{"t", "", {{-10, 5}, {0, 5}}};
  EXPECT_GT(scale_of(flat).high, scale_of(flat).low);
  EXPECT_TRUE(scale_of(flat).has_zero);
  Chart nothing{"t", "", {{-10, 0}, {-5, 0}}};
  EXPECT_GT(scale_of(nothing).high, scale_of(nothing).low);
  EXPECT_FALSE(scale_of(nothing).has_zero);
  Chart at_once{"t", "", {{3, 1}, {3, 2}}};
  EXPECT_GT(scale_of(at_once).last, scale_of(at_once).first);
  const ChartScale scale = scale_of({"t", "", {{-100, 0}, {0, 50}, {10, 100}}});
  EXPECT_LT(scale.y(100), scale.y(0));
  EXPECT_GE(scale.y(100), kChartTop);
  EXPECT_LE(scale.x(10), kChartWidth);
}

}  // namespace
}  // namespace defib::report
