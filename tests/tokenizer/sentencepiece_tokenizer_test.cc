#include "models/tokenizer/sentencepiece_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "models/tokenizer/sentencepiece_normalizer.h"
#include "tests/tokenizer/small_tokenizers.h"

namespace reprise::models {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using File = SentencePieceFile;

std::vector<int32_t> Bytes(std::string_view text) {
  std::vector<int32_t> ids;
  for (const char c : text) ids.push_back(3 + static_cast<uint8_t>(c));
  return ids;
}

TEST(SentencePieceTest, EncodesAndDecodes) {
  const auto tokenizer = LoadSentencePiece(SmallSentencePiece());
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(tokenizer->vocab_size(), 270);
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->eos_id(), 2);
  EXPECT_THAT(EncodeIds(*tokenizer, "hello hello"), ElementsAre(268, 268));
  EXPECT_THAT(EncodeIds(*tokenizer, "hello", false, true), ElementsAre(1, 268));
  EXPECT_THAT(EncodeIds(*tokenizer, "\u00e9"), ElementsAre(259, 3 + 0xC3, 3 + 0xA9));
  EXPECT_THAT(EncodeIds(*tokenizer, "he<sep>ll"), ElementsAre(259, 264, 269, 265));
  EXPECT_EQ(*tokenizer->Decode({1, 268, 268, 2}), "hello hello");
  EXPECT_EQ(*tokenizer->Decode({0}), " \u2047 ");
  EXPECT_EQ(*tokenizer->TokenBytes(268), " hello");
  EXPECT_EQ(*tokenizer->TokenBytes(3 + 0xC3), "\xC3");
  EXPECT_EQ(*tokenizer->TokenBytes(1), "");
  EXPECT_EQ(tokenizer->TokenBytes(270).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(tokenizer->fingerprint(), "fingerprint");
}

TEST(SentencePieceTest, ControlPiecesAreTextUnlessAskedFor) {
  const auto tokenizer = LoadSentencePiece(SmallSentencePiece());
  std::vector<int32_t> plain = {259};
  for (const int32_t id : Bytes("<s>")) plain.push_back(id);
  EXPECT_EQ(EncodeIds(*tokenizer, "<s>"), plain);
  // Behind a control token no space is put before the text.
  EXPECT_THAT(EncodeIds(*tokenizer, "hello<s>hello", true), ElementsAre(268, 1, 267));
}

TEST(SentencePieceTest, AUserDefinedPieceThatTheConfigCallsSpecialIsControl) {
  TokenizerConfig config;
  config.present = true;
  config.bos_token = "<s>";
  config.eos_token = "<sep>";
  config.add_bos_token = false;
  config.added_tokens = {{269, "<sep>", true}};
  const auto tokenizer = LoadSentencePiece(SmallSentencePiece(), config);
  EXPECT_TRUE(tokenizer->IsControl(269));
  EXPECT_EQ(tokenizer->eos_id(), 269);
  EXPECT_THAT(EncodeIds(*tokenizer, "<sep>", true, true), ElementsAre(269));
  std::vector<int32_t> plain = {259};
  for (const char c : std::string_view("<sep>")) {
    plain.push_back(c == 'e' ? 261 : 3 + static_cast<uint8_t>(c));
  }
  EXPECT_EQ(EncodeIds(*tokenizer, "<sep>"), plain);
}

TEST(SentencePieceTest, ConfigMustFitTheModel) {
  TokenizerConfig config;
  config.present = true;
  config.bos_token = "<nope>";
  auto tokenizer = SentencePieceFromBytes(SmallSentencePiece().Build(), config, "");
  EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(tokenizer.status().message()),
              HasSubstr("tokenizer_config.json: /bos_token"));
  config.bos_token.reset();
  config.added_tokens = {{300, "<new>", false}};
  tokenizer = SentencePieceFromBytes(SmallSentencePiece().Build(), config, "");
  EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kUnimplemented);
}

