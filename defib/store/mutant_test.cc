// Planted bugs: what the proofs of crash_test.cc are worth. Each mutant sits
// between the store and the simulated disk and behaves as the store would with one bug; the proof
// has to notice every one of them. docs/store.md lists them.

#include <gtest/gtest.h>

#include "defib/base/bytes.h"
#include "defib/store/format.h"
#include "defib/store/testing/crash_harness.h"
#include "defib/store/testing/workloads.h"

namespace defib::store {
namespace {

using testing_util::Campaign;
using testing_util::workloads;
using testing_util::Wrapper;

bool is_log(std::string_view path) {
  return path.ends_with(".wal");
}

// What a mutant does differently; everything else passes through.
struct Bug {
  std::string name;
  std::function<bool(const std::string& path)> skips_sync;
  std::function<bool(const std::string& dir)> skips_dir_sync;
  std::function<bool(const std::string& path)> delays_sync;  // until the file's next call
  bool ignores_truncate = false;
  std::function<void(const std::string& path, std::uint64_t& offset, std::string& bytes)> on_write;
};

class MutantFile final : public os::File {
 public:
  MutantFile(const Bug& bug, std::string path, std::unique_ptr<os::File> file)
      : bug_(bug), path_(std::move(path)), file_(std::move(file)) {}
  Result<std::size_t> read_at(std::uint64_t offset, char* to, std::size_t size) override {
    DEFIB_TRY(catch_up());
    return file_->read_at(offset, to, size);
  }
  Result<> write_at(std::uint64_t offset, std::string_view bytes) override {
    DEFIB_TRY(catch_up());
    std::string changed(bytes);
    if (bug_.on_write) bug_.on_write(path_, offset, changed);
    return changed.empty() ? Result<>() : file_->write_at(offset, changed);
  }
  Result<> sync() override {
    if (bug_.skips_sync && bug_.skips_sync(path_)) return {};
    if (bug_.delays_sync && bug_.delays_sync(path_)) {
      owes_sync_ = true;
      return {};
    }
    return file_->sync();
  }
  Result<> truncate(std::uint64_t size) override {
    DEFIB_TRY(catch_up());
    return bug_.ignores_truncate && is_log(path_) ? Result<>() : file_->truncate(size);
  }
  Result<std::uint64_t> size() override { return file_->size(); }
  Result<> drop_cache() override { return file_->drop_cache(); }
  Result<> try_lock() override { return file_->try_lock(); }

 private:
  Result<> catch_up() {
    if (!std::exchange(owes_sync_, false)) return {};
    return file_->sync();
  }
  const Bug& bug_;
  std::string path_;
  std::unique_ptr<os::File> file_;
  bool owes_sync_ = false;
};

class MutantFiles final : public os::Files {
 public:
  MutantFiles(const Bug& bug, os::SimFiles& files) : bug_(bug), files_(files) {}
  Result<std::unique_ptr<os::File>> open(const std::string& path, os::OpenMode mode) override {
    DEFIB_TRY_ASSIGN(auto file, files_.open(path, mode));
    return std::unique_ptr<os::File>(std::make_unique<MutantFile>(bug_, path, std::move(file)));
  }
  Result<> rename(const std::string& from, const std::string& to) override {
    return files_.rename(from, to);
  }
  Result<> remove(const std::string& path) override { return files_.remove(path); }
  Result<> create_dirs(const std::string& path) override { return files_.create_dirs(path); }
  Result<> sync_dir(const std::string& path) override {
    if (bug_.skips_dir_sync && bug_.skips_dir_sync(path)) return {};
    return files_.sync_dir(path);
  }
  Result<std::vector<std::string>> list(const std::string& path) override {
    return files_.list(path);
  }
  bool exists(const std::string& path) override { return files_.exists(path); }
  bool is_dir(const std::string& path) override { return files_.is_dir(path); }
  Result<std::uint64_t> free_space(const std::string& path) override {
    return files_.free_space(path);
  }

