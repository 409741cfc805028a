#include <gtest/gtest.h>

#include "defib/store/layer.h"
#include "defib/store/testing/sorted_util.h"

namespace defib::store {
namespace {

using namespace testing;

// A layer over a map; a read of a key in `broken` fails.
class MapLayer final : public LayerCursor {
 public:
  MapLayer(const ModelTable& table, const std::string* broken)
      : table_(table), broken_(broken), at_(table.end()) {}
  bool seek(std::string_view key) override {
    error_.reset();
    return to(table_.lower_bound(std::string(key)));
  }
  bool seek_for_prev(std::string_view key) override {
    error_.reset();
    return before(table_.upper_bound(std::string(key)));
  }
  bool first() override {
    error_.reset();
    return to(table_.begin());
  }
  bool last() override {
    error_.reset();
    return before(table_.end());
  }
  bool next() override { return at_ != table_.end() && to(std::next(at_)); }
  bool prev() override { return at_ != table_.end() && before(at_); }
  std::string_view key() const override { return at_->first; }
  std::string_view value() const override { return at_->second.value; }
  bool erased() const override { return at_->second.erased; }
  const Error* error() const override { return error_ ? &*error_ : nullptr; }

 private:
  bool to(ModelTable::const_iterator at) {
    at_ = at;
    if (broken_ != nullptr && at_ != table_.end() && at_->first == *broken_) {
      error_ = Error(Code::kCorrupted, "a planted damage");
      at_ = table_.end();
    }
    return at_ != table_.end();
  }
  bool before(ModelTable::const_iterator at) {
    return to(at == table_.begin() ? table_.end() : std::prev(at));
  }

