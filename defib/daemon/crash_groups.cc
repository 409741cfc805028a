#include "defib/daemon/crash_groups.h"

#include <algorithm>

namespace defib::daemon {
namespace {

constexpr std::uint64_t kMaxFile = 1 << 20;
constexpr std::string_view kSchema = "defib.groups/1";
// "20261120T130558Z": of ids of one second the order is not known.
constexpr std::size_t kSecondOfId = 16;

CrashGroup group_from(const wire::Json& json) {
  CrashGroup group;
  group.id = json["signature"].as_string();
  group.text = json["text"].as_string();
  group.cause = json["cause"].as_string();
  group.first_at = json["first_seen"].as_string();
  group.last_at = json["last_seen"].as_string();
  group.count = json["count"].as_uint();
  for (const wire::Json& incident : json["incidents"].items()) {
    group.incidents.emplace_back(incident.as_string());
  }
  return group;
}

}  // namespace

wire::Json CrashGroup::to_json() const {
  wire::Json list = wire::Json::array();
  for (const std::string& incident : incidents) list.push(incident);
  return wire::Json::object({{"signature", id},
                             {"text", text},
                             {"cause", cause},
                             {"count", count},
                             {"first_seen", first_at},
                             {"last_seen", last_at},
                             {"incidents", std::move(list)}});
}

CrashGroups CrashGroups::read(os::Files& files, const std::string& service_dir) {
  CrashGroups groups;
  groups.path_ = os::join_path(service_dir, "groups.json");
  const auto text = os::read_file(files, groups.path_, kMaxFile);
  const auto json = text ? wire::Json::parse(*text) : Result<wire::Json>(text.error());
  if (!json || (*json)["schema"].as_string() != kSchema) return groups;
  groups.dropped_ = (*json)["dropped"].as_uint();
  for (const wire::Json& one : (*json)["groups"].items()) {
    if (groups.groups_.size() < kMaxGroups) groups.groups_.push_back(group_from(one));
  }
  for (const wire::Json& one : (*json)["counted"].items()) {
    if (groups.counted_.size() == kMaxCounted) break;
    groups.counted_.push_back(
        {std::string(one["incident"].as_string()), static_cast<int>(one["classified"].as_int())});
  }
  return groups;
}

bool CrashGroups::counted(std::string_view incident, int number) const {
  const auto found = std::ranges::find(counted_, incident, &Counted::incident);
  if (found != counted_.end()) return number <= found->number;
  // Of those before the oldest that is listed, all are counted.
  return counted_.size() == kMaxCounted &&
         incident.substr(0, kSecondOfId) < counted_.front().incident.substr(0, kSecondOfId);
}

bool CrashGroups::count(const std::string& incident, int number, std::string_view at,
                        const wire::Json& signature, std::string_view cause) {
  if (counted(incident, number)) return false;
  const auto known = std::ranges::find(counted_, incident, &Counted::incident);
  if (known != counted_.end()) {
    known->number = number;
  } else {
    if (counted_.size() == kMaxCounted) counted_.erase(counted_.begin());
    counted_.push_back({incident, number});
  }
  const std::string_view id = signature["id"].as_string();
  if (id.empty()) return true;
  auto group = std::ranges::find(groups_, id, &CrashGroup::id);
  if (group == groups_.end()) {
    if (groups_.size() == kMaxGroups) {
      groups_.erase(std::ranges::min_element(groups_, {}, &CrashGroup::last_at));
      ++dropped_;
    }
    groups_.push_back({std::string(id),
                       std::string(signature["text"].as_string()),
                       std::string(cause),
                       std::string(at),
                       {},
                       0,
                       {}});
    group = groups_.end() - 1;
  }
  ++group->count;
  group->last_at = at;
  if (group->incidents.empty() || group->incidents.back() != incident) {
    group->incidents.push_back(incident);
  }
  if (group->incidents.size() > kMaxIncidents) group->incidents.erase(group->incidents.begin());
  return true;
}

bool CrashGroups::catch_up(const std::string& incident, const std::vector<wire::Json>& lines) {
  bool any = false;
  int number = 0;
  for (const wire::Json& line : lines) {
    if (line["event"].as_string() != "classified") continue;
    any = count(incident, ++number, line["at"].as_string(), line["signature"],
                line["cause"].as_string()) ||
          any;
  }
  return any;
}

Result<> CrashGroups::save(os::Files& files) const {
  wire::Json counted = wire::Json::array(), groups = wire::Json::array();
  for (const Counted& one : counted_) {
    counted.push(wire::Json::object({{"incident", one.incident}, {"classified", one.number}}));
  }
  for (const CrashGroup& group : groups_) groups.push(group.to_json());
  const wire::Json document = wire::Json::object({{"schema", kSchema},
                                                  {"counted", std::move(counted)},
                                                  {"dropped", dropped_},
                                                  {"groups", std::move(groups)}});
  const std::string temporary = path_ + ".tmp";
  {
    DEFIB_TRY_ASSIGN(const std::unique_ptr<os::File> file,
                     files.open(temporary, os::OpenMode::kCreate));
    DEFIB_TRY(file->truncate(0));
    DEFIB_TRY(file->write_at(0, document.dump(1) + "\n"));
  }
  return files.rename(temporary, path_);
}

const CrashGroup* CrashGroups::find(std::string_view id) const {
  const auto found = std::ranges::find(groups_, id, &CrashGroup::id);
  return found == groups_.end() ? nullptr : &*found;
}

}  // namespace defib::daemon
