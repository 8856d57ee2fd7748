// The manifest's encoding, chunk addresses, and the numbers that may never change.
#include "state_store/snapshot.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "state_store/chunking.h"
#include "state_store/session.h"
#include "state_store/store_error.h"
#include "state_store/testing/builders.h"

namespace reprise::state_store {
namespace {

SnapshotManifest Example() {
  SnapshotManifest m = MakeTestSnapshot(3, 700).manifest;
  m.snapshot_id = "snap-1";
  m.parent_snapshot_id = "snap-0";
  m.tenant = "tenant";
  m.created_at = absl::FromUnixMicros(1'700'000'000'123'456);
  // Fixed bytes, not random ones: this manifest is also the golden one.
  m.legs = {{"pending_tokens", std::string("\x01\x00\x02", 3)}, {"sampler", "seed=7"}};
  for (SnapshotPart& part : m.parts) {
    for (uint64_t left = part.byte_length; left > 0;) {
      ChunkRef ref;
      ref.digest = Sha256(part.name + std::to_string(left));
      ref.raw_length = static_cast<uint32_t>(std::min<uint64_t>(left, 512));
      ref.codec = left == 700 ? ChunkCodec::kZstd : ChunkCodec::kRaw;
      ref.stored_length = left == 700 ? 100 : ref.raw_length;
      ref.checksum = left * 0x0123456789abcdef;
      part.chunks.push_back(ref);
      left -= ref.raw_length;
    }
  }
  return m;
}

std::string Encoded(const SnapshotManifest& m) {
  auto bytes = EncodeManifest(m);
  EXPECT_TRUE(bytes.ok()) << bytes.status();
  return bytes.ok() ? *bytes : "";
}

void PutU32(std::string& bytes, size_t at, uint32_t v) {
  for (int i = 0; i < 4; ++i) bytes[at + i] = static_cast<char>(v >> (8 * i));
}

// Makes length and checksum right again, as an attacker would.
std::string Resealed(std::string bytes) {
  PutU32(bytes, 12, static_cast<uint32_t>(bytes.size()));
  const uint64_t sum = Checksum64(std::string_view(bytes).substr(0, bytes.size() - 8));
  PutU32(bytes, bytes.size() - 8, static_cast<uint32_t>(sum));
  PutU32(bytes, bytes.size() - 4, static_cast<uint32_t>(sum >> 32));
  return bytes;
}

TEST(Manifest, ComesBackEqual) {
  const SnapshotManifest m = Example();
  const auto back = DecodeManifest(Encoded(m));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(*back, m);
  EXPECT_EQ(back->LogicalBytes(), 796u);
}

TEST(Manifest, BytesOfVersionOneNeverChange) {
  const std::string bytes = Encoded(Example());
  EXPECT_EQ(bytes.substr(0, 12), std::string("RPMANIF1\x01\x00\x00\x00", 12));
  EXPECT_EQ(bytes.size(), 671u);
  EXPECT_EQ(HexDigest(Sha256(bytes)),
            "3cb595a9d2dd65522ec3d046e356fe7d02484edec2a18be102adbdb9fcd0a1eb");
}

TEST(Manifest, EachFlippedBitIsNoticed) {
  const std::string bytes = Encoded(Example());
  for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    std::string bad = bytes;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << (bit % 8)));
    const absl::Status status = DecodeManifest(bad).status();
    const StoreError error = GetStoreError(status);
    EXPECT_EQ(error, bit / 8 >= 8 && bit / 8 < 12 ? StoreError::kUnsupportedVersion
                                                  : StoreError::kCorruptManifest)
        << bit << ": " << status;
  }
}

TEST(Manifest, EachTruncationIsNoticed) {
  const std::string bytes = Encoded(Example());
  for (size_t n = 0; n < bytes.size(); ++n) {
    const absl::Status cut = DecodeManifest(bytes.substr(0, n)).status();
    EXPECT_EQ(GetStoreError(cut), StoreError::kCorruptManifest) << n << ": " << cut;
    if (n < 24) continue;
    const absl::Status sealed = DecodeManifest(Resealed(bytes.substr(0, n))).status();
    EXPECT_EQ(GetStoreError(sealed), StoreError::kCorruptManifest) << n << ": " << sealed;
  }
}

