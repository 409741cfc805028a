// HMAC-SHA256 by OpenSSL; the one file of this module that includes it.

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <array>

#include "defib/base/assert.h"
#include "defib/base/bytes.h"
#include "defib/venue/binance.h"

namespace defib::venue {

std::string hmac_sha256_hex(std::string_view secret, std::string_view payload) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest;
  unsigned int size = 0;
  const unsigned char* result = HMAC(EVP_sha256(), secret.data(), static_cast<int>(secret.size()),
                                     reinterpret_cast<const unsigned char*>(payload.data()),
                                     payload.size(), digest.data(), &size);
  DEFIB_ASSERT_MESSAGE(result != nullptr && size == 32, "OpenSSL has no HMAC-SHA256");
  return to_hex({reinterpret_cast<const std::byte*>(digest.data()), size});
}

}  // namespace defib::venue
