#include "defib/store/key_sort.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

namespace defib::store {
namespace {

constexpr std::size_t kWindow = 8;       // bytes in a prefix
constexpr std::size_t kInsertion = 32;   // shorter spans are sorted by insertion
constexpr std::size_t kFetchAhead = 64;  // keys
constexpr unsigned kDigits = 8;
constexpr unsigned kDigitBits = 8;
constexpr std::size_t kDigitValues = 1 << kDigitBits;

template <typename Less>
void insertion_sort(std::span<KeyRef> keys, const Less& less) {
  for (std::size_t i = 1; i < keys.size(); ++i) {
    const KeyRef key = keys[i];
    std::size_t at = i;
    for (; at > 0 && less(key, keys[at - 1]); --at) keys[at] = keys[at - 1];
    keys[at] = key;
  }
}

bool prefix_less(const KeyRef& a, const KeyRef& b) {
  return a.prefix() < b.prefix();
}

// Least significant digit first, over those bytes in which the prefixes differ.
void radix_sort(std::span<KeyRef> keys, std::span<KeyRef> scratch) {
  std::uint64_t differ = 0;
  bool sorted = true;
  for (std::size_t i = 1; i < keys.size(); ++i) {
    differ |= keys[i].prefix() ^ keys[0].prefix();
    sorted = sorted && keys[i - 1].prefix() <= keys[i].prefix();
  }
  if (sorted) return;
  if (keys.size() <= kInsertion) return insertion_sort(keys, prefix_less);
  std::array<std::array<std::uint32_t, kDigitValues>, kDigits> counts{};
  for (const KeyRef& key : keys) {
    for (unsigned digit = 0; digit < kDigits; ++digit) {
      ++counts[digit][(key.prefix() >> (digit * kDigitBits)) % kDigitValues];
    }
  }
  std::span<KeyRef> from = keys;
  std::span<KeyRef> to = scratch.first(keys.size());
  for (unsigned digit = 0; digit < kDigits; ++digit) {
    const unsigned shift = digit * kDigitBits;
    if ((differ >> shift) % kDigitValues == 0) continue;
    std::uint32_t next = 0;
    for (std::uint32_t& count : counts[digit]) next += std::exchange(count, next);
    for (const KeyRef& key : from)
      to[counts[digit][(key.prefix() >> shift) % kDigitValues]++] = key;
    std::swap(from, to);
  }
  if (from.data() != keys.data()) std::ranges::copy(from, keys.begin());
}

// Keys that agree in their first `depth` bytes, to be sorted by what follows.
struct Work {
  std::size_t begin;
  std::size_t end;
  std::size_t depth;
};

class Sorter {
 public:
  Sorter(std::span<KeyRef> keys, std::span<KeyRef> scratch) : keys_(keys), scratch_(scratch) {}

  void run(std::size_t depth, SharedPulse* pulse) {
    radix_sort(keys_, scratch_);
    settle_ties({0, keys_.size(), depth});
    // Each step goes at least one window deeper, so it ends with the longest key.
    while (!work_.empty()) {
      if (pulse != nullptr && !pulse->add(0)) return;
      const Work work = work_.back();
      work_.pop_back();
      sort_deeper(work);
    }
  }

 private:
  void sort_deeper(Work work) {
    const auto keys = keys_.subspan(work.begin, work.end - work.begin);
    // As far as all of them agree there is nothing to sort.
    std::size_t agree = keys[0].size();
    for (std::size_t i = 1; i < keys.size(); ++i) {
      if (i + kFetchAhead < keys.size()) fetch(keys[i + kFetchAhead], work.depth);
      agree = common_bytes(keys[0].key().substr(0, agree), keys[i].key());
    }
    work.depth = std::max(work.depth, agree);
    for (KeyRef& key : keys) key.load_prefix(work.depth);
    radix_sort(keys, scratch_);
    settle_ties(work);
  }

