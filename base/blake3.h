// BLAKE3 (O'Connor, Aumasson, Neves, Wilcox-O'Hearn: "BLAKE3: one function, fast everywhere",
// 2020): collision-resistant like SHA-256, and several times as fast, because the 1024-byte chunks
// of an input are hashed side by side in the lanes of vector registers. Names what clients choose.
#ifndef REPRISE_BASE_BLAKE3_H_
#define REPRISE_BASE_BLAKE3_H_

#include <string_view>

#include "base/hash.h"

namespace reprise {

Digest256 Blake3(std::string_view bytes);

// Another function for each key, which need not be secret.
Digest256 Blake3Keyed(const Digest256& key, std::string_view bytes);

// With vectors of at most `lanes` 32-bit words (1, 4, 8 or 16), if the processor has them: all give
// the same digest. For tests.
Digest256 Blake3WithLanes(const Digest256& key, std::string_view bytes, int lanes);

}  // namespace reprise

#endif  // REPRISE_BASE_BLAKE3_H_
