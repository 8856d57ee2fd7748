// What window attention asks of the tensor cores and of shared memory.
//
// Tiles in shared memory are 64 rows of bf16 in panels of 64 columns: a panel is 64 rows of 128
// bytes, in which 16-byte piece c of row r lies at place c ^ (r % 8) ("128-byte swizzle"). Panels
// begin at multiples of 1024 bytes. The same tile serves with its rows as outputs, summed over
// columns (queries and keys), and with its columns as outputs, summed over rows (values).
#ifndef REPRISE_KERNELS_CUDA_ATTENTION_MMA_CUH_
#define REPRISE_KERNELS_CUDA_ATTENTION_MMA_CUH_

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/async.cuh"
#include "kernels/cuda/tensor_core.cuh"

namespace reprise::kernels::cuda {

constexpr uint32_t kPanelBytes = 64 * 128;

// Place of 16-byte piece `piece` of row `row` in a tile.
__device__ __forceinline__ uint32_t TileOffset(int row, int piece) {
  return piece / 8 * kPanelBytes + row * 128 + ((piece % 8) ^ (row % 8)) * 16;
}
// Place of an element, in a tile whose panels may be of fewer rows.
__device__ __forceinline__ uint32_t ElementOffset(int row, int element,
                                                  uint32_t panel = kPanelBytes) {
  return element / 64 * panel + row * 128 + ((element % 64 / 8) ^ (row % 8)) * 16 + element % 8 * 2;
}

// Copies `bytes` bytes, 16 or none, and writes zeros for the rest of 16.
__device__ __forceinline__ void CopyAsync(uint32_t to, const void* from, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void CommitCopies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Waits until at most kPending of this thread's groups are under way.
template <int kPending>
__device__ __forceinline__ void WaitCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

__device__ __forceinline__ void InitBarrier(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
// Whether the phase of this parity is over; returns at once. Wait sleeps for some microseconds at a
// time, so nothing else may be waiting for its thread.
__device__ __forceinline__ bool Over(uint32_t barrier, uint32_t parity) {
  uint32_t over;
  asm volatile(
      "{\n"
      ".reg .pred over;\n"
      "mbarrier.test_wait.parity.shared::cta.b64 over, [%1], %2;\n"
      "selp.u32 %0, 1, 0, over;\n"
      "}\n"
      : "=r"(over)
      : "r"(barrier), "r"(parity)
      : "memory");
  return over != 0;
}

// Descriptors of tiles for the products. All begin at places known to the compiler relative to
// `tile`, so that each costs one addition.
struct TileDescriptor {
  uint32_t low, high;

  __device__ __forceinline__ uint64_t At(uint32_t offset) const {
    return uint64_t{high} << 32 | (low + offset / 16);
  }
};
constexpr uint32_t kSwizzleOf128Bytes = 1u << 30;
constexpr uint32_t kEightRows = 8 * 128 / 16;  // stride from group to group

// Of an address a descriptor takes 18 bits: those above name the block of a cluster.
__device__ __forceinline__ uint32_t DescriptorAddress(uint32_t tile) {
  return tile % (1 << 18) / 16;
}
// Rows are outputs; At: 16 columns from a multiple of 32 bytes in the first row of a panel on.
__device__ __forceinline__ TileDescriptor RowsOf(uint32_t tile) {
  return {1u << 16 | DescriptorAddress(tile), kSwizzleOf128Bytes | kEightRows};
}
// Columns are outputs; At: 16 rows from a multiple of 2048 bytes in a panel on.
__device__ __forceinline__ TileDescriptor ColumnsOf(uint32_t tile) {
  return {(kPanelBytes / 16) << 16 | DescriptorAddress(tile), kSwizzleOf128Bytes | kEightRows};
}

// Around the products that write d: BeginMma, the products, EndMma, which waits for them.
template <int kSize>
__device__ __forceinline__ void BeginMma(float (&d)[kSize]) {
  Pin(d);
  WgmmaBegin();
}
template <int kSize>
__device__ __forceinline__ void EndMma(float (&d)[kSize]) {
  WgmmaCommit();
  WgmmaWait<0>();
  Pin(d);
}

// The products of values are of one warpgroup. Of a result of 64 rows, thread t has in d[4j ..
// 4j+3] the columns 8j + 2 (t % 4) and the next, of row 16 (t / 32) + t % 32 / 4 and of the row 8
// below.

// d += a b: a (64 rows, 16 columns) in registers, b 16 rows of as many columns as d has.
__device__ __forceinline__ void ValueMma(float (&d)[32], const uint32_t (&a)[4], uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, "
      "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "{%32, %33, %34, %35}, %36, 1, 1, 1, 1;\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),
        "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),
        "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]),
        "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]),
        "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ __forceinline__ void ValueMma(float (&d)[64], const uint32_t (&a)[4], uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, "
      "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, "
      "%36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, "
      "%53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "{%64, %65, %66, %67}, %68, 1, 1, 1, 1;\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),
        "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),
        "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]),
        "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]),
        "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]),
        "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]),
        "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]),
        "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
        "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]),
        "+f"(d[63])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

// d += a b: a 16 rows of 64 columns, taken as columns of 64 outputs, b 16 columns of 16 rows.
__device__ __forceinline__ void ColumnMma(float (&d)[8], uint64_t a, uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7}, %8, %9, 1, 1, 1, 1, 0;\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),
        "+f"(d[7])
      : "l"(a), "l"(b));
}

}  // namespace reprise::kernels::cuda

#endif  // REPRISE_KERNELS_CUDA_ATTENTION_MMA_CUH_
