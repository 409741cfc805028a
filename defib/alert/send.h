// The sender: empties the alert queue into the receivers. Runs in the program defib-alert, which a
// supervising process starts when there is something to be told, and ends by itself.
//
// Whatever is going to be sent is kept in STATE/alerts/book, synced, before it is sent; so a sender
// that is killed at any instant is continued by the next one, which sends what was under way again
// with the same id. While the disk takes nothing it is kept in memory (book_file.h), and sent. One
// sender a state directory, by a lock. Each receiver has a thread of its own while it is spoken to:
// a receiver that does not answer delays nobody else. Linked by defib::alert_send, which brings
// libcurl.

#pragma once

#include <string>
#include <vector>

#include "defib/alert/book.h"
#include "defib/base/error.h"
#include "defib/os/files.h"

namespace defib::alert {

// Exit codes of `defib-alert send`.
inline constexpr int kSendDone = 0;
inline constexpr int kSendLost = 1;  // what was told and what waits is kept nowhere
// What was told and what waits is kept, but maybe in memory alone: the disk does not do its part.
inline constexpr int kSendDiskTrouble = 74;
inline constexpr int kSendBusy = 75;  // another sender is at work

// What is due later than this is left to the next sender; STATE/alerts/due says when that is.
inline constexpr os::Duration kSenderLinger = std::chrono::seconds(3);

struct SendOptions {
  std::string state_dir;
  int extra_fd = -1;  // events that could not be queued, one a line; -1: none
  int memory_fd =
      -1;  // a file for the book where the disk does not take it (book_file.h); -1: none
};
// Until nothing is due. Blocks.
Result<int> run_sender(const SendOptions& options);

// One attempt; blocks for at most the receiver's timeout (and name resolution). Secrets are
// resolved here, and stand in no error.
Attempt deliver(const Receiver& receiver, const std::vector<Message>& messages);
// How many messages one delivery takes.
std::size_t batch_size(const Receiver& receiver);

// The book as the last sender left it; an empty one where there is none.
Result<Book> load_book(os::Files& files, const std::string& state_dir);
std::string due_path(const std::string& state_dir);
std::string sender_counters_path(const std::string& state_dir);

}  // namespace defib::alert
