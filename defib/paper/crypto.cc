// The one file of this module that includes OpenSSL.

#include "defib/paper/crypto.h"

#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/ecdsa.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/pem.h>

#include <algorithm>
#include <cctype>
#include <memory>

#include "defib/base/assert.h"
#include "defib/base/bytes.h"

namespace defib::paper {

std::string hmac_sha256_hex(std::string_view secret, std::string_view payload) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  const auto* data = reinterpret_cast<const unsigned char*>(payload.data());
  const unsigned char* done = HMAC(EVP_sha256(), secret.data(), static_cast<int>(secret.size()),
                                   data, payload.size(), digest, &size);
  DEFIB_ASSERT_MESSAGE(done != nullptr && size == 32, "HMAC-SHA256 cannot fail on memory ranges");
  return to_hex(as_bytes({reinterpret_cast<const char*>(digest), size}));
}

bool same_signature(std::string_view expected_hex, std::string_view sent_hex) {
  if (expected_hex.size() != sent_hex.size()) return false;
  std::string lower(sent_hex);
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return CRYPTO_memcmp(expected_hex.data(), lower.data(), lower.size()) == 0;
}

std::string hmac_sha512(std::string_view secret, std::string_view payload) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  const auto* result =
      HMAC(EVP_sha512(), secret.data(), static_cast<int>(secret.size()),
           reinterpret_cast<const unsigned char*>(payload.data()), payload.size(), digest, &size);
  DEFIB_ASSERT(result != nullptr);
  return {reinterpret_cast<const char*>(digest), size};
}

bool same_bytes(std::string_view a, std::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

std::string to_base64(std::string_view bytes) {
  constexpr std::string_view kAlphabet =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    unsigned group = 0;
    const std::size_t have = std::min<std::size_t>(3, bytes.size() - i);
    for (std::size_t k = 0; k < 3; ++k) {
      group = group << 8 | (k < have ? static_cast<unsigned char>(bytes[i + k]) : 0U);
    }
    for (std::size_t k = 0; k < 4; ++k) {
      text += k <= have ? kAlphabet[group >> (18 - 6 * k) & 63U] : '=';
    }
  }
  return text;
}

bool from_base64(std::string_view text, bool url, std::string& bytes) {
  bytes.clear();
  if (!url) {
    if (text.size() % 4 != 0) return false;
    while (text.ends_with('=')) text.remove_suffix(1);
  }
  unsigned group = 0;
  int bits = 0;
  for (const char c : text) {
    unsigned value = 0;
    if (c >= 'A' && c <= 'Z') {
      value = static_cast<unsigned>(c - 'A');
    } else if (c >= 'a' && c <= 'z') {
      value = static_cast<unsigned>(c - 'a') + 26;
    } else if (c >= '0' && c <= '9') {
      value = static_cast<unsigned>(c - '0') + 52;
    } else if (c == (url ? '-' : '+')) {
      value = 62;
    } else if (c == (url ? '_' : '/')) {
      value = 63;
    } else {
      return false;
    }
    group = group << 6 | value;
    bits += 6;
    if (bits < 8) continue;
    bits -= 8;
    bytes += static_cast<char>(group >> bits & 255U);
  }
  return bits < 6;
}

bool verify_signature(std::string_view public_pem, std::string_view message,
                      std::string_view signature) {
  constexpr std::size_t kPart = 32;
  if (signature.size() != 2 * kPart) return false;
  const std::unique_ptr<BIO, int (*)(BIO*)> bio(
      BIO_new_mem_buf(public_pem.data(), static_cast<int>(public_pem.size())), BIO_free);
  if (!bio) return false;
  const std::unique_ptr<EVP_PKEY, void (*)(EVP_PKEY*)> key(
      PEM_read_bio_PUBKEY(bio.get(), nullptr, nullptr, nullptr), EVP_PKEY_free);
  if (!key) return false;
  const bool is_ed = EVP_PKEY_id(key.get()) == EVP_PKEY_ED25519;
  std::string der(signature);
  if (!is_ed) {
    const std::unique_ptr<ECDSA_SIG, void (*)(ECDSA_SIG*)> parts(ECDSA_SIG_new(), ECDSA_SIG_free);
    const auto* bytes = reinterpret_cast<const unsigned char*>(signature.data());
    if (ECDSA_SIG_set0(parts.get(), BN_bin2bn(bytes, kPart, nullptr),
                       BN_bin2bn(bytes + kPart, kPart, nullptr)) != 1) {
      return false;
    }
    unsigned char* encoded = nullptr;
    const int size = i2d_ECDSA_SIG(parts.get(), &encoded);
    if (size <= 0) return false;
    der.assign(reinterpret_cast<const char*>(encoded), static_cast<std::size_t>(size));
    OPENSSL_free(encoded);
  }
  const std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context(EVP_MD_CTX_new(),
                                                                   EVP_MD_CTX_free);
  return context &&
         EVP_DigestVerifyInit(context.get(), nullptr, is_ed ? nullptr : EVP_sha256(), nullptr,
                              key.get()) == 1 &&
         EVP_DigestVerify(context.get(), reinterpret_cast<const unsigned char*>(der.data()),
                          der.size(), reinterpret_cast<const unsigned char*>(message.data()),
                          message.size()) == 1;
}

}  // namespace defib::paper
