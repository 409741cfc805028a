#include "defib/recovery/explain.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "defib/base/error.h"
#include "defib/os/files.h"

namespace defib::recovery {
namespace {

using testing::EndsWith;
using testing::HasSubstr;

TEST(Explain, NumberWithAndWithoutSignAndNameGiveTheSameText) {
  const auto text = explain_code("-73");
  ASSERT_TRUE(text);
  EXPECT_EQ(*text,
            "DatabaseLocked (-73), retryable: the same operation may succeed, now or with other "
            "parameters\nthe store is open in another process\n"
            "try: stop the named holder, or wait for it, and repeat\n");
  EXPECT_EQ(explain_code("73"), text);
  EXPECT_EQ(explain_code("DatabaseLocked"), text);
  EXPECT_EQ(explain_code("databaselocked"), text);
}

TEST(Explain, EveryCodeHasItsTextItsClassAndATryLine) {
  for (const CodeInfo& info : all_codes()) {
    const auto text = explain_code(info.name);
    ASSERT_TRUE(text);
    EXPECT_THAT(*text, HasSubstr(std::string(info.text)));
    EXPECT_THAT(*text, HasSubstr(std::string(to_string(info.error_class)) + ": "));
    EXPECT_THAT(*text, EndsWith("\ntry: " + std::string(info.guidance) + "\n"));
  }
}

TEST(Explain, WhatIsNoCodeHasNoText) {
  for (const char* text : {"", "0", "9999", "DatabaseUnlocked", "-73x", "--73"}) {
    EXPECT_FALSE(explain_code(text)) << text;
  }
}

TEST(Explain, TheCommittedPageIsThatOfTheTable) {
  const std::string path = DEFIB_SOURCE_DIR "/docs/errors.md";
  if (std::getenv("DEFIB_REGENERATE") != nullptr) {
    ASSERT_TRUE(os::write_file_atomically(os::real_files(), path, errors_page()));
  }
  const auto committed = os::read_file(os::real_files(), path);
  ASSERT_TRUE(committed) << committed.error().to_text();
  EXPECT_TRUE(*committed == errors_page())
      << "docs/errors.md differs from defib/base/codes.def; make it anew with\n"
         "  DEFIB_REGENERATE=1 build/dev/bin/recovery_test --gtest_filter='Explain.*'";
  for (const CodeInfo& info : all_codes()) {
    EXPECT_THAT(*committed, HasSubstr("| " + std::string(info.name) + " |"));
  }
}

}  // namespace
}  // namespace defib::recovery
