#include "service/token_stream.h"

#include <gtest/gtest.h>

#include "tests/service/testing/byte_tokenizer.h"

namespace reprise::service {
namespace {

using testing::ByteTokenizer;

kernels::SampledToken Token(char byte) {
  kernels::SampledToken token;
  token.id = ByteTokenizer::Id(byte);
  return token;
}

TEST(TokenStreamTest, ACharacterComesOutWhole) {
  ByteTokenizer tokenizer;
  TokenStream stream(&tokenizer, {});
  v1::Tokens event;
  EXPECT_FALSE(stream.Append(Token('\xC3'), &event));
  EXPECT_EQ(event.text(), "");
  EXPECT_FALSE(stream.Append(Token('\xA9'), &event));
  EXPECT_EQ(event.text(), "\xC3\xA9");
  EXPECT_EQ(event.ids_size(), 2);
}

TEST(TokenStreamTest, StopStringsMatchAcrossTokensAndCharacters) {
  ByteTokenizer tokenizer;
  TokenStream stream(&tokenizer, {.stop_strings = {"\xC3\xA9!"}});
  v1::Tokens event;
  EXPECT_FALSE(stream.Append(Token('a'), &event));
  EXPECT_FALSE(stream.Append(Token('\xC3'), &event));
  EXPECT_FALSE(stream.Append(Token('\xA9'), &event));
  EXPECT_TRUE(stream.Append(Token('!'), &event));
  EXPECT_EQ(event.text(), "a");
  EXPECT_EQ(stream.stop_string(), "\xC3\xA9!");
  EXPECT_EQ(stream.Finish(), "");
}

TEST(TokenStreamTest, WhatIsLeftComesAtTheEnd) {
  ByteTokenizer tokenizer;
  TokenStream stream(&tokenizer, {.stop_strings = {"ab"}});
  v1::Tokens event;
  stream.Append(Token('a'), &event);
  EXPECT_EQ(event.text(), "");
  EXPECT_EQ(stream.Finish(), "a");
}

TEST(TokenStreamTest, AnIncompleteCharacterIsReplacedAndMayBeResumed) {
  ByteTokenizer tokenizer;
  TokenStream first(&tokenizer, {});
  v1::Tokens event;
  first.Append(Token('\xC3'), &event);
  EXPECT_EQ(first.Finish(), "\xEF\xBF\xBD");

  TokenStream second(&tokenizer, {});
  ASSERT_TRUE(second.Resume(first.state()).ok());
  v1::Tokens next;
  second.Append(Token('\xA9'), &next);
  EXPECT_EQ(next.text(), "\xC3\xA9");
}

TEST(TokenStreamTest, StopTokensAddNoText) {
  ByteTokenizer tokenizer;
  TokenStream stream(&tokenizer, {.silent_tokens = {ByteTokenizer::Id('x')}});
  v1::Tokens event;
  EXPECT_FALSE(stream.Append(Token('x'), &event));
  EXPECT_EQ(event.text(), "");
  EXPECT_EQ(event.ids_size(), 1);
}

TEST(TokenStreamTest, TextCanBeLeftOutAndStopStringsStillWork) {
  ByteTokenizer tokenizer;
  TokenStream stream(&tokenizer, {.stop_strings = {"b"}, .omit_text = true});
  v1::Tokens event;
  EXPECT_FALSE(stream.Append(Token('a'), &event));
  EXPECT_TRUE(stream.Append(Token('b'), &event));
  EXPECT_EQ(event.text(), "");
}

TEST(TokenStreamTest, ATokenBehindTheTokenizersVocabularyHasNoText) {
  ByteTokenizer tokenizer;
  TokenStream stream(&tokenizer, {.logprobs = true});
  kernels::SampledToken token;
  token.id = ByteTokenizer::kVocabulary + 3;
  v1::Tokens event;
  EXPECT_FALSE(stream.Append(token, &event));
  EXPECT_EQ(event.text(), "");
  EXPECT_EQ(event.logprobs(0).token(), "");
}

TEST(TokenStreamTest, WithoutATokenizerThereAreOnlyIds) {
  TokenStream stream(nullptr, {.logprobs = true});
  v1::Tokens event;
  EXPECT_FALSE(stream.Append(Token('a'), &event));
  EXPECT_EQ(event.ids(0), ByteTokenizer::Id('a'));
  EXPECT_EQ(event.text(), "");
  EXPECT_EQ(stream.Finish(), "");
}

}  // namespace
}  // namespace reprise::service
