#include "scheduler/prefix_cache/tiered_spill.h"

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "scheduler/prefix_cache/spill_envelope.h"
#include "state_store/testing/memory_blobs.h"
#include "tests/scheduler/prefix_cache/prefix_cache_fixture.h"

namespace reprise::scheduler {
namespace {

using state_store::MemoryBlobs;

SpillPath Path(Tokens tokens, const std::string& tenant = "t", const std::string& root = "m") {
  return {tenant, root, std::move(tokens)};
}

StateImage ImageOf(const SpillPath& path, size_t bytes = 1000) {
  return MakeImage({path.tenant, path.root, ""}, path.tokens, bytes);
}

TEST(SpillEnvelope, NoWrongByteGetsThrough) {
  const Sha256Digest digest = Sha256("a path");
  const StateImage image = ImageOf(Path(Iota(5)), 200);
  const std::string sealed = SealImage(digest, image);
  EXPECT_EQ(**OpenImage(digest, sealed), *image);
  for (size_t i = 0; i < sealed.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string flipped = sealed;
      flipped[i] = static_cast<char>(flipped[i] ^ (1 << bit));
      EXPECT_TRUE(absl::IsDataLoss(OpenImage(digest, flipped).status())) << i;
    }
    EXPECT_TRUE(absl::IsDataLoss(OpenImage(digest, sealed.substr(0, i)).status())) << i;
  }
  EXPECT_TRUE(absl::IsDataLoss(OpenImage(digest, sealed + "x").status()));
  EXPECT_TRUE(absl::IsDataLoss(OpenImage(digest, sealed + sealed).status()));
  // Whole, but another's.
  EXPECT_TRUE(absl::IsDataLoss(OpenImage(Sha256("another path"), sealed).status()));
}

TEST(SpillAnchors, EveryLengthHasOneNearAndTheyAreFew) {
  EXPECT_EQ(AnchorLengths(20),
            (std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 20}));
  EXPECT_LE(AnchorLengths(1 << 20).size(), 150u);
  for (int64_t length : {1, 17, 100, 4095, 4096, 100000}) {
    const int64_t anchor = AnchorLengths(length).back();
    EXPECT_LE(anchor, length);
    EXPECT_GE(anchor * 9, length * 8) << length;
  }
  // Frozen: replicas of different versions share them.
  const auto digests = AnchorDigests(Path({1, 2, 3, -4}), {1, 2, 3, 4});
  EXPECT_EQ(HexDigest(SpillDigest("t", "m", {1, 2, 3, -4})),
            "e003425c76c426c657e0bf386dc7fb7e4ec5aea17bbad94a20b4b6d788c75577");
  EXPECT_EQ(HexDigest(digests.back()),
            "959cb1f86c0aeece94a85f204b94b0062b0bcf47532f6e9b6afb37b4e733bad3");
}

class TieredSpillTest : public ::testing::Test {
 protected:
  std::shared_ptr<TieredSpill> Open(TieredSpillOptions options = {}, bool with_store = true) {
    return *TieredSpill::Create(&clock_, options, with_store ? blobs_.Connect() : nullptr);
  }
  static absl::StatusOr<PrefixSpill::Found> Find(TieredSpill& spill, const SpillPath& path,
                                                 int64_t beyond = 0, int64_t known = 0) {
    absl::StatusOr<PrefixSpill::Found> answer = absl::UnknownError("");
    absl::Notification done;
    spill.Find(path, beyond, known, [&](absl::StatusOr<PrefixSpill::Found> found) {
      answer = std::move(found);
      done.Notify();
    });
    done.WaitForNotification();
    return answer;
  }
  static absl::StatusOr<StateImage> Get(TieredSpill& spill, const SpillPath& path) {
    absl::StatusOr<StateImage> answer = absl::UnknownError("");
    absl::Notification done;
    spill.Get(path, [&](absl::StatusOr<StateImage> image) {
      answer = std::move(image);
      done.Notify();
    });
    done.WaitForNotification();
    return answer;
  }
  static void Share(TieredSpill& spill, const SpillPath& path) {
    spill.Share(path, ImageOf(path));
    spill.Flush();
  }

  FakeClock clock_;
  MemoryBlobs blobs_;
};

