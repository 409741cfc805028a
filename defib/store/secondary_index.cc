#include "defib/store/secondary_index.h"

#include <fmt/core.h>

#include <algorithm>
#include <exception>

#include "defib/base/bytes.h"
#include "defib/store/view.h"

namespace defib::store {
namespace {

class EntryCursor final : public IndexCursor {
 public:
  explicit EntryCursor(std::unique_ptr<Cursor> entries) : entries_(std::move(entries)) {}
  bool seek(std::string_view secondary) override {
    return show(entries_->seek(index_entry_prefix(secondary)));
  }
  bool first() override { return show(entries_->first()); }
  bool last() override { return show(entries_->last()); }
  bool next() override { return show(entries_->next()); }
  bool prev() override { return show(entries_->prev()); }
  std::string_view secondary() const override { return secondary_; }
  std::string_view key() const override { return key_; }
  Result<> status() const override {
    if (problem_) return *problem_;
    return entries_->status();
  }

 private:
  bool show(bool positioned) {
    if (!positioned) return false;
    auto entry = decode_index_entry(entries_->key());
    if (!entry) {
      problem_ = Error(Code::kCorrupted,
                       fmt::format("an index entry is malformed: '{}'", escape(entries_->key())));
      return false;
    }
    std::tie(secondary_, key_) = *std::move(entry);
    return true;
  }
  std::unique_ptr<Cursor> entries_;
  std::string secondary_;
  std::string key_;
  std::optional<Error> problem_;
};

}  // namespace

std::string index_table_name(std::string_view index) {
  return fmt::format("{}index/{}", kInternalTable, index);
}

std::string index_entry_prefix(std::string_view secondary) {
  std::string bytes;
  bytes.reserve(secondary.size() + 2);
  for (const char byte : secondary) {
    bytes += byte;
    if (byte == '\0') bytes += '\xff';
  }
  return bytes.append(2, '\0');
}

std::string encode_index_entry(std::string_view secondary, std::string_view key) {
  return index_entry_prefix(secondary).append(key);
}

std::optional<std::pair<std::string, std::string>> decode_index_entry(std::string_view entry) {
  std::string secondary;
  for (std::size_t i = 0; i + 1 < entry.size(); ++i) {
    if (entry[i] != '\0') {
      secondary += entry[i];
    } else if (entry[i + 1] == '\xff') {
      secondary += '\0';
      ++i;
    } else if (entry[i + 1] == '\0') {
      return std::pair(std::move(secondary), std::string(entry.substr(i + 2)));
    } else {
      return std::nullopt;
    }
  }
  return std::nullopt;
}

std::string encode_index_record(const IndexDefinition& definition) {
  std::string bytes;
  Writer writer(bytes);
  writer.u32(definition.version);
  writer.u8(definition.unique ? 1 : 0);
  return bytes.append(definition.table);
}

std::optional<IndexRecord> decode_index_record(std::string_view bytes) {
  Reader reader(bytes);
  IndexRecord record;
  record.version = reader.u32();
  record.unique = reader.u8() != 0;
  if (!reader.ok()) return std::nullopt;
  record.table = bytes.substr(5);
  return record;
}

Result<> check_definitions(const std::vector<IndexDefinition>& definitions) {
  for (std::size_t i = 0; i < definitions.size(); ++i) {
    const IndexDefinition& own = definitions[i];
    const auto wrong = [&](std::string_view what) {
      return Error(Code::kInvalidArgument, fmt::format("index '{}': {}", escape(own.name), what));
    };
    if (own.name.empty() || index_table_name(own.name).size() > kMaxTableName) {
      return wrong("its name is empty or too long");
    }
    if (own.table.empty() || own.table.size() > kMaxTableName || is_internal(own.table)) {
      return wrong("its table's name is empty, too long, or begins with the byte 01");
    }
    if (!own.extract) return wrong("it has no extractor");
    for (std::size_t j = 0; j < i; ++j) {
      if (definitions[j].name == own.name) return wrong("it is declared twice");
    }
  }
  return {};
}

Result<std::vector<std::string>> extract_keys(const IndexDefinition& definition,
                                              std::string_view key, std::string_view value) {
  std::vector<std::string> keys;
  std::string thrown;
  try {
    definition.extract(key, value, keys);
  } catch (const std::exception& exception) {
    thrown = exception.what();
  } catch (...) {
    thrown = "something that is no std::exception";
  }
  if (!thrown.empty()) {
    return Error(Code::kCallbackThrew,
                 fmt::format("the extractor of index '{}' threw: {}", definition.name, thrown));
  }
  std::ranges::sort(keys);
  keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
  for (const std::string& secondary : keys) {
    if (encode_index_entry(secondary, key).size() <= kMaxKeySize) continue;
    return Error(Code::kKeyOrValueTooLarge,
                 fmt::format("index '{}': a secondary key of {} bytes and the record's key of {} "
                             "bytes are together more than {}",
                             definition.name, secondary.size(), key.size(), kMaxKeySize))
        .with("limit", static_cast<std::int64_t>(kMaxKeySize));
  }
  return keys;
}

std::unique_ptr<IndexCursor> make_index_cursor(std::unique_ptr<Cursor> entries) {
  return std::make_unique<EntryCursor>(std::move(entries));
}

Result<std::vector<std::string>> Snapshot::find_by(std::string_view index,
                                                   std::string_view secondary) const {
  DEFIB_TRY_ASSIGN(const auto cursor, scan_index(index));
  std::vector<std::string> keys;
  for (bool more = cursor->seek(secondary); more && cursor->secondary() == secondary;
       more = cursor->next()) {
    keys.emplace_back(cursor->key());
  }
  DEFIB_TRY(cursor->status());
  return keys;
}

}  // namespace defib::store
