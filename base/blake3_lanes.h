// The compression function of BLAKE3 over one word or a vector of them. Included by one file per
// instruction set, so everything here is of the file that includes it. Chapters are those of the
// paper.
#ifndef REPRISE_BASE_BLAKE3_LANES_H_
#define REPRISE_BASE_BLAKE3_LANES_H_

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

namespace reprise::blake3 {

static_assert(std::endian::native == std::endian::little);

inline constexpr size_t kChunkBytes = 1024, kBlockBytes = 64, kWords = 16, kCvBytes = 32;

// Domain flags (2.1, table 3).
enum Flag : uint32_t {
  kChunkStart = 1,
  kChunkEnd = 2,
  kParent = 4,
  kRoot = 8,
  kKeyed = 16,
};

// One hash for each of `lanes` inputs of equal length, `stride` bytes apart. `out` may be `input`
// if blocks is 1: all is read before anything is written.
struct LaneJob {
  const char* input;
  size_t stride;
  size_t blocks;         // of each input, whole ones
  const uint32_t* key;   // 8 words
  uint64_t counter;      // of the first input
  bool counts;           // the next ones have the next counters, or the same
  uint32_t flags;        // of all blocks
  uint32_t first, last;  // of the first and of the last besides
  char* out;             // kCvBytes for each
};
using LaneKernel = void (*)(const LaneJob&);

void Lanes4(const LaneJob& job);
#if defined(__x86_64__)
void Lanes8(const LaneJob& job);   // AVX2
void Lanes16(const LaneJob& job);  // AVX-512
#endif

inline constexpr uint32_t kIv[8] = {0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A,
                                    0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19};

namespace {

// Which word of the block each round takes where: the permutation of 2.2, table 2, once more per
// round.
constexpr std::array<std::array<uint8_t, kWords>, 7> kSchedule = [] {
  constexpr uint8_t kPermutation[kWords] = {2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8};
  std::array<std::array<uint8_t, kWords>, 7> rounds{};
  for (size_t i = 0; i < kWords; ++i) rounds[0][i] = static_cast<uint8_t>(i);
  for (size_t r = 1; r < rounds.size(); ++r) {
    for (size_t i = 0; i < kWords; ++i) rounds[r][i] = rounds[r - 1][kPermutation[i]];
  }
  return rounds;
}();

template <int kBits, typename Word>
[[gnu::always_inline]] inline Word Rotate(Word x) {
  return x >> kBits | x << (32 - kBits);
}

template <typename Word>
[[gnu::always_inline]] inline void Quarter(Word& a, Word& b, Word& c, Word& d, Word x, Word y) {
  a = a + b + x;
  d = Rotate<16>(d ^ a);
  c = c + d;
  b = Rotate<12>(b ^ c);
  a = a + b + y;
  d = Rotate<8>(d ^ a);
  c = c + d;
  b = Rotate<7>(b ^ c);
}

template <size_t kRound, typename Word>
[[gnu::always_inline]] inline void Round(Word* v, const Word* m) {
  constexpr const std::array<uint8_t, kWords>& s = kSchedule[kRound];
  Quarter(v[0], v[4], v[8], v[12], m[s[0]], m[s[1]]);
  Quarter(v[1], v[5], v[9], v[13], m[s[2]], m[s[3]]);
  Quarter(v[2], v[6], v[10], v[14], m[s[4]], m[s[5]]);
  Quarter(v[3], v[7], v[11], v[15], m[s[6]], m[s[7]]);
  Quarter(v[0], v[5], v[10], v[15], m[s[8]], m[s[9]]);
  Quarter(v[1], v[6], v[11], v[12], m[s[10]], m[s[11]]);
  Quarter(v[2], v[7], v[8], v[13], m[s[12]], m[s[13]]);
  Quarter(v[3], v[4], v[9], v[14], m[s[14]], m[s[15]]);
}

// cv, 8 words, becomes that of the block m, 16 words.
template <typename Word>
[[gnu::always_inline]] inline void Compress(Word* cv, const Word* m, Word counter_low,
                                            Word counter_high, uint32_t length, uint32_t flags) {
  const Word zero = counter_low ^ counter_low;
  Word v[kWords] = {cv[0],         cv[1],         cv[2],         cv[3],
                    cv[4],         cv[5],         cv[6],         cv[7],
                    zero + kIv[0], zero + kIv[1], zero + kIv[2], zero + kIv[3],
                    counter_low,   counter_high,  zero + length, zero + flags};
  Round<0>(v, m);
  Round<1>(v, m);
  Round<2>(v, m);
  Round<3>(v, m);
  Round<4>(v, m);
  Round<5>(v, m);
  Round<6>(v, m);
  for (size_t i = 0; i < 8; ++i) cv[i] = v[i] ^ v[i + 8];
}

template <size_t kLanes>
struct VectorOf {
  typedef uint32_t Type __attribute__((vector_size(4 * kLanes)));
};

// Of the words of a and b in turn, the first kLanes, or the last.
template <typename Vector, size_t... kIndex>
[[gnu::always_inline]] inline void Zip(const Vector& a, const Vector& b, Vector& low, Vector& high,
                                       std::index_sequence<kIndex...>) {
  constexpr int kLanes = sizeof...(kIndex);
  low = __builtin_shufflevector(a, b, (kIndex / 2 + (kIndex % 2) * kLanes)...);
  high = __builtin_shufflevector(a, b, (kLanes / 2 + kIndex / 2 + (kIndex % 2) * kLanes)...);
}

// Rows become columns: zipping row i with row i + kLanes / 2, once for each bit of kLanes.
template <size_t kLanes, typename Vector>
[[gnu::always_inline]] inline void Transpose(Vector* rows) {
  for (size_t step = 1; step < kLanes; step *= 2) {
    Vector zipped[kLanes];
    for (size_t i = 0; i < kLanes / 2; ++i) {
      Zip(rows[i], rows[i + kLanes / 2], zipped[2 * i], zipped[2 * i + 1],
          std::make_index_sequence<kLanes>());
    }
    for (size_t i = 0; i < kLanes; ++i) rows[i] = zipped[i];
  }
}

template <size_t kLanes>
[[gnu::always_inline]] inline void RunLanes(const LaneJob& job) {
  using Vector = typename VectorOf<kLanes>::Type;
  static_assert(kWords % kLanes == 0);
  Vector cv[8] = {};
  for (size_t i = 0; i < 8; ++i) cv[i] += job.key[i];
  Vector low = {}, high = {};
  for (size_t i = 0; i < kLanes; ++i) {
    const uint64_t counter = job.counter + (job.counts ? i : 0);
    low[i] = static_cast<uint32_t>(counter);
    high[i] = static_cast<uint32_t>(counter >> 32);
  }
  for (size_t block = 0; block < job.blocks; ++block) {
    Vector m[kWords];
    for (size_t part = 0; part < kWords; part += kLanes) {
      for (size_t i = 0; i < kLanes; ++i) {
        std::memcpy(&m[part + i], job.input + i * job.stride + block * kBlockBytes + part * 4,
                    sizeof(Vector));
      }
      Transpose<kLanes>(m + part);
    }
    const uint32_t flags =
        job.flags | (block == 0 ? job.first : 0) | (block + 1 == job.blocks ? job.last : 0);
    Compress(cv, m, low, high, kBlockBytes, flags);
  }
  uint32_t out[kLanes][8];
  for (size_t word = 0; word < 8; ++word) {
    for (size_t i = 0; i < kLanes; ++i) out[i][word] = cv[word][i];
  }
  std::memcpy(job.out, out, sizeof out);
}

}  // namespace
}  // namespace reprise::blake3

#endif  // REPRISE_BASE_BLAKE3_LANES_H_
