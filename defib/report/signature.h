// Ed25519 signatures over an incident's head hash: with the public key alone anybody can tell that
// the record is the one that was signed (the hash chain tells the rest). A signature file is JSON:
//   {"schema":"defib.signature/1","incident","head_hash","lines","signed_at","algorithm":"Ed25519",
//    "signature":"<hexadecimal>"}
// The signature is over "defib.signature/1\n" incident "\n" head_hash "\n". Thread rule: pure.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "defib/base/error.h"
#include "defib/wire/json.h"

namespace defib::report {

struct SignedHead {
  std::string incident;
  std::string head_hash;
  std::int64_t lines = 0;
  std::string signed_at;  // RFC 3339; says when, and is not proved
};

// `private_pem`: an Ed25519 key, PKCS#8. InvalidArgument where it is none.
Result<wire::Json> sign_head(const SignedHead& head, std::string_view private_pem);
// The head that was signed. SignatureInvalid where the signature does not fit the key or its own
// content; InvalidArgument where the key is no Ed25519 public key.
Result<SignedHead> check_signature(const wire::Json& signature, std::string_view public_pem);

}  // namespace defib::report
