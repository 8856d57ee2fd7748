#include "base/blake3.h"

#include <gtest/gtest.h>

#include <fstream>
#include <set>
#include <string>

namespace reprise {
namespace {

Digest256 Key() {
  Digest256 key;
  for (size_t i = 0; i < key.size(); ++i) key[i] = static_cast<uint8_t>(3 * i + 1);
  return key;
}

std::string Input(size_t length) {
  std::string bytes(length, '\0');
  for (size_t i = 0; i < length; ++i) bytes[i] = static_cast<char>(i % 251);
  return bytes;
}

TEST(Blake3Test, GivesWhatTheReferenceGivesWithAnyVectors) {
  std::ifstream vectors("tests/golden/blake3/vectors.txt");
  size_t length = 0, count = 0;
  std::string plain, keyed;
  while (vectors >> length >> plain >> keyed) {
    SCOPED_TRACE(length);
    ++count;
    const std::string bytes = Input(length);
    EXPECT_EQ(HexDigest(Blake3(bytes)), plain);
    EXPECT_EQ(HexDigest(Blake3Keyed(Key(), bytes)), keyed);
    for (const int lanes : {1, 4, 8, 16}) {
      EXPECT_EQ(HexDigest(Blake3WithLanes(Key(), bytes, lanes)), keyed) << lanes << " lanes";
    }
  }
  EXPECT_EQ(count, 65u);
}

TEST(Blake3Test, ReadsFromAnyAddress) {
  const std::string bytes = Input(70'000);
  const Digest256 expected = Blake3(bytes);
  for (size_t shift = 1; shift < 64; shift += 7) {
    const std::string moved = std::string(shift, 'x') + bytes;
    EXPECT_EQ(Blake3(std::string_view(moved).substr(shift)), expected);
  }
}

TEST(Blake3Test, EachByteAndTheLengthCount) {
  std::string bytes = Input(20'000);
  std::set<Digest256> seen = {Blake3(bytes)};
  for (size_t i = 0; i < bytes.size(); i += 97) {
    bytes[i] ^= 1;
    EXPECT_TRUE(seen.insert(Blake3(bytes)).second) << i;
    bytes[i] ^= 1;
    EXPECT_TRUE(seen.insert(Blake3(std::string_view(bytes).substr(0, i))).second) << i;
  }
}

}  // namespace
}  // namespace reprise
