// Several layers as one: the newest record of each key wins.
//
// Each layer stands at its first record behind the current key (going forward), or at its last one
// before it (going back), or at the current key itself. Layers are few, so the least is found by
// looking at all of them; while the leading layer stays ahead of the runner-up, nobody else is
// looked at. Keys are compared by their first eight bytes, which lie beside the cursors, and by the
// rest where those are equal.
//
// A layer that cannot be read ends the move: without its next key nobody knows which one is least.
// Positioning the cursor anew tries again.

#include <algorithm>

#include "defib/base/assert.h"
#include "defib/base/bytes.h"
#include "defib/store/layer.h"

namespace defib::store {
namespace {

enum class Direction { kForward, kBack };

std::uint64_t prefix_of(std::string_view key) {
  if (key.size() >= 8) return std::byteswap(load<std::uint64_t>(key.data()));
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < 8; ++i) {
    value = value << 8 | (i < key.size() ? static_cast<unsigned char>(key[i]) : 0U);
  }
  return value;
}

class Merger {
 public:
  explicit Merger(std::vector<std::unique_ptr<LayerCursor>> layers) {
    for (auto& layer : layers) {
      DEFIB_ASSERT(layer != nullptr);
      sources_.emplace_back().cursor = std::move(layer);
    }
  }

  bool seek(std::string_view key) {
    return position(Direction::kForward, [&](LayerCursor& layer) { return layer.seek(key); });
  }
  bool seek_for_prev(std::string_view key) {
    return position(Direction::kBack, [&](LayerCursor& layer) { return layer.seek_for_prev(key); });
  }
  bool first() {
    return position(Direction::kForward, [](LayerCursor& layer) { return layer.first(); });
  }
  bool last() {
    return position(Direction::kBack, [](LayerCursor& layer) { return layer.last(); });
  }
  bool next() { return step<Direction::kForward>(); }
  bool prev() { return step<Direction::kBack>(); }

  std::string_view key() const { return top_->key; }
  LayerCursor& top() const { return *top_->cursor; }
  const Error* error() const { return error_; }

 private:
  struct Source {
    std::unique_ptr<LayerCursor> cursor;
    bool has_record = false;
    std::uint64_t prefix = 0;
    std::string_view key;
  };

  // Of two keys, whether `a` comes first in the direction.
  template <Direction direction>
  static bool precedes(const Source& a, const Source& b) {
    if (a.prefix != b.prefix) {
      return direction == Direction::kForward ? a.prefix < b.prefix : a.prefix > b.prefix;
    }
    const int order = a.key.compare(b.key);
    return direction == Direction::kForward ? order < 0 : order > 0;
  }

  // Takes over what a layer's move answered; false where the layer could not be read.
  bool update(Source& source, bool has_record) {
    source.has_record = has_record;
    if (has_record) {
      source.key = source.cursor->key();
      source.prefix = prefix_of(source.key);
      return true;
    }
    error_ = source.cursor->error();
    return error_ == nullptr;
  }
  bool fail() {
    top_ = nullptr;
    return false;
  }

  template <typename Move>
  bool position(Direction direction, Move move) {
    direction_ = direction;
    error_ = nullptr;
    top_ = nullptr;
    for (Source& source : sources_) {
      if (!update(source, move(*source.cursor))) return fail();
    }
    return direction == Direction::kForward ? choose<Direction::kForward>()
                                            : choose<Direction::kBack>();
  }

  // The first of all in the direction, the newest among equals, and the best of the others.
  template <Direction direction>
  bool choose() {
    top_ = nullptr;
    runner_up_ = nullptr;
    for (Source& source : sources_) {
      if (!source.has_record) continue;
      if (top_ == nullptr || precedes<direction>(source, *top_)) {
        runner_up_ = top_;
        top_ = &source;
      } else if (runner_up_ == nullptr || precedes<direction>(source, *runner_up_)) {
        runner_up_ = &source;
      }
    }
    top_is_alone_ = runner_up_ == nullptr || runner_up_->key != top_->key;
    return top_ != nullptr;
  }

  template <Direction direction>
  static bool advance(LayerCursor& layer) {
    return direction == Direction::kForward ? layer.next() : layer.prev();
  }

  template <Direction direction>
  bool step() {
    if (top_ == nullptr) return false;
    if (direction_ != direction) return turn<direction>();
    if (top_is_alone_) {
      if (!update(*top_, advance<direction>(*top_->cursor))) return fail();
      if (top_->has_record && (runner_up_ == nullptr || precedes<direction>(*top_, *runner_up_))) {
        return true;
      }
      return choose<direction>();
    }
    const Source current = {nullptr, true, top_->prefix, top_->key};
    for (Source& source : sources_) {
      if (!source.has_record || source.prefix != current.prefix || source.key != current.key) {
        continue;
      }
      if (!update(source, advance<direction>(*source.cursor))) return fail();
    }
    return choose<direction>();
  }

