// Matrix instructions: wgmma, which adds 16 products to each sum (see docs/numerics.md).
#ifndef REPRISE_KERNELS_CUDA_TENSOR_CORE_CUH_
#define REPRISE_KERNELS_CUDA_TENSOR_CORE_CUH_

#include <cuda_runtime.h>

#include <cstdint>

namespace reprise::kernels::cuda {

// 16 bytes of this lane.
__device__ __forceinline__ void LoadWords(uint32_t (&words)[4], uint32_t shared_address) {
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(shared_address)
               : "memory");
}

// A step of 16 inputs of e4m3 weights, of both strips, as the matrix of 16 x 16 that a warp gives
// to wgmma. With its fields in place a value is too small by 2^120, the difference of the biases:
// the product is exact, also of subnormal values, which are subnormal bf16 before it.
__device__ __forceinline__ uint32_t TimesBias(uint32_t pair) {
  constexpr uint32_t k2To120 = 0x7b807b80;
  uint32_t product;
  asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(product) : "r"(pair), "r"(k2To120));
  return product;
}
__device__ __forceinline__ void WidenStep(uint32_t strip_0, uint32_t strip_1, uint32_t& a0,
                                          uint32_t& a1, uint32_t& a2, uint32_t& a3) {
  const auto first = [](uint32_t word) { return TimesBias(word & 0x87f087f0); };
  const auto second = [](uint32_t word) {
    return TimesBias((word << 4 & 0x80f080f0) | (word >> 4 & 0x07000700));
  };
  a0 = first(strip_0);
  a1 = first(strip_1);
  a2 = second(strip_0);
  a3 = second(strip_1);
}

// Descriptors of matrices in shared memory, inputs innermost, at `shared_address`.
// Without swizzle: 8 x 8 pieces of 128 bytes; `leading` bytes between the two pieces of 16 inputs,
// `stride` bytes between pieces of 8 rows.
__device__ __forceinline__ constexpr uint64_t PlainMatrix(uint32_t shared_address, uint32_t leading,
                                                          uint32_t stride) {
  return uint64_t{(shared_address & 0x3ffff) >> 4} | uint64_t{leading >> 4} << 16 |
         uint64_t{stride >> 4} << 32;
}
// Rows of 128 bytes, swizzled over 8 rows as the copy engine does (CU_TENSOR_MAP_SWIZZLE_128B).
__device__ __forceinline__ constexpr uint64_t SwizzledMatrix(uint32_t shared_address) {
  constexpr uint64_t kEightRows = 1024 >> 4, kSwizzle128 = 1;
  return uint64_t{(shared_address & 0x3ffff) >> 4} | uint64_t{1} << 16 | kEightRows << 32 |
         kSwizzle128 << 62;
}

// Before the first Wgmma after registers of `d` were touched; all threads of the warpgroup.
__device__ __forceinline__ void WgmmaBegin() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void WgmmaCommit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Until at most kPending committed groups are unfinished.
template <int kPending>
__device__ __forceinline__ void WgmmaWait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// The warpgroup's registers per thread from here on, more or fewer than it has.
template <int kCount, bool kMore>
__device__ __forceinline__ void SetRegisters() {
  if constexpr (kMore) {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
  } else {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
  }
}

// Pins registers in place, so that the compiler moves no copy of them across what runs
// asynchronously.
template <int kCount>
__device__ __forceinline__ void Pin(float (&values)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(values[i])::"memory");
}

// d = a b + (add ? d : 0): a is 64 x 16, b 16 x kColumns, both descriptors. Warp w of the group
// holds rows 16 w ..: lane 4 g + t in d[4 j ..] columns 8 j + 2 t and the next of row g, then of
// row g + 8.
template <int kColumns>
__device__ void Wgmma(float (&d)[kColumns / 2], uint64_t a, uint64_t b, bool add);

// The same with a in registers, a[4] of the rows of this warp (row g and inputs 2 t, 2 t + 1; row
// g + 8; row g and inputs 2 t + 8, 2 t + 9; row g + 8), which must stay as they
// are until the Wgmma is over.
template <int kColumns>
__device__ void WgmmaRegisters(float (&d)[kColumns / 2], const uint32_t* a, uint64_t b, bool add);

