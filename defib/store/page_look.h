// Looking at the page file and its double-write buffer, and judging what they say together.
//
// look() reads both files as they are; judge() decides, from those bytes alone, which superblock is
// in force, where each of its pages comes from (home, or an image in the buffer) and what is lost.
// Reading, restoring, verifying and describing all stand on these two. Nothing here writes.
//
// Thread rule: pure functions; look() may run beside a live writer, and then sees any mixture,
// which judge() recognises.

#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/files.h"
#include "defib/store/page_file.h"
#include "defib/store/page_format.h"

namespace defib::store::pages {

// A file's bytes. What the device does not deliver reads as zeros.
struct FileBytes {
  struct Range {
    std::uint64_t offset = 0;
    std::uint64_t size = 0;
    friend bool operator==(const Range&, const Range&) = default;
  };
  bool exists = false;
  std::string bytes;
  std::vector<Range> unreadable;
  std::optional<Error> error;  // the first one
  bool is_unreadable(std::uint64_t offset, std::uint64_t size) const;
};
struct Look {
  std::string home_path;
  std::string buffer_path;
  FileBytes home;
  FileBytes buffer;
};
bool same_bytes(const Look& a, const Look& b);
// Fails where a file cannot be opened, or is larger than any page file.
Result<Look> look(os::Files& files, const std::string& dir);

// The buffer by itself.
struct Buffer {
  DwbState state = DwbState::kAbsent;
  std::optional<BufferHeader> header;  // where it is whole, of this version and of this store
  std::string problem;                 // why the images count for nothing; empty: they hold
  std::map<std::uint32_t, std::string_view> images;  // by page number; empty unless they hold
  std::uint64_t end = 0;                             // where the images end in the file
};
// StoreFormatUnsupported for another version or byte order.
Result<Buffer> judge_buffer(const Look& look, const std::string& uuid);

struct PageAtHome {
  bool in_force = false;  // home has what the superblock asks for
  bool healed = false;    // an image has it
  bool whole = false;     // its checksum and number hold, whatever its LSN
  bool newer = false;     // and its LSN is above what the superblock says
  std::string problem;    // empty where in_force
};
struct Judgement {
  PageFilePicture picture;
  Buffer buffer;
  Superblock superblock;           // the one in force
  std::vector<PageAtHome> home;    // of every page
  std::vector<std::string> pages;  // the bytes in force of every page
};
// The look must outlive the judgement. RecoveryImpossible, InconsistentState,
// StoreFormatUnsupported, RecoveryConfigurationError: as read_page_file().
Result<Judgement> judge(const Look& look, const std::string& uuid);
// As the superblocks, or else the buffer, say; 0 where nothing does.
std::uint32_t likely_page_size(const Look& look, const Buffer& buffer, const std::string& uuid);

struct Seen {
  std::unique_ptr<const Look> look;  // into which the judgement's images point
  Judgement judgement;
};
// Both, again and again while a live writer changes what is seen. Unavailable where it never stands
// still for long enough.
Result<Seen> look_and_judge(os::Files& files, const std::string& dir, const std::string& uuid);
// How many looks that is at most.
inline constexpr int kLooks = 64;

}  // namespace defib::store::pages
