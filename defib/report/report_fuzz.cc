// Whatever a process, its output and its names hold: a report shows it as text.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "defib/base/assert.h"
#include "defib/base/visible_text.h"
#include "defib/report/advice.h"
#include "defib/report/document.h"
#include "defib/report/testing/inputs.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace defib;
  const std::string text(reinterpret_cast<const char*>(data), size);
  const report::Document document = report::make_document(report::testing::hostile(text));
  const std::string html = report::to_html(document);
  // Our own tags are known, and each "<" of the text was escaped.
  for (const char* tag : {"<script", "<img", "<iframe", "<a ", "<object", "<!--"}) {
    DEFIB_ASSERT(html.find(tag) == html.npos);
  }
  DEFIB_ASSERT(html.find('\x1b') == html.npos);
  DEFIB_ASSERT(report::to_text(document).find('\x1b') == std::string::npos);
  DEFIB_ASSERT(visible_text(visible_text(text)) == visible_text(text));
  report::AdviceFacts facts;
  facts.service = text;
  facts.cause = text;
  DEFIB_ASSERT(!report::advise(facts).steps.empty());
  return 0;
}