 private:
  const Bug& bug_;
  os::SimFiles& files_;
};

// Blocks that stand whole in a write, each with its header decoded.
void each_block(std::string& bytes, const std::function<void(BlockHeader&, std::string&)>& change) {
  std::string problem;
  const auto header = decode_block_header(bytes, problem);
  if (!header || bytes.size() < kBlockHeaderSize + header->payload_size) return;
  BlockHeader own = *header;
  std::string payload = bytes.substr(kBlockHeaderSize, own.payload_size);
  change(own, payload);
  own.payload_crc = crc32c(payload);
  own.payload_size = static_cast<std::uint32_t>(payload.size());
  std::string block;
  encode(own, block);
  block += payload;
  std::ranges::copy(block, bytes.begin());
}

std::vector<Bug> bugs() {
  std::vector<Bug> list;
  const auto add = [&](std::string name) -> Bug& {
    list.emplace_back();
    list.back().name = std::move(name);
    return list.back();
  };
  add("the log is never synced").skips_sync = is_log;
  add("a commit is acknowledged before its sync").delays_sync = is_log;
  add("a new segment's name is not synced").skips_dir_sync = [](const std::string& dir) {
    return dir.ends_with("/wal");
  };
  add("the store's directory is not synced").skips_dir_sync = [](const std::string& dir) {
    return dir == testing_util::kDir;
  };
  add("the parent directory is not synced").skips_dir_sync = [](const std::string& dir) {
    return dir == "/";
  };
  add("no directory is synced").skips_dir_sync = [](const std::string&) { return true; };
  add("a checkpoint is not synced before its rename").skips_sync = [](const std::string& path) {
    return path.find(".ckpt") != std::string::npos;
  };
  add("small files are not synced before their rename").skips_sync = [](const std::string& path) {
    return path.ends_with("store.id.tmp") || path.ends_with(".clean_shutdown.tmp");
  };
  add("the torn tail is not cut").ignores_truncate = true;
  int count = 0;
  add("every seventh write to the log is lost").on_write =
      [count](const std::string& path, std::uint64_t&, std::string& bytes) mutable {
        if (is_log(path) && ++count % 7 == 0) bytes.clear();
      };
  add("every seventh write to the log goes to the next sector").on_write =
      [count](const std::string& path, std::uint64_t& offset, std::string&) mutable {
        if (is_log(path) && ++count % 7 == 0) offset += 512;
      };
  add("the last change of a transaction is not logged").on_write =
      [](const std::string& path, std::uint64_t&, std::string& bytes) {
        if (!is_log(path)) return;
        each_block(bytes, [](BlockHeader& header, std::string& payload) {
          std::string problem;
          const auto transactions =
              decode_transactions(payload, header.first_lsn, header.count, problem);
          if (!transactions || transactions->size() != 1) return;
          TransactionEncoder encoder;
          const auto& changes = transactions->front().changes;
          for (std::size_t i = 0; i + 1 < changes.size(); ++i) {
            if (changes[i].erased) {
              encoder.erase(changes[i].table, changes[i].key);
            } else {
              encoder.put(changes[i].table, changes[i].key, changes[i].value);
            }
          }
          if (encoder.changes() > 0) payload = encoder.finish(header.first_lsn);
        });
      };
  add("erasures are not logged").on_write = [](const std::string& path, std::uint64_t&,
                                               std::string& bytes) {
    if (!is_log(path)) return;
    each_block(bytes, [](BlockHeader& header, std::string& payload) {
      std::string problem;
      const auto transactions =
          decode_transactions(payload, header.first_lsn, header.count, problem);
      if (!transactions) return;
      payload.clear();
      for (const TransactionView& transaction : *transactions) {
        TransactionEncoder encoder;
        for (const RecordView& change : transaction.changes) {
          if (!change.erased) encoder.put(change.table, change.key, change.value);
        }
        payload += encoder.finish(transaction.number);
      }
    });
  };
  add("durable_lsn runs ahead of the syncs").on_write = [](const std::string& path, std::uint64_t&,
                                                           std::string& bytes) {
    if (!is_log(path)) return;
    each_block(bytes, [](BlockHeader& header, std::string&) {
      header.durable_lsn = header.first_lsn - 1;
    });
  };
  add("the log ends without zeros").on_write = [](const std::string& path, std::uint64_t&,
                                                  std::string& bytes) {
    if (is_log(path)) bytes.resize(bytes.find_last_not_of('\0') + 1);
  };
  add("the lock file's record is the only thing ever synced").skips_sync =
      [](const std::string& path) { return !path.ends_with("LOCK"); };
  return list;
}

bool is_caught(const Bug& bug, std::uint64_t seeds, std::string& how) {
  const Wrapper wrapper = [&](os::SimFiles& files) -> std::unique_ptr<os::Files> {
    return std::make_unique<MutantFiles>(bug, files);
  };
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    for (const auto& workload : workloads()) {
      Campaign campaign(
          {.seed = seed, .seeds_per_point = 7, .continue_every = 1, .wrapper = wrapper});
      campaign.run(workload);
      if (!campaign.violations().empty()) {
        how = campaign.violations().front();
        return true;
      }
    }
  }
  return false;
}

class StoreMutant : public testing::TestWithParam<std::size_t> {};

TEST_P(StoreMutant, IsCaught) {
  const Bug bug = bugs()[GetParam()];
  std::string how;
  EXPECT_TRUE(is_caught(bug, 3, how)) << "not caught: " << bug.name;
  RecordProperty("bug", bug.name);
  RecordProperty("caught_by", how);
}

INSTANTIATE_TEST_SUITE_P(Bugs, StoreMutant, testing::Range<std::size_t>(0, bugs().size()));

TEST(StoreMutant, TheUnchangedStoreIsNotSuspected) {
  std::string how;
  EXPECT_FALSE(is_caught(Bug{}, 1, how)) << how;
}

}  // namespace
}  // namespace defib::store