TEST_F(TieredSpillTest, RefusesBadOptions) {
  const auto refused = [&](auto change) {
    TieredSpillOptions options;
    change(options);
    return absl::IsInvalidArgument(TieredSpill::Create(&clock_, options, nullptr).status());
  };
  using O = TieredSpillOptions;
  EXPECT_TRUE(refused([](O& o) { o.max_host_bytes = -1; }));
  EXPECT_TRUE(refused([](O& o) { o.max_tenant_host_bytes = -1; }));
  EXPECT_TRUE(refused([](O& o) { o.max_queued_bytes = -1; }));
  EXPECT_TRUE(refused([](O& o) { o.max_waiting = 0; }));
  EXPECT_TRUE(refused([](O& o) { o.timeout = absl::ZeroDuration(); }));
  EXPECT_TRUE(refused([](O& o) { o.pause = -absl::Seconds(1); }));
  EXPECT_FALSE(refused([](O&) {}));
}

TEST_F(TieredSpillTest, HostMemoryKeepsWhatIsUsedWithinItsBytes) {
  TieredSpillOptions options;
  options.max_host_bytes = 3000;
  const auto spill = Open(options, /*with_store=*/false);
  EXPECT_FALSE(spill->shares());
  for (int i = 0; i < 3; ++i) spill->Put(Path({i}), ImageOf(Path({i})));
  EXPECT_EQ(**Get(*spill, Path({0})), *ImageOf(Path({0})));
  spill->Put(Path({3}), ImageOf(Path({3})));
  EXPECT_TRUE(Get(*spill, Path({0})).ok());
  EXPECT_TRUE(absl::IsNotFound(Get(*spill, Path({1})).status()));
  EXPECT_TRUE(Get(*spill, Path({2})).ok());
  EXPECT_TRUE(absl::IsNotFound(Get(*spill, Path({0}, "u")).status()));
  spill->Put(Path({9}), ImageOf(Path({9}), 3001));  // never fits, and takes nobody's place
  spill->Put(Path({0}), ImageOf(Path({0})));        // again: counts once
  EXPECT_EQ(spill->stats().host_entries, 3);
  EXPECT_EQ(spill->stats().host_bytes, 3000);
  spill->Erase(Path({0}));
  EXPECT_TRUE(absl::IsNotFound(Get(*spill, Path({0})).status()));
  EXPECT_EQ(spill->stats().host_bytes, 2000);
}

TEST_F(TieredSpillTest, ATenantMakesRoomWithItsOwnBeforeItTakesFromOthers) {
  TieredSpillOptions options;
  options.max_host_bytes = 5000;
  options.max_tenant_host_bytes = 2000;
  const auto spill = Open(options, /*with_store=*/false);
  const auto put = [&](int token, const std::string& tenant, size_t bytes = 1000) {
    spill->Put(Path({token}, tenant), ImageOf(Path({token}, tenant), bytes));
  };
  const auto has = [&](int token, const std::string& tenant) {
    const absl::StatusOr<StateImage> image = Get(*spill, Path({token}, tenant));
    return image.ok() && **image == *ImageOf(Path({token}, tenant));
  };
  put(0, "u");
  put(1, "u");
  for (int i = 0; i < 3; ++i) put(i, "t");
  EXPECT_FALSE(has(0, "t"));
  EXPECT_TRUE(has(1, "t"));
  EXPECT_EQ(spill->stats().host_bytes, 4000) << "there was room, but not for this tenant";
  put(3, "t");  // 1 has been used since
  EXPECT_FALSE(has(2, "t"));
  EXPECT_TRUE(has(1, "t"));
  put(9, "t", 2001);  // never fits, and takes nobody's place
  EXPECT_EQ(spill->stats().host_evictions, 2);
  EXPECT_EQ(spill->stats().host_entries, 4);
  // Within their shares tenants compete for the total: whoever's was unused for longest goes.
  EXPECT_TRUE(has(0, "u"));
  put(0, "v");
  put(1, "v");
  EXPECT_FALSE(has(1, "u"));
  EXPECT_TRUE(has(0, "u"));
  EXPECT_EQ(spill->stats().host_bytes, 5000);
  // What is erased or replaced leaves the share.
  spill->Erase(Path({0}, "v"));
  put(1, "v");
  put(2, "v");
  EXPECT_TRUE(has(1, "v") && has(2, "v") && has(0, "u") && has(3, "t"));
  EXPECT_EQ(spill->stats().host_evictions, 3);
  options.max_tenant_host_bytes = 0;
  const auto nothing = Open(options, /*with_store=*/false);
  nothing->Put(Path({0}), ImageOf(Path({0})));
  EXPECT_EQ(nothing->stats().host_entries, 0);
}

