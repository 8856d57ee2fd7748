// The sampling kernel. One cluster of blocks takes one row: it reads the row once, into shared
// memory, and answers everything from there. See kernels/sampling.cc for the meaning, step by step.
#ifndef REPRISE_KERNELS_CUDA_SAMPLING_CUH_
#define REPRISE_KERNELS_CUDA_SAMPLING_CUH_

#include "kernels/cuda/sampling.h"
#include "kernels/cuda/sampling_row.cuh"

namespace reprise::kernels::cuda {

// Loads in flight per thread.
inline constexpr int kSampleUnroll = 4;

// The block's part of the row goes by each thread once, and to `keep` where that is not null.
template <typename Extremes>
__device__ __forceinline__ void ReadPart(const float* from, float* keep, int first, int size,
                                         bool by_four, Extremes& extremes) {
  if (!by_four) {
    for (int i = threadIdx.x; i < size; i += kSampleThreads) {
      const float x = from[i];
      if (keep != nullptr) keep[i] = x;
      extremes.See(x, first + i);
    }
    return;
  }
  const int fours = size / 4;
  for (int i = threadIdx.x; i < fours; i += kSampleThreads * kSampleUnroll) {
    float4 values[kSampleUnroll];
#pragma unroll
    for (int u = 0; u < kSampleUnroll; ++u) {
      const int at = i + u * kSampleThreads;
      if (at < fours) values[u] = reinterpret_cast<const float4*>(from)[at];
    }
#pragma unroll
    for (int u = 0; u < kSampleUnroll; ++u) {
      const int at = i + u * kSampleThreads;
      if (at >= fours) continue;
      if (keep != nullptr) reinterpret_cast<float4*>(keep)[at] = values[u];
      extremes.See(values[u].x, first + at * 4);
      extremes.See(values[u].y, first + at * 4 + 1);
      extremes.See(values[u].z, first + at * 4 + 2);
      extremes.See(values[u].w, first + at * 4 + 3);
    }
  }
}

// The order of operations of the CPU's ApplyBiasAndPenalties. All threads of the block; a barrier
// must come before the part is read again.
__device__ __forceinline__ void Adjust(const SamplingRow& request, const SamplingEntry* entries,
                                       float* part, int first, int size) {
  entries += request.entries;
  for (int e = threadIdx.x; e < request.num_biases; e += kSampleThreads) {
    const int at = entries[e].id - first;
    if (at >= 0 && at < size) part[at] += entries[e].bias;
  }
  __syncthreads();
  entries += request.num_biases;
  for (int e = threadIdx.x; e < request.num_counts; e += kSampleThreads) {
    const int at = entries[e].id - first;
    if (at < 0 || at >= size) continue;
    float logit = part[at];
    logit = logit > 0 ? logit / request.repetition_penalty : logit * request.repetition_penalty;
    if (entries[e].in_answer > 0) {
      logit -= request.presence_penalty +
               request.frequency_penalty * static_cast<float>(entries[e].in_answer);
    }
    part[at] = logit;
  }
  __syncthreads();
}

// Up to this top_k, sorting all that it leaves beats looking for places in the ranking.
inline constexpr int kFew = 1024;

// The id that the request draws. top_k, top_p and min_p each end the ranking at some place; what
// comes before the first of these ends is drawn from. Both ways give the same id.
template <typename Row>
__device__ int DrawRanked(const SamplingRow& request, int vocab_size, Row& row) {
  const Weighting weight(row.max(), request.temperature);
  const float range = 32.0f * fmaxf(request.temperature, 1.0f);
  const bool top_k = request.top_k > 0 && request.top_k < vocab_size;

  if (top_k && request.top_k <= kFew) {
    row.template MakeBins<false>(weight, range);
    if (row.GatherBest(request.top_k) > 0) return IdOf(row.DrawAmongBest(weight, request));
  }

  uint64_t mass = row.template MakeBins<true>(weight, range);
  uint64_t last = kNoRank;
  if (top_k) {
    const typename Row::Place place = row.FindCount(weight, request.top_k);
    last = place.rank;
    mass = place.mass;
  }
  if (request.top_p < 1.0f) {
    const typename Row::Place place = row.FindMass(weight, MassOfTopP(request, mass));
    last = place.rank;
    mass = place.mass;
  }
  if (request.min_p > 0.0f) {
    const uint64_t end = row.FirstLighter(weight, LeastOfMinP(request));
    if (end <= last) mass = row.MassBefore(weight, end);
  }
  return IdOf(row.FindMass(weight, __umul64hi(request.draw, mass) + 1).rank);
}

template <int kBlocks, bool kKeep>
__global__ void __cluster_dims__(kBlocks, 1, 1) __launch_bounds__(kSampleThreads, kKeep ? 1 : 2)
    SampleRowsKernel(const SampleRowsParams p, int part_size) {
  using Cluster = cuda::Cluster<kBlocks>;
  extern __shared__ __align__(16) uint8_t shared_memory[];
  SampleShared& shared = *reinterpret_cast<SampleShared*>(shared_memory);
  float* const part = kKeep ? reinterpret_cast<float*>(&shared + 1) : nullptr;
  if (threadIdx.x == 0) shared.num_gathered = 0;
  LetNextStart();
  Cluster::Arrive();  // nobody writes into a block that has not begun
  WaitForPrevious();

  const int row_index = blockIdx.x / kBlocks, block = Cluster::Rank();
  const SamplingRow request = p.requests[row_index];
  const float* const logits = p.logits + static_cast<int64_t>(row_index) * p.vocab_size;
  const int first = min(p.vocab_size, block * part_size);
  const int size = min(p.vocab_size, first + part_size) - first;
  SampleRow<kBlocks> row(shared, kKeep ? part : logits + first, first, size);

  typename SampleRow<kBlocks>::Extremes extremes;
  const bool by_four = p.vocab_size % 4 == 0 && reinterpret_cast<uint64_t>(p.logits) % 16 == 0;
  ReadPart(logits + first, part, first, size, by_four, extremes);
  Cluster::Wait();
  const uint64_t best = row.Best(extremes);  // also the barrier after what was kept

  SamplingResult* const result = p.results + row_index;
  const bool writes = block == 0 && threadIdx.x == 0;
  const auto answer = [&](int id, float logprob, bool sound, int num_top) {
    if (!writes) return;
    p.ids[row_index] = id;
    result->id = id;
    result->logprob = logprob;
    result->sound = sound;
    result->num_top = num_top;
  };
  if (best == kUnsound) return answer(0, 0.0f, false, 0);

  // Of the model's own distribution.
  double normalizer = 0.0;
  int num_top = 0;
  if (request.want_logprob != 0) {
    const Weighting weight(row.max(), 1.0f);
    uint64_t mass;
    if (kKeep && request.top_logprobs > 0) {
      mass = row.template MakeBins<false>(weight, 32.0f);
      num_top = min(request.top_logprobs, p.vocab_size);
      if (row.GatherBest(num_top) == 0) row.Gather(row.FindCount(weight, num_top).rank, num_top);
    } else {
      mass = row.MassBefore(weight, kNoRank);
    }
    normalizer = row.max() + log(static_cast<double>(mass) / Weighting::kUnit);
    if (block == 0 && static_cast<int>(threadIdx.x) < num_top) {
      const uint64_t rank = shared.gathered[threadIdx.x];
      result->top[threadIdx.x].id = IdOf(rank);
      result->top[threadIdx.x].logprob = static_cast<float>(LogitOf(rank) - normalizer);
    }
  }

  int id = request.score >= 0 ? request.score : IdOf(best);
  if constexpr (kKeep) {
    if (request.num_biases > 0 || request.num_counts > 0) {
      // All of the cluster have left the part behind: every answer above ends with its barrier.
      Adjust(request, p.entries, part, first, size);
      const uint64_t adjusted = row.Best();
      if (adjusted == kUnsound) return answer(0, 0.0f, false, 0);
      id = IdOf(adjusted);
    }
    if (request.temperature > 0.0f) {
      id = request.truncates != 0
               ? DrawRanked(request, p.vocab_size, row)
               : row.DrawById(Weighting(row.max(), request.temperature), request.draw);
    }
  }
  const bool asked = request.want_logprob != 0;
  answer(id, asked && writes ? static_cast<float>(logits[id] - normalizer) : 0.0f, true, num_top);
}

}  // namespace reprise::kernels::cuda

#endif  // REPRISE_KERNELS_CUDA_SAMPLING_CUH_
