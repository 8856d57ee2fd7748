// How products on CUDA are cut; needs no device.
#include "kernels/cuda/matmul_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

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
          for (const bool aligned : {true, false}) {
            for (const int64_t scratch : {int64_t{64} << 20, int64_t{0}}) {
              const cuda::MatMulProblem problem{rows,    blocks, n,       k,    false,
                                                aligned, 132,    scratch, 65536};
              const MatMulPlan plan = cuda::PlanMatMul(problem);
              const std::string name = std::to_string(rows) + " rows, " + std::to_string(blocks) +
                                       " x " + std::to_string(n) + " x " + std::to_string(k);
              ASSERT_NE(plan.kernel, MatMulPlan::Kernel::kNone) << name;
              EXPECT_GE(plan.grid, 1) << name;
              EXPECT_LE(plan.grid, 132) << name;
              const auto layout = cuda::PackedLayout::Of(n, k);
              if (plan.split && layout.segments > 1) {
                EXPECT_GT(scratch, 0) << name;
              }
              if (plan.kernel == MatMulPlan::Kernel::kMany) {
                EXPECT_TRUE(aligned) << name;
                continue;
              }
              EXPECT_LE(plan.few.shared_bytes, cuda::kMostSharedBytes) << name;
              EXPECT_GE(plan.few.depth, 2) << name;
              EXPECT_LE(plan.row_tile, 8) << name;
              EXPECT_EQ(plan.few.x_row_bytes % 128, 16) << name;
              EXPECT_GE(plan.few.panels * plan.few.panel, layout.segments) << name;
              EXPECT_LT((plan.few.panels - 1) * plan.few.panel, layout.segments) << name;
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
  const auto plan = [](int rows, int n, int k) {
    return cuda::PlanMatMul({rows, 1, n, k, false, true, 132, 64 << 20, 60000});
  };
  EXPECT_EQ(plan(1, 2560, 2560).kernel, MatMulPlan::Kernel::kFew);
  EXPECT_EQ(plan(1, 5120, 2560).kernel, MatMulPlan::Kernel::kFew);
  EXPECT_EQ(plan(8, 384, 384).kernel, MatMulPlan::Kernel::kFew);
  EXPECT_TRUE(plan(8, 2560, 2560).split);
  EXPECT_TRUE(plan(32, 2560, 7680).split);
  EXPECT_FALSE(plan(32, 5120, 2560).split);
  EXPECT_FALSE(plan(64, 2560, 7680).split);
  EXPECT_FALSE(plan(128, 2560, 2560).split);
  EXPECT_FALSE(plan(128, 2560, 7680).split);
  EXPECT_FALSE(plan(100, 15360, 2560).split);
  EXPECT_FALSE(plan(256, 2560, 2560).split);
  EXPECT_EQ(plan(512, 2560, 7680).row_tile, 128);
  EXPECT_EQ(plan(1024, 2560, 7680).cluster, 2);
  EXPECT_EQ(plan(1024, 2560, 7680).row_tile, 192);
}

}  // namespace
}  // namespace reprise::kernels
