// The PDF is one that a reader opens, holds the text as text, and is bounded.

#include "defib/report/pdf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "defib/report/testing/inputs.h"

namespace defib::report {
namespace {

using ::testing::EndsWith;
using ::testing::StartsWith;

std::size_t pages(const std::string& pdf) {
  std::size_t number = 0;
  const std::string word = "/Type /Page";
  for (std::size_t at = pdf.find(word); at != pdf.npos; at = pdf.find(word, at + 1)) {
    number += pdf[at + word.size()] != 's' ? 1 : 0;
  }
  return number;
}

std::size_t count(const std::string& text, const std::string& word) {
  std::size_t number = 0;
  for (std::size_t at = text.find(word); at != text.npos; at = text.find(word, at + 1)) ++number;
  return number;
}

TEST(Pdf, IsWhole) {
  const auto pdf = to_pdf(make_document(testing::input()));
  ASSERT_TRUE(pdf) << pdf.error().to_text();
  EXPECT_THAT(*pdf, StartsWith("%PDF-1."));
  EXPECT_THAT(*pdf, EndsWith("%%EOF\n"));
  EXPECT_GE(pages(*pdf), 2U);
  EXPECT_GE(count(*pdf, "/FontFile"), 2U);  // it is the same wherever it is read
  EXPECT_EQ(count(*pdf, "/JavaScript"), 0U);
  EXPECT_EQ(count(*pdf, "/URI"), 0U);
}

TEST(Pdf, TakesAnyText) {
  for (const std::string& text :
       {std::string("(\\)<>[]{}/%"), std::string("\xe2\x82"), std::string(3000, 'x'),
        std::string("\xf0\x9f\x92\xa5 \xe4\xb8\xad\xe6\x96\x87"), std::string(500, ' '),
        std::string("a\tb\rc\0d", 8)}) {
    const auto pdf = to_pdf(make_document(testing::hostile(text)));
    ASSERT_TRUE(pdf) << pdf.error().to_text();
    EXPECT_THAT(*pdf, EndsWith("%%EOF\n"));
  }
}

TEST(Pdf, EndsAtItsLastPage) {
  Document document;
  document.title = "flood";
  Block block;
  block.kind = BlockKind::kPre;
  block.lines.assign(40'000, "a line of a flood, of which there are far too many");
  document.blocks.push_back(block);
  const auto pdf = to_pdf(document);
  ASSERT_TRUE(pdf);
  EXPECT_EQ(pages(*pdf), static_cast<std::size_t>(kMaxPages));
}

}  // namespace
}  // namespace defib::report
