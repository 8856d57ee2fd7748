// A prefix cache with images that say what they are of.
#ifndef REPRISE_TESTS_SCHEDULER_PREFIX_CACHE_PREFIX_CACHE_FIXTURE_H_
#define REPRISE_TESTS_SCHEDULER_PREFIX_CACHE_PREFIX_CACHE_FIXTURE_H_

#include <gtest/gtest.h>

#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "scheduler/prefix_cache/prefix_cache.h"
#include "scheduler/prefix_cache/testing/memory_spill.h"

namespace reprise::scheduler {

using Tokens = std::vector<int32_t>;

// `bytes` long, and different for every scope and path.
inline StateImage MakeImage(const PrefixScope& scope, absl::Span<const int32_t> tokens,
                            size_t bytes) {
  std::string text = scope.tenant + "|" + scope.model + "|" + scope.context + "|";
  for (int32_t token : tokens) text += std::to_string(token) + ",";
  const Sha256Digest digest = Sha256(text);
  Bytes image(bytes);
  for (size_t i = 0; i < bytes; ++i) image[i] = digest[i % digest.size()];
  return std::make_shared<const Bytes>(std::move(image));
}

inline Tokens Iota(int count, int first = 0) {
  Tokens tokens(count);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

class PrefixCacheFixture : public ::testing::Test {
 protected:
  static constexpr int64_t kImage = 1 << 16;

  void Start(const PrefixCacheOptions& options) {
    absl::StatusOr<std::shared_ptr<PrefixCache>> cache = PrefixCache::Create(&clock_, options);
    ASSERT_TRUE(cache.ok()) << cache.status();
    cache_ = *std::move(cache);
  }
  void SetUp() override { Start({}); }
  void TearDown() override {
    const absl::Status status = cache_->CheckIntegrity();
    EXPECT_TRUE(status.ok()) << status;
  }

  // Room for `images` images of one tenant, and their paths.
  static PrefixCacheOptions RoomFor(int images) {
    PrefixCacheOptions options;
    options.max_bytes = images * kImage + kImage / 2;
    options.path_share = 0.25;
    return options;
  }

  bool Insert(const Tokens& tokens, const PrefixScope& scope = {"t", "m", ""}) {
    return cache_->Insert(scope, tokens, MakeImage(scope, tokens, kImage));
  }

  // Every hit is checked to be the state of just that beginning.
  PrefixMatch Lookup(const Tokens& tokens, const PrefixScope& scope = {"t", "m", ""}) {
    const PrefixMatch match =
        cache_->Lookup(scope, tokens, static_cast<int64_t>(tokens.size()) - 1);
    EXPECT_EQ(match.image == nullptr, match.tokens == 0);
    if (match.image != nullptr) {
      const absl::Span<const int32_t> path(tokens.data(), match.tokens);
      EXPECT_EQ(*match.image, *MakeImage(scope, path, match.image->size()));
    }
    return match;
  }
  PrefixMiss Miss(const Tokens& tokens, const PrefixScope& scope = {"t", "m", ""}) {
    const PrefixMatch match = Lookup(tokens, scope);
    EXPECT_EQ(match.tokens, 0);
    return match.miss;
  }

  FakeClock clock_;
  std::shared_ptr<PrefixCache> cache_;
};

}  // namespace reprise::scheduler

#endif  // REPRISE_TESTS_SCHEDULER_PREFIX_CACHE_PREFIX_CACHE_FIXTURE_H_
