// The venue's own signing: independent of any client's code.

#pragma once

#include <string>
#include <string_view>

namespace defib::paper {

// Lower-case hexadecimal HMAC-SHA256 (RFC 2104).
std::string hmac_sha256_hex(std::string_view secret, std::string_view payload);
// 64 bytes.
std::string hmac_sha512(std::string_view secret, std::string_view payload);
// Compares in constant time; upper and lower case are the same.
bool same_signature(std::string_view expected_hex, std::string_view sent_hex);
// Compares in constant time, byte by byte.
bool same_bytes(std::string_view a, std::string_view b);

std::string to_base64(std::string_view bytes);
// False where it is not base64; `url`: the alphabet of RFC 4648, 5, without padding.
bool from_base64(std::string_view text, bool url, std::string& bytes);

// Whether `signature` (r and s of 32 bytes each for a P-256 key, 64 bytes for an Ed25519 one) signs
// `message` under the public key in PEM.
bool verify_signature(std::string_view public_pem, std::string_view message,
                      std::string_view signature);

}  // namespace defib::paper
