// What the store's fuzzers share: small stores on the simulated disk, what they show, and seeds.
//
// Seeds are made by the code that writes the files, so that they cannot fall behind the formats:
// with DEFIB_FUZZ_SEEDS=DIR in the environment, a fuzzer first writes its own to DIR, which exists
// (tools/fuzz does that).

#pragma once

#include <cstdint>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "defib/base/bytes.h"
#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/os/sim_files.h"
#include "defib/store/executor.h"
#include "defib/store/store.h"

namespace defib::store::testing_util {

inline void fuzz_require(bool holds) {
  if (!holds) std::abort();
}

// `seeds`: inputs, as the fuzzer gets them.
inline void write_seeds(const std::vector<std::string>& seeds) {
  const char* dir = std::getenv("DEFIB_FUZZ_SEEDS");
  if (dir == nullptr) return;
  for (std::size_t i = 0; i < seeds.size(); ++i) {
    const std::string path = os::join_path(dir, "seed-" + std::to_string(i));
    fuzz_require(os::write_file_atomically(os::real_files(), path, seeds[i]).has_value());
  }
}

// Nothing runs in the background.
inline Options fuzz_options(os::Files& files, const os::Clock& clock) {
  Options options;
  options.files = &files;
  options.clock = &clock;
  options.executor = &no_helpers();
  options.segment_size = 16 << 10;
  options.page_size = 4096;
  options.checkpoint_after = 0;
  return options;
}

// (table, key) -> value
using Shown = std::map<std::pair<std::string, std::string>, std::string>;

inline Result<Shown> show(const Snapshot& snapshot) {
  Shown shown;
  for (const std::string& table : snapshot.tables()) {
    DEFIB_TRY_ASSIGN(const auto cursor, snapshot.scan(table));
    for (bool more = cursor->first(); more; more = cursor->next()) {
      shown[{table, std::string(cursor->key())}] = std::string(cursor->value());
    }
    DEFIB_TRY(cursor->status());
  }
  return shown;
}

// A store of `commits` commits in "/s", half of them in a checkpoint, and what it shows after each.
struct FuzzedStore {
  std::unique_ptr<os::SimFiles> disk = std::make_unique<os::SimFiles>();
  std::vector<Shown> after = {{}};  // by commit
};
// Makes what is there now the disk's beginning, so that killed(0, 0) is a copy of it.
inline void freeze(FuzzedStore& store) {
  store.disk = store.disk->killed(store.disk->operations(), 0);
}
inline FuzzedStore make_fuzzed_store(int commits, bool close) {
  FuzzedStore made;
  const os::FakeClock clock;
  Options options = fuzz_options(*made.disk, clock);
  options.log_retention = 1 << 20;
  {
    const auto store = Store::open("/s", options);
    fuzz_require(store.has_value());
    for (int i = 0; i < commits; ++i) {
      Shown next = made.after.back();
      const auto transaction = *(*store)->begin();
      for (int k = 0; k < 3; ++k) {
        const std::string key = "key " + std::to_string((i * 2 + k) % 7);
        const std::string value = "value " + std::to_string(i) + std::string(i * 5UL, '.');
        fuzz_require(transaction->put("t", key, value).has_value());
        next[{"t", key}] = value;
      }
      fuzz_require(transaction->commit(Durability::kPower).has_value());
      made.after.push_back(std::move(next));
      if (i == commits / 2) fuzz_require((*store)->checkpoint().has_value());
    }
    if (close) fuzz_require((*store)->close().has_value());
  }
  freeze(made);
  return made;
}

// Replaces `text` by what an input says: the whole of it, or edits of two bytes of place and one of
// value.
inline void edit(std::string& text, bool is_whole, std::string_view input) {
  if (is_whole) {
    text = input;
    return;
  }
  for (std::size_t i = 0; i + 3 <= input.size() && !text.empty(); i += 3) {
    text[load<std::uint16_t>(&input[i]) % text.size()] = input[i + 2];
  }
}

}  // namespace defib::store::testing_util
