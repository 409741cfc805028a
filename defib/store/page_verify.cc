// What people and verify are told about the page file and its double-write buffer. Never writes.

#include <fmt/core.h>

#include "defib/base/bytes.h"
#include "defib/store/page_file.h"
#include "defib/store/page_format.h"
#include "defib/store/page_look.h"

namespace defib::store {
namespace {

using pages::kImagesOffset;

std::string_view from(std::string_view bytes, std::uint64_t offset) {
  return offset < bytes.size() ? bytes.substr(offset) : std::string_view();
}

class Verifier {
 public:
  Verifier(const pages::Look& look, const std::string& uuid) : look_(look), uuid_(uuid) {}

  std::vector<std::string> run() {
    auto judgement = pages::judge(look_, uuid_);
    if (judgement) {
      check_home(*judgement);
      check_buffer(judgement->buffer, judgement->superblock.sequence);
      return std::move(lines_);
    }
    line(judgement.error().message());
    if (const auto buffer = pages::judge_buffer(look_, uuid_)) check_buffer(*buffer, 0);
    return std::move(lines_);
  }

 private:
  void line(std::string text) { lines_.push_back(std::move(text)); }

  void check_home(const pages::Judgement& judgement) {
    const pages::Superblock& superblock = judgement.superblock;
    const bool armed = judgement.buffer.state == DwbState::kArmed;
    for (std::uint32_t number = 0; number < superblock.pages(); ++number) {
      const pages::PageAtHome& page = judgement.home[number];
      // While the buffer is armed it is its business to replace pages: that is no damage.
      if (page.in_force || (armed && page.healed)) continue;
      line(fmt::format(
          "index.pg, page {}: {}{}", number, page.problem,
          page.healed ? " (its image in dwb.pg replaces it at the next recovery)" : ""));
    }
    const std::uint32_t other = 1 - pages::superblock_page(superblock.sequence);
    std::string problem;
    if (judgement.home[other].in_force && superblock.lsns[other] != 0 &&
        !pages::decode_superblock(judgement.pages[other], other, uuid_, problem)) {
      line(fmt::format("index.pg, page {}: {}", other, problem));
    }
    const std::uint64_t end = std::uint64_t{superblock.page_size} * superblock.pages();
    if (!armed && !pages::all_zeros(from(look_.home.bytes, end))) {
      line(fmt::format("index.pg has other bytes than zeros after its end at {}", end));
    }
  }

  // `sequence` in force; 0: none is.
  void check_buffer(const pages::Buffer& buffer, std::uint64_t sequence) {
    // While it is being filled its images are nobody's, and that is no damage either.
    const bool filling = buffer.header && buffer.header->state == pages::BufferState::kFilling;
    if (!buffer.problem.empty() && !filling) line("dwb.pg: " + buffer.problem);
    const std::string_view bytes = look_.buffer.bytes;
    if (buffer.header && buffer.problem.empty() && buffer.header->sequence < sequence) {
      line(fmt::format("dwb.pg is of sequence {}, index.pg of {}: a write to it was lost",
                       buffer.header->sequence, sequence));
    }
    const std::string_view rest_of_header =
        from(bytes.substr(0, kImagesOffset), pages::kBufferHeaderSize);
    if (!pages::all_zeros(rest_of_header)) {
      line("dwb.pg has other bytes than zeros after its header");
    }
    if (look_.buffer.exists && bytes.size() < kImagesOffset) line("dwb.pg ends in its header");
    if (buffer.problem.empty() && !pages::all_zeros(from(bytes, buffer.end))) {
      line(fmt::format("dwb.pg has other bytes than zeros after its end at {}", buffer.end));
    }
  }

  const pages::Look& look_;
  const std::string& uuid_;
  std::vector<std::string> lines_;
};

PageDescription describe_page(std::string_view page, std::uint32_t number, std::uint64_t tag) {
  PageDescription description{.page = number, .kind = "unknown", .note = {}};
  description.crc_ok = pages::checksum_holds(page);
  if (page.size() >= pages::kPageHeaderSize && page.starts_with("DPAG")) {
    const pages::PageHeader header = pages::page_header(page);
    description.lsn = header.lsn;
    if (header.kind == pages::Kind::kSuperblock) description.kind = "superblock";
    if (header.kind == pages::Kind::kManifest) description.kind = "manifest";
  } else if (pages::all_zeros(page)) {
    description.kind = "zeros";
  }
  description.note = pages::page_problem(page, number, tag);
  return description;
}

void describe_buffer(const pages::Look& look, const pages::Buffer& buffer, std::uint64_t tag,
                     PageFileDescription& description) {
  description.dwb = buffer.state;
  description.dwb_note = buffer.problem;
  if (!buffer.header) return;
  const pages::BufferHeader& header = *buffer.header;
  description.dwb_header_ok = true;
  description.dwb_sequence = header.sequence;
  description.dwb_page_size = header.page_size;
  description.dwb_count = header.images;
  for (std::uint32_t i = 0; i < header.images; ++i) {
    const std::string_view image =
        from(look.buffer.bytes, kImagesOffset + std::uint64_t{i} * header.page_size)
            .substr(0, header.page_size);
    const std::uint32_t number =
        image.size() >= pages::kPageHeaderSize ? pages::page_header(image).number : 0;
    description.images.push_back(describe_page(image, number, tag));
  }
}

}  // namespace

Result<std::vector<std::string>> verify_page_file(os::Files& files, const std::string& dir,
                                                  const std::string& store_uuid) {
  std::optional<pages::Look> before;
  for (int i = 0; i < pages::kLooks; ++i) {
    DEFIB_TRY_ASSIGN(pages::Look now, pages::look(files, dir));
    std::vector<std::string> lines = Verifier(now, store_uuid).run();
    // Damage stands still, a writer does not.
    if (lines.empty() || (before && pages::same_bytes(*before, now))) return lines;
    before = std::move(now);
  }
  return Error(Code::kUnavailable, fmt::format("'{}' is being rewritten faster than it can be read",
                                               os::join_path(dir, kPageFile)))
      .with("path", os::join_path(dir, kPageFile))
      .suggest("repeat: a writer is at work");
}

Result<PageFileDescription> describe_page_file(os::Files& files, const std::string& dir,
                                               const std::string& store_uuid) {
  DEFIB_TRY_ASSIGN(const pages::Look look, pages::look(files, dir));
  PageFileDescription description;
  const std::uint64_t tag = pages::tag_of(store_uuid);
  const auto judgement = pages::judge(look, store_uuid);
  if (judgement) {
    description.sequence = judgement->superblock.sequence;
  } else {
    description.problem = judgement.error().message();
  }
  pages::Buffer buffer;
  if (auto judged = pages::judge_buffer(look, store_uuid)) {
    buffer = *std::move(judged);
  } else {
    buffer.state = DwbState::kTorn;
    buffer.problem = judged.error().message();
  }
  describe_buffer(look, buffer, tag, description);
  description.page_size = pages::likely_page_size(look, buffer, store_uuid);
  if (description.page_size == 0) return description;
  const std::uint64_t step = description.page_size;
  for (std::uint64_t at = 0; at < look.home.bytes.size(); at += step) {
    const auto number = static_cast<std::uint32_t>(at / step);
    description.pages.push_back(
        describe_page(from(look.home.bytes, at).substr(0, step), number, tag));
    if (judgement && number < judgement->home.size()) {
      description.pages.back().note = judgement->home[number].problem;
    }
  }
  return description;
}

}  // namespace defib::store
