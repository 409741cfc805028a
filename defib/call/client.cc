#include "defib/call/client.h"

#include <fmt/format.h>

#include "defib/base/visible_text.h"

namespace defib::call {

std::string api_difference(const PluginDescription& declared, const PluginDescription& described) {
  if (declared.name != described.name) {
    return fmt::format("the plugin offers '{}', and the program wants '{}'",
                       visible_text(described.name), declared.name);
  }
  if (declared.version != described.version) {
    return fmt::format("the plugin offers version {} of '{}', and the program wants version {}",
                       described.version, declared.name, declared.version);
  }
  for (std::size_t i = 0; i < declared.signatures.size(); ++i) {
    if (i >= described.signatures.size()) {
      return fmt::format("the plugin has no {}", declared.signatures[i]);
    }
    if (declared.signatures[i] != described.signatures[i]) {
      return fmt::format("the plugin has {}, and the program wants {}",
                         visible_text(described.signatures[i]), declared.signatures[i]);
    }
  }
  if (described.signatures.size() > declared.signatures.size()) {
    return fmt::format("the plugin has {} as well, which the program does not know",
                       visible_text(described.signatures[declared.signatures.size()]));
  }
  return {};
}

}  // namespace defib::call
