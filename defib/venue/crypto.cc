// Signatures by OpenSSL; the one file of this module that includes it.

#include <openssl/bio.h>
#include <openssl/ecdsa.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/pem.h>

#include <algorithm>
#include <array>
#include <memory>

#include "defib/base/assert.h"
#include "defib/base/bytes.h"
#include "defib/venue/binance.h"
#include "defib/venue/rest.h"

namespace defib::venue {
namespace {

std::string hmac(const EVP_MD* kind, std::string_view secret, std::string_view payload) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest;
  unsigned int size = 0;
  const unsigned char* result = HMAC(kind, secret.data(), static_cast<int>(secret.size()),
                                     reinterpret_cast<const unsigned char*>(payload.data()),
                                     payload.size(), digest.data(), &size);
  DEFIB_ASSERT_MESSAGE(result != nullptr, "OpenSSL has no HMAC of this kind");
  return {reinterpret_cast<const char*>(digest.data()), size};
}

struct Freed {
  void operator()(BIO* bio) const { BIO_free(bio); }
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
  void operator()(ECDSA_SIG* signature) const { ECDSA_SIG_free(signature); }
};
template <typename T>
using Handle = std::unique_ptr<T, Freed>;

// The signature as JWS wants it: r and s of 32 bytes each (RFC 7518, 3.4).
std::string raw_signature(std::string_view der) {
  constexpr int kPart = 32;
  const auto* bytes = reinterpret_cast<const unsigned char*>(der.data());
  const Handle<ECDSA_SIG> signature(d2i_ECDSA_SIG(nullptr, &bytes, static_cast<long>(der.size())));
  if (!signature) return {};
  std::string raw(2 * kPart, '\0');
  auto* out = reinterpret_cast<unsigned char*>(raw.data());
  if (BN_bn2binpad(ECDSA_SIG_get0_r(signature.get()), out, kPart) != kPart ||
      BN_bn2binpad(ECDSA_SIG_get0_s(signature.get()), out + kPart, kPart) != kPart) {
    return {};
  }
  return raw;
}

}  // namespace

std::string hmac_sha256_hex(std::string_view secret, std::string_view payload) {
  const std::string digest = hmac(EVP_sha256(), secret, payload);
  return to_hex(as_bytes(digest));
}

std::string hmac_sha512(std::string_view secret, std::string_view payload) {
  return hmac(EVP_sha512(), secret, payload);
}

std::string base64_encode(std::string_view bytes) {
  std::string text(4 * ((bytes.size() + 2) / 3) + 1, '\0');
  const int size = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()),
                                   reinterpret_cast<const unsigned char*>(bytes.data()),
                                   static_cast<int>(bytes.size()));
  text.resize(static_cast<std::size_t>(size));
  return text;
}

bool base64_decode(std::string_view text, std::string& bytes) {
  if (text.size() % 4 != 0) return false;
  bytes.assign(text.size() / 4 * 3, '\0');
  const int size = EVP_DecodeBlock(reinterpret_cast<unsigned char*>(bytes.data()),
                                   reinterpret_cast<const unsigned char*>(text.data()),
                                   static_cast<int>(text.size()));
  if (size < 0) return false;
  const auto padding = static_cast<std::size_t>(std::count(text.begin(), text.end(), '='));
  bytes.resize(static_cast<std::size_t>(size) - std::min<std::size_t>(padding, 2));
  return true;
}

std::string base64url_encode(std::string_view bytes) {
  std::string text = base64_encode(bytes);
  std::replace(text.begin(), text.end(), '+', '-');
  std::replace(text.begin(), text.end(), '/', '_');
  text.erase(std::find(text.begin(), text.end(), '='), text.end());
  return text;
}

Result<std::string> sign_with_key(std::string_view pem, std::string_view message,
                                  std::string& algorithm) {
  const Error bad(Code::kInvalidArgument, "the secret is no private key (P-256 or Ed25519, PEM)");
  const Handle<BIO> bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  if (!bio) return bad;
  const Handle<EVP_PKEY> key(PEM_read_bio_PrivateKey(bio.get(), nullptr, nullptr, nullptr));
  if (!key) return bad;
  const bool is_ed = EVP_PKEY_id(key.get()) == EVP_PKEY_ED25519;
  if (!is_ed && (EVP_PKEY_id(key.get()) != EVP_PKEY_EC || EVP_PKEY_bits(key.get()) != 256)) {
    return bad;
  }
  algorithm = is_ed ? "EdDSA" : "ES256";
  const Handle<EVP_MD_CTX> context(EVP_MD_CTX_new());
  std::size_t size = 0;
  const auto* bytes = reinterpret_cast<const unsigned char*>(message.data());
  if (!context ||
      EVP_DigestSignInit(context.get(), nullptr, is_ed ? nullptr : EVP_sha256(), nullptr,
                         key.get()) != 1 ||
      EVP_DigestSign(context.get(), nullptr, &size, bytes, message.size()) != 1) {
    return bad;
  }
  std::string signature(size, '\0');
  if (EVP_DigestSign(context.get(), reinterpret_cast<unsigned char*>(signature.data()), &size,
                     bytes, message.size()) != 1) {
    return bad;
  }
  signature.resize(size);
  if (is_ed) return signature;
  std::string raw = raw_signature(signature);
  if (raw.empty()) return bad;
  return raw;
}

}  // namespace defib::venue
