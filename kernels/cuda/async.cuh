// Barriers in shared memory and the copy engine that completes on them.
//
// A barrier has phases; phase i is over when all arrivals have come and all announced bytes have
// landed. Wait(barrier, parity) returns once the phase of that parity (i & 1) is over.
#ifndef REPRISE_KERNELS_CUDA_ASYNC_CUH_
#define REPRISE_KERNELS_CUDA_ASYNC_CUH_

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace reprise::kernels::cuda {

using Barrier = uint64_t;

__device__ __forceinline__ uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

__device__ __forceinline__ void InitBarrier(Barrier* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(SharedAddress(barrier)),
               "r"(arrivals)
               : "memory");
}

// By the thread that has initialized barriers, before the __syncthreads() that shows them; with
// PublishBarriers also to the copy engine.
__device__ __forceinline__ void FenceBarriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void PublishBarriers() {
  FenceBarriers();
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Barriers and places in shared memory are given by pointers, or by addresses as SharedAddress
// makes them, which loops that are short of time may compute once.
__device__ __forceinline__ void Arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void Arrive(Barrier* barrier) { Arrive(SharedAddress(barrier)); }

// One lane arrives for its warp, which has met. racecheck orders only what the threads that arrive
// have done themselves: in a build for it (tools/sanitize_cuda.sh) all do.
#ifdef REPRISE_RACECHECK
constexpr int kWarpArrivals = 32;
#else
constexpr int kWarpArrivals = 1;
#endif
__device__ __forceinline__ void ArriveForWarp(uint32_t barrier) {
  __syncwarp();
  if (kWarpArrivals == 32 || threadIdx.x % 32 == 0) Arrive(barrier);
}

// At the barrier in the same place of another block of the cluster.
__device__ __forceinline__ void ArriveAt(uint32_t barrier, uint32_t block) {
  asm volatile(
      "{\n"
      ".reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
      "}\n" ::"r"(barrier),
      "r"(block)
      : "memory");
}

// The same, of barriers by which blocks of a cluster hand shared memory to each other: who waits
// sees what those that arrive have written, or seen written.
__device__ __forceinline__ void HandOver(uint32_t barrier, uint32_t block) {
  asm volatile(
      "{\n"
      ".reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [there];\n"
      "}\n" ::"r"(barrier),
      "r"(block)
      : "memory");
}
__device__ __forceinline__ void TakeOver(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

// Four floats from the same place in another block of the cluster.
__device__ __forceinline__ void LoadFrom(uint32_t block, uint32_t shared, float (&values)[4]) {
  asm volatile(
      "{\n"
      ".reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %4, %5;\n"
      "ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [there];\n"
      "}\n"
      : "=f"(values[0]), "=f"(values[1]), "=f"(values[2]), "=f"(values[3])
      : "r"(shared), "r"(block));
}

// Two floats from there.
__device__ __forceinline__ void LoadFrom(uint32_t block, uint32_t shared, float (&values)[2]) {
  asm volatile(
      "{\n"
      ".reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %2, %3;\n"
      "ld.shared::cluster.v2.f32 {%0, %1}, [there];\n"
      "}\n"
      : "=f"(values[0]), "=f"(values[1])
      : "r"(shared), "r"(block));
}

// Numbers in this block's own.
__device__ __forceinline__ void StoreShared(uint32_t at, float value) {
  asm volatile("st.shared.f32 [%0], %1;" ::"r"(at), "f"(value) : "memory");
}
__device__ __forceinline__ void StoreShared(uint32_t at, uint32_t value) {
  asm volatile("st.shared.u32 [%0], %1;" ::"r"(at), "r"(value) : "memory");
}
__device__ __forceinline__ void StoreShared(uint32_t at, float low, float high) {
  asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(at), "f"(low), "f"(high) : "memory");
}
__device__ __forceinline__ void StoreShared(uint32_t at, uint32_t low, uint32_t high) {
  asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(at), "r"(low), "r"(high) : "memory");
}
__device__ __forceinline__ void LoadShared(uint32_t at, float& value) {
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(at) : "memory");
}
__device__ __forceinline__ void LoadShared(uint32_t at, float& low, float& high) {
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(low), "=f"(high) : "r"(at) : "memory");
}
__device__ __forceinline__ void LoadShared(uint32_t at, uint32_t& low, uint32_t& high) {
  asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(low), "=r"(high) : "r"(at) : "memory");
}

