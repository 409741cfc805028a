// Versions: which states of the tables somebody may still read, and when the rest is freed.
//
// A Catalog is the root of every table after one commit. Publishing a catalog makes it the one that
// new views see. What the commit took out of the trees is freed when no view of an earlier catalog
// is left, so readers take no lock while they read and the writer never waits for them.
//
// Thread rule: all functions from any thread; publish() calls are ordered by the caller.

#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "defib/store/store.h"
#include "defib/store/tree.h"

namespace defib::store {

struct TableState {
  std::string name;
  Tree tree;
};

struct Catalog {
  std::uint64_t position = 0;      // number of the last commit in it
  std::vector<TableState> tables;  // sorted by name; none is empty once committed
  const Tree* find(std::string_view table) const;
  // The table's tree, added empty where there was none.
  Tree& find_or_add(std::string_view table);
  void drop_empty_tables();
  std::uint64_t records() const;
};
using CatalogPtr = std::shared_ptr<const Catalog>;

class Versions;

// Holds one catalog's state in being.
class View {
 public:
  View(std::shared_ptr<Versions> versions, CatalogPtr catalog);
  View(const View&) = delete;
  View& operator=(const View&) = delete;
  ~View();
  const Catalog& catalog() const { return *catalog_; }

 private:
  std::shared_ptr<Versions> versions_;
  CatalogPtr catalog_;
};

class Versions : public std::enable_shared_from_this<Versions> {
 public:
  // Takes over the trees of `initial`.
  explicit Versions(Catalog initial);
  Versions(const Versions&) = delete;
  Versions& operator=(const Versions&) = delete;
  ~Versions();

  std::shared_ptr<const View> view();
  CatalogPtr published() const;
  // `delta` lists what lies between the last published catalog and this one.
  void publish(CatalogPtr catalog, Delta delta);

 private:
  friend class View;
  struct Retired {
    std::uint64_t position;  // of the commit that took it out
    Delta delta;
  };
  void release(std::uint64_t position);
  // Takes out what nobody reads any more. Precondition: mutex_ is held.
  std::vector<Delta> collect();

  mutable std::mutex mutex_;  // guards all below
  CatalogPtr published_;
  std::map<std::uint64_t, int> readers_;  // views by position
  std::deque<Retired> retired_;           // in order of position
};

// The public faces over a view.
std::unique_ptr<Snapshot> make_snapshot(std::shared_ptr<const View> view);
// A cursor that keeps `keep_alive` in being, and answers false once `*is_open` is false.
std::unique_ptr<Cursor> make_cursor(const Tree* tree, std::shared_ptr<const void> keep_alive,
                                    std::shared_ptr<const bool> is_open);

}  // namespace defib::store