TEST(SentencePieceTest, UnigramTakesTheMostProbablePath) {
  File file;
  file.Piece("<unk>", 0, File::kUnknown).Piece("a", -1).Piece("b", -1).Piece("ab", -1.5f);
  file.Piece("bb", -1.4f).Piece("abb", -9, File::kUnused);
  file.Normalizer(3, 0).Normalizer(4, 0);
  const auto tokenizer = LoadSentencePiece(file);
  EXPECT_THAT(EncodeIds(*tokenizer, "ab"), ElementsAre(3));
  EXPECT_THAT(EncodeIds(*tokenizer, "abb"), ElementsAre(1, 4));
  EXPECT_THAT(EncodeIds(*tokenizer, "axxb"), ElementsAre(1, 0, 2));  // unknowns are one token
  EXPECT_EQ(tokenizer->bos_id(), std::nullopt);
  EXPECT_THAT(EncodeIds(*tokenizer, "a", false, true), ElementsAre(1));
}

TEST(SentencePieceTest, UnusedPiecesFallApartAgain) {
  File file;
  file.Piece("<unk>", 0, File::kUnknown)
      .Piece("a", -5)
      .Piece("b", -5)
      .Piece("ab", -1, File::kUnused);
  file.Piece("abab", -2, File::kUnused).Trainer(3, 2).Normalizer(3, 0);
  EXPECT_THAT(EncodeIds(*LoadSentencePiece(file), "ababa"), ElementsAre(1, 2, 1, 2, 1));
}

TEST(SentencePieceTest, ExtraSpacesAreRemovedAndComeBackOnlyInside) {
  File file = SmallSentencePiece();
  file.Normalizer(4, 1);
  const auto tokenizer = LoadSentencePiece(file);
  EXPECT_EQ(EncodeIds(*tokenizer, "  hello   hello  "), EncodeIds(*tokenizer, "hello hello"));
  EXPECT_EQ(*tokenizer->Decode({259, 259, 268, 259}), "hello ");
}

// A trie of one key "A" -> "b": the root's children begin at unit 1.
std::string OneRule() {
  std::vector<uint32_t> units(256 * 2, 0);
  units[0] = 1u << 10;                              // root: offset 1
  units[1 ^ 'A'] = ('A') | (1u << 8) | (2u << 10);  // label 'A', has a leaf, offset 2
  units[(1 ^ 'A') ^ 2] = (1u << 31) | 0;            // the value: replacement at 0
  std::string blob;
  const uint32_t bytes = static_cast<uint32_t>(units.size() * 4);
  const auto put = [&blob](uint32_t word) {
    for (int shift = 0; shift < 32; shift += 8) blob.push_back(static_cast<char>(word >> shift));
  };
  put(bytes);
  for (const uint32_t unit : units) put(unit);
  return blob + std::string("b\0", 2);
}

TEST(CharsMapTest, ReplacesAndSurvivesAnyBytes) {
  const auto map = CharsMap::Parse(OneRule());
  ASSERT_TRUE(map.ok()) << map.status();
  std::string_view replacement;
  EXPECT_EQ(map->Longest("Ax", &replacement), 1u);
  EXPECT_EQ(replacement, "b");
  EXPECT_EQ(map->Longest("xA", &replacement), 0u);
  std::mt19937 rng(3);
  for (int round = 0; round < 3000; ++round) {
    std::string blob = OneRule();
    for (int k = 0; k < 40; ++k) blob[4 + rng() % (blob.size() - 6)] = static_cast<char>(rng());
    const auto broken = CharsMap::Parse(blob);
    if (!broken.ok()) continue;
    std::string text(8, '\0');
    for (char& c : text) c = static_cast<char>(rng() % 128);
    if (broken->Longest(text, &replacement) > 0) {
      EXPECT_LE(replacement.size(), blob.size());
    }
  }
  EXPECT_FALSE(CharsMap::Parse("abc").ok());
  EXPECT_FALSE(CharsMap::Parse(OneRule() + "x").ok());
}

