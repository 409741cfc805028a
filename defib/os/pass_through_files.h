// PassThroughFiles: a Files that hands every call on, for decorators that change a few of them,
// such as the planted faults of tests. Thread rules: those of what it passes on to.

#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "defib/os/files.h"

namespace defib::os {

class PassThroughFile : public File {
 public:
  explicit PassThroughFile(std::unique_ptr<File> file) : file_(std::move(file)) {}
  Result<std::size_t> read_at(std::uint64_t offset, char* to, std::size_t size) override {
    return file_->read_at(offset, to, size);
  }
  Result<> write_at(std::uint64_t offset, std::string_view bytes) override {
    return file_->write_at(offset, bytes);
  }
  Result<> sync() override { return file_->sync(); }
  Result<> write_back(std::uint64_t offset, std::uint64_t size) override {
    return file_->write_back(offset, size);
  }
  Result<> truncate(std::uint64_t size) override { return file_->truncate(size); }
  Result<std::uint64_t> size() override { return file_->size(); }
  Result<> drop_cache() override { return file_->drop_cache(); }
  Result<std::unique_ptr<FileView>> map() override { return file_->map(); }
  Result<> try_lock() override { return file_->try_lock(); }

 protected:
  std::unique_ptr<File> file_;
};

class PassThroughFiles : public Files {
 public:
  explicit PassThroughFiles(Files& files) : files_(files) {}
  Result<std::unique_ptr<File>> open(const std::string& path, OpenMode mode) override {
    return files_.open(path, mode);
  }
  Result<> rename(const std::string& from, const std::string& to) override {
    return files_.rename(from, to);
  }
  Result<> remove(const std::string& path) override { return files_.remove(path); }
  Result<> create_dirs(const std::string& path) override { return files_.create_dirs(path); }
  Result<> sync_dir(const std::string& path) override { return files_.sync_dir(path); }
  Result<std::vector<std::string>> list(const std::string& path) override {
    return files_.list(path);
  }
  bool exists(const std::string& path) override { return files_.exists(path); }
  bool is_dir(const std::string& path) override { return files_.is_dir(path); }
  Result<std::uint64_t> free_space(const std::string& path) override {
    return files_.free_space(path);
  }
  Result<std::unique_ptr<VolatilePage>> volatile_page(const std::string& name) override {
    return files_.volatile_page(name);
  }
  Result<std::unique_ptr<VolatilePage>> find_volatile_page(const std::string& name) override {
    return files_.find_volatile_page(name);
  }
  Result<> remove_volatile_page(const std::string& name) override {
    return files_.remove_volatile_page(name);
  }
  Result<FileSystemInfo> file_system(const std::string& path) override {
    return files_.file_system(path);
  }

 protected:
  Files& files_;
};

}  // namespace defib::os
