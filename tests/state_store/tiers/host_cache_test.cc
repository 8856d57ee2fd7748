#include "state_store/tiers/host_cache.h"

#include <gtest/gtest.h>

#include <string>

#include "state_store/chunking.h"
#include "state_store/testing/builders.h"

namespace reprise::state_store {
namespace {

SharedSnapshot Make(const std::string& id, uint64_t seed, size_t window_bytes = 2000) {
  auto snapshot = std::make_shared<Snapshot>(MakeTestSnapshot(seed, window_bytes));
  snapshot->manifest.snapshot_id = id;
  return SharedSnapshot(std::move(snapshot));
}

uint64_t SizeOf(const SharedSnapshot& snapshot) {
  HostCache probe(1 << 30);
  probe.Put("t", snapshot, absl::Milliseconds(1));
  return probe.stats().bytes;
}

TEST(HostCache, WhatIsPutIsFoundUnderTenantAndIdAndIsTheSameBuffer) {
  HostCache cache(1 << 20);
  const SharedSnapshot put = Make("a", 1);
  cache.Put("t", put, absl::Milliseconds(1));
  const auto found = cache.Find("t", "a");
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->payloads.get(), put.payloads.get()) << "a copy";
  EXPECT_FALSE(cache.Find("u", "a").has_value()) << "another tenant's";
  EXPECT_FALSE(cache.Find("t", "b").has_value());
  EXPECT_TRUE(cache.Has("t", "a"));
  EXPECT_FALSE(cache.Has("u", "a"));
  EXPECT_EQ(cache.stats().hits, 1u);
  EXPECT_EQ(cache.stats().misses, 2u);
  cache.Erase("t", "a");
  EXPECT_FALSE(cache.Find("t", "a").has_value());
  EXPECT_EQ(cache.stats().bytes, 0u);
  EXPECT_EQ(cache.stats().snapshots, 0u);
}

TEST(HostCache, BytesAreBoundedWhateverComes) {
  const uint64_t one = SizeOf(Make("a", 1));
  HostCache cache(3 * one);
  for (int i = 0; i < 50; ++i) {
    cache.Put("t", Make("s" + std::to_string(i), i), absl::Milliseconds(1));
    EXPECT_LE(cache.stats().bytes, 3 * one);
  }
  EXPECT_EQ(cache.stats().snapshots, 3u);
  EXPECT_EQ(cache.stats().evictions, 47u);
  // One that can never fit pushes nobody out.
  cache.Put("t", Make("big", 1, 4 * one), absl::Hours(1));
  EXPECT_EQ(cache.stats().snapshots, 3u);
  HostCache none(0);
  none.Put("t", Make("a", 1), absl::Milliseconds(1));
  EXPECT_FALSE(none.Find("t", "a").has_value());
}

TEST(HostCache, WhoHoldsAnEvictedSnapshotKeepsIt) {
  const uint64_t one = SizeOf(Make("a", 1));
  HostCache cache(one + 100);
  cache.Put("t", Make("a", 1), absl::Milliseconds(1));
  const auto held = cache.Find("t", "a");
  cache.Put("t", Make("b", 2), absl::Milliseconds(1));
  EXPECT_FALSE(cache.Has("t", "a"));
  EXPECT_TRUE(SameState(MakeTestSnapshot(1), Snapshot{*held->manifest, *held->payloads}));
}

TEST(HostCache, AmongEqualsTheOneUsedLongestAgoGoes) {
  const uint64_t one = SizeOf(Make("a", 1));
  HostCache cache(3 * one);
  for (const char* id : {"a", "b", "c"}) cache.Put("t", Make(id, 1), absl::Milliseconds(1));
  // The clock has to move before recency can show: evict once.
  cache.Put("t", Make("d", 1), absl::Milliseconds(1));
  const bool a = cache.Has("t", "a"), b = cache.Has("t", "b"), c = cache.Has("t", "c");
  EXPECT_EQ(a + b + c, 2);
  const std::string used = a ? "a" : "b", unused = c ? "c" : "b";
  ASSERT_TRUE(cache.Find("t", used).has_value());
  cache.Put("t", Make("e", 1), absl::Milliseconds(1));
  EXPECT_TRUE(cache.Has("t", used));
  EXPECT_FALSE(cache.Has("t", unused));
}

TEST(HostCache, WhatIsDearToLoadStaysLongerAndWhatIsLargeGoesFirst) {
  const uint64_t one = SizeOf(Make("a", 1));
  HostCache cache(3 * one);
  cache.Put("t", Make("dear", 1), absl::Milliseconds(100));
  cache.Put("t", Make("cheap", 1), absl::Milliseconds(1));
  cache.Put("t", Make("middle", 1), absl::Milliseconds(10));
  cache.Put("t", Make("new", 1), absl::Milliseconds(10));
  EXPECT_FALSE(cache.Has("t", "cheap"));
  EXPECT_TRUE(cache.Has("t", "dear"));

  HostCache sizes(SizeOf(Make("large", 1, 20000)) + 2 * one);
  sizes.Put("t", Make("large", 1, 20000), absl::Milliseconds(10));
  sizes.Put("t", Make("small", 1), absl::Milliseconds(10));
  sizes.Put("t", Make("small2", 1), absl::Milliseconds(10));
  sizes.Put("t", Make("small3", 1), absl::Milliseconds(10));
  EXPECT_FALSE(sizes.Has("t", "large"));
  EXPECT_TRUE(sizes.Has("t", "small"));
}

TEST(HostCache, NothingStaysForEverBecauseItWasDear) {
  const uint64_t one = SizeOf(Make("a", 1));
  HostCache cache(2 * one);
  cache.Put("t", Make("dear", 1), absl::Milliseconds(20));
  for (int i = 0; i < 100 && cache.Has("t", "dear"); ++i) {
    cache.Put("t", Make("s" + std::to_string(i), 1), absl::Milliseconds(1));
  }
  EXPECT_FALSE(cache.Has("t", "dear"));
}

// Cut as a store does it.
void AddChunks(const std::string& tenant, SharedSnapshot& snapshot) {
  auto manifest = std::make_shared<SnapshotManifest>(*snapshot.manifest);
  for (size_t p = 0; p < manifest->parts.size(); ++p) {
    for (const std::string_view raw : CutIntoChunks((*snapshot.payloads)[p], 512)) {
      ChunkRef ref;
      ref.digest = ChunkDigest(tenant, raw);
      ref.raw_length = static_cast<uint32_t>(raw.size());
      manifest->parts[p].chunks.push_back(ref);
    }
  }
  snapshot.manifest = std::move(manifest);
}

TEST(HostCache, ChunksAreFoundInsideSnapshotsUntilTheyGo) {
  HostCache cache(1 << 20);
  SharedSnapshot snapshot = Make("a", 1);
  AddChunks("t", snapshot);
  cache.Put("t", snapshot, absl::Milliseconds(1));
  const ChunkRef& second = snapshot.manifest->parts[1].chunks[1];
  const SharedBytes found = cache.FindChunk("t", second);
  ASSERT_NE(found.owner, nullptr);
  EXPECT_EQ(found.bytes, (*snapshot.payloads)[1].substr(512, 512));
  EXPECT_EQ(found.bytes.data(), (*snapshot.payloads)[1].data() + 512) << "a copy";
  EXPECT_EQ(cache.FindChunk("u", second).owner, nullptr) << "another tenant's";
  ChunkRef longer = second;
  ++longer.raw_length;
  EXPECT_EQ(cache.FindChunk("t", longer).owner, nullptr);
  EXPECT_EQ(cache.stats().chunk_hits, 1u);
  cache.Erase("t", "a");
  EXPECT_EQ(cache.FindChunk("t", second).owner, nullptr);
  EXPECT_EQ(found.bytes, (*snapshot.payloads)[1].substr(512, 512)) << "kept by who holds it";
}

}  // namespace
}  // namespace reprise::state_store
