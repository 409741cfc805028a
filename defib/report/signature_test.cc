#include "defib/report/signature.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>

#include "defib/os/files.h"
#include "defib/os/process.h"

namespace defib::report {
namespace {

struct Keys {
  std::string private_pem, public_pem;
};

Keys make_keys() {
  std::string pattern = (std::filesystem::temp_directory_path() / "defib-keys-XXXXXX").string();
  EXPECT_NE(::mkdtemp(pattern.data()), nullptr);
  const std::string path = pattern + "/key.pem";
  EXPECT_TRUE(os::run_command({"openssl", "genpkey", "-algorithm", "ed25519", "-out", path}, 10'000)
                  ->status.success());
  EXPECT_TRUE(
      os::run_command({"openssl", "pkey", "-in", path, "-pubout", "-out", path + ".pub"}, 10'000)
          ->status.success());
  Keys keys{os::read_file(os::real_files(), path, 4096).value(),
            os::read_file(os::real_files(), path + ".pub", 4096).value()};
  std::filesystem::remove_all(pattern);
  return keys;
}

TEST(Signature, HoldsForItsKeyAndItsContentAlone) {
  const Keys keys = make_keys();
  const SignedHead head{"20261120T130558Z-1a2b3c", std::string(64, 'a'), 12,
                        "2026-11-20T13:05:58.000000000Z"};
  const auto signature = sign_head(head, keys.private_pem);
  ASSERT_TRUE(signature) << signature.error().to_text();
  const auto checked = check_signature(*signature, keys.public_pem);
  ASSERT_TRUE(checked) << checked.error().to_text();
  EXPECT_EQ(checked->head_hash, head.head_hash);
  for (const char* member : {"incident", "head_hash", "signature", "schema"}) {
    wire::Json changed = *signature;
    std::string text(changed[member].as_string());
    text[0] = text[0] == 'b' ? 'c' : 'b';
    changed.set(member, text);
    EXPECT_EQ(check_signature(changed, keys.public_pem).error().code(), Code::kSignatureInvalid)
        << member;
  }
  EXPECT_EQ(check_signature(*signature, make_keys().public_pem).error().code(),
            Code::kSignatureInvalid);
}

TEST(Signature, AKeyOfAnotherKindIsRefused) {
  EXPECT_EQ(sign_head({}, "no key").error().code(), Code::kInvalidArgument);
  EXPECT_EQ(check_signature(wire::Json::object(), "no key").error().code(), Code::kInvalidArgument);
  const Keys keys = make_keys();
  EXPECT_EQ(check_signature(wire::Json::object(), keys.private_pem).error().code(),
            Code::kInvalidArgument);
}

}  // namespace
}  // namespace defib::report
