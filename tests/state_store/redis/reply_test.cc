#include "state_store/redis/reply.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

namespace reprise::state_store::redis {
namespace {

constexpr size_t kLimit = 1 << 20;

TEST(AppendCommand, WritesRespWithAnyBytes) {
  std::string out = "before";
  AppendCommand({"SET", "k", std::string_view("a\r\n\0b", 5), ""}, out);
  EXPECT_EQ(out,
            std::string("before*4\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\na\r\n\0b\r\n$0\r\n\r\n", 43));
}

TEST(ReplyReader, ReadsEveryTypeHoweverItIsCut) {
  const std::string bytes =
      "+OK\r\n-ERR no\r\n:-42\r\n$5\r\na\r\nbc\r\n$-1\r\n*-1\r\n*0\r\n"
      "*3\r\n:1\r\n*2\r\n$1\r\nx\r\n$-1\r\n-E y\r\n";
  for (size_t piece = 1; piece <= bytes.size(); ++piece) {
    ReplyReader reader(kLimit);
    std::vector<Reply> replies;
    for (size_t at = 0; at < bytes.size(); at += piece) {
      ASSERT_TRUE(reader.Feed(std::string_view(bytes).substr(at, piece)).ok());
      for (;;) {
        auto reply = reader.Next();
        ASSERT_TRUE(reply.ok()) << reply.status();
        if (!reply->has_value()) break;
        replies.push_back(**std::move(reply));
      }
    }
    EXPECT_FALSE(reader.HasLeftovers());
    ASSERT_EQ(replies.size(), 8u);
    EXPECT_EQ(replies[0].type, Reply::Type::kStatus);
    EXPECT_EQ(replies[0].text, "OK");
    EXPECT_TRUE(replies[1].is_error());
    EXPECT_EQ(replies[1].text, "ERR no");
    EXPECT_EQ(replies[2].Integer("x").value(), -42);
    EXPECT_EQ(replies[3].String("x").value(), "a\r\nbc");
    EXPECT_TRUE(replies[4].is_nil());
    EXPECT_TRUE(replies[5].is_nil());
    EXPECT_EQ(replies[6].Array("x").value()->size(), 0u);
    const Reply& nested = replies[7];
    ASSERT_EQ(nested.elements.size(), 3u);
    EXPECT_EQ(nested.elements[0].integer, 1);
    EXPECT_EQ(nested.elements[1].elements[0].text, "x");
    EXPECT_TRUE(nested.elements[1].elements[1].is_nil());
    EXPECT_TRUE(nested.elements[2].is_error());
  }
}

// Takes all replies out of `reader`.
void Drain(ReplyReader& reader, std::vector<Reply>& replies) {
  for (;;) {
    auto reply = reader.Next();
    ASSERT_TRUE(reply.ok()) << reply.status();
    if (!reply->has_value()) return;
    replies.push_back(**std::move(reply));
  }
}

TEST(ReplyReader, ReadsLongStringsInPlaceHoweverTheyAreCut) {
  std::mt19937 random(3);
  std::string a(70'000, 'a'), b(16 << 10, 'b'), c(300'000, 'c');
  for (std::string* text : {&a, &b, &c}) {
    for (char& x : *text) x = static_cast<char>(random());
  }
  const auto bulk = [](const std::string& text) {
    return "$" + std::to_string(text.size()) + "\r\n" + text + "\r\n";
  };
  const std::string bytes = ":1\r\n" + bulk(a) + bulk("x") + bulk(b) + bulk(c) + "*2\r\n" +
                            bulk(a) + ":7\r\n" + bulk(c) + "+OK\r\n";
  bool was_in_place = false;
  for (int round = 0; round < 300; ++round) {
    ReplyReader reader(kLimit);
    std::vector<Reply> replies;
    std::string_view rest = bytes;
    while (!rest.empty()) {
      const absl::Span<char> in_place = reader.InPlace();
      was_in_place = was_in_place || !in_place.empty();
      size_t n = std::min<size_t>(rest.size(), 1 + random() % (round % 2 == 0 ? 100'000 : 9'000));
      if (!in_place.empty() && random() % 4 != 0) {
        n = std::min(n, in_place.size());
        rest.copy(in_place.data(), n);
        reader.FilledInPlace(n);
      } else {
        ASSERT_TRUE(reader.Feed(rest.substr(0, n)).ok());
      }
      rest.remove_prefix(n);
      EXPECT_TRUE(!rest.empty() || reader.HasLeftovers());
      Drain(reader, replies);
    }
    EXPECT_FALSE(reader.HasLeftovers());
    ASSERT_EQ(replies.size(), 8u);
    EXPECT_EQ(replies[0].integer, 1);
    EXPECT_TRUE(replies[1].text == a && replies[2].text == "x" && replies[3].text == b);
    EXPECT_TRUE(replies[4].text == c && replies[5].elements[0].text == a && replies[6].text == c);
    EXPECT_EQ(replies[5].elements[1].integer, 7);
  }
  EXPECT_TRUE(was_in_place);
}

TEST(ReplyReader, ALongStringMustEnd) {
  ReplyReader reader(kLimit);
  ASSERT_TRUE(reader.Feed("$20000\r\n" + std::string(100, 'x')).ok());
  ASSERT_TRUE(reader.Next().ok());
  EXPECT_EQ(reader.InPlace().size(), 19'900u);
  EXPECT_FALSE(reader.Feed(std::string(19'900, 'x') + "yz").ok());
}

TEST(ReplyReader, RefusesWhatIsNotRespOrTooLong) {
  for (const std::string bytes : {"HTTP/1.1 200 OK\r\n", "*2000000\r\n", "$-2\r\n", "*1\r\n?\r\n",
                                  "*99999999999\r\n", ":12x\r\n"}) {
    ReplyReader reader(kLimit);
    ASSERT_TRUE(reader.Feed(bytes).ok());
    const auto reply = reader.Next();
    ASSERT_FALSE(reply.ok()) << bytes;
    EXPECT_EQ(reply.status().code(), absl::StatusCode::kInternal);
  }
  ReplyReader reader(100);
  ASSERT_TRUE(reader.Feed("$1000\r\n" + std::string(200, 'x')).ok());
  EXPECT_FALSE(reader.Next().ok());
}

TEST(ReplyReader, SurvivesRandomBytes) {
  std::mt19937 random(7);
  const std::string alphabet = "+-:$*0123456789\r\nax";
  for (int round = 0; round < 20000; ++round) {
    std::string bytes;
    const size_t size = random() % 40;
    for (size_t i = 0; i < size; ++i) bytes += alphabet[random() % alphabet.size()];
    ReplyReader reader(kLimit);
    ASSERT_TRUE(reader.Feed(bytes).ok());
    for (int i = 0; i < 50; ++i) {
      const auto reply = reader.Next();
      if (!reply.ok() || !reply->has_value()) break;
    }
  }
}

TEST(Reply, AccessorsNameWhatWasWanted) {
  Reply reply;
  EXPECT_FALSE(reply.Integer("version").ok());
  EXPECT_FALSE(reply.String("version").ok());
  const auto array = reply.Array("version", 1);
  ASSERT_FALSE(array.ok());
  EXPECT_NE(std::string(array.status().message()).find("version"), std::string::npos);
}

}  // namespace
}  // namespace reprise::state_store::redis
