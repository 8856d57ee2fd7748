#include "models/tokenizer/hf_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "models/tokenizer/hf_regex.h"
#include "models/tokenizer/unicode.h"
#include "tests/tokenizer/small_tokenizers.h"

namespace reprise::models {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(HfTokenizerTest, MergesBytesInTheOrderOfTheirRanks) {
  const auto tokenizer = LoadJson(ByteLevelJson());
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_THAT(EncodeIds(*tokenizer, "hello world"), ElementsAre(259, 260, 'o', 'r', 'l', 'd'));
  EXPECT_THAT(EncodeIds(*tokenizer, "hellhe"), ElementsAre(258, 256));
  EXPECT_THAT(EncodeIds(*tokenizer, "lll"), ElementsAre(257, 'l'));  // the left pair first
  EXPECT_THAT(EncodeIds(*tokenizer, "\u00e9"), ElementsAre(0xC3, 0xA9));
  EXPECT_THAT(EncodeIds(*tokenizer, "e\u0301"), ElementsAre(0xC3, 0xA9));  // NFC
  EXPECT_THAT(EncodeIds(*tokenizer, ""), ElementsAre());
}

TEST(HfTokenizerTest, SpecialTokensAreTextUnlessAskedFor) {
  const auto tokenizer = LoadJson(ByteLevelJson());
  EXPECT_THAT(EncodeIds(*tokenizer, "a<|end|>b", true), ElementsAre('a', 261, 'b'));
  EXPECT_THAT(EncodeIds(*tokenizer, "a<|end|>"),
              ElementsAre('a', '<', '|', 'e', 'n', 'd', '|', '>'));
  // An added token that is not special is text of its own either way.
  EXPECT_THAT(EncodeIds(*tokenizer, "a    b"), ElementsAre('a', 262, 'b'));
  EXPECT_TRUE(tokenizer->IsControl(261));
  EXPECT_FALSE(tokenizer->IsControl(262));
  EXPECT_EQ(*tokenizer->Decode({'a', 261, 262, 'b'}), "a    b");
  EXPECT_EQ(*tokenizer->TokenBytes(261), "");
}

TEST(HfTokenizerTest, NoMergeLeadsToASpecialToken) {
  json file = ByteLevelJson();
  file["model"]["vocab"]["ab"] = 263;
  file["model"]["merges"].push_back("a b");
  file["model"]["ignore_merges"] = true;
  file["added_tokens"].push_back({{"id", 263}, {"content", "ab"}, {"special", true}});
  const auto tokenizer = LoadJson(file);
  EXPECT_THAT(EncodeIds(*tokenizer, "ab"), ElementsAre('a', 'b'));
  EXPECT_THAT(EncodeIds(*tokenizer, "ab", true), ElementsAre(263));
}

TEST(HfTokenizerTest, AddedTokensStripAndStandAlone) {
  json file = ByteLevelJson();
  file["added_tokens"].push_back(
      {{"id", 263}, {"content", "<m>"}, {"lstrip", true}, {"rstrip", true}, {"normalized", false}});
  file["added_tokens"].push_back(
      {{"id", 264}, {"content", "cat"}, {"single_word", true}, {"normalized", false}});
  const auto tokenizer = LoadJson(file);
  EXPECT_THAT(EncodeIds(*tokenizer, "a \n<m>\t b"), ElementsAre('a', 263, 'b'));
  EXPECT_THAT(EncodeIds(*tokenizer, "cat!"), ElementsAre(264, '!'));
  EXPECT_THAT(EncodeIds(*tokenizer, "cats"), ElementsAre('c', 'a', 't', 's'));
}

TEST(HfTokenizerTest, FallsBackToBytesAndFusesUnknowns) {
  const auto tokenizer = LoadJson(ByteFallbackJson());
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_THAT(EncodeIds(*tokenizer, "hello"), ElementsAre(268));
  EXPECT_THAT(EncodeIds(*tokenizer, "hello", false, true), ElementsAre(1, 268));  // BOS
  EXPECT_THAT(EncodeIds(*tokenizer, "\u00e9"), ElementsAre(259, 3 + 0xC3, 3 + 0xA9));
  EXPECT_EQ(*tokenizer->Decode({1, 268, 268, 3 + 0xC3, 3 + 0xA9}), "hello hello\u00e9");
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->eos_id(), std::nullopt);

