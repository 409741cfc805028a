// What the tests of the service's side share: a directory of the test's own, files that fail on
// request, and processes to be killed.

#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "defib/os/pass_through_files.h"

namespace defib::process {

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    char pattern[] = "/tmp/manager-test-XXXXXX";
    path_ = mkdtemp(pattern);
  }
  ~TemporaryDirectory() {
    const auto names = os::real_files().list(path_);
    for (const std::string& name : names.value_or(std::vector<std::string>())) {
      unlink((*this / name).c_str());
    }
    EXPECT_EQ(rmdir(path_.c_str()), 0);
  }
  std::string operator/(const std::string& name) const { return os::join_path(path_, name); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// The kernel's files, of which every change fails while `fault` is set.
class FailingFiles : public os::PassThroughFiles {
 public:
  FailingFiles() : PassThroughFiles(os::real_files()) {}
  std::atomic<int> fault{0};  // an errno value; 0: none
  std::atomic<bool> fail_reads{false};

  Result<std::unique_ptr<os::File>> open(const std::string& path, os::OpenMode mode) override;
  Result<> rename(const std::string& from, const std::string& to) override;
  Result<> sync_dir(const std::string& path) override;
  Result<> change() const;
};

// Runs `body` in a forked process; true when it says so.
bool in_child(const std::function<bool()>& body);

}  // namespace defib::process
