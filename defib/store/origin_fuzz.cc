// Any bytes as a backup's backup.origin: restoring from it and the store's log is total, and what
// is restored is the state after one commit of that store.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "defib/store/maintenance.h"
#include "defib/store/testing/fuzz_store.h"

using namespace defib;
using namespace defib::store;
using namespace defib::store::testing_util;

namespace {

constexpr std::string_view kOrigin = "/backup/backup.origin";
constexpr int kCommits = 4;

// A store, a backup of it, and commits after that in its log.
const FuzzedStore& sample() {
  static const FuzzedStore made = [] {
    FuzzedStore store = make_fuzzed_store(kCommits, false);
    const os::FakeClock clock;
    Options options = fuzz_options(*store.disk, clock);
    options.log_retention = 1 << 20;
    fuzz_require(back_up("/s", "/backup", options).has_value());
    {
      const auto opened = Store::open("/s", options);
      fuzz_require(opened.has_value());
      for (int i = 0; i < 2; ++i) {
        Shown next = store.after.back();
        next[{"t", "late"}] = std::to_string(i);
        fuzz_require(put(**opened, "t", "late", std::to_string(i), Durability::kPower).has_value());
        store.after.push_back(std::move(next));
      }
    }
    freeze(store);
    return store;
  }();
  return made;
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  const std::string origin = sample().disk->content(std::string(kOrigin));
  std::vector<std::string> seeds;
  for (char mode = 0; mode < 4; ++mode) seeds.push_back(std::string(1, mode) + origin);
  write_seeds(seeds);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 1) return 0;
  const auto disk = sample().disk->killed(0, 0);
  std::string text = disk->content(std::string(kOrigin));
  edit(text, (data[0] & 1) == 0, {reinterpret_cast<const char*>(data + 1), size - 1});
  disk->set_content(std::string(kOrigin), text);
  const os::FakeClock clock;
  const Options options = fuzz_options(*disk, clock);
  RestoreSettings settings;
  settings.log_of = "/s";
  if ((data[0] & 2) != 0) settings.to_commit = kCommits + 1;
  const auto report = restore("/backup", "/new", settings, options);
  if (!report) return 0;
  fuzz_require(report->commit < sample().after.size());
  const auto restored = Store::open("/new", options);
  fuzz_require(restored.has_value());
  const auto snapshot = *(*restored)->snapshot();
  fuzz_require(snapshot->position() == report->commit);
  const auto shown = show(*snapshot);
  fuzz_require(shown && *shown == sample().after[report->commit]);
  return 0;
}
