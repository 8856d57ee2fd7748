#include "base/blake3.h"

#include <algorithm>
#include <vector>

#include "base/blake3_lanes.h"

namespace reprise {
namespace blake3 {

void Lanes4(const LaneJob& job) { RunLanes<4>(job); }

namespace {

struct Cv {
  uint32_t words[8];
};
static_assert(sizeof(Cv) == kCvBytes);

struct Kernel {
  size_t lanes;
  LaneKernel run;
};

// What the processor has, the widest first.
const std::vector<Kernel>& Kernels() {
  static const auto* const kernels = [] {
    auto* list = new std::vector<Kernel>();
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")) {
      list->push_back({16, Lanes16});
    }
    if (__builtin_cpu_supports("avx2")) list->push_back({8, Lanes8});
#endif
    list->push_back({4, Lanes4});
    return list;
  }();
  return *kernels;
}

struct Hasher {
  Cv key;
  uint32_t flags;  // of all compressions
  size_t lanes;    // the most

  // As many of `count` as fill vectors; how many that is.
  size_t RunLanes(LaneJob job, size_t count) const {
    size_t done = 0;
    for (const Kernel& kernel : Kernels()) {
      if (kernel.lanes > lanes) continue;
      for (; count - done >= kernel.lanes; done += kernel.lanes) {
        kernel.run(job);
        job.input += kernel.lanes * job.stride;
        job.counter += job.counts ? kernel.lanes : 0;
        job.out += kernel.lanes * kCvBytes;
      }
    }
    return done;
  }

  Cv Parent(const Cv* children, uint32_t more) const {
    uint32_t m[kWords];
    std::memcpy(m, children, sizeof m);
    Cv cv = key;
    Compress<uint32_t>(cv.words, m, 0, 0, kBlockBytes, flags | kParent | more);
    return cv;
  }

  // At most kChunkBytes.
  Cv Chunk(std::string_view bytes, uint64_t counter, uint32_t last) const {
    Cv cv = key;
    uint32_t start = kChunkStart;
    do {
      const std::string_view block = bytes.substr(0, kBlockBytes);
      bytes.remove_prefix(block.size());
      uint32_t m[kWords] = {};
      if (!block.empty()) std::memcpy(m, block.data(), block.size());
      Compress<uint32_t>(cv.words, m, static_cast<uint32_t>(counter),
                         static_cast<uint32_t>(counter >> 32), static_cast<uint32_t>(block.size()),
                         flags | start | (bytes.empty() ? kChunkEnd | last : 0));
      start = 0;
    } while (!bytes.empty());
    return cv;
  }

  Cv Root(std::string_view bytes) const {
    if (bytes.size() <= kChunkBytes) return Chunk(bytes, 0, kRoot);
    std::vector<Cv> cvs((bytes.size() + kChunkBytes - 1) / kChunkBytes);
    const auto out = [&](size_t i) { return reinterpret_cast<char*>(&cvs[i]); };
    size_t i = RunLanes({.input = bytes.data(),
                         .stride = kChunkBytes,
                         .blocks = kChunkBytes / kBlockBytes,
                         .key = key.words,
                         .counter = 0,
                         .counts = true,
                         .flags = flags,
                         .first = kChunkStart,
                         .last = kChunkEnd,
                         .out = out(0)},
                        bytes.size() / kChunkBytes);
    for (; i < cvs.size(); ++i) {
      cvs[i] = Chunk(bytes.substr(i * kChunkBytes, kChunkBytes), i, 0);
    }
    // Neighbours are joined, level by level; who has none waits for the next. That is the tree of
    // 2.1, whose left sides are as large as they can be.
    for (size_t count = cvs.size(); count > 2; count = (count + 1) / 2) {
      const size_t pairs = count / 2;
      i = RunLanes({.input = out(0),
                    .stride = 2 * kCvBytes,
                    .blocks = 1,
                    .key = key.words,
                    .counter = 0,
                    .counts = false,
                    .flags = flags | kParent,
                    .first = 0,
                    .last = 0,
                    .out = out(0)},
                   pairs);
      for (; i < pairs; ++i) cvs[i] = Parent(&cvs[2 * i], 0);
      if (count % 2 != 0) cvs[pairs] = cvs[count - 1];
    }
    return Parent(cvs.data(), kRoot);
  }
};

Digest256 ToDigest(const Cv& cv) {
  Digest256 digest;
  std::memcpy(digest.data(), cv.words, digest.size());
  return digest;
}

Digest256 Keyed(const Digest256& key, std::string_view bytes, size_t lanes) {
  Hasher hasher{{}, kKeyed, lanes};
  std::memcpy(hasher.key.words, key.data(), key.size());
  return ToDigest(hasher.Root(bytes));
}

}  // namespace
}  // namespace blake3

Digest256 Blake3(std::string_view bytes) {
  blake3::Hasher hasher{{}, 0, blake3::kWords};
  std::copy(std::begin(blake3::kIv), std::end(blake3::kIv), hasher.key.words);
  return blake3::ToDigest(hasher.Root(bytes));
}

Digest256 Blake3Keyed(const Digest256& key, std::string_view bytes) {
  return blake3::Keyed(key, bytes, blake3::kWords);
}

Digest256 Blake3WithLanes(const Digest256& key, std::string_view bytes, int lanes) {
  return blake3::Keyed(key, bytes, static_cast<size_t>(lanes));
}

}  // namespace reprise
