// One row of logits, spread over the shared memory of a cluster: what can be asked about it.
#ifndef REPRISE_KERNELS_CUDA_SAMPLING_ROW_CUH_
#define REPRISE_KERNELS_CUDA_SAMPLING_ROW_CUH_

#include <cstdint>
#include <limits>

#include "kernels/cuda/sampling.h"
#include "kernels/cuda/sampling_block.cuh"

namespace reprise::kernels::cuda {

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();
inline constexpr int kBins = 4096;
inline constexpr int kGathered = 2048;  // members of a bin that one block sorts

struct alignas(16) SampleShared {
  // Of a histogram: counts and masses of all bins in this block's part of the row; then, for the
  // bins that this block owns, sums over the row up to and including the bin.
  uint64_t masses[kBins];
  uint32_t counts[kBins];
  uint64_t gathered[kGathered];
  uint64_t warps[2][kSampleWarps];
  uint64_t exchange[2][8][2];  // [turn][block of the cluster][value]
  uint32_t num_gathered;
  struct {
    uint64_t count_before, mass_before;
    int32_t bin, count;
  } bin;
  struct {
    uint64_t rank, mass;
  } found;
  uint32_t end;
  uint64_t end_mass;
  // The block's part of the row follows.
};

// The mass at which top_p < 1 ends the ranking, and the weight below which min_p does.
__device__ __forceinline__ uint64_t MassOfTopP(const SamplingRow& request, uint64_t mass) {
  const double wanted = ceil(static_cast<double>(request.top_p) * static_cast<double>(mass));
  return Min()(mass, Max()(1, static_cast<uint64_t>(wanted)));
}
__device__ __forceinline__ uint64_t LeastOfMinP(const SamplingRow& request) {
  return static_cast<uint64_t>(ceil(static_cast<double>(request.min_p) * Weighting::kUnit));
}

// A block's view. Methods are for all threads of the cluster at once and give all the same answer.
template <int kBlocks>
class SampleRow {
 public:
  using Cluster = cuda::Cluster<kBlocks>;

  // A place in the ranking and the weight of all up to and including it.
  struct Place {
    uint64_t rank, mass;
  };

  // `part`: logits [first, first + size) of the row, the block's own.
  __device__ SampleRow(SampleShared& shared, const float* part, int first, int size)
      : s_(shared), part_(part), first_(first), size_(size), rank_(Cluster::Rank()) {}

  template <typename Fn>
  __device__ __forceinline__ void ForEach(Fn&& fn) const {
    for (int i = threadIdx.x; i < size_; i += kSampleThreads) fn(part_[i], first_ + i);
  }

  // ---- The best

  // Collects a thread's share of the row, ids ascending.
  struct Extremes {
    float best = -kInfinity, least = kInfinity;
    int id = -1;
    bool sound = true;

    __device__ __forceinline__ void See(float x, int i) {
      sound &= x < kInfinity;  // false for NaN and +inf
      if (x > best) {
        best = x;
        id = i;
      }
      if (x > -kInfinity) least = fminf(least, x);
    }
  };

  // The rank of the first, or kUnsound when some logit is NaN or +inf or none is finite. Keeps the
  // first and the last finite number for the bins.
  __device__ uint64_t Best(const Extremes& of_thread) {
    uint64_t best = of_thread.id < 0 ? kNoRank : RankOf(of_thread.best, of_thread.id);
    if (!of_thread.sound) best = kUnsound;
    uint64_t least = of_thread.id < 0 ? 0 : KeyOf(of_thread.least);
    Reduce(best, least, Min(), Max());
    if (best == kNoRank) best = kUnsound;
    max_ = LogitOf(best);
    least_ = NumberOf(static_cast<uint32_t>(least));
    return best;
  }
  __device__ uint64_t Best() {
    Extremes extremes;
    ForEach([&](float x, int id) { extremes.See(x, id); });
    return Best(extremes);
  }
  __device__ float max() const { return max_; }

  // Sum of the weights of what comes before `end` in the ranking.
  __device__ uint64_t MassBefore(const Weighting& weight, uint64_t end) {
    uint64_t mass = 0, none = 0;
    ForEach([&](float x, int id) {
      if (RankOf(x, id) < end) mass += weight(x);
    });
    Reduce(mass, none, Sum(), Sum());
    return mass;
  }