  // The other way round: every layer stands at the current key or behind it, so one step takes it
  // to the other side; one that has come to its end starts from there.
  template <Direction direction>
  bool turn() {
    direction_ = direction;
    for (Source& source : sources_) {
      LayerCursor& layer = *source.cursor;
      const bool has_record = source.has_record                  ? advance<direction>(layer)
                              : direction == Direction::kForward ? layer.first()
                                                                 : layer.last();
      if (!update(source, has_record)) return fail();
    }
    return choose<direction>();
  }

  std::vector<Source> sources_;  // from newest to oldest
  Source* top_ = nullptr;        // at the current key; null: not positioned
  Source* runner_up_ = nullptr;  // the first of the others; null: there is none
  bool top_is_alone_ = true;     // no other layer has the current key
  Direction direction_ = Direction::kForward;
  const Error* error_ = nullptr;  // of the layer that ended the last move
};

class UnionCursor final : public LayerCursor {
 public:
  explicit UnionCursor(std::vector<std::unique_ptr<LayerCursor>> layers)
      : merger_(std::move(layers)) {}
  bool seek(std::string_view key) override { return merger_.seek(key); }
  bool seek_for_prev(std::string_view key) override { return merger_.seek_for_prev(key); }
  bool first() override { return merger_.first(); }
  bool last() override { return merger_.last(); }
  bool next() override { return merger_.next(); }
  bool prev() override { return merger_.prev(); }
  std::string_view key() const override { return merger_.key(); }
  std::string_view value() const override { return merger_.top().value(); }
  bool erased() const override { return merger_.top().erased(); }
  const Error* error() const override { return merger_.error(); }

 private:
  Merger merger_;
};

// One layer, with the moves of a merger.
class Single {
 public:
  explicit Single(std::unique_ptr<LayerCursor> layer) : layer_(std::move(layer)) {}
  bool seek(std::string_view key) { return layer_->seek(key); }
  bool seek_for_prev(std::string_view key) { return layer_->seek_for_prev(key); }
  bool first() { return layer_->first(); }
  bool last() { return layer_->last(); }
  bool next() { return layer_->next(); }
  bool prev() { return layer_->prev(); }
  std::string_view key() const { return layer_->key(); }
  LayerCursor& top() const { return *layer_; }
  const Error* error() const { return layer_->error(); }

 private:
  std::unique_ptr<LayerCursor> layer_;
};

// Passes over erased records.
template <typename Source>
class TableCursor final : public Cursor {
 public:
  TableCursor(Source source, std::shared_ptr<const void> keep_alive,
              std::shared_ptr<const bool> is_open)
      : keep_alive_(std::move(keep_alive)),
        source_(std::move(source)),
        is_open_(std::move(is_open)) {}
  bool seek(std::string_view key) override { return is_open() && forward(source_.seek(key)); }
  bool seek_for_prev(std::string_view key) override {
    return is_open() && back(source_.seek_for_prev(key));
  }
  bool first() override { return is_open() && forward(source_.first()); }
  bool last() override { return is_open() && back(source_.last()); }
  bool next() override { return is_open() && forward(source_.next()); }
  bool prev() override { return is_open() && back(source_.prev()); }
  std::string_view key() const override { return source_.key(); }
  std::string_view value() const override { return source_.top().value(); }
  Result<> status() const override {
    if (source_.error() != nullptr) return *source_.error();
    return {};
  }

 private:
  bool is_open() const { return is_open_ == nullptr || *is_open_; }
  bool forward(bool has_record) {
    while (has_record && source_.top().erased()) has_record = source_.next();
    return has_record;
  }
  bool back(bool has_record) {
    while (has_record && source_.top().erased()) has_record = source_.prev();
    return has_record;
  }

  std::shared_ptr<const void> keep_alive_;  // outlives the layers, which may refer to it
  Source source_;
  std::shared_ptr<const bool> is_open_;
};

}  // namespace

std::unique_ptr<Cursor> make_merged_cursor(std::vector<std::unique_ptr<LayerCursor>> layers,
                                           std::shared_ptr<const void> keep_alive,
                                           std::shared_ptr<const bool> is_open) {
  if (layers.size() == 1) {
    DEFIB_ASSERT(layers.front() != nullptr);
    return std::make_unique<TableCursor<Single>>(Single(std::move(layers.front())),
                                                 std::move(keep_alive), std::move(is_open));
  }
  return std::make_unique<TableCursor<Merger>>(Merger(std::move(layers)), std::move(keep_alive),
                                               std::move(is_open));
}

std::unique_ptr<LayerCursor> make_union_cursor(std::vector<std::unique_ptr<LayerCursor>> layers) {
  if (layers.size() == 1) {
    DEFIB_ASSERT(layers.front() != nullptr);
    return std::move(layers.front());
  }
  return std::make_unique<UnionCursor>(std::move(layers));
}

}  // namespace defib::store
