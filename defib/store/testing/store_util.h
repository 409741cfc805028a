// What the store's tests share.

#pragma once

#include <fmt/core.h>
#include <gtest/gtest.h>
#include <stdlib.h>

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

inline State dump(const Snapshot& snapshot) {
  State state;
  for (const std::string& table : snapshot.tables()) {
    const auto cursor = *snapshot.scan(table);
    for (bool more = cursor->first(); more; more = cursor->next()) {
      state[{table, std::string(cursor->key())}] = cursor->value();
    }
  }
  return state;
}

inline State dump(Store& store) {
  return dump(**store.snapshot());
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
