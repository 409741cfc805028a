#include "defib/os/random.h"

#include <sys/random.h>

#include <bit>

#include "defib/base/assert.h"
#include "defib/base/bytes.h"

namespace defib::os {

Random::Random(std::uint64_t seed) {
  for (std::uint64_t& word : state_) {
    seed += 0x9e3779b97f4a7c15;
    std::uint64_t z = seed;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    word = z ^ (z >> 31);
  }
}

std::uint64_t Random::next() {
  const std::uint64_t result = std::rotl(state_[1] * 5, 7) * 9;
  const std::uint64_t t = state_[1] << 17;
  state_[2] ^= state_[0];
  state_[3] ^= state_[1];
  state_[1] ^= state_[2];
  state_[0] ^= state_[3];
  state_[2] ^= t;
  state_[3] = std::rotl(state_[3], 45);
  return result;
}

std::uint64_t Random::below(std::uint64_t bound) {
  DEFIB_ASSERT(bound > 0);
  __extension__ using Wide = unsigned __int128;
  return static_cast<std::uint64_t>((static_cast<Wide>(next()) * bound) >> 64);
}

double Random::unit() {
  return static_cast<double>(next() >> 11) * 0x1.0p-53;
}

std::uint64_t random_seed() {
  std::uint64_t seed = 0;
  DEFIB_ASSERT(::getrandom(&seed, sizeof seed, 0) == sizeof seed);
  return seed;
}

std::string random_hex(int bytes) {
  DEFIB_ASSERT(bytes > 0 && bytes <= 256);  // getrandom(2) never cuts up to 256 bytes.
  std::string raw(static_cast<std::size_t>(bytes), '\0');
  DEFIB_ASSERT(::getrandom(raw.data(), raw.size(), 0) == bytes);
  return to_hex(as_bytes(raw));
}

}  // namespace defib::os
