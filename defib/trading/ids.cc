#include "defib/trading/ids.h"

#include <fmt/core.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "defib/base/assert.h"
#include "defib/trading/tables.h"
#include "defib/wire/json.h"

namespace defib::trading {
namespace {

constexpr std::string_view kDigits = "0123456789abcdefghijklmnopqrstuvwxyz";

std::string to_base36(std::uint64_t value, std::size_t width) {
  std::string text(width, '0');
  for (std::size_t i = width; i-- > 0; value /= 36) text[i] = kDigits[value % 36];
  DEFIB_ASSERT_MESSAGE(value == 0, "the number does not fit its field");
  return text;
}

std::optional<std::uint64_t> from_base36(std::string_view text) {
  std::uint64_t value = 0;
  for (const char c : text) {
    const std::size_t digit = kDigits.find(c);
    if (digit == std::string_view::npos) return std::nullopt;
    value = value * 36 + digit;
  }
  return value;
}

bool is_owner(std::string_view text) {
  return text.size() == kOwnerLength && from_base36(text).has_value();
}

std::string boot_key(std::uint64_t epoch) {
  return to_base36(epoch, kEpochLength);
}

std::string encode_boot(const BootRecord& boot) {
  return wire::Json::object({{"epoch", boot.epoch},
                             {"boot_id", boot.boot_id},
                             {"mono_ns", boot.mono_ns},
                             {"wall_ns", boot.wall_ns},
                             {"clean", boot.clean},
                             {"ended_wall_ns", boot.ended_wall_ns}})
      .dump();
}

Result<BootRecord> decode_boot(std::string_view key, std::string_view text) {
  auto json = wire::Json::parse(text);
  if (!json || !json->is_object()) {
    Error error(Code::kLedgerDamaged, fmt::format("the boot record {} cannot be read", key));
    if (!json) error = std::move(error).because(json.error());
    return error;
  }
  BootRecord boot;
  DEFIB_TRY_ASSIGN(const std::int64_t epoch, json->require_int("epoch"));
  DEFIB_TRY_ASSIGN(boot.boot_id, json->require_string("boot_id"));
  DEFIB_TRY_ASSIGN(boot.mono_ns, json->require_int("mono_ns"));
  DEFIB_TRY_ASSIGN(boot.wall_ns, json->require_int("wall_ns"));
  boot.epoch = static_cast<std::uint64_t>(epoch);
  boot.clean = (*json)["clean"].as_bool();
  boot.ended_wall_ns = (*json)["ended_wall_ns"].as_int();
  return boot;
}

// The newest epoch that was ever recorded: the counter's and, should that be missing, the boots'.
Result<std::uint64_t> last_epoch(store::Transaction& transaction) {
  std::uint64_t epoch = 0;
  DEFIB_TRY_ASSIGN(const std::optional<std::string> stored, transaction.get(kMetaTable, kEpochKey));
  if (stored) {
    const auto value = from_base36(*stored);
    if (!value || *value > kMaxEpoch) {
      return Error(Code::kLedgerDamaged, fmt::format("the boot epoch '{}' is no number", *stored));
    }
    epoch = *value;
  }
  DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Cursor> boots, transaction.scan(kBootTable));
  if (boots->last()) {
    const auto value = from_base36(boots->key());
    if (!value || boots->key().size() != kEpochLength) {
      return Error(Code::kLedgerDamaged,
                   fmt::format("a boot record has the key '{}', which is no epoch", boots->key()));
    }
    epoch = std::max(epoch, *value);
  }
  return epoch;
}

}  // namespace

std::string format_client_id(const ClientId& id) {
  DEFIB_ASSERT(is_owner(id.owner));
  return id.owner + to_base36(id.epoch, kEpochLength) + to_base36(id.counter, kCounterLength);
}

