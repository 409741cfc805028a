// BundleWriter: one failure's directory of a bundle (docs/formats/bundle.md).
//
// Every part is redacted, bounded, written whole or not at all, and stands in the manifest with its
// size, hash and time; what is not there stands in the manifest with the reason. The manifest comes
// last. Thread rule: one thread.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/postmortem/redact.h"
#include "defib/wire/json.h"

namespace defib::postmortem {

inline constexpr std::size_t kMaxPart = 4 << 20;
inline constexpr std::size_t kMaxBundle = 16 << 20;
inline constexpr std::string_view kManifest = "manifest.json";
inline constexpr std::string_view kBundleSuffix = ".bundle";
// By what the secrets of this failure are found again later; never exported.
inline constexpr std::string_view kMarks = ".marks";
Result<wire::Json> read_marks(const std::string& directory);

class BundleWriter {
 public:
  // Makes the directory (0700). Parts that were not begun at `deadline_mono_ns` are left out.
  static Result<BundleWriter> create(std::string directory, std::int64_t deadline_mono_ns);
  // Goes on with what the manifest there says.
  static Result<BundleWriter> reopen(std::string directory, std::int64_t deadline_mono_ns);

  Redactor& redactor() { return redactor_; }
  bool late() const;

  // A part replaces the one of the same name. `cut`: what of it was left out already. Of a text
  // that is too long the end is kept. False where there was no time or no room for it.
  bool add(std::string_view name, std::string_view text, std::string cut = {});
  bool add_json(std::string_view name, const wire::Json& document, std::string cut = {});
  // As it is: it was redacted before.
  bool add_redacted(std::string_view name, const std::string& text, std::string cut = {});
  void missing(std::string_view name, const std::string& why);
  // Times of parts count from here.
  void begin_part();

  const wire::Json& manifest() const { return manifest_; }
  void set(std::string_view key, wire::Json value) { manifest_.set(key, std::move(value)); }
  Result<> finish();

 private:
  struct Part {
    std::string name;
    std::uint64_t bytes = 0;
    std::string sha256;
    std::int64_t took_ns = 0;
    std::string cut;
  };
  void forget(std::string_view name);
  Result<> write(std::string_view name, std::string_view text, bool sync) const;

  std::string directory_;
  std::int64_t deadline_ = 0;
  std::int64_t part_began_ = 0;
  Redactor redactor_;
  std::uint64_t redacted_before_ = 0;
  std::vector<Part> parts_;
  std::vector<std::pair<std::string, std::string>> missing_;
  wire::Json manifest_ = wire::Json::object();
};

}  // namespace defib::postmortem
