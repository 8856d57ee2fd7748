#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>

#include "base/hash.h"
#include "models/tokenizer/tokenizer.h"
#include "tests/tokenizer/small_tokenizers.h"

namespace reprise::models {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class LoadTokenizerTest : public ::testing::Test {
 protected:
  LoadTokenizerTest() {
    folder_ = ::testing::TempDir() + "load_tokenizer_test_" +
              ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  ~LoadTokenizerTest() override { std::filesystem::remove_all(folder_); }

  void Write(const std::string& name, const std::string& content) {
    std::ofstream(folder_ + "/" + name, std::ios::binary) << content;
  }
  std::unique_ptr<Tokenizer> Load() {
    auto tokenizer = LoadTokenizer(folder_);
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
  }
  void ExpectError(absl::StatusCode code, const std::string& message) {
    const auto tokenizer = LoadTokenizer(folder_);
    EXPECT_EQ(tokenizer.status().code(), code) << tokenizer.status();
    EXPECT_THAT(std::string(tokenizer.status().message()), HasSubstr(message));
    EXPECT_THAT(std::string(tokenizer.status().message()), HasSubstr(folder_));
  }

  std::string folder_;
};

TEST_F(LoadTokenizerTest, JsonWinsOverSentencePieceIfItsModelIsSupported) {
  ExpectError(absl::StatusCode::kNotFound, "neither");
  Write("tokenizer.model", SmallSentencePiece().Build());
  EXPECT_EQ(Load()->vocab_size(), 270);
  nlohmann::json json = ByteLevelJson();
  Write("tokenizer.json", json.dump());
  EXPECT_EQ(Load()->vocab_size(), 263);
  json["model"] = {{"type", "Unigram"}, {"vocab", nlohmann::json::array()}};
  Write("tokenizer.json", json.dump());
  EXPECT_EQ(Load()->vocab_size(), 270);
  std::filesystem::remove(folder_ + "/tokenizer.model");
  ExpectError(absl::StatusCode::kUnimplemented, "tokenizer.json: /model/type");
}

TEST_F(LoadTokenizerTest, AJsonThatIsNotSupportedElsewhereIsAnError) {
  Write("tokenizer.model", SmallSentencePiece().Build());
  nlohmann::json json = ByteLevelJson();
  json["normalizer"] = {{"type", "Nmt"}};
  Write("tokenizer.json", json.dump());
  ExpectError(absl::StatusCode::kUnimplemented, "tokenizer.json: /normalizer");
}

TEST_F(LoadTokenizerTest, TheConfigNamesBosAndEos) {
  Write("tokenizer.json", ByteLevelJson().dump());
  EXPECT_EQ(Load()->bos_id(), std::nullopt);
  EXPECT_EQ(Load()->eos_id(), std::nullopt);
  Write("tokenizer_config.json",
        R"({"bos_token": {"content": "<|end|>", "__type": "AddedToken"}, "eos_token": "<|end|>",
            "chat_template": "..."})");
  auto tokenizer = Load();
  EXPECT_EQ(tokenizer->bos_id(), 261);
  EXPECT_EQ(tokenizer->eos_id(), 261);
  EXPECT_THAT(EncodeIds(*tokenizer, "a", false, true), ElementsAre('a'));
  Write("tokenizer_config.json", R"({"bos_token": "<|end|>", "add_bos_token": true})");
  tokenizer = Load();
  EXPECT_EQ(tokenizer->eos_id(), std::nullopt);
  EXPECT_THAT(EncodeIds(*tokenizer, "a", false, true), ElementsAre(261, 'a'));
  Write("tokenizer_config.json",
        R"({"added_tokens_decoder": {"262": {"content": "    ", "special": true}}})");
  EXPECT_TRUE(Load()->IsControl(262));
}

TEST_F(LoadTokenizerTest, ErrorsOfTheConfigNameFileAndKey) {
  Write("tokenizer.json", ByteLevelJson().dump());
  Write("tokenizer_config.json", R"({"bos_token": "<nope>"})");
  ExpectError(absl::StatusCode::kInvalidArgument, "tokenizer_config.json: /bos_token");
  Write("tokenizer_config.json", R"({"bos_token": 5})");
  ExpectError(absl::StatusCode::kInvalidArgument, "tokenizer_config.json: /bos_token");
  Write("tokenizer_config.json", R"({"add_eos_token": true})");
  ExpectError(absl::StatusCode::kUnimplemented, "tokenizer_config.json: /add_eos_token");
  Write("tokenizer_config.json", R"({"added_tokens_decoder": {"x": {"content": "a"}}})");
  ExpectError(absl::StatusCode::kInvalidArgument, "tokenizer_config.json: /added_tokens_decoder/x");
  Write("tokenizer_config.json", R"({"added_tokens_decoder": {"900": {"content": "new"}}})");
  ExpectError(absl::StatusCode::kUnimplemented, "tokenizer_config.json: /added_tokens_decoder/900");
  Write("tokenizer_config.json", "{");
  ExpectError(absl::StatusCode::kInvalidArgument, "tokenizer_config.json: malformed JSON");
}

TEST_F(LoadTokenizerTest, TheFingerprintCoversEveryFileThatWasRead) {
  const std::string json = ByteLevelJson().dump();
  Write("tokenizer.json", json);
  const std::string alone = Load()->fingerprint();
  EXPECT_EQ(alone, HexDigest(Sha256(json)));
  Write("tokenizer_config.json", "{}");
  const std::string with_config = Load()->fingerprint();
  EXPECT_NE(with_config, alone);
  EXPECT_EQ(with_config.size(), 64u);
  Write("tokenizer_config.json", R"({"eos_token": "<|end|>"})");
  EXPECT_NE(Load()->fingerprint(), with_config);
}

TEST_F(LoadTokenizerTest, LoadsTheVocabularyOfGptNeoX) {
  std::filesystem::copy("tests/golden/tokenizer/20B_tokenizer.json", folder_ + "/tokenizer.json");
  const auto begin = std::chrono::steady_clock::now();
  const auto tokenizer = Load();
  RecordProperty("load_ms", static_cast<int>((std::chrono::steady_clock::now() - begin) /
                                             std::chrono::milliseconds(1)));
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(tokenizer->vocab_size(), 50277);
  EXPECT_EQ(tokenizer->fingerprint(),
            "56ac4821e129d2c520fdaba60abd920fa852ada51b45c0dd52bbb6bd8c985ade");
  EXPECT_THAT(EncodeIds(*tokenizer, "Hello world, this is a test!   \n  x"),
              ElementsAre(12092, 1533, 13, 436, 310, 247, 1071, 2, 50275, 187, 50276, 89));
  EXPECT_THAT(EncodeIds(*tokenizer, "<|endoftext|>", true), ElementsAre(0));
  EXPECT_EQ(*tokenizer->Decode({12092, 0, 1533}), "Hello world");
}

}  // namespace
}  // namespace reprise::models
