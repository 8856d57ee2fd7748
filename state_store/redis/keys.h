// The names of everything that the store keeps in Redis. T is the tenant, escaped; S a session.
//
//   <prefix>s:{T:S}    hash    one session: record, manifests, remembered requests, lease
//   <prefix>c:{T:D}    hash    one chunk, D its digest: bytes, header, pins
//   <prefix>h:{T:P}    hash    who uses pin P, and since when
//   <prefix>i:{T}      zset    the tenant's session ids, all with score 0: paged by name
//   <prefix>x:{T}      zset    sessions that expire, by a time not after it (microseconds)
//   <prefix>q:{T}      hash    request ids of creations, forks and imports
//   <prefix>b:{T}      string  bytes of the tenant's chunks, where a cap is set
//   <prefix>u:{T}      hash    counters: bytes of its sealed chunks, and of all that ever moved
//   <prefix>tenants    set     T
//   <prefix>p:{T:D}    string  a blob (redis_blobs.h), D its digest
//   <prefix>a:{T:D}    set     notes under a digest
//   <prefix>v:{T}      zset    the tenant's blobs, by the time at which they go
//   <prefix>blobs      zset    the same of all tenants
//
// The part in braces alone decides the slot in a cluster, and every script touches one key, so
// slots may be moved at any time. No key of sessions carries a Redis expiry: under a volatile-*
// policy none of them can be evicted. Those of blobs do, and are the first to go.
#ifndef REPRISE_STATE_STORE_REDIS_KEYS_H_
#define REPRISE_STATE_STORE_REDIS_KEYS_H_

#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/hash.h"

namespace reprise::state_store::redis {

// Bytes other than [A-Za-z0-9_.-] as %XX, so that no name can hold a brace or a colon.
std::string EscapeTenant(std::string_view tenant);
std::optional<std::string> UnescapeTenant(std::string_view escaped);

// Thread-safe: immutable.
class Keys {
 public:
  // `prefix` holds no brace.
  explicit Keys(std::string prefix) : prefix_(std::move(prefix)) {}

  std::string Session(std::string_view tenant, std::string_view session_id) const;
  std::string Chunk(std::string_view tenant, const Sha256Digest& digest) const;
  std::string Hold(std::string_view tenant, std::string_view pin) const;
  std::string Index(std::string_view tenant) const { return OfTenant("i:{", tenant); }
  std::string Expiry(std::string_view tenant) const { return OfTenant("x:{", tenant); }
  std::string Creations(std::string_view tenant) const { return OfTenant("q:{", tenant); }
  std::string Bytes(std::string_view tenant) const { return OfTenant("b:{", tenant); }
  std::string Counters(std::string_view tenant) const { return OfTenant("u:{", tenant); }
  // `hex`: a digest in hexadecimal.
  std::string Blob(std::string_view tenant, std::string_view hex) const;
  std::string BlobNotes(std::string_view tenant, std::string_view hex) const;
  std::string BlobIndex(std::string_view tenant) const { return OfTenant("v:{", tenant); }
  std::string AllBlobs() const { return prefix_ + "blobs"; }
  std::string Tenants() const { return prefix_ + "tenants"; }

  // For SCAN.
  std::string SessionPattern() const { return Pattern("s:"); }
  std::string ChunkPattern() const { return Pattern("c:"); }
  std::string HoldPattern() const { return Pattern("h:"); }
  // Tenant and session id, digest in hexadecimal, or pin; nullopt for a key that is none of ours.
  std::optional<std::pair<std::string, std::string>> ParseSession(std::string_view key) const;
  std::optional<std::pair<std::string, std::string>> ParseChunk(std::string_view key) const;
  std::optional<std::pair<std::string, std::string>> ParseHold(std::string_view key) const;

 private:
  std::string OfTenant(std::string_view kind, std::string_view tenant) const;
  std::string Pattern(std::string_view kind) const;
  std::optional<std::pair<std::string, std::string>> Parse(std::string_view kind,
                                                           std::string_view key) const;

  const std::string prefix_;
};

}  // namespace reprise::state_store::redis

#endif  // REPRISE_STATE_STORE_REDIS_KEYS_H_
