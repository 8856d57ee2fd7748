#include "models/tokenizer/detokenizer.h"

#include <gtest/gtest.h>

#include <functional>
#include <random>
#include <string>
#include <vector>

#include "models/tokenizer/utf8.h"
#include "tests/tokenizer/small_tokenizers.h"

namespace reprise::models {
namespace {

std::unique_ptr<Tokenizer> SentencePieceWith(int remove_extra_whitespaces) {
  SentencePieceFile file = SmallSentencePiece();
  return LoadSentencePiece(file.Normalizer(4, remove_extra_whitespaces));
}

struct Kind {
  const char* name;
  std::function<std::unique_ptr<Tokenizer>()> load;
};

class DetokenizerTest : public ::testing::TestWithParam<Kind> {
 protected:
  DetokenizerTest() : tokenizer_(GetParam().load()) {}

  // Half of the ids are single bytes, which build broken and whole characters.
  std::vector<int32_t> RandomIds(std::mt19937* rng) const {
    static constexpr uint8_t kBytes[] = {0xE2, 0x82, 0xAC, 0xF0, 0x9F, 0x98, 0x80,
                                         0xC3, 0xA9, ' ',  'a',  0xFF, 0xED, 0xA0};
    const int32_t first_byte = tokenizer_->IsByte(3) ? 3 : 0;
    std::vector<int32_t> ids((*rng)() % 30);
    for (int32_t& id : ids) {
      const uint32_t kind = (*rng)() % 8;
      if (kind < 4) {
        id = first_byte + kBytes[(*rng)() % std::size(kBytes)];
      } else if (kind < 7) {
        id = tokenizer_->vocab_size() - 1 - static_cast<int32_t>((*rng)() % 14);
      } else {
        id = static_cast<int32_t>((*rng)() % 4);
      }
    }
    return ids;
  }

