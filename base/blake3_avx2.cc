// Compiled for AVX2; see CMakeLists.txt.
#if defined(__x86_64__)
#include "base/blake3_lanes.h"

namespace reprise::blake3 {

void Lanes8(const LaneJob& job) { RunLanes<8>(job); }

}  // namespace reprise::blake3
#endif
