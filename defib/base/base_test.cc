#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <set>
#include <thread>

#include "defib/base/assert.h"
#include "defib/base/bytes.h"
#include "defib/base/decimal.h"
#include "defib/base/error.h"
#include "defib/base/ring.h"

namespace defib {
namespace {

using testing::HasSubstr;

TEST(Codes, RecoveryCodesStandAtTheirFixedNumbers) {
  const std::pair<int, std::string_view> fixed[] = {{-70, "RecoveryImpossible"},
                                                    {-71, "WalCorrupted"},
                                                    {-72, "InsufficientResources"},
                                                    {-73, "DatabaseLocked"},
                                                    {-74, "PartialRecoveryFailure"},
                                                    {-75, "InconsistentState"},
                                                    {-76, "RecoveryConfigurationError"},
                                                    {-77, "RecoveryPermissionError"},
                                                    {-78, "RecoveryDependencyError"},
                                                    {-79, "RecoveryTimeout"},
                                                    {-80, "RecoveryProgress"},
                                                    {-81, "RecoveryRollbackFailed"},
                                                    {-82, "RecoveryStageDependencyFailed"},
                                                    {-83, "RecoveryVerificationFailed"}};
  for (const auto& [number, name] : fixed) {
    const auto info = find_code(std::to_string(number));
    ASSERT_TRUE(info) << number;
    EXPECT_EQ(info->name, name);
  }
}

TEST(Codes, EveryCodeHasTextGuidanceAndAUniqueName) {
  std::set<std::string_view> names;
  for (const CodeInfo& info : all_codes()) {
    EXPECT_FALSE(info.text.empty()) << info.name;
    EXPECT_FALSE(info.guidance.empty()) << info.name;
    EXPECT_TRUE(names.insert(info.name).second) << info.name;
  }
}

TEST(Codes, RecoveryClassesAreThoseOfTheDesign) {
  const auto class_of = [](int n) { return find_code(std::to_string(n))->error_class; };
  for (const int n : {-70, -71, -75, -81, -83}) EXPECT_EQ(class_of(n), ErrorClass::kCritical) << n;
  for (const int n : {-72, -73, -76, -77, -78, -79}) {
    EXPECT_EQ(class_of(n), ErrorClass::kRetryable) << n;
  }
  for (const int n : {-74, -82}) EXPECT_EQ(class_of(n), ErrorClass::kRecoverable) << n;
  EXPECT_EQ(class_of(-80), ErrorClass::kNone);
}

TEST(Codes, NumberWithAndWithoutSignAndNameAreTheSameThing) {
  EXPECT_EQ(find_code("-73")->code, Code::kDatabaseLocked);
  EXPECT_EQ(find_code("73")->code, Code::kDatabaseLocked);
  EXPECT_EQ(find_code("databaselocked")->code, Code::kDatabaseLocked);
  EXPECT_FALSE(find_code("9999"));
  EXPECT_FALSE(find_code(""));
}

TEST(ErrorTest, TextHasMessageCauseAndTry) {
  const Error error = Error(Code::kDatabaseLocked, "the store 'x' is open elsewhere")
                          .with("lock_holder", "pid 7")
                          .because(Error(Code::kSystemCallFailed, "fcntl: busy"));
  EXPECT_THAT(error.to_text(), HasSubstr("error[-73 DatabaseLocked]: the store 'x' is open"));
  EXPECT_THAT(error.to_text(), HasSubstr("\ncause: [-20 SystemCallFailed] fcntl: busy"));
  EXPECT_THAT(error.to_text(), HasSubstr("\ntry: stop the named holder"));
  EXPECT_EQ(error.field("lock_holder"), "pid 7");
  EXPECT_EQ(error.root().message(), "fcntl: busy");
}

TEST(ErrorTest, BuildingOnASharedErrorLeavesTheOtherHolderAlone) {
  const Error first(Code::kTimeout, "late");
  const Error second = Error(first).with("stage", "wal");
  EXPECT_EQ(first.field("stage"), "");
  EXPECT_EQ(second.field("stage"), "wal");
  EXPECT_EQ(second.message(), "late");
}

TEST(ErrorTest, ManyThreadsMayHoldTheSameError) {
  const Error shared = Error(Code::kTimeout, "late").because(Error(Code::kIoError, "disk"));
  std::vector<std::jthread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([copy = shared] {
      for (int n = 0; n < 1000; ++n) {
        const Error mine = copy;
        EXPECT_EQ(mine.cause()->message(), "disk");
      }
    });
  }
}

Result<int> half(int n) {
  if (n % 2 != 0) return Error(Code::kInvalidArgument, "odd");
  return n / 2;
}
Result<int> quarter(int n) {
  DEFIB_TRY_ASSIGN(const int h, half(n));
  return half(h);
}

TEST(ResultTest, TryPassesTheErrorOn) {
  EXPECT_EQ(quarter(8).value(), 2);
  EXPECT_EQ(quarter(6).error().code(), Code::kInvalidArgument);
}

TEST(AssertDeathTest, NamesTheExpression) {
  EXPECT_DEATH(DEFIB_ASSERT(1 + 1 == 3), "assertion failed: 1 \\+ 1 == 3");
}

TEST(BytesTest, ReaderNeverReadsPastTheEnd) {
  std::string out;
  Writer writer(out);
  writer.u32(7);
  writer.text("hello");
  for (std::size_t cut = 0; cut < out.size(); ++cut) {
    Reader reader(std::string_view(out).substr(0, cut));
    reader.u32();
    reader.text();
    EXPECT_FALSE(reader.finished()) << cut;
  }
  Reader reader(out);
  EXPECT_EQ(reader.u32(), 7u);
  EXPECT_EQ(reader.text(), "hello");
  EXPECT_TRUE(reader.finished());
}

TEST(BytesTest, PublishedVectors) {
  EXPECT_EQ(crc32c("123456789"), 0xE3069283u);
  EXPECT_EQ(crc32c("456789", crc32c("123")), 0xE3069283u);
  EXPECT_EQ(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(sha256_hex(std::string(1'000'000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(BytesTest, EscapeRoundTripsEveryByte) {
  std::string all;
  for (int c = 0; c < 256; ++c) all += static_cast<char>(c);
  std::string back;
  ASSERT_TRUE(unescape(escape(all), back));
  EXPECT_EQ(back, all);
  EXPECT_EQ(escape("a\tb\\\x01"), "a\\tb\\\\\\x01");
  EXPECT_FALSE(unescape("\\q", back));
  EXPECT_FALSE(unescape("\\x1", back));
  EXPECT_FALSE(unescape("\\", back));
}

TEST(DecimalTest, ParsesExactlyOrRefuses) {
  EXPECT_EQ(Decimal::parse("12.5")->units(), 1'250'000'000);
  EXPECT_EQ(Decimal::parse("-0.00000001")->units(), -1);
  EXPECT_EQ(Decimal::parse("0.1000000000")->to_string(), "0.1");
  for (const char* bad :
       {"", "-", ".", "1e5", "1.2.3", "0.000000001", "92233720369", " 1", "nan"}) {
    EXPECT_FALSE(Decimal::parse(bad)) << bad;
  }
}

TEST(DecimalTest, TextRoundTripsForRandomValues) {
  std::mt19937_64 random(7);
  for (int i = 0; i < 10'000; ++i) {
    const auto value = Decimal::from_units(static_cast<std::int64_t>(random()) >> (random() % 60));
    EXPECT_EQ(Decimal::parse(value.to_string()).value(), value) << value.units();
  }
}

TEST(DecimalTest, ArithmeticIsExact) {
  const auto d = [](const char* t) { return Decimal::parse(t).value(); };
  EXPECT_EQ(d("0.1") + d("0.2"), d("0.3"));
  EXPECT_EQ(d("50000.12") * d("0.01"), d("500.0012"));
  EXPECT_EQ(d("1") / d("3"), d("0.33333333"));
  EXPECT_EQ(d("1.2345").round_down_to(d("0.01")), d("1.23"));
  EXPECT_EQ(d("12.5").to_string(2), "12.50");
  EXPECT_DEATH(Decimal::from_units(INT64_MAX) + Decimal::from_units(1), "overflow");
}

TEST(RingBufferTest, KeepsTheLatestAndCountsTheDropped) {
  RingBuffer<int> ring(2);
  ring.push(1), ring.push(2), ring.push(3);
  EXPECT_EQ(ring.dropped(), 1u);
  EXPECT_FALSE(ring.try_push(4));
  EXPECT_EQ(ring.pop(), 2);
  EXPECT_EQ(ring.pop(), 3);
  EXPECT_TRUE(ring.empty());
}

}  // namespace
}  // namespace defib
