#include "defib/daemon/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

namespace defib::daemon {
namespace {

void read_general(conf::Section general, Config& config) {
  general.value("state_dir", config.state_dir);
  general.value("log_file", config.log_file);
  constexpr std::string_view kLevels[] = {"debug", "info", "warning", "error", "off"};
  std::string_view level;
  general.word("log_level", level,
               {{kLevels[0], kLevels[0]},
                {kLevels[1], kLevels[1]},
                {kLevels[2], kLevels[2]},
                {kLevels[3], kLevels[3]},
                {kLevels[4], kLevels[4]}});
  config.log_level = level;
}

void read_bundles(conf::Section section, postmortem::BundleRules& rules) {
  section.value("max_age", rules.max_age, {std::chrono::minutes(1), std::chrono::hours(87600)});
  section.value("max_count", rules.max_count, {0, 100'000});
  section.size("max_total", rules.max_total_bytes, {1 << 20, std::uint64_t{1} << 50});
}

void fail(conf::Section& section, const Error& error) {
  std::string_view key = error.field("key");
  if (key.empty()) key = error.field("field");
  const bool has_place = !key.empty() && key != "name" && section.has(key);
  section.fail(has_place ? key : std::string_view(), error.message());
}

// One service, and what its own keys say only together.
void add_service(conf::Section& section, std::string name, const ConfigChecks& checks,
                 Config& config) {
  ServiceConfig service = read_service(section, std::move(name));
  // A missing command is told already.
  if (section.has("command")) {
    if (const auto valid = validate(service); !valid) fail(section, valid.error());
  }
  if (checks.files && !service.spec.argv.empty()) {
    for (const Missing& missing : missing_files(service)) {
      if (checks.runs && checks.runs(config, service.spec.name)) {
        config.warnings.push_back(fmt::format("{}: service.{}.{}: {}", section.where(missing.key),
                                              service.spec.name, missing.key, missing.message));
      } else {
        section.fail(missing.key, missing.message);
      }
    }
  }
  config.services.push_back(std::move(service));
}

using NamedSections = std::vector<std::pair<std::string, conf::Section>>;

// Names that there are not, services that need themselves, and circles.
void check_order(NamedSections& sections, const Config& config) {
  std::vector<std::string> names;
  names.reserve(sections.size());
  for (const auto& [name, section] : sections) names.push_back(name);
  std::vector<Dependencies::Node> nodes;
  nodes.reserve(sections.size());
  for (std::size_t i = 0; i < sections.size(); ++i) {
    const ServiceConfig& service = config.services[i];
    nodes.push_back({names[i], service.after, service.required, service.restart_with});
    for (const auto& [key, list] :
         {std::pair("after", &service.after), std::pair("requires", &service.required)}) {
      for (const std::string& other : *list) {
        if (std::ranges::find(names, other) != names.end()) continue;
        const std::string_view meant = conf::nearest_word(other, names);
        sections[i].second.fail(
            key, fmt::format("there is no service '{}'{}", other,
                             meant.empty() ? "" : fmt::format("; did you mean '{}'?", meant)));
      }
    }
  }
  const std::vector<std::string> cycle = Dependencies::find_cycle(nodes);
  if (cycle.empty()) return;
  const auto at = std::ranges::find(names, cycle.front()) - names.begin();
  const bool hard = std::ranges::find(nodes[static_cast<std::size_t>(at)].required, cycle[1]) !=
                    nodes[static_cast<std::size_t>(at)].required.end();
  sections[static_cast<std::size_t>(at)].second.fail(
      hard ? "requires" : "after",
      fmt::format("the services wait for one another: {}", fmt::join(cycle, " -> ")));
}

// "tcp:127.0.0.1:80" of "web=tcp:127.0.0.1:80".
std::string_view address_of(std::string_view socket) {
  const std::size_t equals = socket.find('=');
  return equals < socket.find(':') ? socket.substr(equals + 1) : socket;
}

// Two services cannot listen at one address.
void check_sockets(NamedSections& sections, const Config& config) {
  std::map<std::string_view, std::string_view> owners;
  for (std::size_t i = 0; i < sections.size(); ++i) {
    const process::ServiceSpec& spec = config.services[i].spec;
    for (const std::string& socket : spec.sockets) {
      const auto [owner, fresh] = owners.emplace(address_of(socket), spec.name);
      if (fresh) continue;
      sections[i].second.fail("sockets", fmt::format("{} is a socket of the service '{}' already",
                                                     owner->first, owner->second));
    }
  }
}

Result<Config> read(conf::Document document, const ConfigChecks& checks) {
  Config config;
  conf::Section root = document.root();
  // One file holds everything; these tables belong to other programs, which check them.
  for (const char* other : {"venue", "venues", "trading", "runbook", "engine"}) {
    static_cast<void>(root.has(other));
  }
  read_general(root.table("defib"), config);
  NamedSections sections = root.named_tables("service");
  for (auto& [name, section] : sections) add_service(section, name, checks, config);
  check_order(sections, config);
  check_sockets(sections, config);
  config.receivers = alert::read_receivers(root);
  config.http = read_http(root.table("http"));
  read_bundles(root.table("bundle"), config.bundles);
  DEFIB_TRY(document.finish());
  return config;
}

}  // namespace

Result<Config> load_config(const std::string& path, const ConfigChecks& checks) {
  DEFIB_TRY_ASSIGN(conf::Document document, conf::Document::parse_file(path));
  return read(std::move(document), checks);
}

Result<Config> parse_config(std::string_view text, std::string name, const ConfigChecks& checks) {
  DEFIB_TRY_ASSIGN(conf::Document document, conf::Document::parse_text(text, std::move(name)));
  return read(std::move(document), checks);
}

Dependencies dependencies_of(const std::vector<ServiceConfig>& services) {
  std::vector<Dependencies::Node> nodes;
  nodes.reserve(services.size());
  for (const ServiceConfig& service : services) {
    nodes.push_back({service.spec.name, service.after, service.required, service.restart_with});
  }
  return Dependencies(std::move(nodes));
}

}  // namespace defib::daemon
