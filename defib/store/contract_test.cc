// The operator's contract, as far as a program can not be made to show it from outside: the table
// of codes, and a recovered store that fails verification. apps/defib-store/contract_test.py has
// the other codes.

#include <gtest/gtest.h>

#include <set>

#include "defib/recovery/explain.h"
#include "defib/store/format.h"
#include "defib/store/maintenance.h"
#include "defib/store/testing/store_util.h"

namespace defib::store {
namespace {

using testing_util::TemporaryDir;

struct Row {
  int code;
  std::string_view name;
  ErrorClass error_class;
};
// As the design fixes them.
constexpr Row kRows[] = {
    {-70, "RecoveryImpossible", ErrorClass::kCritical},
    {-71, "WalCorrupted", ErrorClass::kCritical},
    {-72, "InsufficientResources", ErrorClass::kRetryable},
    {-73, "DatabaseLocked", ErrorClass::kRetryable},
    {-74, "PartialRecoveryFailure", ErrorClass::kRecoverable},
    {-75, "InconsistentState", ErrorClass::kCritical},
    {-76, "RecoveryConfigurationError", ErrorClass::kRetryable},
    {-77, "RecoveryPermissionError", ErrorClass::kRetryable},
    {-78, "RecoveryDependencyError", ErrorClass::kRetryable},
    {-79, "RecoveryTimeout", ErrorClass::kRetryable},
    {-80, "RecoveryProgress", ErrorClass::kNone},
    {-81, "RecoveryRollbackFailed", ErrorClass::kCritical},
    {-82, "RecoveryStageDependencyFailed", ErrorClass::kRecoverable},
    {-83, "RecoveryVerificationFailed", ErrorClass::kCritical},
};

TEST(Contract, EachRecoveryCodeHasItsNumberItsClassAndItsGuidance) {
  std::set<std::string_view> names;
  std::set<std::string_view> guidance;
  for (const Row& row : kRows) {
    const auto info = find_code(std::to_string(row.code));
    ASSERT_TRUE(info.has_value()) << row.code;
    EXPECT_EQ(info->name, row.name);
    EXPECT_EQ(info->error_class, row.error_class) << row.name;
    EXPECT_FALSE(info->guidance.empty()) << row.name;
    EXPECT_TRUE(names.insert(info->name).second) << row.name;
    guidance.insert(info->guidance);
    const auto text = recovery::explain_code(std::to_string(row.code));
    ASSERT_TRUE(text.has_value()) << row.name;
    EXPECT_NE(text->find(fmt::format("\ntry: {}\n", info->guidance)), std::string::npos);
  }
  EXPECT_EQ(names.size(), std::size(kRows));
  int with_these_numbers = 0;
  for (const CodeInfo& info : all_codes()) {
    const int number = static_cast<int>(info.code);
    with_these_numbers += number <= -70 && number >= -83 ? 1 : 0;
  }
  EXPECT_EQ(with_these_numbers, static_cast<int>(std::size(kRows)));
}

TEST(Contract, ExactlyOneOfTheThreeQuestionsIsAnsweredWithYes) {
  for (const Row& row : kRows) {
    const Error error(find_code(row.name)->code, "it failed");
    const int answers = (is_critical_recovery_failure(error) ? 1 : 0) +
                        (is_retryable(error) ? 1 : 0) + (is_recoverable(error) ? 1 : 0);
    EXPECT_EQ(answers, row.error_class == ErrorClass::kNone ? 0 : 1) << row.name;
    EXPECT_EQ(is_critical_recovery_failure(error), row.error_class == ErrorClass::kCritical);
    EXPECT_EQ(is_retryable(error), row.error_class == ErrorClass::kRetryable) << row.name;
    EXPECT_EQ(is_recoverable(error), row.error_class == ErrorClass::kRecoverable) << row.name;
    EXPECT_FALSE(error.suggested_action().empty()) << row.name;
  }
  // Critical, but no failure of a recovery.
  EXPECT_FALSE(is_critical_recovery_failure(Error(Code::kStorePoisoned, "a sync failed")));
}

IndexDefinition by_value(std::string prefix, std::uint32_t version) {
  return {.name = "by_value",
          .table = "people",
          .unique = false,
          .version = version,
          .extract = [prefix](std::string_view, std::string_view value,
                              std::vector<std::string>& keys) {
            keys.push_back(prefix + std::string(value));
          }};
}

// Closed without its mark, with an index that another extractor made.
void make_disagreeing_store(const std::string& dir) {
  Options options;
  options.indexes = {by_value("", 1)};
  auto store = Store::open(dir, options);
  ASSERT_TRUE(store.has_value()) << store.error().to_text();
  for (int i = 0; i < 50; ++i) {
    ASSERT_TRUE(
        put(**store, "people", std::to_string(i), std::to_string(i % 7), Durability::kPower));
  }
}

void expect_sound(const std::string& dir, std::uint32_t version) {
  Options options;
  options.indexes = {by_value("x", version)};
  const auto store = Store::open(dir, options);
  ASSERT_TRUE(store.has_value()) << store.error().to_text();
  EXPECT_EQ((*(*store)->snapshot())->find_by("by_value", "x3")->size(), 7U);
  const auto report = (*store)->verify();
  ASSERT_TRUE(report.has_value()) << report.error().to_text();
  EXPECT_TRUE(report->findings.empty()) << report->findings.front().problem;
  EXPECT_TRUE((*store)->close().has_value());
  EXPECT_TRUE(Store::verify_files(dir, {})->findings.empty());
}

TEST(Contract, AnIndexThatDoesNotAgreeWithItsTableIsMinus83AndIsCuredInBothWays) {
  const TemporaryDir folder;
  const std::string dir = folder.path() + "/store";
  make_disagreeing_store(dir);
  Options options;
  options.indexes = {by_value("x", 1)};
  const auto refused = Store::open(dir, options);
  ASSERT_FALSE(refused.has_value());
  const Error& error = refused.error();
  EXPECT_EQ(error.code(), Code::kRecoveryVerificationFailed) << error.to_text();
  EXPECT_TRUE(is_critical_recovery_failure(error));
  EXPECT_EQ(error.field("check_name"), "index_sample");
  EXPECT_NE(error.field("details").find("index 'by_value' has no entry"), std::string_view::npos);
  EXPECT_EQ(error.field("critical"), "true");
  EXPECT_NE(error.suggested_action().find("raise the index's version"), std::string::npos);
  EXPECT_NE(error.suggested_action().find("`defib store repair DIR --to NEWDIR`"),
            std::string::npos);
  // A repaired store has no indexes; the program builds its own when it opens it.
  const auto repaired = repair(dir, folder.path() + "/new", {});
  ASSERT_TRUE(repaired.has_value()) << repaired.error().to_text();
  EXPECT_TRUE(repaired->losses.empty());
  EXPECT_EQ(repaired->records, 50U);
  expect_sound(folder.path() + "/new", 1);
  // In place, as the error says first.
  expect_sound(dir, 2);
}

TEST(Contract, WhatIsNotAStoreOfThisProgramGetsNoMarkFromIt) {
  const TemporaryDir folder;
  os::Files& files = os::real_files();
  const std::string foreign = folder.path() + "/foreign";
  ASSERT_TRUE(files.create_dirs(foreign).has_value());
  ASSERT_TRUE(os::write_file_atomically(files, foreign + "/thesis.tex", "important").has_value());
  const std::string newer = folder.path() + "/newer";
  {
    const auto store = Store::open(newer, {});
    ASSERT_TRUE(store.has_value());
    ASSERT_TRUE(put(**store, "t", "k", "v", Durability::kPower));
  }
  std::string problem;
  auto identity = decode_identity(*os::read_file(files, newer + "/store.id"), problem);
  ASSERT_TRUE(identity.has_value()) << problem;
  identity->version = 99;
  ASSERT_TRUE(os::write_file_atomically(files, newer + "/store.id", encode(*identity)).has_value());
  const auto before = testing_util::read_tree(folder.path());
  EXPECT_EQ(Store::open(foreign, {}).error().code(), Code::kNotAStore);
  EXPECT_EQ(Store::open(newer, {}).error().code(), Code::kStoreFormatUnsupported);
  EXPECT_EQ(testing_util::read_tree(folder.path()), before);
}

}  // namespace
}  // namespace defib::store
