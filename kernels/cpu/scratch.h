// Per-thread scratch memory that is reused from call to call.
#ifndef REPRISE_KERNELS_CPU_SCRATCH_H_
#define REPRISE_KERNELS_CPU_SCRATCH_H_

#include <cstddef>

namespace reprise::kernels::cpu {

// At least `floats` floats of this thread, aligned to 128 bytes, content undefined. Valid until
// the thread's next call; one kernel asks once and cuts it up itself. The size must not grow with
// the batch.
float* ThreadScratch(size_t floats);

}  // namespace reprise::kernels::cpu

#endif  // REPRISE_KERNELS_CPU_SCRATCH_H_