// Every four bytes in turn become a huge count or length, under a right checksum.
TEST(Manifest, HugeCountsAreRefusedWithoutAllocating) {
  const std::string bytes = Encoded(Example());
  int refused = 0;
  for (size_t at = 16; at + 12 <= bytes.size(); ++at) {
    for (const uint32_t v : {0xFFFFFFFFu, 0x7FFFFFFFu, 0x00FFFFFFu}) {
      std::string bad = bytes;
      PutU32(bad, at, v);
      const auto decoded = DecodeManifest(Resealed(bad));
      if (decoded.ok()) {
        // The four bytes were free ones (a digest, a position): then the value survives.
        EXPECT_EQ(Encoded(*decoded), Resealed(bad));
      } else {
        EXPECT_EQ(GetStoreError(decoded.status()), StoreError::kCorruptManifest);
        ++refused;
      }
    }
  }
  EXPECT_GT(refused, 500);
}

TEST(Manifest, RandomDamageUnderARightChecksumIsRefusedOrReadAsWritten) {
  const std::string bytes = Encoded(Example());
  std::mt19937_64 random(1);
  for (int i = 0; i < 20000; ++i) {
    std::string bad = bytes;
    for (int k = 0; k < 3; ++k)
      bad[16 + random() % (bad.size() - 16)] = static_cast<char>(random());
    bad = Resealed(bad);
    const auto decoded = DecodeManifest(bad);
    if (decoded.ok()) {
      EXPECT_EQ(Encoded(*decoded), bad);
    }
  }
}

TEST(Manifest, ErrorsNameFieldAndOffset) {
  const std::string bytes = Encoded(Example());
  std::string bad = bytes;
  PutU32(bad, 16, 1000);  // length of the first string, snapshot_id
  const absl::Status status = DecodeManifest(Resealed(bad)).status();
  EXPECT_NE(status.message().find("snapshot_id"), absl::string_view::npos) << status;
  EXPECT_NE(status.message().find("offset 20"), absl::string_view::npos) << status;
}

TEST(Manifest, BoundsAreCheckedOnWriting) {
  const auto error = [](auto change) {
    SnapshotManifest m = Example();
    change(m);
    return GetStoreError(EncodeManifest(m).status());
  };
  using M = SnapshotManifest;
  EXPECT_EQ(error([](M&) {}), StoreError::kNone);
  EXPECT_EQ(error([](M& m) { m.tenant = ""; }), StoreError::kInvalidArgument);
  EXPECT_EQ(error([](M& m) { m.model_id = std::string(257, 'x'); }), StoreError::kInvalidArgument);
  EXPECT_EQ(error([](M& m) { m.model_id = "\xc0\x80"; }), StoreError::kInvalidArgument);
  EXPECT_EQ(error([](M& m) { m.model_id = "\xed\xa0\x80"; }), StoreError::kInvalidArgument);
  EXPECT_EQ(error([](M& m) { m.model_id = "caf\xc3\xa9 \xf0\x9f\x98\x80"; }), StoreError::kNone);
  EXPECT_EQ(error([](M& m) { m.parts[1].chunks.pop_back(); }), StoreError::kInvalidArgument);
  EXPECT_EQ(error([](M& m) { m.parts[0].shape.resize(9); }), StoreError::kInvalidArgument);
  EXPECT_EQ(error([](M& m) { m.parts[0].chunks[0].stored_length--; }),
            StoreError::kInvalidArgument);
  EXPECT_EQ(error([](M& m) { m.position = m.token_count + 1; }), StoreError::kInvalidArgument);
  EXPECT_EQ(error([](M& m) {
              for (int i = 0; i < 65; ++i) m.labels[std::to_string(i)] = "";
            }),
            StoreError::kInvalidArgument);
}