// What operators see: where a state was.
TEST_F(TieredSpillTest, AUseMakesAStateYoungForAllTenants) {
  TieredSpillOptions options;
  options.max_host_bytes = 3000;
  const auto spill = Open(options, /*with_store=*/false);
  for (const char* tenant : {"t", "u", "v"}) {
    spill->Put(Path({1}, tenant), ImageOf(Path({1}, tenant)));
  }
  EXPECT_TRUE(Get(*spill, Path({1}, "t")).ok());
  spill->Put(Path({1}, "w"), ImageOf(Path({1}, "w")));
  EXPECT_TRUE(Get(*spill, Path({1}, "t")).ok());
  EXPECT_TRUE(absl::IsNotFound(Get(*spill, Path({1}, "u")).status()));
}

TEST_F(TieredSpillTest, BlobsHaveTheNameThatAllVersionsGiveThem) {
  const auto spill = Open();
  Share(*spill, Path({1, 2, 3}));
  EXPECT_TRUE(blobs_.Connect()->Get("t", SpillDigest("t", "m", {1, 2, 3})).ok());
}

// Whoever finds a note finds the state.
TEST_F(TieredSpillTest, ANoteIsLeftAfterTheState) {
  const auto spill = Open();
  Share(*spill, Path(Iota(30)));
  EXPECT_EQ(blobs_.log(), "PA");
  EXPECT_EQ(spill->stats().queued_bytes, 0);
}

TEST_F(TieredSpillTest, WhatWaitsWhenTheStoreFailsIsDropped) {
  const auto spill = Open();
  blobs_.Hold();
  for (int i = 0; i < 3; ++i) spill->Share(Path({i}), ImageOf(Path({i})));
  spill->Erase(Path({5}));  // but for this
  while (blobs_.calls() == 0) absl::SleepFor(absl::Milliseconds(1));
  blobs_.Fail(absl::UnavailableError("gone"));
  blobs_.Release();
  spill->Flush();
  EXPECT_EQ(blobs_.log(), "PE");
  EXPECT_EQ(spill->stats().share_drops, 3);
  EXPECT_EQ(spill->stats().queued_bytes, 0);
}

TEST_F(TieredSpillTest, AFullStoreIsNotAFailingOne) {
  const auto spill = Open();
  blobs_.Fail(absl::ResourceExhaustedError("larger than the cap"));
  Share(*spill, Path(Iota(30)));
  EXPECT_EQ(spill->stats().share_drops, 1);
  EXPECT_EQ(spill->stats().store_failures, 0);
  blobs_.Fail(absl::OkStatus());
  Share(*spill, Path(Iota(30)));
  EXPECT_EQ(spill->stats().shared, 1);
}

TEST_F(TieredSpillTest, HitsCountWhereTheStateWas) {
  const auto a = Open(), b = Open();
  Share(*a, Path(Iota(300)));
  EXPECT_EQ(Find(*b, Path(Iota(310)))->tokens, 300);
  EXPECT_TRUE(absl::IsNotFound(Find(*b, Path({9, 9})).status()));
  EXPECT_EQ(b->stats().store_hits, 1);
  EXPECT_GT(b->stats().store.bytes, 1000);
  EXPECT_EQ(b->stats().store.total_evictions, blobs_.Connect()->stats().total_evictions);
  EXPECT_EQ(b->stats().host_hits, 0);
  EXPECT_EQ(b->stats().store_misses, 1);
  a->Put(Path(Iota(305)), ImageOf(Path(Iota(305))));
  EXPECT_EQ(Find(*a, Path(Iota(310)), 0, 305)->tokens, 305);
  EXPECT_EQ(a->stats().store_hits, 0);
  EXPECT_EQ(a->stats().host_hits, 1);
  EXPECT_EQ(a->stats().store_misses, 0);
}