  const ModelTable& table_;
  const std::string* broken_;
  ModelTable::const_iterator at_;
  std::optional<Error> error_;
};

using Stack = std::vector<ModelTable>;  // from newest to oldest

Stack random_stack(os::Random& random, std::size_t layers, unsigned style) {
  Stack stack(layers);
  // Layers share keys: a few hundred in all.
  std::vector<std::string> keys;
  for (int i = 0; i < 200; ++i) keys.push_back(random_key(random, style));
  for (std::size_t i = 0; i < layers; ++i) {
    if (random.below(6) == 0) continue;  // an empty layer
    for (std::uint64_t n = random.below(150); n > 0; --n) {
      ModelValue value;
      value.erased = random.below(3) == 0;
      if (!value.erased) value.value = "layer " + std::to_string(i);
      stack[i][keys[random.below(keys.size())]] = value;
    }
  }
  return stack;
}

ModelTable union_of(const Stack& stack) {
  ModelTable all;
  for (const ModelTable& layer : stack) all.insert(layer.begin(), layer.end());
  return all;
}

ModelTable merged(const Stack& stack) {
  ModelTable all = union_of(stack);
  std::erase_if(all, [](const auto& record) { return record.second.erased; });
  return all;
}

std::vector<std::unique_ptr<LayerCursor>> cursors(const Stack& stack) {
  std::vector<std::unique_ptr<LayerCursor>> layers;
  for (const ModelTable& table : stack)
    layers.push_back(std::make_unique<MapLayer>(table, nullptr));
  return layers;
}

template <typename AnyCursor>
void expect_moves(AnyCursor& cursor, const ModelTable& model, os::Random& random, unsigned style) {
  auto at = model.end();
  for (int i = 0; i < 600; ++i) {
    bool found = false;
    const std::string key = random_key(random, style);
    switch (random.below(12)) {
      case 0:
        found = cursor.seek(key);
        at = model.lower_bound(key);
        break;
      case 1:
        found = cursor.seek_for_prev(key);
        at = model.upper_bound(key);
        at = at == model.begin() ? model.end() : std::prev(at);
        break;
      case 2:
        found = cursor.first();
        at = model.begin();
        break;
      case 3:
        found = cursor.last();
        at = model.empty() ? model.end() : std::prev(model.end());
        break;
      case 4:
      case 5:
      case 6:
      case 7:
        found = cursor.next();
        if (at != model.end()) ++at;
        break;
      default:
        found = cursor.prev();
        if (at != model.end()) at = at == model.begin() ? model.end() : std::prev(at);
    }
    ASSERT_EQ(found, at != model.end()) << "move " << i;
    if (!found) continue;
    ASSERT_EQ(cursor.key(), at->first);
    ASSERT_EQ(cursor.value(), at->second.value);
  }
}

template <typename AnyCursor>
void expect_scans(AnyCursor& cursor, const ModelTable& model) {
  bool more = cursor.first();
  for (const auto& [key, value] : model) {
    ASSERT_TRUE(more);
    ASSERT_EQ(cursor.key(), key);
    ASSERT_EQ(cursor.value(), value.value);
    more = cursor.next();
  }
  ASSERT_FALSE(more);
  more = cursor.last();
  for (auto at = model.rbegin(); at != model.rend(); ++at) {
    ASSERT_TRUE(more);
    ASSERT_EQ(cursor.key(), at->first);
    more = cursor.prev();
  }
  ASSERT_FALSE(more);
}

TEST(MergedCursor, AgreesWithAMapOverAnyNumberOfLayersAndAnyMoves) {
  for (std::uint64_t seed = 1; seed <= 120; ++seed) {
    SCOPED_TRACE(seed);
    os::Random random(seed);
    const auto style = static_cast<unsigned>(random.below(4));
    const Stack stack = random_stack(random, seed % 11, style);
    const auto cursor = make_merged_cursor(cursors(stack), nullptr);
    const ModelTable model = merged(stack);
    expect_scans(*cursor, model);
    expect_moves(*cursor, model, random, style);
    EXPECT_TRUE(cursor->status().has_value());
  }
}

TEST(UnionCursor, ShowsErasedRecordsAsTheNewestLayerHasThem) {
  for (std::uint64_t seed = 1; seed <= 120; ++seed) {
    SCOPED_TRACE(seed);
    os::Random random(seed);
    const auto style = static_cast<unsigned>(random.below(4));
    const Stack stack = random_stack(random, seed % 11, style);
    const auto cursor = make_union_cursor(cursors(stack));
    const ModelTable model = union_of(stack);
    expect_scans(*cursor, model);
    expect_moves(*cursor, model, random, style);
    bool more = cursor->first();
    for (const auto& [key, value] : model) {
      ASSERT_TRUE(more);
      ASSERT_EQ(cursor->erased(), value.erased);
      more = cursor->next();
    }
    EXPECT_EQ(cursor->error(), nullptr);
  }
}

TEST(MergedCursor, StopsWithTheErrorOfAnyLayerAndGoesOnWhenPositionedAnew) {
  for (const std::size_t depth : {0U, 1U, 2U}) {
    SCOPED_TRACE(depth);
    Stack stack(3);
    for (int i = 0; i < 30; ++i) {
      stack[static_cast<std::size_t>(i) % 3]["k" + std::to_string(10 + i)] = {"v", false};
    }
    const std::string broken = "k" + std::to_string(10 + 15 + static_cast<int>(depth));
    const ModelTable all = merged(stack);
    std::vector<std::unique_ptr<LayerCursor>> layers;
    for (const ModelTable& table : stack) {
      layers.push_back(std::make_unique<MapLayer>(table, &broken));
    }
    const auto cursor = make_merged_cursor(std::move(layers), nullptr);
    for (const bool forward : {true, false}) {
      std::size_t seen = 0;
      bool more = forward ? cursor->first() : cursor->last();
      while (more) {
        EXPECT_TRUE(cursor->status().has_value());
        EXPECT_EQ(forward, cursor->key() < broken);
        ++seen;
        more = forward ? cursor->next() : cursor->prev();
      }
      ASSERT_FALSE(cursor->status().has_value());
      EXPECT_EQ(cursor->status().error().code(), Code::kCorrupted);
      EXPECT_GE(seen, 10U);
      EXPECT_FALSE(cursor->next());
      EXPECT_FALSE(cursor->prev());
      EXPECT_FALSE(cursor->status().has_value());
    }
    // Behind the damage all is well.
    ASSERT_TRUE(cursor->seek("k30"));
    EXPECT_TRUE(cursor->status().has_value());
    std::size_t seen = 1;
    while (cursor->next()) ++seen;
    EXPECT_EQ(seen, 10U);
    EXPECT_TRUE(cursor->status().has_value());
  }
}

TEST(MergedCursor, OfOneDamagedLayerDoesNotLookShort) {
  ModelTable table;
  for (int i = 0; i < 10; ++i) table["k" + std::to_string(i)] = {"v", false};
  const std::string broken = "k5";
  std::vector<std::unique_ptr<LayerCursor>> layers;
  layers.push_back(std::make_unique<MapLayer>(table, &broken));
  const auto cursor = make_merged_cursor(std::move(layers), nullptr);
  int seen = 0;
  for (bool more = cursor->first(); more; more = cursor->next()) ++seen;
  EXPECT_EQ(seen, 5);
  EXPECT_FALSE(cursor->status().has_value());
}

TEST(MergedCursor, AnswersNothingOnceItIsClosedAndKeepsItsLayersAlive) {
  for (const std::size_t layers : {1U, 2U}) {
    const auto stack = std::make_shared<Stack>(layers);
    for (ModelTable& table : *stack) table["k"] = {"v", false};
    const std::weak_ptr<Stack> alive = stack;
    const auto is_open = std::make_shared<bool>(true);
    auto cursor = make_merged_cursor(cursors(*stack), stack, is_open);
    EXPECT_GT(alive.use_count(), 1);
    EXPECT_TRUE(cursor->first());
    *is_open = false;
    EXPECT_FALSE(cursor->first());
    EXPECT_FALSE(cursor->last());
    EXPECT_FALSE(cursor->next());
    EXPECT_FALSE(cursor->prev());
    EXPECT_FALSE(cursor->seek(""));
    EXPECT_FALSE(cursor->seek_for_prev("z"));
    cursor.reset();
    EXPECT_EQ(alive.use_count(), 1);
  }
}

TEST(MergedCursor, MergesRunsIntoANewBaseThroughTheUnion) {
  os::Random random(5);
  const Stack stack = random_stack(random, 5, 0);
  std::vector<MemoryFiles> files(5);
  std::vector<std::shared_ptr<SortedFile>> runs;
  std::vector<std::unique_ptr<LayerCursor>> layers;
  for (std::size_t i = 0; i < stack.size(); ++i) {
    runs.push_back(open_written(files[i], write_model({{1, stack[i]}}, settings_of(10 - i))));
    if (auto cursor = runs.back()->cursor(1)) layers.push_back(std::move(cursor));
  }
  const auto all = make_union_cursor(std::move(layers));
  Model model;
  for (bool more = all->first(); more; more = all->next()) {
    model[1][std::string(all->key())] = {std::string(all->value()), all->erased()};
  }
  EXPECT_EQ(model[1], union_of(stack));
}

}  // namespace
}  // namespace defib::store