  // The first in the ranking whose weight is below `least`, or kNoRank.
  __device__ uint64_t FirstLighter(const Weighting& weight, uint64_t least) {
    uint64_t first = kNoRank, none = 0;
    ForEach([&](float x, int id) {
      if (weight(x) < least) first = Min()(first, RankOf(x, id));
    });
    Reduce(first, none, Min(), Sum());
    return first;
  }

  // ---- Places in the ranking

  // Sorts the row into bins of equal width, from the best downwards, and counts over them, with
  // kMass also the weights; what follows needs it. The last bin takes what is more than `range`
  // below the best. Returns the row's mass.
  template <bool kMass>
  __device__ uint64_t MakeBins(const Weighting& weight, float range) {
    range = fminf(range, max_ - least_);
    scale_ = range > 0.0f ? fminf((kBins - 1) / range, 1e30f) : 0.0f;
    for (int b = threadIdx.x; b < kBins; b += kSampleThreads) {
      s_.counts[b] = 0;
      if constexpr (kMass) s_.masses[b] = 0;
    }
    __syncthreads();
    // The last bin is often most of the row: spare it the contention.
    uint64_t last_count = 0, last_mass = 0, thread_mass = 0;
    ForEach([&](float x, int) {
      const int b = Bin(x);
      const uint64_t mass = weight(x);
      if (b == kBins - 1) {
        ++last_count;
      } else {
        atomicAdd(&s_.counts[b], 1u);
      }
      if constexpr (!kMass) {
        thread_mass += mass;
      } else if (b == kBins - 1) {
        last_mass += mass;
      } else if (mass != 0) {
        Add(&s_.masses[b], mass);
      }
    });
    last_count = WarpReduce(last_count, Sum());
    if constexpr (kMass) last_mass = WarpReduce(last_mass, Sum());
    if (Lane() == 0 && last_count != 0) {
      atomicAdd(&s_.counts[kBins - 1], static_cast<uint32_t>(last_count));
      if (last_mass != 0) Add(&s_.masses[kBins - 1], last_mass);
    }
    Cluster::Sync();

    // Each block sums its share of the bins over the blocks, and then along the bins. What it
    // overwrites are its own bins, which no other block reads.
    uint64_t counts[kMaxBinsPerThread], masses[kMaxBinsPerThread];
    uint64_t count = 0, mass = kMass ? 0 : thread_mass;
#pragma unroll
    for (int i = 0; i < kMaxBinsPerThread; ++i) {
      if (!Owns(i)) continue;
      const int b = OwnBin(i);
#pragma unroll
      for (int r = 0; r < kBlocks; ++r) {
        count += Cluster::Of(s_.counts, r)[b];
        if constexpr (kMass) mass += Cluster::Of(s_.masses, r)[b];
      }
      counts[i] = count;
      masses[i] = mass;
    }
    uint64_t block_count, block_mass;
    uint64_t count_before = BlockScan(count, s_.warps[0], &block_count) - count;
    uint64_t mass_before = BlockScan(mass, s_.warps[1], &block_mass) - mass;
    uint64_t row_mass = 0;
    Share(block_count, block_mass);
    base_count_ = base_mass_ = 0;
#pragma unroll
    for (int r = 0; r < kBlocks; ++r) {
      if (r < rank_) {
        base_count_ += s_.exchange[turn_][r][0];
        base_mass_ += s_.exchange[turn_][r][1];
      }
      row_mass += s_.exchange[turn_][r][1];
    }
    turn_ ^= 1;
#pragma unroll
    for (int i = 0; i < kMaxBinsPerThread; ++i) {
      if (!Owns(i)) continue;
      s_.counts[OwnBin(i)] = static_cast<uint32_t>(base_count_ + count_before + counts[i]);
      if constexpr (kMass) s_.masses[OwnBin(i)] = base_mass_ + mass_before + masses[i];
    }
    __syncthreads();
    return row_mass;
  }

  // The k-th of the ranking, 1 <= k <= vocabulary; its mass is known after MakeBins<true>.
  __device__ Place FindCount(const Weighting& weight, uint64_t k) { return Find<false>(weight, k); }
  // The first of the ranking with which the mass reaches `mass`, 1 <= mass <= the row's, after
  // MakeBins<true>.
  __device__ Place FindMass(const Weighting& weight, uint64_t mass) {
    return Find<true>(weight, mass);
  }

