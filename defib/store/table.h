// Table: a table of the store whose keys and values have C++ types.
//
//   const Table<std::uint64_t, Order> orders("orders");
//   const auto by_owner = orders.index<std::string>(
//       "orders_by_owner", [](std::uint64_t, const Order& order) { return order.owner; });
//   Options options;
//   options.indexes.push_back(by_owner.definition());
//   ...
//   orders.put(*transaction, 42, order);
//   auto order = orders.get(*snapshot, 42);               // Result<std::optional<Order>>
//   auto owned = by_owner.find(*snapshot, "alice");       // Result<std::vector<std::uint64_t>>
//   orders.for_each(*snapshot, [](std::uint64_t id, const Order& order) { return true; });
//
// Keys and values are coded as codec.h says. A record that does not decode is an Error of its own
// (Malformed, with table and key), never a default value and never skipped.
//
// Thread rule: a Table and an Index are immutable; a cursor is for one thread at a time.

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "defib/base/bytes.h"
#include "defib/base/error.h"
#include "defib/store/codec.h"
#include "defib/store/store.h"

namespace defib::store {

namespace table_detail {

inline Error malformed(std::string_view table, std::string_view key, std::string_view what) {
  return Error(Code::kMalformed, "the " + std::string(what) + " of record '" + escape(key) +
                                     "' in table '" + escape(table) +
                                     "' is not one that this program can read")
      .with("table", escape(table))
      .with("key", escape(key))
      .suggest(
          "look at it with `defib store get`; a record that another version of the program "
          "wrote needs a codec that knows both");
}

// What an extractor answers: one key, an optional one, or several.
template <typename Secondary>
void append_keys(const Secondary& key, std::vector<std::string>& keys) {
  keys.push_back(encode_key<Secondary>(key));
}
template <typename Secondary>
void append_keys(const std::optional<Secondary>& key, std::vector<std::string>& keys) {
  if (key) keys.push_back(encode_key<Secondary>(*key));
}
template <typename Secondary>
void append_keys(const std::vector<Secondary>& some, std::vector<std::string>& keys) {
  for (const Secondary& key : some) keys.push_back(encode_key<Secondary>(key));
}

}  // namespace table_detail

// Moves over a typed table; moves and status() as Cursor's.
template <typename Key, typename Value, typename KeyCoding, typename ValueCoding>
class TableCursor {
 public:
  TableCursor(std::unique_ptr<Cursor> cursor, std::string table)
      : cursor_(std::move(cursor)), table_(std::move(table)) {}
  bool seek(const Key& key) { return cursor_->seek(encode_key<Key, KeyCoding>(key)); }
  bool seek_for_prev(const Key& key) {
    return cursor_->seek_for_prev(encode_key<Key, KeyCoding>(key));
  }
  bool first() { return cursor_->first(); }
  bool last() { return cursor_->last(); }
  bool next() { return cursor_->next(); }
  bool prev() { return cursor_->prev(); }
  // Precondition of both: positioned on a record.
  Result<Key> key() const {
    auto key = decode_key<Key, KeyCoding>(cursor_->key());
    if (!key) return table_detail::malformed(table_, cursor_->key(), "key");
    return *std::move(key);
  }
  Result<Value> value() const {
    auto value = ValueCoding::decode(cursor_->value());
    if (!value) return table_detail::malformed(table_, cursor_->key(), "value");
    return *std::move(value);
  }
  Result<> status() const { return cursor_->status(); }

 private:
  std::unique_ptr<Cursor> cursor_;
  std::string table_;
};

// A secondary index of a table whose keys are of type Key.
template <typename Secondary, typename Key, typename KeyCoding>
class Index {
 public:
  explicit Index(IndexDefinition definition) : definition_(std::move(definition)) {}
  // For Options::indexes.
  const IndexDefinition& definition() const { return definition_; }

  // Keys of the records with that secondary key, in order.
  Result<std::vector<Key>> find(const Snapshot& snapshot, const Secondary& secondary) const {
    DEFIB_TRY_ASSIGN(const std::vector<std::string> found,
                     snapshot.find_by(definition_.name, encode_key<Secondary>(secondary)));
    std::vector<Key> keys;
    keys.reserve(found.size());
    for (const std::string& bytes : found) {
      DEFIB_TRY_ASSIGN(Key key, decoded(bytes));
      keys.push_back(std::move(key));
    }
    return keys;
  }
  // In order from the first secondary key >= `from` on, until `visit` answers false.
  Result<> for_each_from(const Snapshot& snapshot, const Secondary& from,
                         const std::function<bool(const Secondary&, const Key&)>& visit) const {
    DEFIB_TRY_ASSIGN(const auto cursor, snapshot.scan_index(definition_.name));
    for (bool more = cursor->seek(encode_key<Secondary>(from)); more; more = cursor->next()) {
      const auto secondary = decode_key<Secondary>(cursor->secondary());
      if (!secondary) {
        return table_detail::malformed(definition_.table, cursor->key(), "secondary key");
      }
      DEFIB_TRY_ASSIGN(const Key key, decoded(cursor->key()));
      if (!visit(*secondary, key)) return {};
    }
    return cursor->status();
  }

