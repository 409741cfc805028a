#include "defib/alert/book_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "defib/os/sim_files.h"

namespace defib::alert {
namespace {

constexpr std::int64_t kNow = 1'700'000'000'000'000'000;

// A disk that can be full, and a file in memory that senders get one after the other.
class BookFileTest : public ::testing::Test {
 protected:
  BookFileTest() { EXPECT_TRUE(disk_.create_dirs("/s/alerts")); }
  BookFile sender() {
    auto memory = memory_.open("/book", os::OpenMode::kCreate);
    EXPECT_TRUE(memory);
    return BookFile(disk_, "/s", std::move(*memory));
  }
  void fill_the_disk() {
    disk_.set_fault([](std::size_t, std::string_view) {
      return Error(Code::kNoSpace, "no space left on device");
    });
  }
  void free_the_disk() { disk_.set_fault({}); }
  void tell(Book& book, const std::string& id) {
    Event event;
    event.id = event.service = event.cause = id;
    event.wall_ns = kNow;
    book.apply(event, kNow);
  }
  // The services of which the next sender knows.
  std::vector<std::string> known() {
    std::vector<std::string> services;
    auto book = sender().load();
    EXPECT_TRUE(book) << book.error().to_text();
    if (!book) return services;
    for (const Alert& alert : book->alerts()) services.push_back(alert.service);
    return services;
  }
  os::SimFiles disk_, memory_;
};

using ::testing::ElementsAre;

TEST_F(BookFileTest, WhatTheDiskDoesNotTakeTheNextSenderFindsInMemory) {
  BookFile first = sender();
  auto book = first.load();
  ASSERT_TRUE(book);
  tell(*book, "a");
  ASSERT_TRUE(first.save(*book));
  EXPECT_FALSE(first.in_memory());
  fill_the_disk();
  tell(*book, "b");
  EXPECT_EQ(first.save(*book).error().code(), Code::kNoSpace);
  EXPECT_TRUE(first.in_memory());
  EXPECT_THAT(known(), ElementsAre("a", "b"));
  tell(*book, "c");
  EXPECT_FALSE(first.save(*book));
  EXPECT_THAT(known(), ElementsAre("a", "b", "c"));
  // The next one writes it down as soon as the disk takes it.
  BookFile second = sender();
  book = second.load();
  ASSERT_TRUE(book);
  EXPECT_TRUE(second.in_memory());
  free_the_disk();
  ASSERT_TRUE(second.save(*book));
  EXPECT_FALSE(second.in_memory());
  EXPECT_EQ(memory_.content("/book"), "");
  EXPECT_THAT(known(), ElementsAre("a", "b", "c"));
}

TEST_F(BookFileTest, TheFirstBookOfAllMayLieInMemory) {
  fill_the_disk();
  BookFile first = sender();
  auto book = first.load();
  ASSERT_TRUE(book);
  tell(*book, "a");
  EXPECT_FALSE(first.save(*book));
  EXPECT_TRUE(first.in_memory());
  EXPECT_THAT(known(), ElementsAre("a"));
}

// Another supervising process has a file of its own.
TEST_F(BookFileTest, WhatAnotherSenderSavedSinceIsNewer) {
  BookFile first = sender();
  auto book = first.load();
  ASSERT_TRUE(book);
  fill_the_disk();
  tell(*book, "a");
  EXPECT_FALSE(first.save(*book));
  free_the_disk();
  Book other;
  tell(other, "b");
  ASSERT_TRUE(BookFile(disk_, "/s", nullptr).save(other));
  EXPECT_THAT(known(), ElementsAre("b"));
}

TEST_F(BookFileTest, WhatAKilledSenderLeftTornInMemoryIsNotBelieved) {
  BookFile first = sender();
  auto book = first.load();
  ASSERT_TRUE(book);
  tell(*book, "a");
  ASSERT_TRUE(first.save(*book));
  fill_the_disk();
  tell(*book, "b");
  EXPECT_FALSE(first.save(*book));
  const std::string shorter = memory_.content("/book");
  tell(*book, "c");
  EXPECT_FALSE(first.save(*book));
  const std::string longer = memory_.content("/book");
  for (std::size_t size = 0; size <= longer.size(); ++size) {
    std::string torn = longer.substr(0, size);
    if (size < shorter.size()) torn += shorter.substr(size);
    memory_.set_content("/book", torn);
    const auto services = known();
    if (torn.starts_with(shorter)) {
      ASSERT_THAT(services, ElementsAre("a", "b")) << size;
    } else if (size + 1 >= longer.size()) {
      ASSERT_THAT(services, ElementsAre("a", "b", "c")) << size;
    } else {
      ASSERT_THAT(services, ElementsAre("a")) << size;
    }
  }
}

TEST_F(BookFileTest, WithoutMemoryItIsNowhere) {
  BookFile alone(disk_, "/s", nullptr);
  const auto book = alone.load();
  ASSERT_TRUE(book);
  fill_the_disk();
  EXPECT_FALSE(alone.save(*book));
  EXPECT_FALSE(alone.in_memory());
}

}  // namespace
}  // namespace defib::alert
