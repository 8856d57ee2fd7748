// Lookups, inserts, evictions, fetches and sweeps at the same time.
#include <atomic>
#include <random>
#include <thread>

#include "tests/scheduler/prefix_cache/prefix_cache_fixture.h"

namespace reprise::scheduler {
namespace {

class PrefixCacheConcurrencyTest : public PrefixCacheFixture {};

TEST_F(PrefixCacheConcurrencyTest, EveryHitIsSoundAndNoCapIsExceeded) {
  constexpr int kThreads = 6, kOperations = 3000;
  constexpr int64_t kBytes = 4096;
  PrefixCacheOptions options;
  options.max_bytes = 24 * kBytes;
  options.max_tenant_bytes = 12 * kBytes;
  options.path_share = 0.5;
  options.ttl = absl::Seconds(30);
  options.spill = std::make_shared<MemorySpill>();
  options.spill_min_tokens = 1;
  Start(options);
  std::atomic<int> hits = 0, wrong = 0, fetched = 0;
  std::atomic<bool> done = false;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(t);
      const auto sound = [&](const PrefixScope& scope, absl::Span<const int32_t> path,
                             const StateImage& image) {
        wrong += *image != *MakeImage(scope, path, kBytes);
      };
      for (int i = 0; i < kOperations; ++i) {
        const PrefixScope scope{"tenant" + std::to_string(random() % 3),
                                "m" + std::to_string(random() % 2), ""};
        const Tokens tokens =
            Iota(5 + static_cast<int>(random() % 40), 1000 * static_cast<int>(random() % 4));
        const int operation = static_cast<int>(random() % 100);
        if (operation < 45) {
          const PrefixMatch match = cache_->Lookup(scope, tokens, tokens.size() - 1);
          if (match.image != nullptr) {
            ++hits;
            sound(scope, absl::MakeConstSpan(tokens).first(match.tokens), match.image);
          }
          const int64_t spilled = cache_->FindSpilled(scope, tokens, tokens.size() - 1);
          if (spilled > 0) {
            const Tokens path(tokens.begin(), tokens.begin() + spilled);
            cache_->Fetch(scope, path, kBytes, [&](absl::StatusOr<StateImage> image) {
              if (!image.ok()) return;
              ++fetched;
              sound(scope, path, *image);
            });
          }
        } else if (operation < 90) {
          cache_->Insert(scope, tokens, MakeImage(scope, tokens, kBytes));
        } else if (operation < 94) {
          cache_->Erase(scope, tokens);
        } else if (operation < 95) {
          cache_->Clear(scope.tenant);
        } else if (operation < 98) {
          clock_.Advance(absl::Seconds(1));
        } else {
          cache_->Sweep();
        }
      }
    });
  }
  std::thread watcher([&] {
    int64_t most = 0;
    while (!done) {
      for (int t = 0; t < 3; ++t) {
        EXPECT_LE(cache_->TenantStats("tenant" + std::to_string(t)).bytes,
                  options.max_tenant_bytes);
      }
      most = std::max(most, cache_->TotalStats().bytes);
      std::this_thread::yield();
    }
    EXPECT_GT(most, options.max_bytes / 2);
  });
  for (std::thread& thread : threads) thread.join();
  done = true;
  watcher.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(hits, 100);
  EXPECT_GT(fetched, 10);
  EXPECT_GT(cache_->TotalStats().evictions, 100);
}

TEST_F(PrefixCacheConcurrencyTest, TenantsComeAndGo) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 3000; ++i) {
        const PrefixScope scope{"tenant" + std::to_string(i * 4 + t), "m", ""};
        cache_->Insert(scope, Iota(10), MakeImage(scope, Iota(10), 64));
        EXPECT_EQ(cache_->Lookup(scope, Iota(11), 10).tokens, 10);
        cache_->Clear(scope.tenant);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(cache_->TotalStats().bytes, 0);
  // Those without a byte are forgotten in the end.
  EXPECT_LT(cache_->TotalStats().inserts, 12'000);
}

}  // namespace
}  // namespace reprise::scheduler
