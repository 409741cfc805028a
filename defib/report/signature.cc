// The one file of this module that includes OpenSSL.

#include "defib/report/signature.h"

#include <fmt/core.h>
#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>

#include <array>
#include <memory>

#include "defib/base/bytes.h"

namespace defib::report {
namespace {

constexpr std::string_view kSchema = "defib.signature/1";
constexpr std::size_t kSignatureSize = 64;

struct Freed {
  void operator()(BIO* bio) const { BIO_free(bio); }
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
};
using Key = std::unique_ptr<EVP_PKEY, Freed>;

Result<Key> read_key(std::string_view pem, bool is_private) {
  const std::unique_ptr<BIO, Freed> bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  Key key;
  if (bio) {
    key.reset(is_private ? PEM_read_bio_PrivateKey(bio.get(), nullptr, nullptr, nullptr)
                         : PEM_read_bio_PUBKEY(bio.get(), nullptr, nullptr, nullptr));
  }
  if (key && EVP_PKEY_id(key.get()) == EVP_PKEY_ED25519) return key;
  return Error(Code::kInvalidArgument,
               fmt::format("this is no Ed25519 {} key in PEM", is_private ? "private" : "public"))
      .suggest("make one with `openssl genpkey -algorithm ed25519`");
}

std::string message_of(std::string_view incident, std::string_view head) {
  return fmt::format("{}\n{}\n{}\n", kSchema, incident, head);
}

const unsigned char* bytes_of(std::string_view text) {
  return reinterpret_cast<const unsigned char*>(text.data());
}

}  // namespace

Result<wire::Json> sign_head(const SignedHead& head, std::string_view private_pem) {
  DEFIB_TRY_ASSIGN(const Key key, read_key(private_pem, true));
  const std::string message = message_of(head.incident, head.head_hash);
  const std::unique_ptr<EVP_MD_CTX, Freed> context(EVP_MD_CTX_new());
  std::array<unsigned char, kSignatureSize> signature;
  std::size_t size = signature.size();
  if (!context || EVP_DigestSignInit(context.get(), nullptr, nullptr, nullptr, key.get()) != 1 ||
      EVP_DigestSign(context.get(), signature.data(), &size, bytes_of(message), message.size()) !=
          1) {
    return Error(Code::kInternal, "the signature could not be made");
  }
  return wire::Json::object(
      {{"schema", kSchema},
       {"incident", head.incident},
       {"head_hash", head.head_hash},
       {"lines", head.lines},
       {"signed_at", head.signed_at},
       {"algorithm", "Ed25519"},
       {"signature", to_hex({reinterpret_cast<const std::byte*>(signature.data()), size})}});
}

Result<SignedHead> check_signature(const wire::Json& signature, std::string_view public_pem) {
  DEFIB_TRY_ASSIGN(const Key key, read_key(public_pem, false));
  const auto invalid = [](std::string_view why) {
    return Error(Code::kSignatureInvalid, fmt::format("the signature does not hold: {}", why));
  };
  if (signature["schema"].as_string() != kSchema) return invalid("its schema is another one");
  SignedHead head;
  head.incident = signature["incident"].as_string();
  head.head_hash = signature["head_hash"].as_string();
  head.lines = signature["lines"].as_int();
  head.signed_at = signature["signed_at"].as_string();
  std::string raw;
  if (!from_hex(signature["signature"].as_string(), raw) || raw.size() != kSignatureSize) {
    return invalid("it is not 64 bytes in hexadecimal");
  }
  const std::string message = message_of(head.incident, head.head_hash);
  const std::unique_ptr<EVP_MD_CTX, Freed> context(EVP_MD_CTX_new());
  if (!context || EVP_DigestVerifyInit(context.get(), nullptr, nullptr, nullptr, key.get()) != 1 ||
      EVP_DigestVerify(context.get(), bytes_of(raw), raw.size(), bytes_of(message),
                       message.size()) != 1) {
    return invalid("it was made with another key, or over something else");
  }
  return head;
}

}  // namespace defib::report
