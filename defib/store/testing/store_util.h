// What the store's tests share.

#pragma once

#include <fmt/core.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>
#include <utility>

#include "defib/os/files.h"
#include "defib/store/store.h"

namespace defib::store::testing_util {

class TemporaryDir {
 public:
  TemporaryDir() {
    std::string pattern = (std::filesystem::temp_directory_path() / "defib-store-XXXXXX").string();
    EXPECT_NE(::mkdtemp(pattern.data()), nullptr);
    path_ = pattern;
  }
  TemporaryDir(const TemporaryDir&) = delete;
  TemporaryDir& operator=(const TemporaryDir&) = delete;
  ~TemporaryDir() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// (table, key) -> value
using State = std::map<std::pair<std::string, std::string>, std::string>;

// Everything that a snapshot shows, read through cursors; the first error where a part of it cannot
// be read, and Corrupted where get() and the cursor do not agree.
inline Result<State> try_dump(const Snapshot& snapshot, bool also_get = true) {
  State state;
  for (const std::string& table : snapshot.tables()) {
    DEFIB_TRY_ASSIGN(const auto cursor, snapshot.scan(table));
    for (bool more = cursor->first(); more; more = cursor->next()) {
      const std::string key(cursor->key());
      const std::string value(cursor->value());
      if (also_get) {
        DEFIB_TRY_ASSIGN(const auto found, snapshot.get(table, key));
        if (found != value) {
          ADD_FAILURE() << "get() and the cursor disagree about " << table << "/" << key;
        }
      }
      state[{table, key}] = value;
    }
    DEFIB_TRY(cursor->status());
  }
  return state;
}

inline State dump(const Snapshot& snapshot) {
  Result<State> state = try_dump(snapshot, false);
  if (state) return *std::move(state);
  ADD_FAILURE() << state.error().to_text();
  return {};
}

inline State dump(Store& store) {
  return dump(**store.snapshot());
}

// A number from the environment, such as how much a campaign is to do.
inline std::uint64_t number_from_environment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : otherwise;
}

// Every file under `dir` with its content.
inline std::map<std::string, std::string> read_tree(const std::string& dir) {
  std::map<std::string, std::string> tree;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(dir)) {
    if (!entry.is_regular_file()) continue;
    tree[entry.path().string()] = *os::read_file(os::real_files(), entry.path().string());
  }
  return tree;
}

}  // namespace defib::store::testing_util
