#include "defib/daemon/config.h"

#include <fmt/core.h>

#include "defib/obs/log.h"

namespace defib::daemon {
namespace {

void read_general(conf::Section general, Config& config) {
  general.value("state_dir", config.state_dir);
  general.value("log_file", config.log_file);
  general.value("log_level", config.log_level);
  obs::Level level;
  if (!config.log_level.empty() && !obs::parse_level(config.log_level, level)) {
    general.fail("log_level",
                 fmt::format("'{}' is none of debug, info, warning, error, off", config.log_level));
  }
}

// One service, and what its own keys say only together.
void add_service(conf::Section section, std::string name, Config& config) {
  ServiceConfig service = read_service(section, std::move(name));
  // A missing command is told already.
  if (section.has("command")) {
    if (const auto valid = validate(service); !valid) {
      std::string_view key = valid.error().field("key");
      if (key.empty()) key = valid.error().field("field");
      const bool has_place = !key.empty() && key != "name" && section.has(key);
      section.fail(has_place ? key : std::string_view(), valid.error().message());
    }
  }
  config.services.push_back(std::move(service));
}

Result<Config> read(conf::Document document) {
  Config config;
  conf::Section root = document.root();
  // One file holds everything; these tables belong to other programs, which check them.
  for (const char* other : {"venue", "trading", "engine"}) static_cast<void>(root.has(other));
  read_general(root.table("defib"), config);
  for (auto& [name, section] : root.named_tables("service")) add_service(section, name, config);
  config.receivers = alert::read_receivers(root);
  config.http = read_http(root.table("http"));
  DEFIB_TRY(document.finish());
  return config;
}

}  // namespace

Result<Config> load_config(const std::string& path) {
  DEFIB_TRY_ASSIGN(conf::Document document, conf::Document::parse_file(path));
  return read(std::move(document));
}

Result<Config> parse_config(std::string_view text, std::string name) {
  DEFIB_TRY_ASSIGN(conf::Document document, conf::Document::parse_text(text, std::move(name)));
  return read(std::move(document));
}

}  // namespace defib::daemon