// Eight bytes to the same place in another block of the cluster.
__device__ __forceinline__ void StoreTo(uint32_t block, uint32_t shared, uint32_t low,
                                        uint32_t high) {
  asm volatile(
      "{\n"
      ".reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %0, %1;\n"
      "st.shared::cluster.v2.u32 [there], {%2, %3};\n"
      "}\n" ::"r"(shared),
      "r"(block), "r"(low), "r"(high)
      : "memory");
}

// All threads of all blocks of the cluster meet: each arrives, and waits for the others.
__device__ __forceinline__ void ArriveAtCluster() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
__device__ __forceinline__ void WaitForCluster() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
__device__ __forceinline__ void SyncCluster() {
  ArriveAtCluster();
  WaitForCluster();
}

// Makes what this thread has written to shared memory, or seen others write there, visible to the
// tensor cores and the copy engine.
__device__ __forceinline__ void FenceForTensorCores() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

__device__ __forceinline__ void ArriveAndExpect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void ArriveAndExpect(Barrier* barrier, uint32_t bytes) {
  ArriveAndExpect(SharedAddress(barrier), bytes);
}

__device__ __forceinline__ void Wait(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
__device__ __forceinline__ void Wait(Barrier* barrier, uint32_t parity) {
  Wait(SharedAddress(barrier), parity);
}

// Contiguous bytes; both addresses and the size are multiples of 16.
__device__ __forceinline__ void BulkLoad(void* shared, const void* global, uint32_t bytes,
                                         Barrier* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(SharedAddress(shared)),
      "l"(__cvta_generic_to_global(global)), "r"(bytes), "r"(SharedAddress(barrier))
      : "memory");
}

// The box of a tensor map at coordinates {x, y, z}, innermost first.
__device__ __forceinline__ void TensorLoad(uint32_t shared, const CUtensorMap* map, int x, int y,
                                           int z, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%2, %3, %4}], [%5];" ::"r"(shared),
      "l"(reinterpret_cast<uint64_t>(map)), "r"(x), "r"(y), "r"(z), "r"(barrier)
      : "memory");
}

// The box of a two-dimensional map.
__device__ __forceinline__ void TensorLoad(uint32_t shared, const CUtensorMap* map, int x, int y,
                                           uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%2, %3}], [%4];" ::"r"(shared),
      "l"(reinterpret_cast<uint64_t>(map)), "r"(x), "r"(y), "r"(barrier)
      : "memory");
}
// To the same place of every block of the cluster in `blocks` (bits), completing on the barrier at
// the same place there.
__device__ __forceinline__ void TensorLoadToAll(uint32_t shared, const CUtensorMap* map, int x,
                                                int y, int z, uint32_t barrier, uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(shared),
      "l"(reinterpret_cast<uint64_t>(map)), "r"(x), "r"(y), "r"(z), "r"(barrier), "h"(blocks)
      : "memory");
}

__device__ __forceinline__ void TensorLoad(void* shared, const CUtensorMap* map, int x, int y,
                                           int z, Barrier* barrier) {
  TensorLoad(SharedAddress(shared), map, x, y, z, SharedAddress(barrier));
}

__device__ __forceinline__ void PrefetchTensorMap(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(reinterpret_cast<uint64_t>(map)) : "memory");
}

// `threads` (a multiple of 32) of the block meet; `id` 1..15.
__device__ __forceinline__ void SyncSome(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

}  // namespace reprise::kernels::cuda

#endif  // REPRISE_KERNELS_CUDA_ASYNC_CUH_
