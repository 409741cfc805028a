#include "defib/postmortem/redact.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace defib::postmortem {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

TEST(Redactor, HidesWhatANameCallsASecret) {
  struct Case {
    const char* text;
    const char* redacted;
  };
  const Case cases[] = {
      {"password=hunter2 next", "password=[redacted] next"},
      {"Password: hunter2", "Password: [redacted]"},
      {R"({"apiKey":"abc def","n":1})", R"({"apiKey":"[redacted]","n":1})"},
      {R"({"a":"{\"token\":\"abc\",\"b\":2}"})", R"({"a":"{\"token\":\"[redacted]\",\"b\":2}"})"},
      {R"({"token": "with \" quote"} x)", R"({"token": "[redacted]"} x)"},
      {"GET /v1?symbol=A&signature=deadbeef&x=1 HTTP/1.1",
       "GET /v1?symbol=A&signature=[redacted]&x=1 HTTP/1.1"},
      {"Authorization: Basic dXNlcjpwYXNz\r\nHost: x", "Authorization: [redacted]\r\nHost: x"},
      {"Cookie: a=1; session=2\nnext", "Cookie: [redacted]\nnext"},
      {"X-MBX-APIKEY: vmPUZE6mv9SD5VNHk4HlWFsOr6aKE2", "X-MBX-APIKEY: [redacted]"},
      {"sent Bearer abcdefgh.12345678 to x", "sent Bearer [redacted] to x"},
      {"postgres://joe:p@ss@db/x?a=1", "postgres://joe:[redacted]@db/x?a=1"},
      {"redis://:secretpw@127.0.0.1:6379", "redis://:[redacted]@127.0.0.1:6379"},
      {"key AKIAIOSFODNN7EXAMPLE used", "key [redacted] used"},
      {"ghp_0123456789abcdefghijABCDEFGHIJ012345", "[redacted]"},
      {"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abcDEF123_-x", "[redacted]"},
      {"-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY-----\nx",
       "-----BEGIN RSA PRIVATE KEY-----[redacted]-----END RSA PRIVATE KEY-----\nx"},
      {"secret => 'x y'", "secret => '[redacted]'"},
      {"host=db;Pwd=p;port=5", "host=db;Pwd=[redacted];port=5"},
      // What only looks like one.
      {"order 7 sent at 12:00:01", "order 7 sent at 12:00:01"},
      {"pinning=3 author: joe", "pinning=3 author: joe"},
      {"http://host:80/a@b", "http://host:80/a@b"},
      {"basic usage of it", "basic usage of it"},
      {"", ""},
  };
  for (const Case& one : cases) {
    Redactor redactor;
    EXPECT_EQ(redactor.text(one.text), one.redacted);
    EXPECT_EQ(redactor.text(one.redacted), one.redacted) << "done twice";
  }
}

TEST(Redactor, KnowsTheSecretsOfEnvironmentAndCommandLineWhereverTheyStand) {
  Redactor redactor;
  redactor.learn({{"API_TOKEN", "s3cr3tvalue"},
                  {"DATABASE_URL", "postgres://joe:dbpassw0rd@db/x"},
                  {"PWD", "/srv/engine"},
                  {"PIN", "1234"}});
  redactor.learn_arguments({"engine", "--password", "cmdsecret1", "--depth", "deeply"});
  EXPECT_EQ(redactor.text("/dev/shm/x-s3cr3tvalue-y dbpassw0rd cmdsecret1"),
            "/dev/shm/x-[redacted]-y [redacted] [redacted]");
  EXPECT_EQ(redactor.text("/srv/engine 1234 deeply"), "/srv/engine 1234 deeply")
      << "short ones and those that are none stay";
  EXPECT_EQ(redactor.count(), 3U);
}

TEST(Redactor, FindsWhatAnEarlierOneKnewByItsMarks) {
  Redactor before;
  before.learn({{"TOKEN", "s3cr3tvalue"}, {"API_KEY", "another-one"}});
  const auto marks = wire::Json::parse(before.marks().dump());
  ASSERT_TRUE(marks);
  EXPECT_EQ(marks->dump().find("s3cr3t"), std::string::npos);
  Redactor after;
  after.learn_marks(*marks);
  EXPECT_EQ(after.text("s3cr3tvalue"), "[redacted]");
  EXPECT_EQ(after.text("xs3cr3tvalues3cr3tvalue another-one."),
            "x[redacted][redacted] [redacted].");
  EXPECT_EQ(after.text("s3cr3tvalu s3cr3tvalux"), "s3cr3tvalu s3cr3tvalux");
  EXPECT_EQ(after.count(), 4U);
  Redactor third;
  third.learn_marks(after.marks());
  EXPECT_EQ(third.text("a another-one b"), "a [redacted] b");
  Redactor more;
  more.learn({{"PASSWORD", "the third"}});
  third.learn_marks(more.marks());
  third.learn_marks(wire::Json());
  EXPECT_EQ(third.text("a another-one the third"), "a [redacted] [redacted]");
}

TEST(Redactor, GoesThroughJson) {
  Redactor redactor;
  const auto json = wire::Json::parse(
      R"({"a":["token=x"],"password":"p","auth":{"user":"joe"},"n":5,"secret":7})");
  ASSERT_TRUE(json);
  EXPECT_EQ(redactor.json(*json).dump(),
            R"({"a":["token=[redacted]"],"password":"[redacted]","auth":{"user":"joe"},)"
            R"("n":5,"secret":7})");
}

TEST(Redactor, ReadsTheKernelsForms) {
  using namespace std::string_literals;
  EXPECT_THAT(parse_arguments("a\0--b=c\0\0d"s), ElementsAre("a", "--b=c", "", "d"));
  const auto environment = parse_environment("A=1\0broken\0B=x=y\0"s);
  EXPECT_THAT(environment, ElementsAre(testing::Pair("A", "1"), testing::Pair("B", "x=y")));
}

}  // namespace
}  // namespace defib::postmortem
