#include "defib/report/csv.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace defib::report {
namespace {

using wire::Json;

Json incident_of(Json::Array events) {
  Json timeline = Json::array();
  for (Json& event : events) timeline.push(std::move(event));
  return Json::object({{"timeline", std::move(timeline)}});
}

TEST(Csv, HoldsEveryMemberOfEveryEventUnderItsName) {
  const Json incident = incident_of(
      {Json::object({{"event", "opened"}, {"seq", 1}, {"service", "engine"}}),
       Json::object({{"event", "intent_settled"}, {"id", "a"}, {"filled", "-0.5"}, {"seq", 2}}),
       Json::object({{"seq", 3}, {"event", "decision"}, {"rules", Json::array({"x", 1})}})});
  EXPECT_EQ(to_csv(incident),
            "seq,at,event,service,id,filled,rules,more\r\n"
            "1,,opened,engine,,,,\r\n"
            "2,,intent_settled,,a,-0.5,,\r\n"
            "3,,decision,,,,\"[\"\"x\"\",1]\",\r\n");
  EXPECT_EQ(to_csv(Json()), "seq,at,event,more\r\n");
}

TEST(Csv, TextsNeitherBreakTheTableNorBecomeFormulas) {
  const Json incident = incident_of({Json::object(
      {{"seq", 1}, {"a", "=HYPERLINK(\"x\")"}, {"b", "two\nlines, and \"quotes\""}, {"c", "@x"}})});
  const std::string csv = to_csv(incident);
  EXPECT_NE(csv.find("\"'=HYPERLINK(\"\"x\"\")\""), std::string::npos) << csv;
  EXPECT_NE(csv.find("\"\"quotes\"\""), std::string::npos) << csv;
  EXPECT_NE(csv.find(",'@x,"), std::string::npos) << csv;
}

TEST(Csv, WhatFitsNoColumnStandsInTheLastOne) {
  Json event = Json::object({{"seq", 1}});
  for (std::size_t i = 0; i < kMaxColumns + 50; ++i) event.set("m" + std::to_string(i), 1);
  const std::string csv = to_csv(incident_of({event}));
  const std::string head = csv.substr(0, csv.find('\r'));
  EXPECT_EQ(std::ranges::count(head, ','), static_cast<std::ptrdiff_t>(kMaxColumns));
  EXPECT_NE(csv.find("\"\"m" + std::to_string(kMaxColumns + 49) + "\"\":1"), std::string::npos);
}

}  // namespace
}  // namespace defib::report
