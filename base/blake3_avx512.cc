// Compiled for AVX-512; see CMakeLists.txt.
#if defined(__x86_64__)
#include "base/blake3_lanes.h"

namespace reprise::blake3 {

void Lanes16(const LaneJob& job) { RunLanes<16>(job); }

}  // namespace reprise::blake3
#endif
