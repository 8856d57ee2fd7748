// The two hashes of the tree: SHA-256 where a name must not be forged (content
// addresses, fingerprints), XXH3 where only accidents must be noticed.
#ifndef REPRISE_BASE_HASH_H_
#define REPRISE_BASE_HASH_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace reprise {

using Sha256Digest = std::array<uint8_t, 32>;

Sha256Digest Sha256(std::string_view bytes);

// Lower-case hexadecimal, 64 characters.
std::string HexDigest(const Sha256Digest& digest);

// SHA-256 over several pieces. Not thread-safe. Finish() may be called once.
class Sha256Stream {
 public:
  Sha256Stream();
  ~Sha256Stream();
  Sha256Stream(Sha256Stream&&) noexcept;
  Sha256Stream& operator=(Sha256Stream&&) noexcept;
  void Update(std::string_view bytes);
  Sha256Digest Finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// 64-bit XXH3 of `bytes`, the checksum of stored chunks and records.
uint64_t Checksum64(std::string_view bytes);

}  // namespace reprise

#endif  // REPRISE_BASE_HASH_H_
