// BookFile: where the sender keeps the book: STATE/alerts/book, synced; and, while the disk does
// not take it, a file in memory that the supervising process holds and hands to each of its
// senders, so that the next one knows what this one has told.
//
// What lies in memory counts only while the disk has what it followed: what another sender has
// saved since is newer. It may be torn or gone at any time. That loses nothing, because what is in
// it alone is in the queue as well, or with the supervising process; it costs repetitions under the
// same ids. Thread rule: one thread.

#pragma once

#include <memory>
#include <optional>
#include <string>

#include "defib/alert/book.h"
#include "defib/base/error.h"
#include "defib/os/files.h"

namespace defib::alert {

class BookFile {
 public:
  // `memory` may be null.
  BookFile(os::Files& files, const std::string& state_dir, std::unique_ptr<os::File> memory);

  // An empty one where there is none; Corrupted where what is on the disk cannot be believed.
  Result<Book> load();
  // Fails where it is not on the disk.
  Result<> save(const Book& book);
  // What was loaded or saved last is not on the disk, but in memory.
  bool in_memory() const { return in_memory_; }

  const std::string& path() const { return path_; }

 private:
  std::optional<Book> from_memory();
  os::Files& files_;
  std::string path_;
  std::unique_ptr<os::File> memory_;
  std::string on_disk_;  // the hash of what was last seen there; empty: no file
  bool in_memory_ = false;
};

}  // namespace defib::alert
