#include "kernels/kernels.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <thread>
#include <utility>

#include "kernels/device_queue.h"
#include "kernels/e4m3.h"
#include "tests/kernels/reference.h"
#include "tests/kernels/test_util.h"

namespace reprise::kernels {
namespace {

TEST(ThreadPoolTest, RefusesBadSizes) {
  for (const int threads : {0, -1, 257}) {
    const auto pool = ThreadPool::Create(threads);
    EXPECT_EQ(pool.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(pool.status().message()),
                ::testing::HasSubstr("expected 1..256, found " + std::to_string(threads)));
  }
}

TEST(ThreadPoolTest, RangesCoverOnceAndCutAtGrain) {
  for (const int threads : {1, 2, 3, 8}) {
    const auto pool = MakePool(threads);
    EXPECT_EQ(pool->size(), threads);
    for (const int64_t count : {0, 1, 2, 7, 64, 1000}) {
      for (const int64_t grain : {1, 3, 64, 5000}) {
        std::vector<std::atomic<int>> hits(count);
        std::atomic<bool> bad{false};
        pool->Run(count, grain, [&](int64_t begin, int64_t end, int thread) {
          if (begin >= end || begin % grain != 0 || (end % grain != 0 && end != count)) bad = true;
          if (thread < 0 || thread >= threads) bad = true;
          for (int64_t i = begin; i < end; ++i) hits[i]++;
        });
        EXPECT_FALSE(bad);
        EXPECT_TRUE(std::all_of(hits.begin(), hits.end(), [](const auto& n) { return n == 1; }));
      }
    }
  }
}

TEST(ThreadPoolTest, AllThreadsTakePart) {
  const auto pool = MakePool(3);
  // Every range waits until three are being worked on, which needs three threads.
  std::atomic<int> inside{0};
  pool->Run(3, 1, [&](int64_t, int64_t, int) {
    inside++;
    while (inside < 3) std::this_thread::yield();
  });
  EXPECT_EQ(inside, 3);
}

TEST(ThreadPoolTest, ThreadNumbersAreNotSharedWithinALoop) {
  const auto pool = MakePool(4);
  std::atomic<int> users[4] = {};
  std::atomic<bool> shared{false};
  for (int round = 0; round < 200; ++round) {
    pool->Run(40, 1, [&](int64_t, int64_t, int thread) {
      if (users[thread]++ != 0) shared = true;
      users[thread]--;
    });
  }
  EXPECT_FALSE(shared);
}

TEST(ThreadPoolTest, LoopsOfSeveralCallersRunOneAfterTheOther) {
  const auto pool = MakePool(2);
  // Each range counts those inside any loop: never more than there are threads in the pool, though
  // there are twice as many callers.
  std::atomic<int> inside{0}, most{0};
  int64_t sums[4] = {};
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c) {
    callers.emplace_back([&, c] {
      for (int round = 0; round < 300; ++round) {
        std::atomic<int64_t> sum{0};
        pool->Run(10, 1, [&](int64_t begin, int64_t, int) {
          most = std::max<int>(most, ++inside);
          sum += begin;
          std::this_thread::yield();
          --inside;
        });
        sums[c] += sum;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  for (const int64_t sum : sums) EXPECT_EQ(sum, 300 * 45);
  EXPECT_LE(most, 2);
}

TEST(ThreadPoolTest, ManyShortLoopsAndSleeps) {
  const auto pool = MakePool(3);
  int64_t total = 0;
  for (int round = 0; round < 2000; ++round) {
    std::atomic<int64_t> sum{0};
    pool->Run(5, 1, [&](int64_t begin, int64_t, int) { sum += begin; });
    total += sum;
    // Long enough, now and then, for the workers to go to sleep.
    if (round % 500 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  EXPECT_EQ(total, 2000 * 10);
}

TEST(ThreadPoolTest, CreateAndDestroy) {
  for (int round = 0; round < 100; ++round) {
    const auto pool = MakePool(1 + round % 5);
    if (round % 2 == 0) pool->Run(3, 1, [](int64_t, int64_t, int) {});
  }
}

TEST(BufferTest, IsZeroedAndAligned) {
  for (const size_t bytes : {size_t{1}, size_t{4}, size_t{127}, size_t{4096}, size_t{1} << 20,
                             (size_t{4} << 20) - 1, size_t{4} << 20, (size_t{9} << 20) + 5}) {
    for (int round = 0; round < 2; ++round) {  // a second time: memory that was used before
      auto buffer = Buffer::Allocate(Device::kCpu, bytes);
      ASSERT_TRUE(buffer.ok()) << buffer.status();
      EXPECT_EQ(buffer->size(), bytes);
      EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->data()) % 128, 0u);
      uint8_t* data = buffer->as<uint8_t>();
      EXPECT_TRUE(std::all_of(data, data + bytes, [](uint8_t b) { return b == 0; }));
      std::fill(data, data + bytes, 0xff);
    }
  }
}

TEST(BufferTest, EmptyIsFine) {
  const auto buffer = Buffer::Allocate(Device::kCpu, 0);
  ASSERT_TRUE(buffer.ok());
  EXPECT_EQ(buffer->size(), 0u);
}

TEST(BufferTest, SaysWhenMemoryIsNotToBeHad) {
  for (const size_t bytes : {std::numeric_limits<size_t>::max(),
                             std::numeric_limits<size_t>::max() / 2 - 4096, size_t{1} << 50}) {
    const auto buffer = Buffer::Allocate(Device::kCpu, bytes);
    EXPECT_EQ(buffer.status().code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(buffer.status().message()),
                ::testing::HasSubstr(std::to_string(bytes)));
  }
}

TEST(BufferTest, Moves) {
  Buffer a = Buffer::Allocate(Device::kCpu, 100).value();
  a.as<char>()[7] = 'x';
  void* data = a.data();
  Buffer b = std::move(a);
  EXPECT_EQ(b.data(), data);
  EXPECT_EQ(a.data(), nullptr);  // NOLINT(bugprone-use-after-move): the state is part of the type
  EXPECT_EQ(a.size(), 0u);
  Buffer c = Buffer::Allocate(Device::kCpu, size_t{5} << 20).value();
  c = std::move(b);  // frees what it held
  EXPECT_EQ(c.data(), data);
  EXPECT_EQ(c.size(), 100u);
  EXPECT_EQ(c.as<char>()[7], 'x');
  Buffer& self = c;
  c = std::move(self);
  EXPECT_EQ(c.data(), data);
}

TEST(BufferTest, CudaIsRefusedWhereItIsNot) {
  const absl::Status device = QueryCudaDevice().status();
  const absl::Status status = Buffer::Allocate(Device::kCuda, 4).status();
  EXPECT_EQ(status.ok(), device.ok()) << status;
  EXPECT_EQ(absl::IsUnimplemented(status), absl::IsUnimplemented(device)) << status;
}

TEST(DTypeTest, SizesAndNames) {
  EXPECT_EQ(DTypeBytes(DType::kF32), 4);
  EXPECT_EQ(DTypeBytes(DType::kBF16), 2);
  EXPECT_EQ(DTypeBytes(DType::kF16), 2);
  EXPECT_EQ(DTypeBytes(DType::kI32), 4);
  EXPECT_EQ(DTypeBytes(DType::kU8), 1);
  EXPECT_EQ(DTypeBytes(DType::kE4M3), 1);
  EXPECT_STREQ(DTypeName(DType::kBF16), "bf16");
  EXPECT_STREQ(DTypeName(DType::kE4M3), "e4m3");
}

// All floats of 12 bits of mantissa around the range of e4m3: every value, every tie, and
// neighbours of both.
TEST(E4m3Test, RoundsToTheNearest) {
  for (int exponent = -14; exponent <= 10; ++exponent) {
    for (int mantissa = 4096; mantissa < 8192; ++mantissa) {
      const float value = std::ldexp(static_cast<float>(mantissa), exponent - 12);
      ASSERT_EQ(ToE4m3(value), reference::NearestE4m3(value)) << value;
      ASSERT_EQ(ToE4m3(-value), reference::NearestE4m3(value) | 0x80) << value;
    }
  }
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(ToE4m3(0.0f), 0);
  EXPECT_EQ(ToE4m3(-0.0f), 0x80);
  EXPECT_EQ(ToE4m3(std::numeric_limits<float>::denorm_min()), 0);
  EXPECT_EQ(ToE4m3(std::numeric_limits<float>::max()), 0x7e);
  EXPECT_EQ(ToE4m3(-infinity), 0xfe);
  EXPECT_EQ(ToE4m3(std::nanf("")), 0x7f);
}

TEST(E4m3Test, ScaleIsNeverZero) {
  EXPECT_EQ(E4m3Scale(448.0f), 1.0f);
  EXPECT_EQ(E4m3Scale(0.0f), 1.0f);
  EXPECT_EQ(E4m3Scale(std::numeric_limits<float>::denorm_min()), 1.0f);
}

TEST(RaggedRowsTest, PaddingMayRepeatAndSequencesMayBeEmpty) {
  const int32_t offsets[] = {0, 2, 2, 3, 4}, slots[] = {-1, 3, -1, 0};
  const int64_t positions[] = {0, 7, 1, 64};
  EXPECT_TRUE(ValidateRaggedRows({4, 4, offsets, slots, positions}, 4).ok());
  EXPECT_FALSE(ValidateRaggedRows({4, 4, offsets, slots, positions}, 3).ok());
  const int32_t none[] = {0};
  EXPECT_TRUE(ValidateRaggedRows({0, 0, none, nullptr, nullptr}, 0).ok());
  EXPECT_FALSE(ValidateRaggedRows({1, 0, none, nullptr, nullptr}, 0).ok());
}

}  // namespace
}  // namespace reprise::kernels
