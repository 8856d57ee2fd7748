#include "clients/cli/json_output.h"

#include <gtest/gtest.h>

#include <limits>

#include "reprise/v1/generation.pb.h"
#include "reprise/v1/model.pb.h"
#include "reprise/v1/session.pb.h"

namespace reprise::cli {
namespace {

TEST(JsonOutput, TokensInTheOrderOfTheContract) {
  v1::Tokens tokens;
  tokens.add_ids(5);
  tokens.add_ids(7);
  tokens.set_text("a\n\"");
  EXPECT_EQ(JsonLine(ToJson(tokens)),
            R"({"ids":[5,7],"text":"a\n\"","logprobs":[],"replayed":false,"choice":0})");
}

TEST(JsonOutput, EnumsWithoutTheirPrefixAndWideNumbersAsNumbers) {
  v1::Finished finished;
  finished.set_reason(v1::FINISH_REASON_STOP_STRING);
  finished.set_seed(std::numeric_limits<uint64_t>::max());
  finished.mutable_usage()->set_restored_tokens(1LL << 40);
  const Json json = ToJson(finished);
  EXPECT_EQ(json["reason"], "STOP_STRING");
  EXPECT_EQ(json["seed"].dump(), "18446744073709551615");
  EXPECT_EQ(json["usage"]["restored_tokens"], 1LL << 40);
  EXPECT_FALSE(json.contains("commit"));  // no session, no commit
}

TEST(JsonOutput, BytesAreTextOrBase64) {
  v1::TokenLogprob token;
  token.set_token(" the");
  EXPECT_EQ(ToJson(token)["token"], " the");
  token.set_token("\xc3");
  EXPECT_EQ(ToJson(token)["token_base64"], "ww==");
  EXPECT_FALSE(ToJson(token).contains("token"));
}

TEST(JsonOutput, FloatsAreShort) {
  v1::SamplingParams sampling;
  sampling.set_temperature(0.7f);
  EXPECT_EQ(ToJson(sampling)["temperature"].dump(), "0.7");
}

TEST(JsonOutput, InfinityIsAString) {
  v1::TokenLogprob token;
  token.set_logprob(-std::numeric_limits<float>::infinity());
  EXPECT_EQ(ToJson(token)["logprob"], "-inf");
}

TEST(JsonOutput, TimesAndMaps) {
  v1::Session session;
  session.mutable_create_time()->set_seconds(1'700'000'000);
  (*session.mutable_labels())["team"] = "blue";
  const Json json = ToJson(session);
  EXPECT_EQ(json["create_time"], "2023-11-14T22:13:20Z");
  EXPECT_EQ(json["labels"]["team"], "blue");
  EXPECT_FALSE(json.contains("expire_time"));

  v1::CreateSessionRequest create;
  create.mutable_ttl()->set_seconds(3);
  create.mutable_ttl()->set_nanos(500'000'000);
  EXPECT_EQ(ToJson(create)["ttl"], 3.5);
}

TEST(JsonOutput, OptionalZeroIsThere) {
  v1::Model model;
  model.set_bos_token(0);
  EXPECT_EQ(ToJson(model)["bos_token"], 0);
  EXPECT_FALSE(ToJson(model).contains("eos_token"));
}

TEST(JsonOutput, Utf8) {
  EXPECT_TRUE(IsUtf8(""));
  EXPECT_TRUE(IsUtf8("gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80"));
  for (const char* bad : {"\x80", "\xc3", "\xc0\xaf", "\xe0\x80\x80", "\xed\xa0\x80",
                          "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xe2\x82"}) {
    EXPECT_FALSE(IsUtf8(bad)) << Quoted(bad);
  }
}

TEST(JsonOutput, QuotedShowsWhatIsNoText) {
  EXPECT_EQ(Quoted(" a\n"), R"(" a\n")");
  EXPECT_EQ(Quoted("\xc3\xbc\xff"), "\"\xc3\xbc\\xff\"");
  EXPECT_EQ(Quoted("\"\\"), R"("\"\\")");
}

}  // namespace
}  // namespace reprise::cli
