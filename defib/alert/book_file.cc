#include "defib/alert/book_file.h"

#include "defib/base/bytes.h"

namespace defib::alert {
namespace {

constexpr std::uint64_t kMaxBook = 32 << 20;

}  // namespace

BookFile::BookFile(os::Files& files, const std::string& state_dir, std::unique_ptr<os::File> memory)
    : files_(files),
      path_(os::join_path(alerts_dir(state_dir), "book")),
      memory_(std::move(memory)) {}

Result<Book> BookFile::load() {
  auto text = os::read_file(files_, path_, kMaxBook);
  if (!text && text.error().code() != Code::kFileNotFound) return text.error();
  on_disk_ = text ? sha256_hex(*text) : std::string();
  if (auto book = from_memory()) {
    in_memory_ = true;
    return std::move(*book);
  }
  if (!text) return Book();
  if (text->ends_with('\n')) text->pop_back();
  const auto json = decode_line(*text);
  if (json && (*json)["version"].as_int() == 1) return Book::from_json(*json);
  return Error(Code::kCorrupted, "what was to be sent cannot be read")
      .with("path", path_)
      .because(json ? Error(Code::kMalformed, "its version is another") : json.error());
}

std::optional<Book> BookFile::from_memory() {
  if (!memory_) return std::nullopt;
  const auto size = memory_->size();
  std::string text(size ? std::min(*size, kMaxBook) : 0, '\0');
  const auto got = memory_->read_at(0, text.data(), text.size());
  if (!got) return std::nullopt;
  text.resize(std::min(*got, text.find('\n')));
  const auto json = decode_line(text);
  if (!json || (*json)["follows"].as_string() != on_disk_) return std::nullopt;
  return Book::from_json((*json)["book"]);
}

Result<> BookFile::save(const Book& book) {
  wire::Json json = book.to_json();
  const std::string text = encode_line(json) + "\n";
  auto saved = os::write_file_atomically(files_, path_, text);
  if (saved) {
    on_disk_ = sha256_hex(text);
    if (in_memory_) static_cast<void>(memory_->truncate(0));
    in_memory_ = false;
    return saved;
  }
  if (!memory_) return saved;
  const std::string kept =
      encode_line(wire::Json::object({{"follows", on_disk_}, {"book", std::move(json)}})) + "\n";
  in_memory_ = memory_->write_at(0, kept).has_value();
  return saved;
}

}  // namespace defib::alert
