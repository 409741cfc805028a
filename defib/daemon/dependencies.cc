#include "defib/daemon/dependencies.h"

#include <algorithm>
#include <cstdint>
#include <set>

#include "defib/base/assert.h"

namespace defib::daemon {
namespace {

using Node = Dependencies::Node;

bool contains(const std::vector<std::string>& names, std::string_view name) {
  return std::ranges::find(names, name) != names.end();
}

std::vector<std::string> all_of(const Node& node) {
  std::vector<std::string> names = node.required;
  for (const std::string& name : node.after) {
    if (!contains(names, name)) names.push_back(name);
  }
  return names;
}

// Each node behind what it depends on, in the given order else. Those of cycles are missing.
std::vector<std::string> sort(const std::vector<Node>& nodes) {
  std::set<std::string_view> known, placed;
  for (const Node& node : nodes) known.insert(node.name);
  std::vector<std::string> order;
  // As many rounds as the longest chain has members.
  for (bool progress = true; progress;) {
    progress = false;
    for (const Node& node : nodes) {
      if (placed.contains(node.name)) continue;
      const auto needed = all_of(node);
      const bool ready = std::ranges::all_of(needed, [&](const std::string& name) {
        return !known.contains(name) || placed.contains(name);
      });
      if (!ready) continue;
      placed.insert(node.name);
      order.push_back(node.name);
      progress = true;
    }
  }
  return order;
}

}  // namespace

Dependencies::Dependencies(std::vector<Node> nodes)
    : nodes_(std::move(nodes)), order_(sort(nodes_)) {
  DEFIB_ASSERT_MESSAGE(order_.size() == nodes_.size(), "the services depend on one another");
}

std::vector<std::string> Dependencies::find_cycle(const std::vector<Node>& nodes) {
  const std::vector<std::string> sorted = sort(nodes);
  std::map<std::string, std::vector<std::string>> left;  // of cycles, or behind one
  for (const Node& node : nodes) {
    if (!contains(sorted, node.name)) left.emplace(node.name, all_of(node));
  }
  if (left.empty()) return {};
  // Whoever is left depends on another one that is left, so the way comes back somewhere.
  std::vector<std::string> path = {left.begin()->first};
  while (true) {
    const auto& needed = left.at(path.back());
    const auto next =
        std::ranges::find_if(needed, [&](const std::string& name) { return left.contains(name); });
    DEFIB_ASSERT(next != needed.end());
    const auto seen = std::ranges::find(path, *next);
    const bool closed = seen != path.end();
    if (closed) path.erase(path.begin(), seen);
    path.push_back(*next);
    if (closed) return path;
  }
}

const Node* Dependencies::find(std::string_view name) const {
  const auto found = std::ranges::find(nodes_, name, &Node::name);
  return found == nodes_.end() ? nullptr : &*found;
}

std::vector<std::string> Dependencies::before(std::string_view name) const {
  const Node* node = find(name);
  return node == nullptr ? std::vector<std::string>() : all_of(*node);
}

bool Dependencies::requires_directly(std::string_view name, std::string_view other) const {
  const Node* node = find(name);
  return node != nullptr && contains(node->required, other);
}

std::vector<std::string> Dependencies::with_required(std::string_view name) const {
  std::set<std::string, std::less<>> wanted = {std::string(name)};
  for (auto one = order_.rbegin(); one != order_.rend(); ++one) {
    if (!wanted.contains(*one)) continue;
    for (const std::string& other : find(*one)->required) wanted.insert(other);
  }
  std::vector<std::string> names;
  std::ranges::copy_if(order_, std::back_inserter(names),
                       [&](const std::string& one) { return wanted.contains(one); });
  return names;
}

std::vector<std::string> Dependencies::with_requiring(std::string_view name) const {
  std::set<std::string, std::less<>> hit = {std::string(name)};
  for (const std::string& one : order_) {
    const auto& required = find(one)->required;
    if (std::ranges::any_of(required, [&](const auto& other) { return hit.contains(other); })) {
      hit.insert(one);
    }
  }
  std::vector<std::string> names;
  std::copy_if(order_.rbegin(), order_.rend(), std::back_inserter(names),
               [&](const std::string& one) { return hit.contains(one); });
  return names;
}

std::vector<std::string> Dependencies::behind(std::string_view name) const {
  std::vector<std::string> names;
  for (const Node& node : nodes_) {
    if (contains(node.required, name) || contains(node.after, name)) names.push_back(node.name);
  }
  return names;
}

std::vector<std::string> Dependencies::restarted_with(std::string_view name) const {
  std::vector<std::string> names;
  for (const std::string& one : order_) {
    const Node* node = find(one);
    if (node->restart_with && contains(node->required, name)) names.push_back(one);
  }
  return names;
}

}  // namespace defib::daemon