#define REPRISE_EIGHT(d, i)                                                                   \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])

template <>
__device__ __forceinline__ void Wgmma<8>(float (&d)[4], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %6, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3}, %4, %5, add, 1, 1, 0, 0;\n}\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}

template <>
__device__ __forceinline__ void Wgmma<16>(float (&d)[8], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %10, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7}, %8, %9, add, 1, 1, 0, 0;\n}\n"
      : REPRISE_EIGHT(d, 0)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}

template <>
__device__ __forceinline__ void Wgmma<32>(float (&d)[16], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %18, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
      "%16, %17, add, 1, 1, 0, 0;\n}\n"
      : REPRISE_EIGHT(d, 0), REPRISE_EIGHT(d, 8)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}

template <>
__device__ __forceinline__ void Wgmma<64>(float (&d)[32], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "%32, %33, add, 1, 1, 0, 0;\n}\n"
      : REPRISE_EIGHT(d, 0), REPRISE_EIGHT(d, 8), REPRISE_EIGHT(d, 16), REPRISE_EIGHT(d, 24)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}

template <>
__device__ __forceinline__ void Wgmma<128>(float (&d)[64], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "%64, %65, add, 1, 1, 0, 0;\n}\n"
      : REPRISE_EIGHT(d, 0), REPRISE_EIGHT(d, 8), REPRISE_EIGHT(d, 16), REPRISE_EIGHT(d, 24),
        REPRISE_EIGHT(d, 32), REPRISE_EIGHT(d, 40), REPRISE_EIGHT(d, 48), REPRISE_EIGHT(d, 56)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}

template <>
__device__ __forceinline__ void Wgmma<192>(float (&d)[96], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %98, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n192k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
      "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
      "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95}, "
      "%96, %97, add, 1, 1, 0, 0;\n}\n"
      : REPRISE_EIGHT(d, 0), REPRISE_EIGHT(d, 8), REPRISE_EIGHT(d, 16), REPRISE_EIGHT(d, 24),
        REPRISE_EIGHT(d, 32), REPRISE_EIGHT(d, 40), REPRISE_EIGHT(d, 48), REPRISE_EIGHT(d, 56),
        REPRISE_EIGHT(d, 64), REPRISE_EIGHT(d, 72), REPRISE_EIGHT(d, 80), REPRISE_EIGHT(d, 88)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}

template <>
__device__ __forceinline__ void WgmmaRegisters<8>(float (&d)[4], const uint32_t* a, uint64_t b,
                                                  bool add) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %9, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, %8, add, 1, 1, 0;\n}\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)));
}

template <>
__device__ __forceinline__ void WgmmaRegisters<32>(float (&d)[16], const uint32_t* a, uint64_t b,
                                                   bool add) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %21, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
      "{%16, %17, %18, %19}, %20, add, 1, 1, 0;\n}\n"
      : REPRISE_EIGHT(d, 0), REPRISE_EIGHT(d, 8)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)));
}

template <>
__device__ __forceinline__ void WgmmaRegisters<64>(float (&d)[32], const uint32_t* a, uint64_t b,
                                                   bool add) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "{%32, %33, %34, %35}, %36, add, 1, 1, 0;\n}\n"
      : REPRISE_EIGHT(d, 0), REPRISE_EIGHT(d, 8), REPRISE_EIGHT(d, 16), REPRISE_EIGHT(d, 24)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)));
}

template <>
__device__ __forceinline__ void WgmmaRegisters<128>(float (&d)[64], const uint32_t* a, uint64_t b,
                                                    bool add) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "{%64, %65, %66, %67}, %68, add, 1, 1, 0;\n}\n"
      : REPRISE_EIGHT(d, 0), REPRISE_EIGHT(d, 8), REPRISE_EIGHT(d, 16), REPRISE_EIGHT(d, 24),
        REPRISE_EIGHT(d, 32), REPRISE_EIGHT(d, 40), REPRISE_EIGHT(d, 48), REPRISE_EIGHT(d, 56)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)));
}

#undef REPRISE_EIGHT

}  // namespace reprise::kernels::cuda

#endif  // REPRISE_KERNELS_CUDA_TENSOR_CORE_CUH_