 private:
  Result<Key> decoded(std::string_view bytes) const {
    auto key = decode_key<Key, KeyCoding>(bytes);
    if (!key) return table_detail::malformed(definition_.table, bytes, "key");
    return *std::move(key);
  }
  IndexDefinition definition_;
};

struct IndexSettings {
  bool unique = false;
  std::uint32_t version = 1;  // to be raised whenever the extractor begins to answer differently
};

template <typename Key, typename Value, typename KeyCoding = KeyCodec<Key>,
          typename ValueCoding = Codec<Value>>
class Table {
 public:
  using TypedCursor = TableCursor<Key, Value, KeyCoding, ValueCoding>;

  explicit Table(std::string name) : name_(std::move(name)) {}
  const std::string& name() const { return name_; }

  // `source` is a Snapshot or a Transaction, which sees its own writes.
  template <typename Source>
  Result<std::optional<Value>> get(Source& source, const Key& key) const {
    const std::string bytes = encode_key<Key, KeyCoding>(key);
    DEFIB_TRY_ASSIGN(const std::optional<std::string> found, source.get(name_, bytes));
    if (!found) return std::optional<Value>();
    std::optional<Value> value = ValueCoding::decode(*found);
    if (!value) return table_detail::malformed(name_, bytes, "value");
    return value;
  }
  Result<> put(Transaction& transaction, const Key& key, const Value& value) const {
    return transaction.put(name_, encode_key<Key, KeyCoding>(key), ValueCoding::encode(value));
  }
  Result<> erase(Transaction& transaction, const Key& key) const {
    return transaction.erase(name_, encode_key<Key, KeyCoding>(key));
  }
  template <typename Source>
  Result<TypedCursor> scan(Source& source) const {
    DEFIB_TRY_ASSIGN(auto cursor, source.scan(name_));
    return TypedCursor(std::move(cursor), name_);
  }

  // All records in order of their keys, until `visit` answers false.
  template <typename Source>
  Result<> for_each(Source& source,
                    const std::function<bool(const Key&, const Value&)>& visit) const {
    DEFIB_TRY_ASSIGN(TypedCursor cursor, scan(source));
    return walk(cursor, cursor.first(), visit);
  }
  // From the first key >= `from` on.
  template <typename Source>
  Result<> for_each_from(Source& source, const Key& from,
                         const std::function<bool(const Key&, const Value&)>& visit) const {
    DEFIB_TRY_ASSIGN(TypedCursor cursor, scan(source));
    return walk(cursor, cursor.seek(from), visit);
  }

  // `extract` is called with key and value, and answers a Secondary, an optional one, or a vector
  // of them. It has to be a pure function of the two. A record that does not decode makes the
  // commit, or the opening that builds the index, fail (CallbackThrew).
  template <typename Secondary, typename Extract>
  Index<Secondary, Key, KeyCoding> index(std::string index_name, Extract extract,
                                         IndexSettings settings = {}) const {
    IndexDefinition definition;
    definition.name = std::move(index_name);
    definition.table = name_;
    definition.unique = settings.unique;
    definition.version = settings.version;
    definition.extract = [extract = std::move(extract)](std::string_view key_bytes,
                                                        std::string_view value_bytes,
                                                        std::vector<std::string>& keys) {
      const std::optional<Key> key = decode_key<Key, KeyCoding>(key_bytes);
      const std::optional<Value> value = ValueCoding::decode(value_bytes);
      if (!key || !value) {
        throw std::invalid_argument("record '" + escape(key_bytes) + "' does not decode");
      }
      table_detail::append_keys<Secondary>(extract(*key, *value), keys);
    };
    return Index<Secondary, Key, KeyCoding>(std::move(definition));
  }

 private:
  static Result<> walk(TypedCursor& cursor, bool more,
                       const std::function<bool(const Key&, const Value&)>& visit) {
    for (; more; more = cursor.next()) {
      DEFIB_TRY_ASSIGN(const Key key, cursor.key());
      DEFIB_TRY_ASSIGN(const Value value, cursor.value());
      if (!visit(key, value)) return {};
    }
    return cursor.status();
  }
  std::string name_;
};

}  // namespace defib::store