TEST(Chunks, AddressesBelongToATenant) {
  EXPECT_EQ(HexDigest(ChunkDigest("t", "bytes")),
            "22d35003728da29693bdfa8f5a591c4e50f9cab7dc5aea43eff640c9b5d92e78");
  EXPECT_NE(ChunkDigest("t", "bytes"), ChunkDigest("u", "bytes"));
  // The length in front keeps ("ab", "c") and ("a", "bc") apart.
  EXPECT_NE(ChunkDigest("ab", "c"), ChunkDigest("a", "bc"));
}

TEST(Chunks, CutAtFixedOffsets) {
  EXPECT_TRUE(CutIntoChunks("", 4).empty());
  const std::vector<std::string_view> expected = {"abcd", "efgh", "i"};
  EXPECT_EQ(CutIntoChunks("abcdefghi", 4), expected);
}

TEST(Chunks, CodecIsOnlyKeptWhereItSaves) {
  const std::string same(1000, 'x'), noise = PatternBytes(1, 1000);
  EXPECT_EQ(EncodeChunk(same, ChunkCodec::kZstd, 1)->codec, ChunkCodec::kZstd);
  EXPECT_EQ(EncodeChunk(noise, ChunkCodec::kZstd, 1)->codec, ChunkCodec::kRaw);
}

TEST(Chunks, DamageIsNoticed) {
  const std::string raw(1000, 'x');
  for (const ChunkCodec codec : {ChunkCodec::kRaw, ChunkCodec::kZstd}) {
    const auto encoded = EncodeChunk(raw, codec, 1);
    const std::string stored = codec == ChunkCodec::kRaw ? raw : encoded->stored;
    ChunkRef ref;
    ref.raw_length = 1000;
    ref.stored_length = static_cast<uint32_t>(stored.size());
    ref.codec = codec;
    ref.checksum = Checksum64(raw);
    ASSERT_EQ(*DecodeChunk(stored, ref), raw);
    int harmless = 0;
    for (size_t bit = 0; bit < stored.size() * 8; ++bit) {
      std::string bad = stored;
      bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << (bit % 8)));
      const auto decoded = DecodeChunk(bad, ref);
      if (decoded.ok()) {
        EXPECT_EQ(*decoded, raw);  // a bit of the frame that changes nothing
        ++harmless;
      } else {
        EXPECT_EQ(GetStoreError(decoded.status()), StoreError::kCorruptChunk);
      }
    }
    EXPECT_LT(harmless, 8);
    EXPECT_FALSE(DecodeChunk(stored.substr(1), ref).ok());
    ref.raw_length = 999;
    EXPECT_FALSE(DecodeChunk(stored, ref).ok());
  }
}

TEST(TokenHash, IsAChainOverTokens) {
  const Sha256Digest one = ExtendTokenHash({}, 1);
  EXPECT_NE(one, ExtendTokenHash({}, 2));
  EXPECT_NE(ExtendTokenHash(one, 2), ExtendTokenHash(ExtendTokenHash({}, 2), 1));
  std::string bytes(32, '\0');
  bytes += std::string("\x01\0\0\0", 4);
  EXPECT_EQ(one, Sha256(bytes));
}

TEST(StoreErrors, SurviveThePayload) {
  for (int i = 1; i <= static_cast<int>(StoreError::kCommitsLost); ++i) {
    const auto error = static_cast<StoreError>(i);
    const absl::Status status = MakeStoreError(error, "why");
    EXPECT_FALSE(status.ok());
    EXPECT_EQ(GetStoreError(status), error) << StoreErrorName(error);
  }
  EXPECT_EQ(GetStoreError(absl::OkStatus()), StoreError::kNone);
  EXPECT_EQ(GetStoreError(absl::InternalError("x")), StoreError::kNone);
}

}  // namespace
}  // namespace reprise::state_store