  json file = ByteFallbackJson();
  file["model"]["byte_fallback"] = false;
  EXPECT_THAT(EncodeIds(*LoadJson(file), "xyzh"), ElementsAre(259, 0, 260));
  file["model"]["fuse_unk"] = false;
  EXPECT_THAT(EncodeIds(*LoadJson(file), "xyzh"), ElementsAre(259, 0, 0, 0, 260));
}

TEST(HfTokenizerTest, AStrayByteTurnsItsWholeRunIntoReplacements) {
  const auto tokenizer = LoadJson(ByteFallbackJson());
  EXPECT_EQ(*tokenizer->Decode({260, 3 + 0xC3, 3 + 0xA9, 3 + 0xC3, 260}), "h\uFFFD\uFFFD\uFFFDh");
}

TEST(HfTokenizerTest, RefusesInvalidUtf8AndIdsOutsideTheVocabulary) {
  const auto tokenizer = LoadJson(ByteLevelJson());
  const auto ids = tokenizer->Encode("abc\xFF", {});
  EXPECT_EQ(ids.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(ids.status().message()), HasSubstr("byte 3"));
  EXPECT_EQ(tokenizer->vocab_size(), 263);
  for (const int32_t id : {-1, 263, 1 << 30}) {
    EXPECT_EQ(tokenizer->TokenBytes(id).status().code(), absl::StatusCode::kOutOfRange);
    EXPECT_EQ(tokenizer->Decode({id}).status().code(), absl::StatusCode::kOutOfRange);
    EXPECT_FALSE(tokenizer->IsControl(id));
  }
}

TEST(HfTokenizerTest, AnUnusedIdGivesNoText) {
  json file = ByteLevelJson();
  file["model"]["vocab"]["far"] = 300;
  const auto tokenizer = LoadJson(file);
  EXPECT_EQ(tokenizer->vocab_size(), 301);
  EXPECT_TRUE(tokenizer->IsControl(280));
  EXPECT_EQ(*tokenizer->Decode({'a', 280, 300}), "afar");
}

struct Refusal {
  const char* name;
  std::function<void(json&)> change;
  absl::StatusCode code;
  const char* message;
};

class RefusalTest : public ::testing::TestWithParam<Refusal> {};