std::optional<ClientId> parse_client_id(std::string_view text) {
  if (text.size() != kOwnerLength + kEpochLength + kCounterLength) return std::nullopt;
  const std::string_view owner = text.substr(0, kOwnerLength);
  const auto epoch = from_base36(text.substr(kOwnerLength, kEpochLength));
  const auto counter = from_base36(text.substr(kOwnerLength + kEpochLength));
  if (!is_owner(owner) || !epoch || !counter) return std::nullopt;
  return ClientId{std::string(owner), *epoch, *counter};
}

Result<IdSource> IdSource::begin_boot(store::Store& store, const os::Clock& clock,
                                      std::string owner, std::uint64_t least_epoch) {
  if (!is_owner(owner)) {
    return Error(Code::kInvalidArgument,
                 fmt::format("the owner '{}' is not three characters of [a-z0-9]", owner))
        .with("owner", owner);
  }
  DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Transaction> transaction, store.begin());
  DEFIB_TRY_ASSIGN(const std::uint64_t last, last_epoch(*transaction));
  if (last >= kMaxEpoch) {
    return Error(Code::kLimitExceeded, "the boot epochs of this owner are used up")
        .with("owner", owner)
        .suggest("choose another [trading] owner; its ids start anew");
  }
  BootRecord boot;
  boot.epoch = std::clamp(least_epoch, last + 1, kMaxEpoch);
  boot.boot_id = clock.boot_id();
  boot.mono_ns = clock.mono_ns();
  boot.wall_ns = clock.wall_ns();
  DEFIB_TRY(transaction->put(kMetaTable, kEpochKey, to_base36(boot.epoch, kEpochLength)));
  DEFIB_TRY(transaction->put(kBootTable, boot_key(boot.epoch), encode_boot(boot)));
  DEFIB_TRY(transaction->commit(store::Durability::kPower));
  return IdSource(std::move(owner), std::move(boot));
}

IdSource IdSource::for_inspection(const os::Clock& clock, std::string owner) {
  BootRecord boot;
  boot.boot_id = clock.boot_id();
  boot.mono_ns = clock.mono_ns();
  boot.wall_ns = clock.wall_ns();
  return IdSource(std::move(owner), std::move(boot));
}

std::string IdSource::next() {
  DEFIB_ASSERT(counter_ < kMaxCounter);
  return format_client_id({owner_, boot_.epoch, ++counter_});
}

Result<> IdSource::end_boot_cleanly(store::Store& store, const os::Clock& clock) {
  BootRecord ended = boot_;
  ended.clean = true;
  ended.ended_wall_ns = clock.wall_ns();
  DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Transaction> transaction, store.begin());
  DEFIB_TRY(transaction->put(kBootTable, boot_key(ended.epoch), encode_boot(ended)));
  DEFIB_TRY(transaction->commit(store::Durability::kPower));
  boot_ = std::move(ended);
  return {};
}

Result<std::vector<BootRecord>> read_boots(const store::Snapshot& snapshot, std::size_t limit) {
  std::vector<BootRecord> boots;
  DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Cursor> cursor, snapshot.scan(kBootTable));
  for (bool found = cursor->last(); found && boots.size() < limit; found = cursor->prev()) {
    DEFIB_TRY_ASSIGN(BootRecord boot, decode_boot(cursor->key(), cursor->value()));
    boots.push_back(std::move(boot));
  }
  std::reverse(boots.begin(), boots.end());
  return boots;
}

int crashes_within(const std::vector<BootRecord>& boots, const os::Clock& clock,
                   os::Duration window) {
  int crashes = 0;
  for (std::size_t i = 0; i + 1 < boots.size(); ++i) {
    if (boots[i].clean) continue;
    const BootRecord& next = boots[i + 1];
    const std::int64_t age = next.boot_id == clock.boot_id() ? clock.mono_ns() - next.mono_ns
                                                             : clock.wall_ns() - next.wall_ns;
    if (age <= window.count()) ++crashes;
  }
  return crashes;
}

}  // namespace defib::trading
