// LossyFiles: a real file system that really loses what was not synced, when the process dies.
//
// What a program writes, truncates, creates, renames and removes below `root` stays in this
// process's memory; a sync pushes a file's changes down to the real files, and a sync of a
// directory its names. kill -9 then takes with it what a power failure would have: a child process
// that runs on this leaves behind what its machine would. Pages go down in random order, so a kill
// within a sync tears and reorders as a device may. Volatile pages are this process's memory too.
//
// Below, nothing is synced: the kernel keeps what a killed process wrote. Files are held in memory
// as a whole. Locks are the kernel's, and their file is really created. Paths outside of `root` go
// through unchanged. Changes that other processes make below `root` meanwhile are not seen.
//
// Thread rule: any thread; calls are one at a time inside.

#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "defib/os/files.h"
#include "defib/os/random.h"

namespace defib::os {

class LossyFiles final : public Files {
 public:
  LossyFiles(Files& below, std::string root, std::uint64_t seed);
  ~LossyFiles() override;

  Result<std::unique_ptr<File>> open(const std::string& path, OpenMode mode) override;
  Result<> rename(const std::string& from, const std::string& to) override;
  Result<> remove(const std::string& path) override;
  Result<> create_dirs(const std::string& path) override;
  Result<> sync_dir(const std::string& path) override;
  Result<std::vector<std::string>> list(const std::string& path) override;
  bool exists(const std::string& path) override;
  bool is_dir(const std::string& path) override;
  Result<std::uint64_t> free_space(const std::string& path) override;
  Result<std::unique_ptr<VolatilePage>> volatile_page(const std::string& name) override;
  Result<std::unique_ptr<VolatilePage>> find_volatile_page(const std::string& name) override;
  Result<> remove_volatile_page(const std::string& name) override;
  Result<FileSystemInfo> file_system(const std::string& path) override;

 private:
  friend class LossyFile;
  struct Node;
  struct Words;
  // A creation (only `added`), a removal (only `gone`) or a renaming that is not below yet.
  struct NameChange {
    std::string gone;
    std::string added;
    std::shared_ptr<Node> node;
    bool synced = false;  // goes down as soon as its directory is there
  };

  bool is_ours(const std::string& path) const;
  // All with mutex_ held. Null where there is no such name.
  std::shared_ptr<Node> find(const std::string& path);
  void change_name(std::string gone, std::string added, const std::shared_ptr<Node>& node);
  Result<> load(Node& node);
  Result<> push_names();
  Result<> push_name(const NameChange& change);
  Result<> push_content(Node& node);
  // Where it is below; creates it and its directories there, if need be.
  Result<std::string> force_below(Node& node, const std::string& path);

  Files& below_;
  const std::string root_;
  std::mutex mutex_;  // guards all below
  Random random_;
  std::map<std::string, std::shared_ptr<Node>> names_;  // known ones; null: gone
  std::vector<NameChange> pending_;
  std::map<std::string, std::shared_ptr<Words>> volatile_pages_;
};

}  // namespace defib::os
