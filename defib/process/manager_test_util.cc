#include "defib/process/manager_test_util.h"

#include "defib/os/fd.h"

namespace defib::process {
namespace {

// Opening goes well; the disk is full, or dying, when something is written.
class FailingFile : public os::PassThroughFile {
 public:
  FailingFile(std::unique_ptr<os::File> real, const FailingFiles& files)
      : PassThroughFile(std::move(real)), files_(files) {}
  Result<std::size_t> read_at(std::uint64_t offset, char* to, std::size_t size) override {
    if (files_.fail_reads) return os::system_error("pread", {}, EIO);
    return file_->read_at(offset, to, size);
  }
  Result<> write_at(std::uint64_t offset, std::string_view bytes) override {
    if (auto may = files_.change(); !may) {
      static_cast<void>(file_->write_at(offset, bytes.substr(0, bytes.size() / 2)).has_value());
      return may;
    }
    return file_->write_at(offset, bytes);
  }
  Result<> sync() override {
    DEFIB_TRY(files_.change());
    return file_->sync();
  }

 private:
  const FailingFiles& files_;
};

}  // namespace

Result<> FailingFiles::change() const {
  const int number = fault.load();
  if (number == 0) return {};
  return os::system_error("write", {}, number);
}

Result<std::unique_ptr<os::File>> FailingFiles::open(const std::string& path, os::OpenMode mode) {
  if (mode != os::OpenMode::kRead && fault.load() == EROFS) DEFIB_TRY(change());
  DEFIB_TRY_ASSIGN(std::unique_ptr<os::File> file, files_.open(path, mode));
  return std::unique_ptr<os::File>(std::make_unique<FailingFile>(std::move(file), *this));
}

Result<> FailingFiles::rename(const std::string& from, const std::string& to) {
  DEFIB_TRY(change());
  return files_.rename(from, to);
}

Result<> FailingFiles::sync_dir(const std::string& path) {
  DEFIB_TRY(change());
  return files_.sync_dir(path);
}

bool in_child(const std::function<bool()>& body) {
  const pid_t pid = fork();
  if (pid == 0) _exit(body() ? 0 : 1);
  int status = -1;
  EXPECT_EQ(waitpid(pid, &status, 0), pid);
  return status == 0;
}

}  // namespace defib::process