TEST_F(TieredSpillTest, AnotherReplicaFindsTheLongestWithoutKnowingItsLength) {
  const auto a = Open(), b = Open();
  for (int length : {50, 333, 400, 1000}) Share(*a, Path(Iota(length)));
  Share(*a, Path(Iota(700, 1)));             // parts at the first token
  Share(*a, Path(Iota(450), "u"));           // another tenant
  Share(*a, Path(Iota(450), "t", "other"));  // another model
  const SpillPath prompt = Path(Iota(999));
  const auto found = Find(*b, prompt);
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(found->tokens, 400);
  EXPECT_EQ(*found->image, *ImageOf(Path(Iota(400))));
  EXPECT_EQ(Find(*b, prompt, 399)->tokens, 400);
  EXPECT_TRUE(absl::IsNotFound(Find(*b, prompt, 400).status()));
  EXPECT_EQ(Find(*b, Path(Iota(60)))->tokens, 50);
  EXPECT_EQ(Find(*b, Path(Iota(1000)))->tokens, 1000);
  // A prompt that parts from it after 350 tokens.
  Tokens other = Iota(350);
  for (int32_t token : Iota(300, 5000)) other.push_back(token);
  EXPECT_EQ(Find(*b, Path(other))->tokens, 333);
  b->Erase(Path(Iota(400)));
  b->Flush();
  EXPECT_EQ(Find(*a, prompt)->tokens, 333);
}

// Every length is found from every longer prompt: the anchors of writer and reader agree.
TEST_F(TieredSpillTest, EveryLengthIsFound) {
  const auto a = Open(), b = Open();
  for (int length = 1; length < 300; length += 7) {
    Share(*a, Path(Iota(length)));
    for (int longer : {0, 1, 30, 300}) {
      const auto found = Find(*b, Path(Iota(length + longer)), length - 1);
      ASSERT_TRUE(found.ok()) << length << " " << longer << " " << found.status();
      EXPECT_EQ(found->tokens, length);
    }
  }
}

TEST_F(TieredSpillTest, DamagedBlobsAreErasedAndNeverUsed) {
  const auto a = Open(), b = Open();
  Share(*a, Path(Iota(30)));
  const std::string sound = blobs_.only_blob();
  for (size_t at = 0; at < sound.size(); at += 37) {
    Share(*a, Path(Iota(30)));
    blobs_.ChangeBlobs([&](std::string& blob) { blob[at] = static_cast<char>(blob[at] ^ 4); });
    EXPECT_TRUE(absl::IsDataLoss(Find(*b, Path(Iota(40))).status())) << at;
    b->Flush();
    EXPECT_EQ(blobs_.size(), 0u);
    Share(*a, Path(Iota(30)));
    blobs_.ChangeBlobs([&](std::string& blob) { blob.resize(at); });
    EXPECT_FALSE(Find(*b, Path(Iota(40))).ok()) << at;
    b->Flush();
  }
  // Sound, but under a name that is not its own.
  Share(*a, Path(Iota(30)));
  const std::string other = blobs_.only_blob();
  a->Erase(Path(Iota(30)));
  Share(*a, Path(Iota(31)));
  blobs_.ChangeBlobs([&](std::string& blob) { blob = other; });
  EXPECT_FALSE(Find(*b, Path(Iota(40))).ok());
  b->Flush();
  EXPECT_EQ(blobs_.size(), 0u);
  EXPECT_GT(b->stats().damaged, 0);
  EXPECT_EQ(b->stats().store_failures, 0);
}

TEST_F(TieredSpillTest, NotesThatLieLeadNowhere) {
  const auto a = Open(), b = Open();
  Share(*a, Path(Iota(300)));
  const std::string hex = HexDigest(SpillDigest("t", "m", Iota(300)));
  for (const std::string& lie :
       {std::string(), std::string(":"), std::string("300"), "300:" + hex + "0", "301:" + hex,
        "-300:" + hex, "99999999999999999999:" + hex, "0:" + hex, "299:" + std::string(64, 'z')}) {
    blobs_.ChangeNotes([&](std::string& note) { note = lie; });
    EXPECT_TRUE(absl::IsNotFound(Find(*b, Path(Iota(310))).status())) << lie;
    EXPECT_EQ(blobs_.log().back(), 'N') << "a state was asked for because of " << lie;
  }
  EXPECT_EQ(b->stats().store_failures, 0);
}