  // Finds runs of equal prefixes and puts each in order, or notes it for later if it is long.
  void settle_ties(const Work& work) {
    std::size_t fetched = work.begin;
    for (std::size_t begin = work.begin; begin < work.end;) {
      for (; fetched < std::min(begin + kFetchAhead, work.end); ++fetched) {
        const bool is_tied =
            fetched + 1 < work.end && keys_[fetched].prefix() == keys_[fetched + 1].prefix();
        const bool was_tied =
            fetched > work.begin && keys_[fetched].prefix() == keys_[fetched - 1].prefix();
        if (is_tied || was_tied) fetch(keys_[fetched], work.depth + kWindow);
      }
      std::size_t end = begin + 1;
      while (end < work.end && keys_[end].prefix() == keys_[begin].prefix()) ++end;
      if (end - begin > 1) settle_tie({begin, end, work.depth});
      begin = end;
    }
  }

  void settle_tie(const Work& tie) {
    const auto keys = keys_.subspan(tie.begin, tie.end - tie.begin);
    const std::size_t seen = tie.depth + kWindow;
    std::size_t longest = 0;
    for (const KeyRef& key : keys) longest = std::max(longest, key.size());
    if (longest > seen && keys.size() <= kInsertion) {
      const auto rest_less = [&](const KeyRef& a, const KeyRef& b) {
        return a.key().substr(tie.depth) < b.key().substr(tie.depth);
      };
      insertion_sort(keys, rest_less);
      return mark_equal(keys, [&](const KeyRef& a, const KeyRef& b) {
        return a.key().substr(tie.depth) == b.key().substr(tie.depth);
      });
    }
    sort_by_length(keys, tie.depth);
    const auto first_longer =
        std::ranges::find_if(keys, [&](const KeyRef& key) { return key.size() > seen; });
    const auto ended = static_cast<std::size_t>(first_longer - keys.begin());
    mark_equal(keys.first(ended),
               [](const KeyRef& a, const KeyRef& b) { return a.size() == b.size(); });
    if (keys.size() - ended > 1) work_.push_back({tie.begin + ended, tie.end, seen});
  }

  // Keys that end inside the window differ in nothing but their length: "a" and "a\0". Those that
  // go on come last.
  void sort_by_length(std::span<KeyRef> keys, std::size_t depth) {
    const auto length_of = [&](const KeyRef& key) {
      return std::min(key.size() - depth, kWindow + 1);
    };
    std::array<std::size_t, kWindow + 3> begin{};
    for (const KeyRef& key : keys) ++begin[length_of(key) + 1];
    if (std::ranges::count(begin, keys.size()) > 0) return;  // All have the same.
    for (std::size_t i = 1; i < begin.size(); ++i) begin[i] += begin[i - 1];
    for (const KeyRef& key : keys) scratch_[begin[length_of(key)]++] = key;
    std::ranges::copy(scratch_.first(keys.size()), keys.begin());
  }

  template <typename Equal>
  static void mark_equal(std::span<KeyRef> keys, const Equal& equal) {
    for (std::size_t i = 1; i < keys.size(); ++i) {
      if (equal(keys[i - 1], keys[i])) keys[i - 1].supersede();
    }
  }

  static void fetch(const KeyRef& key, std::size_t depth) {
    __builtin_prefetch(key.data() + depth);
  }

  std::span<KeyRef> keys_;
  std::span<KeyRef> scratch_;
  std::vector<Work> work_;
};

}  // namespace

std::size_t common_bytes(std::string_view a, std::string_view b) {
  const std::size_t size = std::min(a.size(), b.size());
  std::size_t at = 0;
  for (; at + 8 <= size; at += 8) {
    const std::uint64_t differ =
        load<std::uint64_t>(a.data() + at) ^ load<std::uint64_t>(b.data() + at);
    if (differ != 0) return at + static_cast<std::size_t>(std::countr_zero(differ)) / 8;
  }
  while (at < size && a[at] == b[at]) ++at;
  return at;
}

void sort_keys(std::span<KeyRef> keys, std::span<KeyRef> scratch, std::size_t depth,
               SharedPulse* pulse) {
  DEFIB_ASSERT(scratch.size() >= keys.size());
  if (keys.size() > 1) Sorter(keys, scratch).run(depth, pulse);
}

}  // namespace defib::store