  std::string Stream(const std::vector<int32_t>& ids, TextStart start, bool restore) {
    Detokenizer detokenizer(tokenizer_.get(), start);
    std::string text;
    for (const int32_t id : ids) {
      const auto part = detokenizer.Append(id);
      EXPECT_TRUE(part.ok()) << part.status();
      EXPECT_TRUE(IsValidUtf8(*part));
      text += *part;
      if (restore) {
        Detokenizer other(tokenizer_.get());
        EXPECT_TRUE(other.RestoreState(detokenizer.SaveState()).ok());
        detokenizer = other;
      }
    }
    const std::string rest = detokenizer.Flush();
    EXPECT_TRUE(IsValidUtf8(rest));
    return text + rest;
  }

  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_P(DetokenizerTest, StreamedTextIsDecodedTextHoweverItIsInterrupted) {
  std::mt19937 rng(5);
  for (int round = 0; round < 3000; ++round) {
    const std::vector<int32_t> ids = RandomIds(&rng);
    const auto text = tokenizer_->Decode(ids);
    ASSERT_TRUE(text.ok());
    ASSERT_EQ(Stream(ids, TextStart::kBeginning, false), *text);
    ASSERT_EQ(Stream(ids, TextStart::kBeginning, true), *text);
    ASSERT_EQ(Stream(ids, TextStart::kContinuation, true),
              Stream(ids, TextStart::kContinuation, false));
  }
}

TEST_P(DetokenizerTest, AnIdOutsideTheVocabularyChangesNothing) {
  Detokenizer detokenizer(tokenizer_.get());
  ASSERT_TRUE(detokenizer.Append(tokenizer_->IsByte(3) ? 3 + 0xC3 : 0xC3).ok());
  const std::string before = detokenizer.SaveState();
  EXPECT_EQ(detokenizer.Append(1 << 20).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(detokenizer.SaveState(), before);
}

TEST_P(DetokenizerTest, HostileStatesAreDataLossAndChangeNothing) {
  std::mt19937 rng(6);
  Detokenizer detokenizer(tokenizer_.get(), TextStart::kBeginning);
  ASSERT_TRUE(detokenizer.Append(tokenizer_->IsByte(3) ? 3 + 0xE2 : 0xE2).ok());
  const std::string good = detokenizer.SaveState();
  int refused = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string state = good.substr(0, rng() % (good.size() + 1));
    while (rng() % 3 == 0) state.push_back(static_cast<char>(rng()));
    if (!state.empty() && rng() % 2 == 0) state[rng() % state.size()] = static_cast<char>(rng());
    const std::string before = detokenizer.SaveState();
    const absl::Status status = detokenizer.RestoreState(state);
    if (status.ok()) {
      EXPECT_EQ(detokenizer.SaveState(), state);  // what is accepted is kept as it is
    } else {
      ++refused;
      EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
      EXPECT_EQ(detokenizer.SaveState(), before);
    }
    EXPECT_TRUE(IsValidUtf8(Detokenizer(detokenizer).Flush()));
  }
  EXPECT_GT(refused, 10000);
}

INSTANTIATE_TEST_SUITE_P(
    All, DetokenizerTest,
    ::testing::Values(Kind{"ByteLevel", [] { return LoadJson(ByteLevelJson()); }},
                      Kind{"ByteFallback", [] { return LoadJson(ByteFallbackJson()); }},
                      Kind{"Metaspace", [] { return LoadJson(MetaspaceJson()); }},
                      Kind{"SentencePiece", [] { return SentencePieceWith(0); }},
                      Kind{"SentencePieceTrimming", [] { return SentencePieceWith(1); }}),
    [](const auto& info) { return info.param.name; });

TEST(DetokenizerExampleTest, WaitsForTheRestOfACharacter) {
  const auto tokenizer = LoadJson(ByteLevelJson());
  Detokenizer detokenizer(tokenizer.get());
  EXPECT_EQ(*detokenizer.Append('a'), "a");
  EXPECT_EQ(*detokenizer.Append(0xF0), "");
  EXPECT_EQ(*detokenizer.Append(0x9F), "");
  EXPECT_EQ(*detokenizer.Append(0x98), "");
  EXPECT_EQ(*detokenizer.Append(0x80), "\U0001F600");
  EXPECT_EQ(*detokenizer.Append(0xE2), "");
  EXPECT_EQ(*detokenizer.Append(0x82), "");
  EXPECT_EQ(detokenizer.SaveState().size(), 9u);
  EXPECT_EQ(*detokenizer.Append('b'), "\uFFFDb");
  EXPECT_EQ(*detokenizer.Append(0xE2), "");
  EXPECT_EQ(detokenizer.Flush(), "\uFFFD");
  EXPECT_EQ(detokenizer.Flush(), "");
}

TEST(DetokenizerExampleTest, OnlyABeginningLosesItsSpace) {
  for (const bool trims : {false, true}) {
    const auto tokenizer = SentencePieceWith(trims);
    Detokenizer continuation(tokenizer.get());
    EXPECT_EQ(*continuation.Append(268), " hello");
    Detokenizer beginning(tokenizer.get(), TextStart::kBeginning);
    EXPECT_EQ(*beginning.Append(1), "");  // a control token does not count
    EXPECT_EQ(*beginning.Append(268), "hello");
    EXPECT_EQ(*beginning.Append(268), " hello");
    Detokenizer spaces(tokenizer.get(), TextStart::kBeginning);
    EXPECT_EQ(*spaces.Append(259), "");
    EXPECT_EQ(*spaces.Append(259), trims ? "" : " ");
  }
}

TEST(DetokenizerExampleTest, AByteRunIsHeldWhereOneStrayByteWouldSpoilIt) {
  const auto tokenizer = LoadJson(ByteFallbackJson());
  Detokenizer detokenizer(tokenizer.get());
  EXPECT_EQ(*detokenizer.Append(3 + 0xC3), "");
  EXPECT_EQ(*detokenizer.Append(3 + 0xA9), "");
  EXPECT_EQ(*detokenizer.Append(260), "\u00e9h");
  EXPECT_EQ(*detokenizer.Append(3 + 0xC3), "");
  EXPECT_EQ(*detokenizer.Append(3 + 'a'), "\uFFFD\uFFFD");
  EXPECT_EQ(*detokenizer.Append(3 + 'a'), "\uFFFD");
  EXPECT_EQ(*detokenizer.Append(260), "h");
}

TEST(DetokenizerExampleTest, AStateOfAnotherKindOfTokenizerIsRefused) {
  const auto byte_level = LoadJson(ByteLevelJson());
  const auto byte_fallback = LoadJson(ByteFallbackJson());
  Detokenizer detokenizer(byte_fallback.get());
  EXPECT_EQ(detokenizer.RestoreState(Detokenizer(byte_level.get()).SaveState()).code(),
            absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace reprise::models
