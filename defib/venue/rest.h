// What every REST adapter does alike: an exchange with the venue, and what its failure means.
// Private to this module.

#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "defib/base/decimal.h"
#include "defib/base/error.h"
#include "defib/wire/http.h"
#include "defib/wire/json.h"

namespace defib::venue {

// What a request may have done when its answer is lost.
enum class Effect { kNone, kOrders };

// VenueOutcomeUnknown for orders, VenueUnreachable for readings.
Error no_outcome(Effect effect, std::string_view venue, std::string_view what,
                 std::string_view problem);

// Sends once. Connection refused: VenueUnreachable with `nothing_sent`; anything else that went
// wrong on the way is no_outcome(). `after`: the failure point; may be empty.
Result<wire::HttpResponse> exchange(wire::HttpClient& http, const wire::HttpRequest& request,
                                    Effect effect, std::string_view venue, std::string_view what,
                                    const std::function<void()>& after);

// Reading documents; VenueBadAnswer names the member and the thing.
Error bad_answer(std::string problem);
Result<wire::Json> parse_answer(std::string_view body, std::string_view what);
Result<std::string> text_member(const wire::Json& json, std::string_view name,
                                std::string_view what);
// A decimal in a string. An amount with more than eight digits after the point is cut toward zero
// where `cut` is true (averages, fees); else it is refused.
Result<Decimal> amount_member(const wire::Json& json, std::string_view name, std::string_view what,
                              bool cut = false);
Result<Decimal> parse_amount(std::string_view text, bool cut);
// "1688583840.8648" seconds as milliseconds; -1 where it is none.
std::int64_t seconds_to_ms(std::string_view text);
// Of a JSON number or text, as it stands in the document: never through a double.
std::string number_text(const wire::Json& json);
// RFC 3339 with milliseconds, "2026-11-30T20:45:19.123Z".
std::string rfc3339_ms(std::int64_t ms);

// By OpenSSL, in crypto.cc.
std::string base64_encode(std::string_view bytes);
// False where it is not base64.
bool base64_decode(std::string_view text, std::string& bytes);
std::string base64url_encode(std::string_view bytes);
std::string hmac_sha512(std::string_view secret, std::string_view payload);
// An ES256 signature (raw r and s, 64 bytes) or an EdDSA one, by the kind of the key. `pem`: PKCS#8
// or SEC1. InvalidArgument where it is no private key of these kinds.
Result<std::string> sign_with_key(std::string_view pem, std::string_view message,
                                  std::string& algorithm);

}  // namespace defib::venue