TEST_P(RefusalTest, NamesThePlace) {
  json file = ByteLevelJson();
  GetParam().change(file);
  const auto tokenizer = HfFromJson(file.dump());
  EXPECT_EQ(tokenizer.status().code(), GetParam().code) << tokenizer.status();
  EXPECT_THAT(std::string(tokenizer.status().message()), HasSubstr(GetParam().message));
}

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;
json Split(const char* regex) {
  return {{"type", "Split"}, {"pattern", {{"Regex", regex}}}, {"behavior", "Isolated"}};
}
INSTANTIATE_TEST_SUITE_P(
    All, RefusalTest,
    ::testing::Values(
        Refusal{"UnknownKey", [](json& f) { f["surprise"] = 1; }, kUnimplemented, "/surprise"},
        Refusal{"Version", [](json& f) { f["version"] = "2.0"; }, kUnimplemented, "/version"},
        Refusal{"Truncation",
                [](json& f) {
                  f["truncation"] = {{"max_length", 5}};
                },
                kUnimplemented, "/truncation"},
        Refusal{"Unigram", [](json& f) { f["model"]["type"] = "Unigram"; }, kUnimplemented,
                "/model/type"},
        Refusal{"NoModel", [](json& f) { f.erase("model"); }, kInvalid, "'model'"},
        Refusal{"Dropout", [](json& f) { f["model"]["dropout"] = 0.1; }, kUnimplemented,
                "/model/dropout"},
        Refusal{"Affix", [](json& f) { f["model"]["end_of_word_suffix"] = "</w>"; }, kUnimplemented,
                "/model/end_of_word_suffix"},
        Refusal{"Merge", [](json& f) { f["model"]["merges"][1] = "h"; }, kInvalid,
                "/model/merges/1"},
        Refusal{"MergeOfNothing", [](json& f) { f["model"]["merges"][2] = "a b"; }, kInvalid,
                "/model/merges/2"},
        Refusal{"Id", [](json& f) { f["model"]["vocab"]["x1"] = -1; }, kInvalid, "/model/vocab"},
        Refusal{"HugeId", [](json& f) { f["model"]["vocab"]["x1"] = 1LL << 40; }, kInvalid,
                "/model/vocab"},
        Refusal{"SharedId", [](json& f) { f["model"]["vocab"]["x1"] = 7; }, kInvalid, "share"},
        Refusal{"EmptyToken", [](json& f) { f["model"]["vocab"][""] = 300; }, kInvalid, "empty"},
        Refusal{"UnknownUnk", [](json& f) { f["model"]["unk_token"] = "<u>"; }, kInvalid,
                "/model/unk_token"},
        Refusal{"AddedId", [](json& f) { f["added_tokens"][0]["content"] = "he"; }, kInvalid,
                "/added_tokens/0/id"},
        Refusal{"Normalizer", [](json& f) { f["normalizer"]["type"] = "Precompiled"; },
                kUnimplemented, "/normalizer"},
        Refusal{"NormalizerKey", [](json& f) { f["normalizer"]["x"] = 1; }, kUnimplemented,
                "/normalizer/x"},
        Refusal{"PreTokenizer", [](json& f) { f["pre_tokenizer"]["type"] = "BertPreTokenizer"; },
                kUnimplemented, "/pre_tokenizer"},
        Refusal{"BehindByteLevel",
                [](json& f) {
                  f["pre_tokenizer"] = {{"type", "Sequence"},
                                        {"pretokenizers", {f["pre_tokenizer"], Split("a")}}};
                },
                kUnimplemented, "/pre_tokenizer/pretokenizers/1"},
        Refusal{"Regex", [](json& f) { f["pre_tokenizer"] = Split("(a"); }, kInvalid,
                "/pre_tokenizer/pattern/Regex"},
        Refusal{"RegexVerb", [](json& f) { f["pre_tokenizer"] = Split("(*LIMIT_MATCH=9)a"); },
                kInvalid, "/pre_tokenizer/pattern/Regex"},
        Refusal{"RegexGroup", [](json& f) { f["pre_tokenizer"] = Split("(?<x>a)"); },
                kUnimplemented, "/pre_tokenizer/pattern/Regex"},
        Refusal{"RegexRecursion", [](json& f) { f["pre_tokenizer"] = Split("a(?R)?b"); },
                kUnimplemented, "/pre_tokenizer/pattern/Regex"},
        Refusal{"PostProcessor",
                [](json& f) {
                  f["post_processor"] = {{"type", "RobertaProcessing"}};
                },
                kUnimplemented, "/post_processor"},
        Refusal{"NoDecoder", [](json& f) { f["decoder"] = nullptr; }, kUnimplemented, "/decoder"},
        Refusal{"Decoder",
                [](json& f) {
                  f["decoder"] = {{"type", "WordPiece"}};
                },
                kUnimplemented, "/decoder"},
        Refusal{"StripAtEnd",
                [](json& f) {
                  f["decoder"] = {
                      {"type", "Sequence"},
                      {"decoders",
                       {{{"type", "Fuse"}},
                        {{"type", "Strip"}, {"content", " "}, {"start", 0}, {"stop", 1}}}}};
                },
                kUnimplemented, "/decoder/decoders/1/stop"}),
    [](const auto& info) { return info.param.name; });

TEST(HfTokenizerTest, NoTruncationOfAFileLoadsOrCrashes) {
  const std::string text = ByteFallbackJson().dump();
  for (size_t length = 0; length < text.size(); ++length) {
    const auto tokenizer = HfFromJson(text.substr(0, length));
    ASSERT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument) << length;
  }
}

TEST(HfTokenizerTest, EveryValueOfTheWrongTypeIsAnError) {
  const json file = ByteFallbackJson().flatten();
  for (const auto& [path, value] : file.items()) {
    if (path.starts_with("/model/vocab/") || path.starts_with("/post_processor/pair") ||
        path.find("type_id") != std::string::npos || path.find("tokens/<s>/tokens") != path.npos ||
        path.find("tokens/<s>/id") != path.npos) {
      continue;  // the vocabulary takes long; the rest has no meaning for us
    }
    json changed = file;
    changed[path] = 2.5;
    EXPECT_FALSE(HfFromJson(changed.unflatten().dump()).ok()) << path;
  }
}

