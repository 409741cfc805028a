#include "defib/alert/message.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "defib/base/bytes.h"

namespace defib::alert {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

Message message() {
  Message one;
  one.id = "0123456789ab-1";
  one.alert = "0123456789ab";
  one.receiver = "mail";
  one.service = "engine";
  one.cause = "crash_loop";
  one.severity = Severity::kCritical;
  one.text = "engine is not started again";
  one.incident = "20261129T225810Z-aabbcc";
  one.count = 3;
  one.total = 12;
  one.first_ns = 1'700'000'000'000'000'000;
  one.last_ns = one.first_ns + 1'000'000'000;
  one.created_ns = one.last_ns;
  return one;
}

// RFC 4231.
TEST(AlertMessage, TheSignatureIsHmacSha256) {
  EXPECT_EQ(hmac_sha256_hex(std::string(20, '\x0b'), "Hi There"),
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
  EXPECT_EQ(hmac_sha256_hex("Jefe", "what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
  EXPECT_EQ(hmac_sha256_hex(std::string(131, '\xaa'),
                            "Test Using Larger Than Block-Size Key - Hash Key First"),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
  EXPECT_EQ(signature_of("Jefe", "what do ya want for nothing?", "").substr(0, 7), "sha256=");
  EXPECT_NE(signature_of("k", "1", "2"), signature_of("k", "12", ""));
}

TEST(AlertMessage, ThePlainBodySaysAllThatIsKnown) {
  const wire::Json body = plain_body(message());
  for (const char* key : {"schema", "id", "alert", "status", "severity", "message", "timestamp",
                          "service", "cause", "incident", "count", "total"}) {
    EXPECT_FALSE(body[key].is_null()) << key;
  }
  EXPECT_EQ(body["status"].as_string(), "firing");
  EXPECT_EQ(body["severity"].as_string(), "critical");
  EXPECT_TRUE(body["ended_at"].is_null());
}

TEST(AlertMessage, AlertmanagerSeesOneIdentityFromBeginningToEnd) {
  Message fired = message();
  Message ended = message();
  ended.kind = MessageKind::kResolved;
  ended.ended_ns = ended.last_ns + 5;
  ended.id = "0123456789ab-2";
  const wire::Json list = alertmanager_body({fired, ended});
  ASSERT_EQ(list.size(), 2U);
  const auto& items = list.items();
  EXPECT_EQ(items[0]["labels"], items[1]["labels"]);
  EXPECT_EQ(items[0]["startsAt"], items[1]["startsAt"]);
  EXPECT_EQ(items[1]["endsAt"].as_string(), "2023-11-14T22:13:21.000000005Z");
  // Without an end in the future Alertmanager would end it by itself.
  EXPECT_EQ(items[0]["endsAt"].as_string(), "2023-11-15T22:13:21.000000000Z");
}

TEST(AlertMessage, AMailIsWellFormed) {
  const std::string text =
      mail_text(message(), {"defib@example.org", {"a@example.org", "b@example.org"}, "host"});
  EXPECT_THAT(text, HasSubstr("\r\nSubject: [critical] engine: crash_loop (12 times)\r\n"));
  EXPECT_THAT(text, HasSubstr("\r\nDate: Tue, 14 Nov 2023 22:13:21 +0000\r\n"));
  EXPECT_THAT(text, HasSubstr("To: a@example.org,\r\n b@example.org\r\n"));
  EXPECT_THAT(text, HasSubstr("Message-ID: <0123456789ab-1.mail@host>\r\n"));
  EXPECT_THAT(text, HasSubstr("defib alert ack 0123456789ab\r\n"));
  for (std::size_t at = text.find('\n'); at != std::string::npos; at = text.find('\n', at + 1)) {
    ASSERT_EQ(text[at - 1], '\r');
  }
}

TEST(AlertMessage, NoTextForgesAHeaderOrALine) {
  Message evil = message();
  evil.service = "engine\r\nBcc: all@example.org";
  evil.text = std::string("umlaut \xc3\xa4 and ") + std::string(2000, 'x') + "\r\n.\r\nQUIT";
  const std::string text = mail_text(evil, {"d@example.org", {"a@example.org"}, "host"});
  const std::string head = text.substr(0, text.find("\r\n\r\n"));
  EXPECT_THAT(head, Not(HasSubstr("\nBcc:")));
  EXPECT_THAT(head, HasSubstr("base64"));
  EXPECT_THAT(text, Not(HasSubstr("QUIT")));
  evil.service = "dienst-\xc3\xa4";
  EXPECT_THAT(mail_text(evil, {"d@example.org", {"a@example.org"}, "host"}),
              HasSubstr("Subject: =?UTF-8?B?"));
}

TEST(AlertMessage, AnEventSurvivesItsRecord) {
  Event event;
  event.type = EventType::kFiring;
  event.id = "x";
  event.service = "s";
  event.cause = "c";
  event.severity = Severity::kCritical;
  event.message = "m";
  event.wall_ns = 1'700'000'000'000'000'007;
  event.count = 9;
  event.incident = "i";
  event.notice = true;
  const auto back = Event::from_json(event.to_json());
  ASSERT_TRUE(back);
  EXPECT_EQ(back->to_json(), event.to_json());
  EXPECT_EQ(back->wall_ns, event.wall_ns);
  EXPECT_FALSE(Event::from_json(wire::Json::object({{"type", "firing"}})));
  EXPECT_FALSE(Event::from_json(wire::Json()));
}

}  // namespace
}  // namespace defib::alert
