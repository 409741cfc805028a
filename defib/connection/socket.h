// Socket: what is asked of a driver's own socket behind the driver's back: is the other side still
// there, and let go of it.
//
// Thread rule: any thread.

#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "defib/base/error.h"
#include "defib/connection/backend.h"
#include "defib/connection/dsn.h"
#include "defib/os/fd.h"

namespace defib::connection {

// One poll(2), 0.2 us: hang-up, reset and end of file are kDead; readable is kSuspicious.
Liveness look_at_socket(int fd);
// Waits until the socket is readable or writable as asked, or the deadline. True where it is.
bool wait_for_socket(int fd, bool read, bool write, Deadline deadline);
// A second descriptor of the same socket, which nobody else closes.
os::Fd duplicate(int fd);
// Ends the connection for both directions: whoever hangs in a read or write of it returns.
void shut_down(int fd);
// Bounds what a true partition costs where the driver has no option of its own: TCP_USER_TIMEOUT
// and keepalive probes after 30 s.
void bound_partition(int fd);

// The numeric addresses of a host, in the resolver's order. The system's resolver knows no
// deadline: it runs on a thread of its own, which is left behind where it overruns, at most
// kMaxResolvers at a time. A numeric host needs no thread. HostUnreachable or DeadlineExceeded.
inline constexpr int kMaxResolvers = 16;
Result<std::vector<std::string>> resolve(const std::string& host, Deadline deadline);
int resolvers_running();

// In numbers; an empty host where it is no Internet address.
HostPort address_of(const sockaddr_storage& address);
// The other side of a TCP socket; an empty host where it has none.
HostPort peer_of(int fd);

// Finds the socket that a driver opened, which does not tell: among those that were not there
// before, and that no other session has claimed, the one that sends when the session speaks. What
// it speaks is long, so that it is told from what others send at the same time.
class SocketFinder {
 public:
  // Remembers which sockets there are. Make it before the driver connects.
  SocketFinder();
  SocketFinder(const SocketFinder&) = delete;
  SocketFinder& operator=(const SocketFinder&) = delete;
  // Of those to `port`. `speak(padding)` makes a round trip whose request holds the padding, and
  // says whether it could. -1 where the socket could not be found. It is claimed until `release` of
  // its inode.
  template <typename Speak>
  int find(std::uint16_t port, Speak&& speak) {
    const Turn turn;
    list_candidates(port);
    for (int round = 0; round < kRounds && !candidates_.empty(); ++round) {
      if (!speak(padding())) return -1;
      keep_those_that_sent();
      if (candidates_.size() == 1) return claim(candidates_.front());
    }
    return -1;
  }
  static void release(std::uint64_t inode);
  std::uint64_t claimed_inode() const { return claimed_inode_; }

 private:
  static constexpr int kRounds = 8;
  // In hexadecimal digits; half of it is left where the driver compresses.
  static constexpr std::size_t kPadding = 8000;
  static constexpr std::uint64_t kHeard = 3000;
  // Those who look for their sockets speak one after the other, else several are heard at the same
  // time; but nobody waits for long for one whose session hangs.
  class Turn {
   public:
    Turn();
    ~Turn();
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

   private:
    bool has_it_;
  };
  struct Candidate {
    int fd;
    std::uint64_t inode;
    std::uint64_t sent;
  };
  static std::string padding();
  static bool has_sent(const Candidate& candidate);
  void list_candidates(std::uint16_t port);
  void keep_those_that_sent();
  int claim(const Candidate& candidate);

  std::set<std::uint64_t> before_;  // inodes
  std::vector<Candidate> candidates_;
  std::uint64_t claimed_inode_ = 0;
};

}  // namespace defib::connection
