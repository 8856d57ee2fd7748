#include "service/stop_matcher.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "models/tokenizer/utf8.h"

namespace reprise::service {
namespace {

struct Outcome {
  std::string text;
  std::string stop;  // empty = none
  friend bool operator==(const Outcome&, const Outcome&) = default;
};

Outcome Match(const std::vector<std::string>& stops, const std::vector<std::string>& pieces) {
  StopMatcher matcher(stops);
  Outcome outcome;
  for (const std::string& piece : pieces) outcome.text += matcher.Feed(piece);
  outcome.text += matcher.Flush();
  if (matcher.matched()) outcome.stop = matcher.stop();
  return outcome;
}

// Byte by byte: the first end of any stop string, the longest of those that end there.
Outcome Slow(const std::vector<std::string>& stops, const std::string& text) {
  for (size_t end = 1; end <= text.size(); ++end) {
    const std::string seen = text.substr(0, end);
    std::string best;
    for (const std::string& stop : stops) {
      if (stop.size() <= end && seen.compare(end - stop.size(), stop.size(), stop) == 0 &&
          stop.size() > best.size()) {
        best = stop;
      }
    }
    if (!best.empty()) return {seen.substr(0, end - best.size()), best};
  }
  return {text, ""};
}

TEST(StopMatcherTest, TextWithoutStopsPassesThrough) {
  StopMatcher matcher({});
  EXPECT_EQ(matcher.Feed("abc"), "abc");
  EXPECT_EQ(matcher.Feed(""), "");
  EXPECT_EQ(matcher.Flush(), "");
  EXPECT_FALSE(matcher.matched());
}

TEST(StopMatcherTest, OnlyWhatMayBeAStopIsHeldBack) {
  StopMatcher matcher({"END"});
  EXPECT_EQ(matcher.Feed("the E"), "the ");
  EXPECT_EQ(matcher.Feed("N"), "");
  EXPECT_EQ(matcher.Feed("E"), "EN");
  EXPECT_EQ(matcher.Feed("x"), "Ex");
  EXPECT_EQ(matcher.Feed("EN"), "");
  EXPECT_EQ(matcher.Flush(), "EN");
}

TEST(StopMatcherTest, StopsAcrossPieces) {
  EXPECT_EQ(Match({"</s>"}, {"Hi<", "/", "s", "> more"}), (Outcome{"Hi", "</s>"}));
  EXPECT_EQ(Match({"</s>"}, {"Hi</s>"}), (Outcome{"Hi", "</s>"}));
}

TEST(StopMatcherTest, ASelfOverlappingStopIsFound) {
  EXPECT_EQ(Match({"aab"}, {"a", "a", "a", "b"}), (Outcome{"a", "aab"}));
  EXPECT_EQ(Match({"abab"}, {"ab", "aab", "ab"}), (Outcome{"aba", "abab"}));
}

TEST(StopMatcherTest, TheFirstToBeCompleteWinsAndTheLongestAmongThem) {
  EXPECT_EQ(Match({"abcd", "bc"}, {"abcd"}), (Outcome{"a", "bc"}));
  EXPECT_EQ(Match({"abcd", "bc"}, {"a", "b", "c", "d"}), (Outcome{"a", "bc"}));
  EXPECT_EQ(Match({"c", "bc", "abc"}, {"xabc"}), (Outcome{"x", "abc"}));
}

TEST(StopMatcherTest, NothingComesAfterAMatch) {
  StopMatcher matcher({"!"});
  EXPECT_EQ(matcher.Feed("a!b"), "a");
  EXPECT_EQ(matcher.Feed("c"), "");
  EXPECT_EQ(matcher.Flush(), "");
}

TEST(StopMatcherTest, HoldingBackNeverCutsACharacter) {
  // U+00E9 and U+00E8 begin with the same byte.
  StopMatcher matcher({"\xC3\xA9!"});
  EXPECT_EQ(matcher.Feed("caf\xC3\xA8"), "caf\xC3\xA8");
  EXPECT_EQ(matcher.Feed("\xC3\xA9"), "");
  EXPECT_EQ(matcher.Feed("?"), "\xC3\xA9?");
}

TEST(StopMatcherTest, AnyCutGivesWhatASlowSearchGives) {
  std::mt19937 random(7);
  auto word = [&](size_t max_length) {
    std::string text;
    const size_t length = 1 + random() % max_length;
    for (size_t i = 0; i < length; ++i) text += "ab\xC3"[random() % 2];
    return text;
  };
  for (int round = 0; round < 3000; ++round) {
    std::vector<std::string> stops;
    for (size_t i = random() % 4; i > 0; --i) stops.push_back(word(5));
    const std::string text = word(24);
    std::vector<std::string> pieces;
    for (size_t at = 0; at < text.size();) {
      const size_t size = std::min<size_t>(1 + random() % 4, text.size() - at);
      pieces.push_back(text.substr(at, size));
      at += size;
    }
    ASSERT_EQ(Match(stops, pieces), Slow(stops, text)) << "round " << round << " text " << text;
  }
}

}  // namespace
}  // namespace reprise::service
