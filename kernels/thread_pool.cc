#include <atomic>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace reprise::kernels {
namespace {

// A step runs hundreds of loops some microseconds apart; waking a sleeping thread costs as much as
// such a loop, so threads look for work this often before they sleep. About 20-50 us.
constexpr int kSpins = 1000;

void Pause() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

// The gate of the current loop in one word: how many workers are inside, whether it is open, and
// the loop's number. A worker may enter only while the gate is open; the caller closes it when no
// range is left and waits only for those inside, so a worker that wakes late delays nobody.
constexpr uint64_t kOpen = uint64_t{1} << 32;
constexpr uint64_t kNextLoop = uint64_t{1} << 33;
constexpr uint64_t kInside = kOpen - 1;

uint64_t LoopNumber(uint64_t gate) { return gate / kNextLoop; }

}  // namespace

struct ThreadPool::Impl {
  // One loop at a time; held by the caller for its whole loop.
  std::mutex run_mutex;

  // The current loop. Written by the caller while the gate is shut and nobody is inside.
  const std::function<void(int64_t, int64_t, int)>* fn = nullptr;
  int64_t count = 0;
  int64_t grain = 1;
  alignas(64) std::atomic<int64_t> next{0};
  alignas(64) std::atomic<uint64_t> gate{0};
  std::atomic<bool> stop{false};

  // For sleeping only. The gate opens and `stop` is set under sleep_mutex, so no wake-up is lost.
  std::mutex sleep_mutex;
  std::condition_variable wake;
  std::mutex done_mutex;
  std::condition_variable done;

  std::vector<std::thread> threads;  // last: they use all of the above

  void Work(int thread) {
    for (;;) {
      const int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
      if (begin >= count) return;
      (*fn)(begin, count - begin < grain ? count : begin + grain, thread);
    }
  }

  bool HasWork(uint64_t seen) const {
    const uint64_t now = gate.load(std::memory_order_acquire);
    return ((now & kOpen) != 0 && LoopNumber(now) != seen) || stop.load(std::memory_order_acquire);
  }

  void Loop(int thread) {
    uint64_t seen = 0;
    for (;;) {
      int spin = 0;
      while (spin < kSpins && !HasWork(seen)) {
        Pause();
        ++spin;
      }
      if (spin == kSpins) {
        std::unique_lock<std::mutex> lock(sleep_mutex);
        wake.wait(lock, [&] { return HasWork(seen); });
      }
      if (stop.load(std::memory_order_acquire)) return;
      uint64_t now = gate.load(std::memory_order_acquire);
      while ((now & kOpen) != 0 && LoopNumber(now) != seen) {
        if (!gate.compare_exchange_weak(now, now + 1, std::memory_order_acq_rel)) continue;
        seen = LoopNumber(now);
        Work(thread);
        const uint64_t before = gate.fetch_sub(1, std::memory_order_acq_rel);
        if ((before & kInside) == 1 && (before & kOpen) == 0) {
          std::lock_guard<std::mutex> lock(done_mutex);
          done.notify_one();
        }
        break;
      }
    }
  }

  void Open() {
    {
      std::lock_guard<std::mutex> lock(sleep_mutex);
      const uint64_t number = LoopNumber(gate.load(std::memory_order_relaxed)) + 1;
      gate.store(number * kNextLoop | kOpen, std::memory_order_release);
    }
    wake.notify_all();
  }

  void CloseAndWait() {
    gate.fetch_and(~kOpen, std::memory_order_acq_rel);
    const auto empty = [&] { return (gate.load(std::memory_order_acquire) & kInside) == 0; };
    for (int spin = 0; spin < kSpins; ++spin) {
      if (empty()) return;
      Pause();
    }
    std::unique_lock<std::mutex> lock(done_mutex);
    done.wait(lock, empty);
  }
};

absl::StatusOr<std::unique_ptr<ThreadPool>> ThreadPool::Create(int threads) {
  if (threads < 1 || threads > 256) {
    return absl::InvalidArgumentError(
        absl::StrCat("ThreadPool: threads: expected 1..256, found ", threads));
  }
  std::unique_ptr<ThreadPool> pool(new ThreadPool(std::make_unique<Impl>()));
  Impl* impl = pool->impl_.get();
  impl->threads.reserve(threads - 1);
  for (int i = 1; i < threads; ++i) {
    try {
      impl->threads.emplace_back([impl, i] { impl->Loop(i); });
    } catch (const std::system_error& error) {
      return absl::ResourceExhaustedError(
          absl::StrCat("ThreadPool: thread ", i, " of ", threads, ": ", error.what()));
    }
  }
  return pool;
}

ThreadPool::ThreadPool(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard<std::mutex> lock(impl_->sleep_mutex);
    impl_->stop.store(true, std::memory_order_release);
  }
  impl_->wake.notify_all();
  for (std::thread& thread : impl_->threads) thread.join();
}

int ThreadPool::size() const { return static_cast<int>(impl_->threads.size()) + 1; }

void ThreadPool::Run(int64_t count, int64_t grain,
                     const std::function<void(int64_t, int64_t, int)>& fn) {
  if (count <= 0) return;
  if (grain < 1) grain = 1;
  std::lock_guard<std::mutex> run_lock(impl_->run_mutex);
  if (impl_->threads.empty() || count <= grain) {
    fn(0, count, 0);
    return;
  }
  impl_->fn = &fn;
  impl_->count = count;
  impl_->grain = grain;
  impl_->next.store(0, std::memory_order_relaxed);
  impl_->Open();
  impl_->Work(0);
  impl_->CloseAndWait();
}

}  // namespace reprise::kernels
