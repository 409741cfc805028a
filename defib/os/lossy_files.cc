#include "defib/os/lossy_files.h"

#include <fmt/core.h>

#include <algorithm>
#include <atomic>
#include <utility>

namespace defib::os {
namespace {

constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kLargestFile = 1ULL << 30;

Error not_there(const std::string& path) {
  return Error(Code::kFileNotFound, fmt::format("'{}' does not exist", path)).with("path", path);
}

}  // namespace

struct LossyFiles::Node {
  bool is_dir = false;
  std::string below_path;  // empty: not there yet
  bool loaded = false;
  std::string current;
  // Content of a file that is not below yet, as last synced.
  std::string synced;
  // Of one that is: what a sync has to push.
  std::set<std::uint64_t> dirty_pages;
  std::uint64_t below_size = 0;
  std::uint64_t lowest_size = 0;  // that it had since the last sync

  void write(std::uint64_t offset, std::string_view bytes) {
    if (bytes.empty()) return;
    const std::uint64_t old_size = current.size();
    if (offset + bytes.size() > old_size) current.resize(offset + bytes.size());
    bytes.copy(current.data() + offset, bytes.size());
    // Zeros between the old end and the write are part of it.
    const std::uint64_t begin = std::min(offset, old_size);
    for (std::uint64_t page = begin / kPage; page * kPage < offset + bytes.size(); ++page) {
      dirty_pages.insert(page);
    }
  }
  void truncate(std::uint64_t size) {
    current.resize(size);
    lowest_size = std::min(lowest_size, size);
  }
};

struct LossyFiles::Words {
  std::atomic<std::uint64_t> words[VolatilePage::kWords] = {};
};

namespace {

template <typename Words>
class PrivatePage final : public VolatilePage {
 public:
  explicit PrivatePage(std::shared_ptr<Words> words) : words_(std::move(words)) {}
  std::uint64_t load(std::size_t word) const override { return words_->words[word].load(); }
  void store(std::size_t word, std::uint64_t value) override { words_->words[word].store(value); }

 private:
  std::shared_ptr<Words> words_;
};

}  // namespace

class LossyFile final : public File {
 public:
  LossyFile(LossyFiles& files, std::shared_ptr<LossyFiles::Node> node, std::string path,
            bool writable)
      : files_(files), node_(std::move(node)), path_(std::move(path)), writable_(writable) {}

  Result<std::size_t> read_at(std::uint64_t offset, char* to, std::size_t size) override {
    const std::lock_guard lock(files_.mutex_);
    if (offset >= node_->current.size()) return std::size_t{0};
    return node_->current.copy(to, size, offset);
  }
  Result<> write_at(std::uint64_t offset, std::string_view bytes) override {
    DEFIB_TRY(check_writable());
    const std::lock_guard lock(files_.mutex_);
    node_->write(offset, bytes);
    return {};
  }
  Result<> sync() override {
    const std::lock_guard lock(files_.mutex_);
    return files_.push_content(*node_);
  }
  Result<> truncate(std::uint64_t size) override {
    DEFIB_TRY(check_writable());
    const std::lock_guard lock(files_.mutex_);
    node_->truncate(size);
    return {};
  }
  Result<std::uint64_t> size() override {
    const std::lock_guard lock(files_.mutex_);
    return std::uint64_t{node_->current.size()};
  }
  Result<> drop_cache() override { return {}; }
  Result<> try_lock() override {
    const std::lock_guard lock(files_.mutex_);
    if (lock_ == nullptr) {
      DEFIB_TRY_ASSIGN(const std::string below, files_.force_below(*node_, path_));
      DEFIB_TRY_ASSIGN(lock_, files_.below_.open(below, OpenMode::kWrite));
    }
    return lock_->try_lock();
  }

 private:
  Result<> check_writable() const {
    if (writable_) return {};
    return Error(Code::kSystemCallFailed, "the file is open for reading only").with("path", path_);
  }

