// RingBuffer: a queue with a bound. push() on a full ring drops the oldest element and counts it,
// so that what is kept is always the latest; try_push() refuses instead.

#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <utility>

#include "defib/base/assert.h"

namespace defib {

template <typename T>
class RingBuffer {
 public:
  explicit RingBuffer(std::size_t capacity) : capacity_(capacity) { DEFIB_ASSERT(capacity > 0); }

  void push(T value) {
    if (items_.size() == capacity_) {
      items_.pop_front();
      ++dropped_;
    }
    items_.push_back(std::move(value));
  }
  bool try_push(T value) {
    if (items_.size() == capacity_) return false;
    items_.push_back(std::move(value));
    return true;
  }
  // Precondition: not empty.
  T pop() {
    DEFIB_ASSERT(!items_.empty());
    T value = std::move(items_.front());
    items_.pop_front();
    return value;
  }

  bool empty() const { return items_.empty(); }
  std::size_t size() const { return items_.size(); }
  std::size_t capacity() const { return capacity_; }
  std::uint64_t dropped() const { return dropped_; }
  auto begin() const { return items_.begin(); }
  auto end() const { return items_.end(); }

 private:
  std::size_t capacity_;
  std::deque<T> items_;
  std::uint64_t dropped_ = 0;
};

}  // namespace defib
