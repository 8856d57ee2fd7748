#include "state_store/internal/chunk_namer.h"

#include <gtest/gtest.h>

#include "state_store/chunking.h"
#include "state_store/testing/builders.h"

namespace reprise::state_store {
namespace {

TEST(ChunkNamer, NamesWhatChunkDigestNamesInAnyOrder) {
  const std::string bytes = PatternBytes(5, 9'000'000);
  for (const uint32_t chunk_bytes : {4096u, 1u << 20, 9'000'000u}) {
    for (const bool backwards : {false, true}) {
      ChunkNamer namer("t", CutIntoChunks(bytes, chunk_bytes));
      const size_t n = namer.chunks().size();
      for (size_t i = 0; i < n; ++i) {
        const size_t at = backwards ? n - 1 - i : i;
        const std::string_view chunk = namer.chunks()[at];
        ASSERT_EQ(namer.At(at).digest, ChunkDigest("t", chunk));
        ASSERT_EQ(namer.At(at).checksum, Checksum64(chunk));
      }
    }
  }
}

TEST(ChunkNamer, MayBeLeftBeforeItIsDone) {
  const std::string bytes = PatternBytes(5, 9'000'000);
  for (int i = 0; i < 50; ++i) {
    ChunkNamer namer("t", CutIntoChunks(bytes, 64 << 10));
    if (i % 2 == 0) namer.At(static_cast<size_t>(i));
  }
  ChunkNamer nothing("t", {});
}

}  // namespace
}  // namespace reprise::state_store
