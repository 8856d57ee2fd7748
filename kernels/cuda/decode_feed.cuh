// The rings that weights come through in a decode step (decode_step.cu).
#ifndef REPRISE_KERNELS_CUDA_DECODE_FEED_CUH_
#define REPRISE_KERNELS_CUDA_DECODE_FEED_CUH_

#include "kernels/cuda/async.cuh"
#include "kernels/cuda/decode_step.cuh"

namespace reprise::kernels::cuda::decode {

using Kind = StepOp::Kind;

// A slot's place in the ring of one warp, and the phase of its barriers.
struct RingPosition {
  int slot;
  uint32_t parity;
  __device__ __forceinline__ void Advance(int depth) {
    slot += kWarps;
    if (slot < depth * kWarps) return;
    slot -= depth * kWarps;
    parity ^= 1;
  }
};

struct Ring {
  char* slots;
  Barrier *full, *empty;
  int depth;
};

// Goes through the slots that one warp will empty, of all operations in order, and asks for them.
class Feed {
 public:
  __device__ Feed(const Step& step, const StepOp* ops, int warp)
      : step_(step), ops_(ops), warp_(warp), at_{warp, 1} {
    more_ = NextOp();
  }
  __device__ __forceinline__ bool more() const { return more_; }

  // Asks for the next slot, once it is empty.
  __device__ __forceinline__ void Next(const Ring& ring) {
    Wait(&ring.empty[at_.slot], at_.parity);
    const StepOp& op = ops_[op_];
    char* const target = ring.slots + at_.slot * kSlotBytes;
    Barrier* const full = &ring.full[at_.slot];
    if (strip_ >= 0) {
      ArriveAndExpect(full, kSlotBytes);
      const bool recurrent = op.kind == Kind::kRecurrence && slot_ % 2 == 1;
      const int chunk = op.kind == Kind::kRecurrence ? slot_ / 2 : slot_;
      TensorLoad(target, &step_.maps[op_], 0, strip_,
                 chunk_ + chunk * each_ + (recurrent ? op.gate_chunks : 0), full);
    } else {
      const int count = min(each_, chunks_ - slot_ * each_);
      const int bytes = ChunkBytes(op.layout.e4m3);
      ArriveAndExpect(full, count * bytes);
      BulkLoad(target, op.weights + int64_t{chunk_ + slot_ * each_} * bytes, count * bytes, full);
    }
    at_.Advance(ring.depth);
    if (++slot_ < slots_) return;
    unit_ += kWarps;
    if (unit_ < share_.units) {
      SetUnit();
    } else {
      more_ = NextOp();
    }
  }

 private:
  // Moves to the next operation that has units for this warp.
  __device__ bool NextOp() {
    while (++op_ < step_.count) {
      share_ = Share(ops_[op_]);
      unit_ = (warp_ - base_) & (kWarps - 1);
      base_ += share_.units;
      if (unit_ >= share_.units) continue;
      SetUnit();
      return true;
    }
    return false;
  }
  __device__ void SetUnit() {
    const StepOp& op = ops_[op_];
    slot_ = 0;
    if (op.kind == Kind::kRecurrence) {
      const int strip = share_.first + unit_;  // blocks of the matrix have an even number
      chunks_ = op.layout.chunks;
      chunk_ = strip / 2 * op.layout.chunks;
      strip_ = strip % 2;
      each_ = StripSlotChunks(false);
      slots_ = 2 * ((chunks_ + each_ - 1) / each_);
      return;
    }
    const Unit unit(op, share_, unit_);
    chunks_ = op.layout.SegmentChunks(unit.segment);
    chunk_ = unit.tile * op.layout.chunks + unit.segment * op.layout.segment_chunks;
    strip_ = unit.strip;
    each_ = strip_ >= 0 ? StripSlotChunks(op.layout.e4m3) : SlotChunks(op.layout.e4m3);
    slots_ = (chunks_ + each_ - 1) / each_;
  }

  const Step& step_;
  const StepOp* ops_;
  int warp_;
  RingPosition at_;
  bool more_ = false;
  Share share_;
  int op_ = -1, base_ = 0, unit_ = 0;
  int chunk_ = 0, chunks_ = 0;  // the unit's first, counted over the matrix, and their number
  int strip_ = -1;              // of its tile; -1: both
  int each_ = 0;                // chunks of a slot
  int slot_ = 0, slots_ = 0;
};

}  // namespace reprise::kernels::cuda::decode

#endif  // REPRISE_KERNELS_CUDA_DECODE_FEED_CUH_