TEST(SentencePieceHostileTest, NoTruncationOfAFileCrashes) {
  const std::string bytes = SmallSentencePiece().CharsMap(OneRule()).Build();
  for (size_t length = 0; length < bytes.size(); ++length) {
    const auto tokenizer = SentencePieceFromBytes(bytes.substr(0, length), {}, "");
    // A cut between two fields leaves a whole, smaller model.
    if (tokenizer.ok()) EncodeIds(**tokenizer, "hello \u00e9");
  }
}

TEST(SentencePieceHostileTest, NoFlippedBitsCrash) {
  const std::string bytes = SmallSentencePiece().CharsMap(OneRule()).Build();
  std::mt19937 rng(4);
  int loaded = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string broken = bytes;
    for (int k = 0; k < 3; ++k) broken[rng() % broken.size()] ^= static_cast<char>(1 << rng() % 8);
    const auto tokenizer = SentencePieceFromBytes(broken, {}, "");
    if (!tokenizer.ok()) continue;
    ++loaded;
    const std::vector<int32_t> ids = EncodeIds(**tokenizer, "A hello \u00e9<sep>", true, true);
    EXPECT_TRUE((*tokenizer)->Decode(ids).ok());
  }
  EXPECT_GT(loaded, 100);
}

struct Refusal {
  const char* name;
  File file;
  absl::StatusCode code;
  const char* message;
};

class SentencePieceRefusalTest : public ::testing::TestWithParam<Refusal> {};

TEST_P(SentencePieceRefusalTest, NamesTheField) {
  const auto tokenizer = SentencePieceFromBytes(GetParam().file.Build(), {}, "");
  EXPECT_EQ(tokenizer.status().code(), GetParam().code) << tokenizer.status();
  EXPECT_THAT(std::string(tokenizer.status().message()), HasSubstr(GetParam().message));
}

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;
INSTANTIATE_TEST_SUITE_P(
    All, SentencePieceRefusalTest,
    ::testing::Values(
        Refusal{"NoUnknown", File().Piece("a", 0), kInvalid, "unknown piece"},
        Refusal{"TwoUnknowns", File().Piece("a", 0, File::kUnknown).Piece("b", 0, File::kUnknown),
                kInvalid, "pieces[1]"},
        Refusal{"Twice", SmallSentencePiece().Piece("<s>", 0), kInvalid, "twice"},
        Refusal{"Empty", SmallSentencePiece().Piece("", 0), kInvalid, "empty"},
        Refusal{"Nul", SmallSentencePiece().Piece(std::string_view("a\0b", 3), 0), kInvalid, "NUL"},
        Refusal{"NotUtf8", SmallSentencePiece().Piece("\xFF", 0), kInvalid, "UTF-8"},
        Refusal{"NaN", SmallSentencePiece().Piece("x", NAN), kInvalid, "score"},
        Refusal{"Infinity",
                SmallSentencePiece().Piece("x", -std::numeric_limits<float>::infinity()), kInvalid,
                "score"},
        Refusal{"Type", SmallSentencePiece().Piece("x", 0, static_cast<File::Type>(9)), kInvalid,
                "type"},
        Refusal{"ByteName", SmallSentencePiece().Piece("<0xzz>", 0, File::kByte), kInvalid, "byte"},
        Refusal{"BytesMissing",
                File().Piece("u", 0, File::kUnknown).Trainer(35, 1).Piece("<0x00>", 0, File::kByte),
                kInvalid, "0x01"},
        Refusal{"BytesNotAllowed",
                File().Piece("u", 0, File::kUnknown).Piece("<0x00>", 0, File::kByte), kInvalid,
                "byte_fallback"},
        Refusal{"WordModel", SmallSentencePiece().Trainer(3, 3), kUnimplemented, "model_type"},
        Refusal{"Suffix", SmallSentencePiece().Trainer(24, 1), kUnimplemented,
                "treat_whitespace_as_suffix"},
        Refusal{"CharsMap", SmallSentencePiece().CharsMap("\xFF\xFF\xFF\xFF"), kInvalid,
                "precompiled_charsmap"}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace reprise::models
