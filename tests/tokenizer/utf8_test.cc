#include "models/tokenizer/utf8.h"

#include <gtest/gtest.h>

#include <string>
#include <string_view>

namespace reprise::models {
namespace {

TEST(Utf8Test, AcceptsEveryCodePointAndReadsItBack) {
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    std::string text;
    AppendUtf8(c, &text);
    ASSERT_TRUE(IsValidUtf8(text)) << std::hex << static_cast<uint32_t>(c);
    ASSERT_EQ(Utf8Length(text[0]), text.size());
    size_t offset = 0;
    ASSERT_EQ(NextCodePoint(text, &offset), c);
    ASSERT_EQ(offset, text.size());
    for (size_t cut = 1; cut < text.size(); ++cut) {
      const Utf8Prefix prefix = ClassifyUtf8(std::string_view(text).substr(0, cut));
      ASSERT_EQ(prefix.kind, Utf8Prefix::kIncomplete);
      ASSERT_EQ(prefix.length, cut);
    }
  }
}

TEST(Utf8Test, NamesTheFirstBadByte) {
  EXPECT_EQ(FindInvalidUtf8("plain text that is longer than a word"), std::string_view::npos);
  EXPECT_EQ(FindInvalidUtf8("0123456789abcdef\xFFz"), 16u);
  EXPECT_EQ(FindInvalidUtf8("ab\xC3"), 2u);
  EXPECT_EQ(FindInvalidUtf8("\u00e9\xA9"), 2u);
}

TEST(Utf8Test, RefusesOverlongFormsSurrogatesAndWhatLiesAboveUnicode) {
  for (const std::string_view bad :
       {"\xC0\x80", "\xC1\xBF", "\xE0\x80\x80", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xED\xBF\xBF",
        "\xF0\x80\x80\x80", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\x80", "\xFF"}) {
    EXPECT_EQ(FindInvalidUtf8(bad), 0u);
    EXPECT_EQ(ClassifyUtf8(bad).kind, Utf8Prefix::kInvalid);
  }
}

// Unicode's advice (and what Rust does): one U+FFFD for the longest beginning of a character.
TEST(Utf8Test, AnInvalidPrefixIsAsLongAsItCouldHaveBeenACharacter) {
  EXPECT_EQ(ClassifyUtf8("\xF0\x9F\x98z").length, 3u);
  EXPECT_EQ(ClassifyUtf8("\xE2\x82z").length, 2u);
  EXPECT_EQ(ClassifyUtf8("\xED\xA0\x80").length, 1u);
  EXPECT_EQ(ClassifyUtf8("\xC3(").length, 1u);
}

}  // namespace
}  // namespace reprise::models
