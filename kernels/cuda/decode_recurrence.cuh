// The convolution, the gates and RG-LRU of a decode step (decode_step.cu).
#ifndef REPRISE_KERNELS_CUDA_DECODE_RECURRENCE_CUH_
#define REPRISE_KERNELS_CUDA_DECODE_RECURRENCE_CUH_

#include "kernels/cuda/decode_product.cuh"
#include "kernels/cuda/recurrence_math.cuh"

namespace reprise::kernels::cuda::decode {

// Slots and positions of the sequences.
struct Sequences {
  int64_t slots[kMostDecodeRows], positions[kMostDecodeRows];
};

// Both gates: the strips come in turns.
__device__ __forceinline__ void SumGates(int chunks, uint32_t a_lane, uint32_t b, const Ring& ring,
                                         RingPosition& at, float (&sums)[4]) {
  using F = Form<true, false>;
  const int lane = threadIdx.x % 32;
  for (; chunks > 0; chunks -= F::kEach) {
    RingPosition second = at;
    second.Advance(ring.depth);
    Wait(&ring.full[at.slot], at.parity);
    Wait(&ring.full[second.slot], second.parity);
    const uint32_t a = a_lane + (lane / 8 % 2 == 0 ? at.slot : second.slot) * kSlotBytes;
#pragma unroll
    for (int i = 0; i < F::kEach; ++i) {
      if (i >= chunks) break;
      Fragments<F> fragments;
      fragments.Load(a + i * F::kBytes, b + i * 128);
      fragments.MultiplyAdd(sums);
    }
    b += F::kEach * 128;
    __syncwarp();
    if (lane == 0) {
      Arrive(&ring.empty[at.slot]);
      Arrive(&ring.empty[second.slot]);
    }
    at = second;
    at.Advance(ring.depth);
  }
}

// The convolution of the channels that this block's gates read: as floats, and rounded in x.
__device__ void Convolve(const Step& step, const Sequences& sequences, const StepOp& op,
                         int first_block, int blocks, float* u, char* x) {
  const CausalConv1dParams& p = op.conv;
  const int inputs = op.layout.Inputs(), count = blocks * inputs;
  for (int i = threadIdx.x * 4; i < step.rows * count; i += kComputing * 4) {
    const int row = i / count, in_span = i - row * count;
    const int channel = first_block * inputs + in_span;
    const int64_t slot = sequences.slots[row], start = sequences.positions[row];
    Floats<4> sum = {};
    if (slot >= 0) {
      const Floats<4> last = LoadFresh(p.x + row * p.x_stride + channel);
      const float* const state = p.state + slot * p.state_slot_stride + channel;
      if (p.bias != nullptr) sum = LoadFloats<4>(p.bias + channel);
      for (int j = 0; j < p.width; ++j) {
        const Floats<4> weight = LoadFloats<4>(p.weight + int64_t{j} * p.channels + channel);
        Floats<4> input = last;
        if (j + 1 < p.width) {
          input = {};
          if (start + j + 1 - p.width >= 0) {
            input = LoadFloats<4>(state + int64_t{j} * p.channels);
          }
        }
#pragma unroll
        for (int c = 0; c < 4; ++c) sum.v[c] = fmaf(weight.v[c], input.v[c], sum.v[c]);
      }
    }
    StoreFloats<4>(u + i, sum);
    *reinterpret_cast<uint2*>(x + row * XRowBytes(count) + in_span * 2) =
        make_uint2(PackBf16(sum.v[0], sum.v[1]), PackBf16(sum.v[2], sum.v[3]));
  }
}

// One channel of one row.
template <int kJoin>
__device__ __forceinline__ float RecurOne(const RgLruParams& p, int64_t slot, int64_t position,
                                          int channel, float u, float input_gate,
                                          float recurrent_gate, float join, const float (&old)[3],
                                          float log_a_scale) {
  const bool boundary = (position + 1) % kGridTokens == 0;
  ChannelState state = {old[0], old[1], old[2]};
  Advance(InputOf(u, input_gate, recurrent_gate, log_a_scale, position == 0), state);
  const float out = Output(state);
  float* const to = p.state + slot * p.state_slot_stride + channel;
  if (boundary || position == 0) to[0] = boundary ? out : state.grid;
  to[p.width] = boundary ? 0.0f : state.local;
  to[2 * int64_t{p.width}] = boundary ? 1.0f : state.product;
  return Joined<kJoin>(out, join);
}

__device__ __forceinline__ float RecurJoined(const RgLruParams& p, int64_t slot, int64_t position,
                                             int channel, float u, float input_gate,
                                             float recurrent_gate, float join,
                                             const float (&old)[3], float log_a_scale) {
  const auto recur = [&]<Activation kActivation>() {
    return RecurOne<static_cast<int>(kActivation)>(p, slot, position, channel, u, input_gate,
                                                   recurrent_gate, join, old, log_a_scale);
  };
  switch (p.join_activation) {
    case Activation::kGeluTanh:
      return recur.template operator()<Activation::kGeluTanh>();
    case Activation::kGelu:
      return recur.template operator()<Activation::kGelu>();
    case Activation::kSilu:
      return recur.template operator()<Activation::kSilu>();
    default:
      return recur.template operator()<Activation::kRelu>();
  }
}

// A thread gets both gates of one channel for two rows.
__device__ void Recur(const Step& step, const Sequences& sequences, const StepOp& op,
                      const Share& share, int base, const Lane& lane_at, float* u, char* x,
                      const Ring& ring, RingPosition& at) {
  if (share.units == 0) return;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const RgLruParams& p = op.lru;
  const int inputs = op.layout.Inputs();
  const int first_block = share.first * kStripOutputs / inputs;
  const int blocks = (share.last * kStripOutputs - 1) / inputs - first_block + 1;
  const int count = blocks * inputs;
  Convolve(step, sequences, op, first_block, blocks, u, x);
  SyncComputing();
  for (int unit = (warp - base) & (kWarps - 1); unit < share.units; unit += kWarps) {
    const int channel = (share.first + unit) * kStripOutputs + lane / 4;
    const int in_span = channel - first_block * inputs;
    float join[2] = {}, old[2][3] = {};
    const float log_a_scale = p.log_a_scale[channel];
    const float input_bias = op.gate_bias != nullptr ? op.gate_bias[channel] : 0.0f;
    const float recurrent_bias = op.gate_bias != nullptr ? op.gate_bias[p.width + channel] : 0.0f;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = lane % 4 * 2 + i;
      if (row >= step.rows || sequences.slots[row] < 0) continue;
      join[i] = __ldcg(p.join + row * p.join_stride + channel);
      if (sequences.positions[row] == 0) continue;
      const float* const state = p.state + sequences.slots[row] * p.state_slot_stride + channel;
#pragma unroll
      for (int j = 0; j < 3; ++j) old[i][j] = state[int64_t{j} * p.width];
    }
    float sums[4] = {};
    SumGates(op.layout.chunks, lane_at.strip,
             lane_at.b + lane_at.x_row * XRowBytes(count) + in_span / inputs * inputs * 2, ring, at,
             sums);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = lane % 4 * 2 + i;
      if (row >= step.rows) continue;
      float out = 0.0f;
      if (sequences.slots[row] >= 0) {
        float input = 0.0f + sums[i], recurrent = 0.0f + sums[2 + i];
        if (op.gate_bias != nullptr) {
          input += input_bias;
          recurrent += recurrent_bias;
        }
        out = RecurJoined(p, sequences.slots[row], sequences.positions[row], channel,
                          u[row * count + in_span], input, recurrent, join[i], old[i], log_a_scale);
      }
      StoreRounded<1>(p.out_bf16 + row * p.out_stride + channel, {{out}});
    }
  }
}

// The convolution's state, when nobody reads it any more.
__device__ void MoveConvState(const Step& step, const Sequences& sequences,
                              const CausalConv1dParams& p) {
  for (int i = blockIdx.x * kComputing + threadIdx.x; i < step.rows * p.channels;
       i += gridDim.x * kComputing) {
    const int row = i / p.channels, channel = i - row * p.channels;
    const int64_t slot = sequences.slots[row], start = sequences.positions[row];
    if (slot < 0) continue;
    float* const state = p.state + slot * p.state_slot_stride + channel;
    for (int j = 0; j + 2 < p.width; ++j) {
      const bool there = start + j + 2 - p.width >= 0;
      state[int64_t{j} * p.channels] = there ? state[int64_t{j + 1} * p.channels] : 0.0f;
    }
    state[int64_t{p.width - 2} * p.channels] = __ldcg(p.x + row * p.x_stride + channel);
  }
}

}  // namespace reprise::kernels::cuda::decode

#endif  // REPRISE_KERNELS_CUDA_DECODE_RECURRENCE_CUH_