TEST_F(TieredSpillTest, AFailingStoreIsLeftAloneForAWhile) {
  std::vector<absl::StatusCode> heard;
  TieredSpillOptions options;
  options.on_store = [&](const absl::Status& status) { heard.push_back(status.code()); };
  const auto spill = Open(options);
  Share(*spill, Path(Iota(300)));
  blobs_.Fail(absl::UnavailableError("gone"));
  EXPECT_TRUE(absl::IsUnavailable(Find(*spill, Path(Iota(310))).status()));
  const int calls = blobs_.calls();
  // Answered at once, without the store; what is in host memory is still found.
  spill->Put(Path(Iota(20)), ImageOf(Path(Iota(20))));
  EXPECT_TRUE(absl::IsNotFound(Find(*spill, Path(Iota(310))).status()));
  EXPECT_EQ(Find(*spill, Path(Iota(310)), 0, 20)->tokens, 20);
  Share(*spill, Path(Iota(5)));
  EXPECT_EQ(blobs_.calls(), calls);
  EXPECT_EQ(spill->stats().share_drops, 1);
  clock_.Advance(absl::Seconds(2));
  blobs_.Fail(absl::OkStatus());
  EXPECT_EQ(Find(*spill, Path(Iota(310)))->tokens, 300);
  EXPECT_EQ(heard,
            (std::vector<absl::StatusCode>{absl::StatusCode::kUnavailable, absl::StatusCode::kOk}));
}

TEST_F(TieredSpillTest, AHangingStoreHoldsUpNobodyWhoDidNotAskInTime) {
  TieredSpillOptions options;
  options.max_waiting = 2;
  options.max_queued_bytes = 2500;
  const auto spill = Open(options);
  blobs_.Hold();
  std::map<int, absl::Status> answers;
  absl::Mutex mutex;
  const auto ask = [&](int i) {
    spill->Find(Path(Iota(310)), 0, 0, [&, i](absl::StatusOr<PrefixSpill::Found> found) {
      absl::MutexLock lock(&mutex);
      answers[i] = found.status();
    });
  };
  ask(0);
  while (blobs_.calls() == 0) absl::SleepFor(absl::Milliseconds(1));
  for (int i = 1; i <= 5; ++i) ask(i);
  {
    absl::MutexLock lock(&mutex);
    EXPECT_EQ(answers.size(), 3u);  // 3, 4 and 5: two may wait
    for (int i : {3, 4, 5}) EXPECT_TRUE(absl::IsNotFound(answers.at(i)));
  }
  // Neither do states pile up.
  for (int i = 0; i < 10; ++i) spill->Share(Path({i}), ImageOf(Path({i})));
  EXPECT_LE(spill->stats().queued_bytes, 2500);
  EXPECT_EQ(spill->stats().share_drops, 8);
  clock_.Advance(absl::Seconds(1));
  blobs_.Release();
  absl::MutexLock lock(&mutex);
  const auto all = [&] { return answers.size() == 6; };
  mutex.Await(absl::Condition(&all));
  // Those that waited too long for their turn are not asked for any more.
  EXPECT_TRUE(absl::IsUnavailable(answers.at(1)));
  EXPECT_TRUE(absl::IsUnavailable(answers.at(2)));
}

TEST_F(TieredSpillTest, GoesWhileTheStoreHangs) {
  absl::Status waiting;
  absl::Notification answered;
  std::thread release;
  {
    const auto spill = Open();
    blobs_.Hold();
    spill->Find(Path(Iota(30)), 0, 0, [](const absl::StatusOr<PrefixSpill::Found>&) {});
    while (blobs_.calls() == 0) absl::SleepFor(absl::Milliseconds(1));
    spill->Find(Path(Iota(31)), 0, 0, [&](const absl::StatusOr<PrefixSpill::Found>& found) {
      waiting = found.status();
      answered.Notify();
    });
    release = std::thread([&] {
      answered.WaitForNotification();
      blobs_.Release();
    });
  }
  release.join();
  EXPECT_TRUE(absl::IsCancelled(waiting)) << waiting;
}