TEST(HfTokenizerTest, ARunawayPatternIsAnErrorOfTheText) {
  json file = ByteLevelJson();
  file["pre_tokenizer"] = {{"type", "Sequence"},
                           {"pretokenizers", {Split("(?:a+)+[^a]"), file["pre_tokenizer"]}}};
  const auto tokenizer = LoadJson(file);
  EXPECT_THAT(EncodeIds(*tokenizer, "aab"), ElementsAre('a', 'a', 'b'));
  const auto ids = tokenizer->Encode(std::string(200, 'a'), {});
  EXPECT_EQ(ids.status().code(), absl::StatusCode::kResourceExhausted) << ids.status();
}

TEST(HfTokenizerTest, TextThatGrowsWithoutBoundIsAnError) {
  json file = ByteLevelJson();
  json steps = json::array();
  for (int i = 0; i < 40; ++i) {
    steps.push_back({{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aa"}});
  }
  file["normalizer"] = {{"type", "Sequence"}, {"normalizers", steps}};
  const auto ids = LoadJson(file)->Encode("a", {});
  EXPECT_EQ(ids.status().code(), absl::StatusCode::kResourceExhausted) << ids.status();
}

// A quadratic merge would need minutes.
TEST(HfTokenizerTest, OneWordOfAMegabyteIsQuick) {
  const auto tokenizer = LoadJson(ByteFallbackJson());
  std::string text;
  for (int i = 0; i < 200000; ++i) text += "hello";
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(EncodeIds(*tokenizer, text).size(), 200000u);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20));
}

TEST(PatternTest, KeepsOnigurumasMeaning) {
  EXPECT_THAT(*TranslatePattern(R"(\p{^L}x{,3}$)"), R"(\P{L}x{0,3}(?=\n|\z))");
  EXPECT_THAT(*TranslatePattern("[a\\-z_-]"), "[a\\-z_\\-]");
  for (const char* refused : {R"([\s-\w&&a])", R"([[:alpha:]])", R"(\h)", R"(\bx)", "a{2}+",
                              R"(\p{Foo})", "(?i)a", R"(\1)", R"([\W])"}) {
    EXPECT_EQ(TranslatePattern(refused).status().code(), absl::StatusCode::kUnimplemented)
        << refused;
  }
  EXPECT_FALSE(TranslatePattern("[a").ok());
  EXPECT_FALSE(TranslatePattern("\\").ok());
  const auto spaces = Pattern::Regex(R"([^\S\n]+)");
  ASSERT_TRUE(spaces.ok()) << spaces.status();
  std::vector<Span> spans;
  ASSERT_TRUE(spaces->Cut("a \u3000\nb\u180e", &spans).ok());  // U+180E is no space
  ASSERT_EQ(spans.size(), 3u);
  EXPECT_EQ(spans[1].begin, 1u);
  EXPECT_EQ(spans[1].end, 5u);
}

TEST(UnicodeTest, FollowsTheReferencesVersionsOfUnicode) {
  std::string text = "q\u0307\u0323";
  ASSERT_TRUE(NormalizeUnicode(UnicodeForm::kNfc, &text).ok());
  EXPECT_EQ(text, "q\u0323\u0307");
  text = "a\u07FD\u0301";  // U+07FD is younger than Unicode 9 and stays where it is
  ASSERT_TRUE(NormalizeUnicode(UnicodeForm::kNfc, &text).ok());
  EXPECT_EQ(text, "a\u07FD\u0301");
  for (const char32_t c : std::u32string_view(U"$+<=>^`|~!.-\u3001\u166D")) {
    EXPECT_TRUE(IsPunctuation(c)) << static_cast<uint32_t>(c);
  }
  for (const char32_t c : std::u32string_view(U"a1 \u061D\u2E52")) {
    EXPECT_FALSE(IsPunctuation(c)) << static_cast<uint32_t>(c);
  }
}

}  // namespace
}  // namespace reprise::models
