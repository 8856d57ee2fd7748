// Bytes that may be lost at any time: what several servers share to save work, and can do without.
#ifndef REPRISE_STATE_STORE_BLOB_STORE_H_
#define REPRISE_STATE_STORE_BLOB_STORE_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/hash.h"

namespace reprise::state_store {

struct BlobStats {
  int64_t bytes = 0;  // of all tenants, as the last Put from here found them
  // Blobs that went for a Put from here: beyond the tenant's cap, beyond that of all tenants.
  int64_t tenant_evictions = 0, total_evictions = 0;
};

// Blobs, each under a digest within its tenant, and notes: a few short texts under a digest. Both
// go by themselves after a while, and when the tenant's cap or that of all tenants is reached the
// oldest blobs go first.
// Nothing here vouches for the bytes: whoever reads a blob checks it. Thread-safe; calls block,
// each no longer than the implementation's bound.
class BlobStore {
 public:
  // Under one digest; another one more takes the place of any.
  static constexpr int kMostNotes = 16;

  virtual ~BlobStore() = default;

  // RESOURCE_EXHAUSTED when it is larger than a cap. Two Puts under one digest bring equal bytes.
  virtual absl::Status Put(std::string_view tenant, const Sha256Digest& digest,
                           std::string_view bytes) = 0;
  // NOT_FOUND.
  virtual absl::StatusOr<std::string> Get(std::string_view tenant, const Sha256Digest& digest) = 0;
  // OK if there is none.
  virtual absl::Status Erase(std::string_view tenant, const Sha256Digest& digest) = 0;

  virtual absl::Status AddNote(std::string_view tenant, const Sha256Digest& digest,
                               std::string_view note) = 0;
  // Of each digest, in no order.
  virtual absl::StatusOr<std::vector<std::vector<std::string>>> Notes(
      std::string_view tenant, const std::vector<Sha256Digest>& digests) = 0;

  virtual BlobStats stats() const = 0;
};

}  // namespace reprise::state_store

#endif  // REPRISE_STATE_STORE_BLOB_STORE_H_
