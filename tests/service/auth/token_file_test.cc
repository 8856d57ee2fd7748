#include "service/auth/token_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

namespace reprise::service {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kHash[] =
    "hmac-sha256:00112233445566778899aabbccddeeff:"
    "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

TEST(TokenFileTest, ATokenIsFoundUnderItsIdAndNoOther) {
  const NewToken user = MakeToken("ci-1", "acme", Right::kUser).value();
  const NewToken admin = MakeToken("ops", "umbrella", Right::kAdmin).value();
  const auto file = TokenFile::Parse("# who may\n\n" + user.line + "\r\n\t" + admin.line);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->size(), 2u);
  const auto found = file->Find(user.token);
  ASSERT_TRUE(found.ok());
  EXPECT_EQ(found->tenant, "acme");
  EXPECT_EQ(found->subject, "token:ci-1");
  EXPECT_EQ(found->right, Right::kUser);
  EXPECT_EQ(file->Find(admin.token)->right, Right::kAdmin);

  const std::string secret = user.token.substr(user.token.rfind('_') + 1);
  for (const std::string& wrong : std::vector<std::string>{
           "", "reprise_", "reprise_ci-1", "reprise_ci-1_", "reprise_ci-2_" + secret,
           "reprise_ops_" + secret, user.token + "x", user.token.substr(0, user.token.size() - 1),
           "Reprise_ci-1_" + secret, secret, user.line, user.token + std::string(1000, 'x')}) {
    const auto refused = file->Find(wrong);
    ASSERT_FALSE(refused.ok()) << wrong;
    // Whether the id is known cannot be told from the answer.
    EXPECT_EQ(refused.status(), file->Find("reprise_nobody_x").status()) << wrong;
    EXPECT_TRUE(absl::IsUnauthenticated(refused.status()));
  }
}

TEST(TokenFileTest, EachBitOfASecretCounts) {
  const NewToken made = MakeToken("t", "acme", Right::kUser).value();
  const TokenFile file = TokenFile::Parse(made.line).value();
  for (size_t i = made.token.rfind('_') + 1; i < made.token.size(); ++i) {
    std::string changed = made.token;
    changed[i] = changed[i] == 'A' ? 'B' : 'A';
    EXPECT_FALSE(file.Find(changed).ok()) << i;
  }
}

TEST(TokenFileTest, NoTwoTokensAreAlikeAndTheLineDoesNotShowTheSecret) {
  std::set<std::string> tokens, salts;
  for (int i = 0; i < 50; ++i) {
    const NewToken made = MakeToken("t", "acme", Right::kUser).value();
    tokens.insert(made.token);
    salts.insert(made.line.substr(made.line.find(':') + 1, 32));
    EXPECT_THAT(made.line, Not(HasSubstr(made.token.substr(std::string("reprise_t_").size()))));
    // 256 bits in base64.
    EXPECT_GE(made.token.size(), std::string("reprise_t_").size() + 43);
  }
  EXPECT_EQ(tokens.size(), 50u);
  EXPECT_EQ(salts.size(), 50u);
}

TEST(TokenFileTest, BadLinesAreNamedByNumberAndNotQuoted) {
  const std::string good = std::string("a acme user ") + kHash;
  const std::string s(kHash);
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"a acme user", "four words"},
      {"a acme user secret more", "four words"},
      {"A acme user " + s, "id:"},
      {"a_b acme user " + s, "id:"},
      {std::string(64, 'a') + " acme user " + s, "id:"},
      {"b ac{me user " + s, "tenant:"},
      {"b acme root " + s, "right:"},
      {"b acme user secret", "hash:"},
      {"b acme user " + s + "00", "hash:"},
      {"b acme user " + s.substr(0, s.size() - 1), "hash:"},
      {"b acme user " + s.substr(0, s.size() - 1) + "g", "hash:"},
      {"b acme user plain:" + s.substr(12), "hash:"},
      {good, "already"},
      {std::string(2000, 'x'), "too long"},
  };
  for (const auto& [line, message] : cases) {
    const auto file = TokenFile::Parse(good + "\n" + line);
    ASSERT_TRUE(absl::IsInvalidArgument(file.status())) << line;
    EXPECT_THAT(std::string(file.status().message()), HasSubstr("line 2: ")) << line;
    EXPECT_THAT(std::string(file.status().message()), HasSubstr(message)) << line;
    EXPECT_THAT(std::string(file.status().message()), Not(HasSubstr("secret"))) << line;
  }
}

TEST(TokenFileTest, NoTokenIsMadeThatTheFileWouldRefuse) {
  EXPECT_FALSE(MakeToken("", "acme", Right::kUser).ok());
  EXPECT_FALSE(MakeToken("a b", "acme", Right::kUser).ok());
  EXPECT_FALSE(MakeToken("a", "acme\nb x user y", Right::kUser).ok());
  EXPECT_FALSE(MakeToken("#a", "acme", Right::kUser).ok());
}

TEST(TokenFileTest, AnEmptyFileKnowsNobody) {
  const auto file = TokenFile::Parse("");
  ASSERT_TRUE(file.ok());
  EXPECT_FALSE(file->Find("").ok());
  // The hash that stands in for a missing line is nobody's.
  EXPECT_FALSE(file->Find("reprise_x_y").ok());
}

}  // namespace
}  // namespace reprise::service
