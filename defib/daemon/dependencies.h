// Dependencies: who must run before whom. Pure; the Host acts on it.
//
// `required` says that a service cannot work without another one: that one is started with it and
// before it, and stopped after it. `after` is order alone. Names that are no node are ignored, so
// that a graph may be a part of another.

#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace defib::daemon {

class Dependencies {
 public:
  struct Node {
    std::string name;
    std::vector<std::string> after;
    std::vector<std::string> required;
    bool restart_with = false;  // restarted when one that it requires was
  };
  Dependencies() = default;
  // The order of `nodes` decides where no dependency does. Precondition: no cycle.
  explicit Dependencies(std::vector<Node> nodes);

  // The names along a cycle, the first one again at its end; empty: there is none.
  static std::vector<std::string> find_cycle(const std::vector<Node>& nodes);

  // All names, each behind what it depends on.
  const std::vector<std::string>& order() const { return order_; }
  // What the service waits for, by `after` and `required`.
  std::vector<std::string> before(std::string_view name) const;
  bool requires_directly(std::string_view name, std::string_view other) const;
  // The service and all that it cannot work without, in the order of starting.
  std::vector<std::string> with_required(std::string_view name) const;
  // The service and all that cannot work without it, in the order of stopping.
  std::vector<std::string> with_requiring(std::string_view name) const;
  // Those that wait for it.
  std::vector<std::string> behind(std::string_view name) const;
  // Those to be restarted when it was.
  std::vector<std::string> restarted_with(std::string_view name) const;

 private:
  const Node* find(std::string_view name) const;
  std::vector<Node> nodes_;
  std::vector<std::string> order_;
};

}  // namespace defib::daemon
