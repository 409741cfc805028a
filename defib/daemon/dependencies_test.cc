#include "defib/daemon/dependencies.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "defib/os/random.h"

namespace defib::daemon {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using Node = Dependencies::Node;

// db <- engine <- gateway, log (order only); web is alone.
std::vector<Node> trading() {
  return {{"gateway", {"log"}, {"engine"}, true},
          {"web", {}, {}, false},
          {"engine", {}, {"db"}, false},
          {"log", {}, {}, false},
          {"db", {}, {}, false}};
}

TEST(Dependencies, EachComesBehindWhatItDependsOnAndElseInTheGivenOrder) {
  const Dependencies graph(trading());
  EXPECT_THAT(graph.order(), ElementsAre("web", "log", "db", "engine", "gateway"));
}

TEST(Dependencies, AStartTakesWhatIsRequiredWithItAndAStopWhatRequiresIt) {
  const Dependencies graph(trading());
  EXPECT_THAT(graph.with_required("gateway"), ElementsAre("db", "engine", "gateway"));
  EXPECT_THAT(graph.with_required("db"), ElementsAre("db"));
  EXPECT_THAT(graph.with_requiring("db"), ElementsAre("gateway", "engine", "db"));
  EXPECT_THAT(graph.with_requiring("log"), ElementsAre("log")) << "`after` is order alone";
  EXPECT_THAT(graph.before("gateway"), ElementsAre("engine", "log"));
  EXPECT_THAT(graph.behind("log"), ElementsAre("gateway"));
  EXPECT_THAT(graph.restarted_with("engine"), ElementsAre("gateway"));
  EXPECT_THAT(graph.restarted_with("db"), IsEmpty());
  EXPECT_TRUE(graph.requires_directly("gateway", "engine"));
  EXPECT_FALSE(graph.requires_directly("gateway", "log"));
  EXPECT_THAT(graph.before("nobody"), IsEmpty());
}

TEST(Dependencies, ACycleIsNamedAlongItsPathWithoutWhatOnlyLeadsToIt) {
  const std::vector<Node> nodes = {{"lead", {}, {"a"}, false},
                                   {"a", {}, {"b"}, false},
                                   {"b", {"c"}, {}, false},
                                   {"c", {}, {"a"}, false},
                                   {"free", {}, {}, false}};
  auto cycle = Dependencies::find_cycle(nodes);
  ASSERT_EQ(cycle.size(), 4u);
  EXPECT_EQ(cycle.front(), cycle.back());
  EXPECT_THAT(cycle, testing::Not(testing::Contains("lead")));
  EXPECT_THAT(Dependencies::find_cycle({{"x", {}, {"x"}, false}}), ElementsAre("x", "x"));
  EXPECT_THAT(Dependencies::find_cycle(trading()), IsEmpty());
}

// Random graphs: either a cycle whose every step is a dependency, or an order that keeps them all.
TEST(Dependencies, EveryRandomGraphHasAnOrderOrATrueCycle) {
  os::Random random(7);
  int cycles = 0, orders = 0;
  for (int round = 0; round < 3000; ++round) {
    std::vector<Node> nodes(1 + random.below(8));
    for (std::size_t i = 0; i < nodes.size(); ++i) nodes[i].name = std::string(1, char('a' + i));
    for (std::uint64_t edges = random.below(9); edges > 0; --edges) {
      Node& from = nodes[random.below(nodes.size())];
      const std::string& to = nodes[random.below(nodes.size())].name;
      (random.below(2) == 0 ? from.after : from.required).push_back(to);
    }
    const auto depends = [&](const std::string& from, const std::string& to) {
      const Node& node = *std::ranges::find(nodes, from, &Node::name);
      return std::ranges::count(node.after, to) + std::ranges::count(node.required, to) > 0;
    };
    const auto cycle = Dependencies::find_cycle(nodes);
    if (!cycle.empty()) {
      ++cycles;
      ASSERT_EQ(cycle.front(), cycle.back());
      for (std::size_t i = 0; i + 1 < cycle.size(); ++i)
        ASSERT_TRUE(depends(cycle[i], cycle[i + 1]));
      continue;
    }
    ++orders;
    const auto order = Dependencies(nodes).order();
    ASSERT_EQ(order.size(), nodes.size());
    for (std::size_t i = 0; i < order.size(); ++i) {
      for (std::size_t j = i; j < order.size(); ++j) ASSERT_FALSE(depends(order[i], order[j]));
    }
  }
  EXPECT_GT(cycles, 100);
  EXPECT_GT(orders, 100);
}

}  // namespace
}  // namespace defib::daemon
