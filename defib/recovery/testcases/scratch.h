// What the tests of this folder share: a scratch directory, and Files that fail, or kill the
// process, at a chosen operation.

#pragma once

#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "defib/base/assert.h"
#include "defib/os/pass_through_files.h"

namespace defib::recovery::testcases {

class Scratch {
 public:
  Scratch() {
    std::string path = "/tmp/defib-recovery-XXXXXX";
    DEFIB_ASSERT(::mkdtemp(path.data()) != nullptr);
    path_ = path;
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { remove_tree(path_); }

  const std::string& path() const { return path_; }
  std::string operator/(std::string_view name) const { return os::join_path(path_, name); }

 private:
  static void remove_tree(const std::string& path) {
    if (os::real_files().is_dir(path)) {
      const auto names = os::real_files().list(path);
      for (const std::string& name : *names) remove_tree(os::join_path(path, name));
    }
    static_cast<void>(os::real_files().remove(path).has_value());
  }
  std::string path_;
};

// The kernel's files, with a say before every operation that changes or syncs something. The
// gate's answer: do it, do half of it (a write), or fail without doing anything.
enum class Gate { kPass, kHalf, kFail };

class GatedFiles final : public os::PassThroughFiles {
 public:
  // Called with the operation's name: "open", "write", "sync", "truncate", "rename", "remove",
  // "create_dirs", "sync_dir"; after kHalf also "after half a write". Reading is not gated.
  using Ask = std::function<Gate(std::string_view operation)>;
  explicit GatedFiles(Ask ask) : PassThroughFiles(os::real_files()), ask_(std::move(ask)) {}

  Result<std::unique_ptr<os::File>> open(const std::string& path, os::OpenMode mode) override {
    if (mode != os::OpenMode::kRead) DEFIB_TRY(gate("open", path));
    DEFIB_TRY_ASSIGN(std::unique_ptr<os::File> file, files_.open(path, mode));
    return std::unique_ptr<os::File>(std::make_unique<GatedFile>(*this, std::move(file)));
  }
  Result<> rename(const std::string& from, const std::string& to) override {
    DEFIB_TRY(gate("rename", from));
    return files_.rename(from, to);
  }
  Result<> remove(const std::string& path) override {
    DEFIB_TRY(gate("remove", path));
    return files_.remove(path);
  }
  Result<> create_dirs(const std::string& path) override {
    DEFIB_TRY(gate("create_dirs", path));
    return files_.create_dirs(path);
  }
  Result<> sync_dir(const std::string& path) override {
    DEFIB_TRY(gate("sync_dir", path));
    return skip_syncs ? Result<>() : files_.sync_dir(path);
  }

  // A killed process loses nothing that it wrote, so tests of kills need no slow syncs.
  bool skip_syncs = true;

 private:
  class GatedFile final : public os::PassThroughFile {
   public:
    GatedFile(GatedFiles& files, std::unique_ptr<os::File> file)
        : PassThroughFile(std::move(file)), files_(files) {}
    Result<> write_at(std::uint64_t offset, std::string_view bytes) override {
      const Gate answer = files_.ask_("write");
      if (answer == Gate::kPass) return file_->write_at(offset, bytes);
      if (answer == Gate::kHalf) {
        DEFIB_TRY(file_->write_at(offset, bytes.substr(0, bytes.size() / 2)));
        static_cast<void>(files_.ask_("after half a write"));
      }
      return Error(Code::kNoSpace, "write: no space (injected)");
    }
    Result<> sync() override {
      if (files_.ask_("sync") != Gate::kPass) return Error(Code::kSyncFailed, "sync (injected)");
      return files_.skip_syncs ? Result<>() : file_->sync();
    }
    Result<> truncate(std::uint64_t size) override {
      DEFIB_TRY(files_.gate("truncate", ""));
      return file_->truncate(size);
    }

   private:
    GatedFiles& files_;
  };

  Result<> gate(std::string_view operation, const std::string& path) {
    if (ask_(operation) == Gate::kPass) return {};
    return Error(Code::kIoError, std::string(operation) + " " + path + " (injected)");
  }
  Ask ask_;
};

// Passes `passes` operations, then fails that one and all after it: to what is on disk, a kill.
class DyingFiles {
 public:
  explicit DyingFiles(int passes, bool half_write = false)
      : files([this, half_write](std::string_view operation) {
          ++asked;
          if (left-- > 0) return Gate::kPass;
          const bool first = left == -1;
          return first && half_write && operation == "write" ? Gate::kHalf : Gate::kFail;
        }),
        left(passes) {}
  bool died() const { return left < 0; }
  int operations() const { return asked; }

  GatedFiles files;

 private:
  int left;
  int asked = 0;
};

}  // namespace defib::recovery::testcases
