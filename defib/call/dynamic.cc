#include "defib/call/dynamic.h"

#include <fmt/format.h>

#include <bit>
#include <cstring>

#include "defib/base/visible_text.h"
#include "defib/call/json_codec.h"

namespace defib::call {
namespace {

using wire::Json;

constexpr std::size_t kMaxListed = 32;

struct Arguments {
  const Signature& signature;
  const Json& values;
};

Summary summary_of(const Arguments& arguments) {
  return {&arguments, [](std::string& out, const void* given) {
            const auto& [signature, values] = *static_cast<const Arguments*>(given);
            summarize_arguments(out, signature, values);
          }};
}

Error too_large(const Signature& signature, std::string_view what) {
  return Error(Code::kLimitExceeded, fmt::format("the {} of {} has more than {} values", what,
                                                 signature.name, kMaxJsonValues))
      .with("method", signature.name)
      .suggest("ask for less at a time, or use a typed client");
}

Result<> check_record(const Signature& signature, std::uint64_t ring_bytes) {
  if (signature.record_size == 0) return {};
  if (signature.record_size > ring_bytes) {
    return Error(Code::kLimitExceeded,
                 fmt::format("a record of {} takes {} bytes, and a stream holds {}", signature.name,
                             signature.record_size, ring_bytes))
        .suggest("raise stream_bytes");
  }
  if (!signature.result || signature.result->size == signature.record_size) return {};
  return Error(Code::kApiMismatch,
               fmt::format("the records of {} take {} bytes, which their structure {} does not "
                           "tell: they are packed, aligned by hand, or read in another form",
                           signature.name, signature.record_size, to_text(*signature.result)))
      .with("signature", to_text(signature))
      .suggest("use a typed client, which is compiled against the plugin's declaration");
}

}  // namespace

DynamicReader::DynamicReader(std::shared_ptr<Session> session, std::uint32_t number,
                             std::shared_ptr<const Signature> signature)
    : session_(std::move(session)),
      number_(number),
      signature_(std::move(signature)),
      ring_(session_->ring_reader(number, signature_->record_size)) {}

DynamicReader& DynamicReader::operator=(DynamicReader&& other) noexcept {
  close();
  session_ = std::move(other.session_);
  number_ = other.number_;
  signature_ = std::move(other.signature_);
  ring_ = other.ring_;
  record_ = std::move(other.record_);
  at_end_ = other.at_end_;
  delivered_ = other.delivered_;
  return *this;
}

void DynamicReader::close() {
  if (session_ != nullptr) session_->close_stream(number_, ring_);
  session_.reset();
}

Result<bool> DynamicReader::wait(Milliseconds timeout) {
  if (at_end_) return false;
  DEFIB_TRY_ASSIGN(const bool more, session_->wait_for_records(ring_, number_, timeout));
  at_end_ = !more;
  return more;
}

// Copies the next record into record_. False: there is none yet.
bool DynamicReader::take_fixed() {
  if (ring_.ready() == 0) return false;
  const std::uint64_t size = signature_->record_size;
  const std::uint64_t at = ring_.position() & (ring_.capacity() - 1);
  record_.assign(reinterpret_cast<const char*>(ring_.bytes()) + at * size, size);
  ring_.advance(1);
  return true;
}

Result<bool> DynamicReader::take_message() {
  std::string_view bytes;
  std::uint64_t units = 0;
  switch (read_message(ring_, bytes, units)) {
    case MessageRead::kMessage:
      record_.assign(bytes);
      ring_.advance(units);
      return true;
    case MessageRead::kBroken:
      return session_->broken_stream(number_, "a record's length is impossible");
    case MessageRead::kNothing:
      break;
  }
  return false;
}

Result<std::optional<Json>> DynamicReader::decoded() const {
  if (!signature_->result) return std::optional<Json>(hex_json(record_));
  Decoded decoded = signature_->record_size != 0 ? decode_record(*signature_->result, record_)
                                                 : decode_json(*signature_->result, record_);
  switch (decoded.problem) {
    case DecodeProblem::kNone:
      return std::optional<Json>(std::move(decoded.value));
    case DecodeProblem::kTooLarge:
      return too_large(*signature_, "record");
    case DecodeProblem::kBroken:
      break;
  }
  return session_->broken_stream(number_, "a record is not of the declared type");
}

Result<std::optional<Json>> DynamicReader::next(Milliseconds timeout) {
  for (;;) {
    bool taken = false;
    if (signature_->record_size != 0) {
      taken = take_fixed();
    } else {
      DEFIB_TRY_ASSIGN(taken, take_message());
    }
    if (taken) {
      ++delivered_;
      return decoded();
    }
    DEFIB_TRY_ASSIGN(const bool more, wait(timeout));
    if (!more) return std::optional<Json>();
  }
}

DynamicClient::DynamicClient(std::shared_ptr<Session> session) : session_(std::move(session)) {
  const PluginDescription& description = session_->description();
  name_ = visible_text(std::string_view(description.name).substr(0, kMaxMethodName));
  std::vector<DynamicMethod> methods;
  methods.reserve(description.signatures.size());
  for (const std::string& text : description.signatures) {
    DynamicMethod& method = methods.emplace_back();
    method.text = visible_text(std::string_view(text).substr(0, kMaxSignatureText));
    auto signature = parse_signature(text);
    if (signature) {
      method.signature = std::move(*signature);
    } else {
      method.unreadable = std::move(signature.error());
    }
  }
  methods_ = std::make_shared<const std::vector<DynamicMethod>>(std::move(methods));
}

Result<DynamicClient> DynamicClient::create(const std::string& plugin,
                                            const ClientOptions& options) {
  DEFIB_TRY_ASSIGN(auto session, Session::start(plugin, options));
  return DynamicClient(std::move(session));
}

Result<std::size_t> DynamicClient::place_of(std::string_view method) const {
  std::string known;
  for (std::size_t i = 0; i < methods_->size(); ++i) {
    const DynamicMethod& candidate = (*methods_)[i];
    if (candidate.signature && candidate.signature->name == method) return i;
    const bool same = !candidate.signature && candidate.text.starts_with(method) &&
                      candidate.text.substr(method.size()).starts_with('(');
    if (same) return *candidate.unreadable;
    if (i < kMaxListed) known += fmt::format("{}{}", i == 0 ? "" : ", ", candidate.name());
  }
  if (methods_->size() > kMaxListed) known += ", ...";
  return Error(Code::kNotFound,
               fmt::format("the plugin '{}' has no method '{}'", name_, visible_text(method)))
      .suggest(fmt::format("it has: {}", known));
}

Result<const Signature*> DynamicClient::find(std::string_view method) const {
  DEFIB_TRY_ASSIGN(const std::size_t place, place_of(method));
  return &*(*methods_)[place].signature;
}

Result<Json> DynamicClient::call(std::string_view method, const Json& arguments,
                                 Milliseconds timeout) {
  DEFIB_TRY_ASSIGN(const std::size_t place, place_of(method));
  const Signature& signature = *(*methods_)[place].signature;
  if (signature.is_stream) {
    return Error(Code::kInvalidArgument,
                 fmt::format("{} is a stream, and gives records", signature.name))
        .suggest("open it");
  }
  DEFIB_TRY_ASSIGN(const std::string bytes, encode_arguments(signature, arguments));
  const Arguments shown{signature, arguments};
  const CallRequest request{static_cast<std::uint32_t>(place),
                            kMaxRings,
                            signature.name,
                            bytes,
                            summary_of(shown),
                            timeout};
  Decoded decoded;
  DEFIB_TRY(session_->call(request, [&](std::string_view reply) {
    // The worker can change what it has sent.
    const std::string copy(reply);
    decoded = decode_json(*signature.result, copy);
    return decoded.problem != DecodeProblem::kBroken;
  }));
  if (decoded.problem == DecodeProblem::kTooLarge) return too_large(signature, "result");
  return std::move(decoded.value);
}

Result<DynamicReader> DynamicClient::open(std::string_view method, const Json& arguments) {
  DEFIB_TRY_ASSIGN(const std::size_t place, place_of(method));
  // Shares its life with the methods.
  const std::shared_ptr<const Signature> signature(methods_, &*(*methods_)[place].signature);
  if (!signature->is_stream) {
    return Error(Code::kInvalidArgument,
                 fmt::format("{} is no stream, and gives one value", signature->name))
        .suggest("call it");
  }
  DEFIB_TRY(check_record(*signature, session_->mapping()->geometry().ring_bytes));
  DEFIB_TRY_ASSIGN(const std::string bytes, encode_arguments(*signature, arguments));
  const Arguments shown{*signature, arguments};
  const CallRequest request{static_cast<std::uint32_t>(place),
                            kMaxRings,
                            signature->name,
                            bytes,
                            summary_of(shown),
                            Milliseconds(0)};
  DEFIB_TRY_ASSIGN(const std::uint32_t number, session_->open_stream(request));
  return DynamicReader(session_, number, signature);
}

}  // namespace defib::call