  LossyFiles& files_;
  std::shared_ptr<LossyFiles::Node> node_;
  std::string path_;
  bool writable_;
  std::unique_ptr<File> lock_;  // the real file, once it was locked
};

LossyFiles::LossyFiles(Files& below, std::string root, std::uint64_t seed)
    : below_(below), root_(std::move(root)), random_(seed) {}
LossyFiles::~LossyFiles() = default;

bool LossyFiles::is_ours(const std::string& path) const {
  return path == root_ || (path.starts_with(root_) && path[root_.size()] == '/');
}

std::shared_ptr<LossyFiles::Node> LossyFiles::find(const std::string& path) {
  const auto at = names_.find(path);
  if (at != names_.end()) return at->second;
  if (!below_.exists(path)) return nullptr;
  auto node = std::make_shared<Node>();
  node->is_dir = below_.is_dir(path);
  node->below_path = path;
  names_[path] = node;
  return node;
}

Result<> LossyFiles::load(Node& node) {
  if (node.loaded) return {};
  DEFIB_TRY_ASSIGN(node.current, read_file(below_, node.below_path, kLargestFile));
  node.below_size = node.lowest_size = node.current.size();
  node.loaded = true;
  return {};
}

void LossyFiles::change_name(std::string gone, std::string added,
                             const std::shared_ptr<Node>& node) {
  if (!gone.empty()) names_[gone] = nullptr;
  if (!added.empty()) names_[added] = node;
  pending_.push_back({std::move(gone), std::move(added), node});
}

Result<> LossyFiles::push_name(const NameChange& change) {
  Node& node = *change.node;
  if (change.added.empty()) {
    if (node.below_path != change.gone) return {};  // It never got there.
    node.below_path.clear();
    return below_.remove(change.gone);
  }
  if (!change.gone.empty() && node.below_path == change.gone) {
    DEFIB_TRY(below_.rename(change.gone, change.added));
    node.below_path = change.added;
    return {};
  }
  if (node.below_path == change.added) return {};
  if (node.is_dir) {
    DEFIB_TRY(below_.create_dirs(change.added));
  } else {
    DEFIB_TRY_ASSIGN(const auto file, below_.open(change.added, OpenMode::kCreate));
    DEFIB_TRY(file->truncate(0));
    DEFIB_TRY(file->write_at(0, node.synced));
    node.below_size = node.synced.size();
  }
  node.below_path = change.added;
  return {};
}

Result<> LossyFiles::push_names() {
  for (std::size_t i = 0; i < pending_.size();) {
    const NameChange change = pending_[i];
    const std::string dir = parent_dir(change.added.empty() ? change.gone : change.added);
    if (!change.synced || !below_.is_dir(dir)) {
      ++i;
      continue;
    }
    DEFIB_TRY(push_name(change));
    pending_.erase(pending_.begin() + static_cast<std::ptrdiff_t>(i));
    if (change.node->is_dir) i = 0;  // What waited for it can go now.
  }
  return {};
}

Result<> LossyFiles::push_content(Node& node) {
  if (node.below_path.empty()) {
    node.synced = node.current;
    node.dirty_pages.clear();
    node.lowest_size = node.current.size();
    return {};
  }
  DEFIB_TRY_ASSIGN(const auto file, below_.open(node.below_path, OpenMode::kWrite));
  if (node.lowest_size < node.below_size) DEFIB_TRY(file->truncate(node.lowest_size));
  std::vector<std::uint64_t> pages(node.dirty_pages.begin(), node.dirty_pages.end());
  for (std::size_t i = pages.size(); i > 1; --i) std::swap(pages[i - 1], pages[random_.below(i)]);
  for (const std::uint64_t page : pages) {
    if (page * kPage >= node.current.size()) continue;
    DEFIB_TRY(
        file->write_at(page * kPage, std::string_view(node.current).substr(page * kPage, kPage)));
  }
  DEFIB_TRY(file->truncate(node.current.size()));
  node.dirty_pages.clear();
  node.below_size = node.lowest_size = node.current.size();
  return {};
}

Result<std::string> LossyFiles::force_below(Node& node, const std::string& path) {
  if (!node.below_path.empty()) return node.below_path;
  DEFIB_TRY(below_.create_dirs(parent_dir(path)));
  for (NameChange& change : pending_) {
    const bool leads_there = change.node->is_dir && path.starts_with(change.added + "/");
    if (leads_there) change.node->below_path = change.added;
  }
  DEFIB_TRY(push_name({.gone = {}, .added = path, .node = find(path)}));
  return node.below_path;
}

Result<std::unique_ptr<File>> LossyFiles::open(const std::string& path, OpenMode mode) {
  if (!is_ours(path)) return below_.open(path, mode);
  const std::lock_guard lock(mutex_);
  std::shared_ptr<Node> node = find(path);
  if (node == nullptr) {
    const bool creates = mode != OpenMode::kRead && mode != OpenMode::kWrite;
    const std::string dir = parent_dir(path);
    const auto parent = is_ours(dir) ? find(dir) : nullptr;
    const bool dir_exists = is_ours(dir) ? parent != nullptr && parent->is_dir : below_.is_dir(dir);
    if (!creates || !dir_exists) return not_there(path);
    node = std::make_shared<Node>();
    node->loaded = true;
    change_name({}, path, node);
  } else if (mode == OpenMode::kCreateNew || mode == OpenMode::kCreateNewDirect) {
    return Error(Code::kFileExists, "'" + path + "' exists").with("path", path);
  }
  if (node->is_dir) {
    return Error(Code::kSystemCallFailed, "'" + path + "' is a directory").with("path", path);
  }
  DEFIB_TRY(load(*node));
  return std::unique_ptr<File>(
      std::make_unique<LossyFile>(*this, node, path, mode != OpenMode::kRead));
}

Result<> LossyFiles::rename(const std::string& from, const std::string& to) {
  if (!is_ours(from)) return below_.rename(from, to);
  const std::lock_guard lock(mutex_);
  const auto node = find(from);
  if (node == nullptr) return not_there(from);
  change_name(from, to, node);
  return {};
}

Result<> LossyFiles::remove(const std::string& path) {
  if (!is_ours(path)) return below_.remove(path);
  const std::lock_guard lock(mutex_);
  const auto node = find(path);
  if (node == nullptr) return not_there(path);
  change_name(path, {}, node);
  return {};
}

Result<> LossyFiles::create_dirs(const std::string& path) {
  if (!is_ours(path)) return below_.create_dirs(path);
  const std::lock_guard lock(mutex_);
  for (std::size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
    const std::string part = path.substr(0, end);
    if (!is_ours(part)) {
      DEFIB_TRY(below_.create_dirs(part));
    } else if (find(part) == nullptr) {
      auto node = std::make_shared<Node>();
      node->is_dir = true;
      change_name({}, part, node);
    }
    if (end == std::string::npos) return {};
  }
}

Result<> LossyFiles::sync_dir(const std::string& path) {
  const std::lock_guard lock(mutex_);
  if (is_ours(path) && find(path) == nullptr) return not_there(path);
  for (NameChange& change : pending_) {
    if (parent_dir(change.added.empty() ? change.gone : change.added) == path) {
      change.synced = true;
    }
  }
  return push_names();
}

Result<std::vector<std::string>> LossyFiles::list(const std::string& path) {
  if (!is_ours(path)) return below_.list(path);
  const std::lock_guard lock(mutex_);
  const auto dir = find(path);
  if (dir == nullptr || !dir->is_dir) return not_there(path);
  std::set<std::string> found;
  if (below_.is_dir(path)) {
    DEFIB_TRY_ASSIGN(const auto names, below_.list(path));
    found.insert(names.begin(), names.end());
  }
  for (const auto& [name, node] : names_) {
    if (parent_dir(name) != path) continue;
    const std::string last = name.substr(path.size() + 1);
    if (node != nullptr) {
      found.insert(last);
    } else {
      found.erase(last);
    }
  }
  return std::vector<std::string>(found.begin(), found.end());
}

bool LossyFiles::exists(const std::string& path) {
  if (!is_ours(path)) return below_.exists(path);
  const std::lock_guard lock(mutex_);
  return find(path) != nullptr;
}

bool LossyFiles::is_dir(const std::string& path) {
  if (!is_ours(path)) return below_.is_dir(path);
  const std::lock_guard lock(mutex_);
  const auto node = find(path);
  return node != nullptr && node->is_dir;
}

Result<std::uint64_t> LossyFiles::free_space(const std::string& path) {
  return below_.free_space(is_ours(path) ? parent_dir(root_) : path);
}

Result<std::unique_ptr<VolatilePage>> LossyFiles::volatile_page(const std::string& name) {
  const std::lock_guard lock(mutex_);
  std::shared_ptr<Words>& words = volatile_pages_[name];
  if (words == nullptr) words = std::make_shared<Words>();
  return std::unique_ptr<VolatilePage>(std::make_unique<PrivatePage<Words>>(words));
}

Result<std::unique_ptr<VolatilePage>> LossyFiles::find_volatile_page(const std::string& name) {
  {
    const std::lock_guard lock(mutex_);
    if (!volatile_pages_.contains(name)) return std::unique_ptr<VolatilePage>();
  }
  return volatile_page(name);
}

Result<> LossyFiles::remove_volatile_page(const std::string& name) {
  const std::lock_guard lock(mutex_);
  if (volatile_pages_.erase(name) == 0) return not_there(name);
  return {};
}

Result<FileSystemInfo> LossyFiles::file_system(const std::string& path) {
  return below_.file_system(is_ours(path) ? parent_dir(root_) : path);
}

}  // namespace defib::os
