#include "defib/daemon/alert_events.h"

#include <gtest/gtest.h>

namespace defib::daemon {
namespace {

alert::Event end_of(const std::string& incident) {
  IncidentNews news;
  news.what = IncidentNews::What::kRunsAgain;
  news.service = "engine";
  news.incident = incident;
  return *event_of(news);
}

TEST(AlertEvents, TheEndsOfTwoIncidentsAreTwoEvents) {
  EXPECT_TRUE(is_more_of(end_of("a"), end_of("a")));
  EXPECT_FALSE(is_more_of(end_of("a"), end_of("b")));
}

TEST(AlertEvents, EqualFailuresAreOneAlsoOfTwoIncidents) {
  IncidentNews news;
  news.service = "engine";
  news.cause = "abort";
  news.incident = "a";
  const alert::Event first = *event_of(news);
  news.incident = "b";
  EXPECT_TRUE(is_more_of(first, *event_of(news)));
  news.cause = "crash_loop";
  EXPECT_FALSE(is_more_of(first, *event_of(news)));
}

}  // namespace
}  // namespace defib::daemon
