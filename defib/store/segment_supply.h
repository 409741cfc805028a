// SegmentSupply: files full of zeros, ready to become the log's next segment.
//
// Committing into zeros that are on the disk already costs one write and one flush; a file that
// grows costs the file system's bookkeeping too. So spare files are zero-filled in the background,
// in small writes (large ones leave large folios in the page cache, which make each small write
// after them slower), each step synced, at the pace at which the log is written, so that
// commits beside it hardly notice. Segments that are not needed any more become spares again.
//
// A spare is called wal/<epoch>.<number>.spare and counts for nothing: whatever an earlier life
// left is material. It is handed out only after all of it was zeroed and synced; stale blocks never
// stand in a segment.
//
// Nothing here is the log's failure: without space no spare is made until more was written, and
// after any other error none is made any more. The log then lets its segments grow.
//
// Thread rule: any thread; the steps run on the executor, one at a time.

#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/os/files.h"
#include "defib/store/store.h"

namespace defib::store {

bool is_spare_name(std::string_view name);
// Of a file that is to be renamed to `path`.
std::string spare_name(std::string_view path);

class SegmentSupply {
 public:
  struct Settings {
    std::string wal_dir;
    std::uint64_t epoch = 0;
    std::uint64_t segment_size = 0;
  };
  // Takes over the spares that it finds.
  SegmentSupply(os::Files& files, Executor& executor, Settings settings);
  SegmentSupply(const SegmentSupply&) = delete;
  SegmentSupply& operator=(const SegmentSupply&) = delete;
  ~SegmentSupply();  // waits for the step that is running; the files stay

  struct Spare {
    std::string path;
    std::unique_ptr<os::File> file;
  };
  bool is_ready() const;
  std::optional<Spare> take();
  // The log has written `bytes` more. `grows`: its segment is not one of zeros, so a spare is
  // wanted soon.
  void appended(std::uint64_t bytes, bool grows);
  // The path that a file should be renamed to in order to become material, where it is wanted.
  std::optional<std::string> wanted_material();
  // ... which has happened, durably.
  void add_material(std::string path);
  // Nothing is made any more, also by a task that comes by late.
  void stop();
  // Gives all space back: removes what is ready, and ends making what is not. False where there was
  // nothing to give.
  bool discard();

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace defib::store
