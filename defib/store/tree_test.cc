#include "defib/store/tree.h"

#include <gtest/gtest.h>

#include <map>
#include <string>

#include "defib/os/random.h"
#include "defib/store/versions.h"

namespace defib::store {
namespace {

using Model = std::map<std::string, std::string>;

void expect_equal(const Tree& tree, const Model& model) {
  ASSERT_TRUE(check(tree).has_value()) << check(tree).error().to_text();
  ASSERT_EQ(tree.count, model.size());
  TreeCursor cursor(tree);
  bool more = cursor.first();
  for (const auto& [key, value] : model) {
    ASSERT_TRUE(more);
    ASSERT_EQ(cursor.record().key(), key);
    ASSERT_EQ(cursor.record().value(), value);
    more = cursor.next();
  }
  ASSERT_FALSE(more);
  more = cursor.last();
  for (auto it = model.rbegin(); it != model.rend(); ++it) {
    ASSERT_TRUE(more);
    ASSERT_EQ(cursor.record().key(), it->first);
    more = cursor.prev();
  }
  ASSERT_FALSE(more);
}

std::string random_key(os::Random& random) {
  // Few distinct bytes and all lengths: shared prefixes, embedded zeros, one key inside another.
  std::string key;
  for (std::uint64_t i = random.below(12); i > 0; --i) key += "\0ab\xff"[random.below(4)];
  return key;
}

void random_step(os::Random& random, TreeWriter& writer, Tree& tree, Model& model,
                 unsigned erase_percent) {
  const std::string key = random_key(random);
  if (random.below(100) < erase_percent) {
    EXPECT_EQ(writer.erase(tree, key), model.erase(key) == 1);
  } else {
    const std::string value(random.below(20), 'v');
    writer.put(tree, key, value);
    model[key] = value;
  }
}

TEST(Tree, AgreesWithAMapOverRandomOperationsOfAnExclusiveWriter) {
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    SCOPED_TRACE(seed);
    os::Random random(seed);
    Tree tree;
    Model model;
    TreeWriter writer(1, nullptr);
    for (const unsigned erase_percent : {10U, 50U, 90U}) {
      for (int i = 0; i < 3000; ++i) random_step(random, writer, tree, model, erase_percent);
      expect_equal(tree, model);
    }
    destroy(tree);
  }
}

TEST(Tree, SeeksLandWhereAMapsBoundsDo) {
  os::Random random(7);
  Tree tree;
  Model model;
  TreeWriter writer(1, nullptr);
  for (int i = 0; i < 4000; ++i) random_step(random, writer, tree, model, 20);
  TreeCursor cursor(tree);
  for (int i = 0; i < 4000; ++i) {
    const std::string key = random_key(random);
    const auto at = model.lower_bound(key);
    ASSERT_EQ(cursor.seek(key), at != model.end());
    if (at != model.end()) {
      ASSERT_EQ(cursor.record().key(), at->first);
    }
    auto after = model.upper_bound(key);
    ASSERT_EQ(cursor.seek_for_prev(key), after != model.begin());
    if (after != model.begin()) {
      ASSERT_EQ(cursor.record().key(), (--after)->first);
    }
    const Record* record = find(tree, key);
    ASSERT_EQ(record != nullptr, model.contains(key));
  }
  destroy(tree);
}

TEST(Tree, ABuiltTreeEqualsAnInsertedOneAndRefusesDisorder) {
  for (const int size : {0, 1, 63, 64, 65, 4096, 4097, 10000}) {
    Model model;
    for (int i = 0; i < size; ++i) model[std::to_string(1000000 + i)] = std::to_string(i);
    TreeBuilder builder;
    for (const auto& [key, value] : model) ASSERT_TRUE(builder.append(key, value));
    if (size > 0) {
      EXPECT_FALSE(builder.append("1000000", "again"));
    }
    Tree tree = builder.finish();
    expect_equal(tree, model);
    destroy(tree);
  }
}

// Each view must go on showing its own state while later commits change and free nodes.
TEST(Versions, EveryViewKeepsItsStateWhileTheWriterGoesOn) {
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    SCOPED_TRACE(seed);
    os::Random random(seed);
    const auto versions = std::make_shared<Versions>(Catalog{});
    Model model;
    std::vector<std::pair<std::shared_ptr<const View>, Model>> views;
    std::uint64_t version = 1;
    for (std::uint64_t commit = 1; commit <= 300; ++commit) {
      Delta delta;
      auto catalog = std::make_shared<Catalog>(*versions->published());
      catalog->position = commit;
      Model changed = model;
      {
        TreeWriter writer(version++, &delta);
        Tree& tree = catalog->find_or_add("t");
        for (std::uint64_t i = random.below(30) + 1; i > 0; --i) {
          random_step(random, writer, tree, changed, commit < 200 ? 20 : 80);
          if (random.below(10) == 0) writer.set_version(version++);  // As a cursor of its own does.
        }
      }
      catalog->drop_empty_tables();
      if (random.below(4) == 0) {
        delta.undo();  // Rolled back.
      } else {
        versions->publish(catalog, std::move(delta));
        model = changed;
      }
      if (random.below(3) == 0) views.emplace_back(versions->view(), model);
      if (views.size() > 5) {
        const auto at = views.begin() + static_cast<std::ptrdiff_t>(random.below(views.size()));
        const Tree* tree = at->first->catalog().find("t");
        expect_equal(tree != nullptr ? *tree : Tree{}, at->second);
        views.erase(at);
      }
    }
  }
}

}  // namespace
}  // namespace defib::store