class SharedPrefixCacheTest : public PrefixCacheFixture {
 protected:
  // A cache that shares, as one more replica.
  std::shared_ptr<PrefixCache> Replica(int images = 8) {
    PrefixCacheOptions options = RoomFor(images);
    spills_.push_back(*TieredSpill::Create(&clock_, {}, blobs_.Connect()));
    options.spill = spills_.back();
    options.spill_min_tokens = 40;
    return *PrefixCache::Create(&clock_, options);
  }
  void Flush() {
    for (const auto& spill : spills_) spill->Flush();
  }
  static bool Fetch(PrefixCache& cache, const Tokens& tokens, const PrefixScope& scope) {
    absl::Notification done;
    if (!cache.FetchLongest(scope, tokens, static_cast<int64_t>(tokens.size()) - 1, kImage,
                            [&] { done.Notify(); })) {
      return false;
    }
    done.WaitForNotification();
    return true;
  }

  const PrefixScope scope_{"t", "m", ""};
  MemoryBlobs blobs_;
  std::vector<std::shared_ptr<TieredSpill>> spills_;
};

TEST_F(SharedPrefixCacheTest, WhatOneKeepsAnotherFinds) {
  const auto a = Replica();
  cache_ = Replica();
  ASSERT_TRUE(a->Insert(scope_, Iota(100), MakeImage(scope_, Iota(100), kImage)));
  ASSERT_TRUE(a->Insert(scope_, Iota(30, 500), MakeImage(scope_, Iota(30, 500), kImage)));
  Flush();
  EXPECT_EQ(blobs_.size(), 1u);  // the other saves too little
  EXPECT_EQ(Lookup(Iota(120)).tokens, 0);
  EXPECT_TRUE(Fetch(*cache_, Iota(120), scope_));
  EXPECT_EQ(Lookup(Iota(120)).tokens, 100);
  EXPECT_EQ(cache_->TenantStats("t").spill_hits, 1);
  // Nothing that is worth asking for is left, and what came from there is not written again.
  EXPECT_FALSE(Fetch(*cache_, Iota(120), scope_));
  const int calls = blobs_.calls();
  Flush();
  EXPECT_EQ(blobs_.calls(), calls);
  // Another tenant or model asks, and finds nothing.
  EXPECT_TRUE(Fetch(*cache_, Iota(120), {"u", "m", ""}));
  EXPECT_TRUE(Fetch(*cache_, Iota(120), {"t", "n", ""}));
  EXPECT_EQ(Lookup(Iota(120), {"u", "m", ""}).tokens, 0);
  EXPECT_EQ(Lookup(Iota(120), {"t", "n", ""}).tokens, 0);
}

TEST_F(SharedPrefixCacheTest, EvictedStatesGoToHostMemoryToo) {
  cache_ = Replica(1);
  ASSERT_TRUE(Insert(Iota(50)));
  ASSERT_TRUE(Insert(Iota(50, 1000)));
  Flush();
  blobs_.Fail(absl::UnavailableError("gone"));
  EXPECT_TRUE(Fetch(*cache_, Iota(60), scope_));
  EXPECT_EQ(Lookup(Iota(60)).tokens, 50);
}

TEST_F(SharedPrefixCacheTest, ErasedStatesAreErasedThere) {
  cache_ = Replica();
  ASSERT_TRUE(Insert(Iota(50)));
  Flush();
  EXPECT_EQ(blobs_.size(), 1u);
  cache_->Erase(scope_, Iota(50));
  Flush();
  EXPECT_EQ(blobs_.size(), 0u);
}

TEST_F(SharedPrefixCacheTest, AStateOfAnotherSizeIsRefused) {
  const auto a = Replica();
  cache_ = Replica();
  ASSERT_TRUE(a->Insert(scope_, Iota(100), MakeImage(scope_, Iota(100), kImage / 2)));
  Flush();
  EXPECT_TRUE(Fetch(*cache_, Iota(120), scope_));
  EXPECT_EQ(Lookup(Iota(120)).tokens, 0);
  Flush();
  EXPECT_EQ(blobs_.size(), 0u);
}

}  // namespace
}  // namespace reprise::scheduler
