// How products on CUDA are cut; needs no device.
#include "kernels/cuda/matmul_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/matmul.h"
#include "tests/kernels/test_util.h"

namespace reprise::kernels {
namespace {

using cuda::MatMulPlan;
using ::testing::HasSubstr;

TEST(MatMulCudaPlan, FitsTheDevice) {
  for (const int rows : {1, 2, 5, 8, 9, 16, 17, 32, 33, 64, 65, 500, 4096}) {
    for (const int n : {1, 16, 384, 2560, 15360, 256000}) {
      for (const int k : {1, 256, 384, 513, 1152, 2560, 7680, 20000}) {
        for (const int blocks : {1, 20}) {
          for (const bool gated : {true, false}) {
            for (const bool e4m3 : {true, false}) {
              if (gated && (blocks > 1 || n % 2 != 0)) continue;
              const cuda::MatMulProblem problem{rows, blocks, n, k, gated, 132, e4m3};
              const MatMulPlan plan = cuda::PlanMatMul(problem);
              const std::string name = std::to_string(rows) + " rows, " + std::to_string(blocks) +
                                       " x " + std::to_string(n) + " x " + std::to_string(k);
              ASSERT_TRUE(plan.exists()) << name;
              const auto layout = cuda::PackedLayout::Of(n, k);
              EXPECT_GE(plan.grid, 1) << name;
              if (plan.split) {
                EXPECT_GT(layout.segments, 1) << name;
                EXPECT_FALSE(gated) << name;
                EXPECT_EQ(plan.grid % layout.segments, 0) << name;
              } else {
                EXPECT_LE(plan.grid, 132) << name;
              }
              const auto shapes = cuda::MatMulShapes(e4m3);
              EXPECT_TRUE(std::any_of(shapes.begin(), shapes.end(), [&](const auto& shape) {
                return shape.row_tile == plan.row_tile && shape.output_tile == plan.output_tile &&
                       shape.cluster == plan.cluster && shape.split == plan.split;
              })) << name;
            }
          }
        }
      }
    }
  }
}

TEST(MatMulCudaPlan, LayoutPadsToWholeChunks) {
  const auto small = cuda::PackedLayout::Of(20, 70);
  EXPECT_EQ(small.tiles, 2);
  EXPECT_EQ(small.chunks, 2);
  EXPECT_EQ(small.segments, 1);
  EXPECT_EQ(small.BlockBytes(), 2 * 16 * 128 * 2);
  const auto large = cuda::PackedLayout::Of(2560, 1100);
  EXPECT_EQ(large.Inputs(), 1152);
  EXPECT_EQ(large.segments, 3);
  EXPECT_EQ(large.SegmentChunks(1), 8);
  EXPECT_EQ(large.SegmentChunks(2), 2);
  EXPECT_EQ(cuda::PackedLayout::Of(2560, 2560).segment_chunks, 8);
  const auto down = cuda::PackedLayout::Of(2560, 7680);
  EXPECT_EQ(down.segments, 5);
  EXPECT_EQ(down.segment_chunks, 24);
  const auto more = cuda::PackedLayout::Of(2560, 7681);
  EXPECT_EQ(more.segments, 4);
  EXPECT_EQ(more.segment_chunks, 32);
  EXPECT_EQ(more.SegmentChunks(3), 121 - 3 * 32);
  EXPECT_EQ(cuda::PackedLayout::Of(20, 70, true).BlockBytes(), small.BlockBytes() / 2);
}

// A word of e4m3 weights takes two pairs, and every bit has its place.
TEST(MatMulCudaPlan, PairsOfAWordDoNotMeet) {
  for (int bits = 0; bits < 256; ++bits) {
    const uint32_t first = cuda::PackedPair(false, bits, 255 - bits);
    const uint32_t second = cuda::PackedPair(true, bits, 255 - bits);
    EXPECT_EQ(first & ~0x87f087f0u, 0u);
    EXPECT_EQ(second & ~0x780f780fu, 0u);
    // As the kernels do: fields of a bf16 in each half, exponent and mantissa from bit 4 on.
    const uint32_t moved = (second << 4 & 0x80f080f0) | (second >> 4 & 0x07000700);
    EXPECT_EQ(moved, first);
    const uint32_t low = first & 0xffff;
    EXPECT_EQ(low, (bits & 0x80u) << 8 | (bits & 0x7fu) << 4);
  }
}

TEST(MatMulPack, GatedIsForCuda) {
  const auto pool = MakePool(1);
  const std::vector<float> weights(16 * 4);
  PackedMatrix::Source source{DType::kF32, 1, 16, 4, false, weights.data()};
  source.gated = true;
  EXPECT_THAT(
      std::string(PackedMatrix::Pack(source, {Device::kCpu, pool.get()}).status().message()),
      HasSubstr("gated: expected false on the CPU, found true"));
}

// What was measured to be faster: see bench/RESULTS.md.
TEST(MatMulCudaPlan, ChoosesByShapeAndRows) {
  const auto plan = [](int rows, int n, int k, bool gated = false) {
    const MatMulPlan p = cuda::PlanMatMul({rows, 1, n, k, gated});
    return std::to_string(p.row_tile) + " x " + std::to_string(p.output_tile) +
           (p.cluster > 1 ? " shared" : "") + (p.split ? " split" : "");
  };
  EXPECT_EQ(plan(1, 2560, 2560), "32 x 64 split");
  EXPECT_EQ(plan(8, 5120, 2560), "32 x 64");
  EXPECT_EQ(plan(32, 2560, 7680), "32 x 64 split");
  EXPECT_EQ(plan(32, 15360, 2560, true), "32 x 128");
  EXPECT_EQ(plan(64, 2560, 7680), "64 x 128 split");
  EXPECT_EQ(plan(128, 2560, 2560), "64 x 128");
  EXPECT_EQ(plan(128, 2560, 7680), "128 x 128 split");
  EXPECT_EQ(plan(256, 2560, 7680), "64 x 128");
  EXPECT_EQ(plan(256, 15360, 2560, true), "128 x 128");
  EXPECT_EQ(plan(1024, 2560, 7680), "192 x 128 shared");
  EXPECT_EQ(plan(8192, 15360, 2560, true), "192 x 128 shared");
}

TEST(MatMulCudaPlan, ChoosesForE4m3) {
  const auto plan = [](int rows, int n, int k) {
    const MatMulPlan p = cuda::PlanMatMul({rows, 1, n, k, false, 132, true});
    return std::to_string(p.row_tile) + " x " + std::to_string(p.output_tile) +
           (p.cluster > 1 ? " shared" : "") + (p.split ? " split" : "");
  };
  EXPECT_EQ(plan(8, 2560, 2560), "32 x 64 split");
  EXPECT_EQ(plan(64, 2560, 7680), "64 x 128 split");
  EXPECT_EQ(plan(128, 2560, 7680), "128 x 128 split");
  EXPECT_EQ(plan(4096, 2560, 7680), "128 x 128 shared");
}

}  // namespace
}  // namespace reprise::kernels