  // Block 0 gets what ranks up to `last`, `count` <= kGathered of them, in order, and holds them
  // until the next call that looks for something.
  __device__ void Gather(uint64_t last, int count) {
    ForEach([&](float x, int id) {
      const uint64_t rank = RankOf(x, id);
      if (rank <= last) Push(rank);
    });
    SortPushed(count);
  }

  // The same for the best k and some more, whole bins; returns how many, or 0 when they are more
  // than kGathered and nothing was done.
  __device__ int GatherBest(uint64_t k) {
    LookUp<false>(k);
    const uint64_t count = s_.bin.count_before + s_.bin.count;
    if (count > kGathered) {
      Cluster::Sync();  // before s_.bin is written again
      return 0;
    }
    const int bin = s_.bin.bin;
    ForEach([&](float x, int id) {
      if (Bin(x) <= bin) Push(RankOf(x, id));
    });
    SortPushed(static_cast<int>(count));
    return static_cast<int>(count);
  }

  // The rank that the request draws, from the best top_k, which block 0 holds.
  __device__ uint64_t DrawAmongBest(const Weighting& weight, const SamplingRow& request) {
    if (rank_ == 0) {
      constexpr int kEach = kGathered / kSampleThreads;
      const int begin = threadIdx.x * kEach, count = request.top_k;
      uint64_t weights[kEach], masses[kEach];
      uint64_t mass = 0, total;
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        weights[i] = begin + i < count ? weight(LogitOf(s_.gathered[begin + i])) : 0;
        masses[i] = mass += weights[i];
      }
      const uint64_t before = BlockScan(mass, s_.warps[0], &total) - mass;
      if (threadIdx.x == 0) s_.end = count;
      __syncthreads();

      const uint64_t wanted = MassOfTopP(request, total), least = LeastOfMinP(request);
      uint64_t end = count;
#pragma unroll
      for (int i = kEach - 1; i >= 0; --i) {
        const int at = begin + i;
        if (request.top_p < 1.0f && before + masses[i] >= wanted) end = Min()(end, at + 1);
        if (weights[i] < least) end = Min()(end, at);
      }
      end = WarpReduce(end, Min());
      if (Lane() == 0) atomicMin(&s_.end, static_cast<uint32_t>(end));
      __syncthreads();
      const int last = static_cast<int>(s_.end) - 1;
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        if (begin + i == last) s_.end_mass = before + masses[i];
      }
      __syncthreads();
      const uint64_t target = __umul64hi(request.draw, s_.end_mass) + 1;
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const uint64_t previous = before + masses[i] - weights[i];
        if (previous < target && target <= before + masses[i]) Tell(s_.gathered[begin + i], 0);
      }
    }
    Cluster::Sync();
    return s_.found.rank;
  }

  // ---- In order of ids

  // The first id with which the sum of weights passes draw / 2^64 of the row's.
  __device__ int DrawById(const Weighting& weight, uint64_t draw) {
    // A warp takes a run of ids.
    const int run = (size_ + kSampleThreads - 1) / kSampleThreads * 32;
    const int begin = min(size_, Warp() * run), end = min(size_, begin + run);
    uint64_t mass = 0;
    for (int i = begin + Lane(); i < end; i += 32) mass += weight(part_[i]);
    mass = WarpReduce(mass, Sum());
    if (Lane() == 0) s_.warps[0][Warp()] = mass;
    __syncthreads();
    const uint64_t of_warps = WarpScan(s_.warps[0][Lane()]);
    uint64_t before = __shfl_sync(kAllLanes, of_warps, Warp()) - mass;
    Share(__shfl_sync(kAllLanes, of_warps, 31), 0);
    uint64_t row_mass = 0;
#pragma unroll
    for (int r = 0; r < kBlocks; ++r) {
      if (r < rank_) before += s_.exchange[turn_][r][0];
      row_mass += s_.exchange[turn_][r][0];
    }
    turn_ ^= 1;
    const uint64_t wanted = __umul64hi(draw, row_mass) + 1;
    if (before < wanted && wanted <= before + mass) {  // one warp of the cluster
      for (int i = begin; i < end; i += 32) {
        const uint64_t own = i + Lane() < end ? weight(part_[i + Lane()]) : 0;
        const uint64_t reached = before + WarpScan(own);
        const unsigned there = __ballot_sync(kAllLanes, reached >= wanted);
        if (there != 0) {
          if (Lane() == __ffs(there) - 1) Tell(RankOf(0.0f, first_ + i + Lane()), 0);
          break;
        }
        before = __shfl_sync(kAllLanes, reached, 31);
      }
    }
    Cluster::Sync();
    return IdOf(s_.found.rank);
  }

 private:
  static constexpr int kOwnBins = kBins / kBlocks;
  static constexpr int kMaxBinsPerThread =
      kOwnBins > kSampleThreads ? kOwnBins / kSampleThreads : 1;
  static_assert(kOwnBins % kSampleThreads == 0 || kOwnBins < kSampleThreads);

  // A thread's own bins are consecutive.
  __device__ __forceinline__ bool Owns(int i) const {
    return static_cast<int>(threadIdx.x) * kMaxBinsPerThread + i < kOwnBins;
  }
  __device__ __forceinline__ int OwnBin(int i) const {
    return rank_ * kOwnBins + threadIdx.x * kMaxBinsPerThread + i;
  }

  // Ascends with the rank, and is the same for equal logits.
  __device__ __forceinline__ int Bin(float x) const {
    return static_cast<int>(fminf((max_ - x) * scale_, kBins - 1));
  }

  // Shared memory adds 32 bits at once. Each wrap of the low word is seen by the one addition that
  // caused it, so the two words are right once all have added.
  __device__ __forceinline__ static void Add(uint64_t* sum, uint64_t value) {
    uint32_t* const words = reinterpret_cast<uint32_t*>(sum);
    const uint32_t low = static_cast<uint32_t>(value);
    uint32_t high = static_cast<uint32_t>(value >> 32);
    if (low != 0) high += atomicAdd(&words[0], low) > ~low;
    if (high != 0) atomicAdd(&words[1], high);
  }

  // The two values of each block come to all; they lie in exchange[turn_] until the second next.
  __device__ void Share(uint64_t a, uint64_t b) {
    if (threadIdx.x < kBlocks) {
      uint64_t* const to = Cluster::Of(&s_.exchange[turn_][rank_][0], threadIdx.x);
      to[0] = a;
      to[1] = b;
    }
    Cluster::Sync();
  }

  template <typename OpA, typename OpB>
  __device__ void Reduce(uint64_t& a, uint64_t& b, OpA op_a, OpB op_b) {
    a = WarpReduce(a, op_a);
    b = WarpReduce(b, op_b);
    if (Lane() == 0) {
      s_.warps[0][Warp()] = a;
      s_.warps[1][Warp()] = b;
    }
    __syncthreads();
    if (Warp() == 0) {
      a = WarpReduce(s_.warps[0][Lane()], op_a);
      b = WarpReduce(s_.warps[1][Lane()], op_b);
    }
    Share(a, b);
    a = s_.exchange[turn_][0][0];
    b = s_.exchange[turn_][0][1];
#pragma unroll
    for (int r = 1; r < kBlocks; ++r) {
      a = op_a(a, s_.exchange[turn_][r][0]);
      b = op_b(b, s_.exchange[turn_][r][1]);
    }
    turn_ ^= 1;
  }

  __device__ __forceinline__ void Push(uint64_t rank) {
    Cluster::Of(s_.gathered, 0)[atomicAdd(Cluster::Of(&s_.num_gathered, 0), 1u)] = rank;
  }

  __device__ __forceinline__ void Tell(uint64_t rank, uint64_t mass) {
    for (int r = 0; r < kBlocks; ++r) {
      auto* const found = Cluster::Of(&s_.found, r);
      found->rank = rank;
      found->mass = mass;
    }
  }

  // What was pushed is `count` ranks.
  __device__ void SortPushed(int count) {
    Cluster::Sync();
    if (rank_ != 0) return;
    if (threadIdx.x == 0) s_.num_gathered = 0;
    BlockSort(s_.gathered, count);
  }

  // s_.bin becomes the bin with which the count, or the mass, reaches `wanted`.
  template <bool kMass>
  __device__ void LookUp(uint64_t wanted) {
#pragma unroll
    for (int i = 0; i < kMaxBinsPerThread; ++i) {
      if (!Owns(i)) continue;
      const int b = OwnBin(i);
      const bool first = b == rank_ * kOwnBins;
      const uint64_t count_before = first ? base_count_ : s_.counts[b - 1];
      const uint64_t mass_before = first ? base_mass_ : s_.masses[b - 1];
      const uint64_t before = kMass ? mass_before : count_before;
      const uint64_t up_to = kMass ? s_.masses[b] : s_.counts[b];
      if (before < wanted && wanted <= up_to) {  // one thread of the cluster
        for (int r = 0; r < kBlocks; ++r) {
          auto* const bin = Cluster::Of(&s_.bin, r);
          bin->count_before = count_before;
          bin->mass_before = mass_before;
          bin->bin = b;
          bin->count = static_cast<int32_t>(s_.counts[b] - count_before);
        }
      }
    }
    Cluster::Sync();
  }

  // The first of the ranking with which the count, or the mass, reaches `wanted`.
  template <bool kMass>
  __device__ Place Find(const Weighting& weight, uint64_t wanted) {
    LookUp<kMass>(wanted);
    const int bin = s_.bin.bin, count = s_.bin.count;
    const uint64_t before = kMass ? s_.bin.mass_before : s_.bin.count_before;
    const uint64_t mass_before = s_.bin.mass_before;
    if (count > kGathered) return Bisect<kMass>(weight, bin, wanted - before, mass_before);

    ForEach([&](float x, int id) {
      if (Bin(x) == bin) Push(RankOf(x, id));
    });
    SortPushed(count);
    if (rank_ == 0) {
      constexpr int kEach = kGathered / kSampleThreads;
      uint64_t ranks[kEach], masses[kEach];
      uint64_t mass = 0;
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const int at = threadIdx.x * kEach + i;
        ranks[i] = at < count ? s_.gathered[at] : kNoRank;
        if (at < count) mass += weight(LogitOf(ranks[i]));
        masses[i] = mass;
      }
      uint64_t bin_mass;
      uint64_t mass_so_far = mass_before + BlockScan(mass, s_.warps[0], &bin_mass) - mass;
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const int at = threadIdx.x * kEach + i;
        const uint64_t previous = mass_so_far + (i == 0 ? 0 : masses[i - 1]);
        const bool here = kMass ? previous < wanted && wanted <= mass_so_far + masses[i]
                                : at + 1 == wanted - before;
        if (here && at < count) Tell(ranks[i], mass_so_far + masses[i]);
      }
    }
    Cluster::Sync();
    return {s_.found.rank, s_.found.mass};
  }

  // The same for a bin with too many members to sort (nearly equal logits): by halving the span of
  // ranks, one pass each.
  template <bool kMass>
  __device__ Place Bisect(const Weighting& weight, int bin, uint64_t wanted, uint64_t mass_before) {
    uint64_t low = kNoRank, high = 0;
    ForEach([&](float x, int id) {
      if (Bin(x) != bin) return;
      low = Min()(low, RankOf(x, id));
      high = Max()(high, RankOf(x, id));
    });
    Reduce(low, high, Min(), Max());
    while (true) {
      const uint64_t middle = low + (high - low) / 2;
      uint64_t count = 0, mass = 0;
      ForEach([&](float x, int id) {
        if (Bin(x) != bin || RankOf(x, id) > middle) return;
        ++count;
        mass += weight(x);
      });
      Reduce(count, mass, Sum(), Sum());
      const bool reached = (kMass ? mass : count) >= wanted;
      if (low == high) return {low, mass_before + mass};
      if (reached) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
  }

  SampleShared& s_;
  const float* const part_;
  const int first_, size_, rank_;
  int turn_ = 0;
  float max_ = 0.0f, least_ = 0.0f, scale_ = 0.0f;
  uint64_t base_count_ = 0, base_mass_ = 0;  // of the bins before this block's own
};

}  // namespace reprise::kernels::cuda

#endif  // REPRISE_KERNELS_CUDA_SAMPLING_ROW_CUH_
