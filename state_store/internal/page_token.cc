#include "state_store/internal/page_token.h"

#include "absl/strings/escaping.h"
#include "base/hash.h"
#include "state_store/internal/cat.h"
#include "state_store/internal/wire.h"
#include "state_store/store_error.h"

namespace reprise::state_store {
namespace {

constexpr size_t kMacBytes = 16;

std::string_view AsBytes(const Sha256Digest& digest) {
  return {reinterpret_cast<const char*>(digest.data()), digest.size()};
}

// Two passes, so that a hash cannot be continued without the key.
std::string Mac(std::string_view key, std::string_view scope, std::string_view cursor) {
  WireWriter inner;
  inner.String(key);
  inner.String(scope);
  inner.String(cursor);
  const Sha256Digest digest = Sha256(inner.out());
  WireWriter outer;
  outer.String(key);
  outer.Bytes(AsBytes(digest));
  return std::string(AsBytes(Sha256(outer.out())).substr(0, kMacBytes));
}

}  // namespace

std::string MakePageToken(std::string_view key, std::string_view scope, std::string_view cursor) {
  return absl::WebSafeBase64Escape(Cat(Mac(key, scope, cursor), cursor));
}

absl::StatusOr<std::string> ReadPageToken(std::string_view key, std::string_view scope,
                                          std::string_view token) {
  std::string bytes;
  if (absl::WebSafeBase64Unescape(ToAbsl(token), &bytes) && bytes.size() >= kMacBytes &&
      // One token has one spelling: base64 leaves spare bits at the end.
      absl::WebSafeBase64Escape(bytes) == token) {
    const std::string cursor = bytes.substr(kMacBytes);
    if (bytes.compare(0, kMacBytes, Mac(key, scope, cursor)) == 0) return cursor;
  }
  return MakeStoreError(StoreError::kInvalidPageToken, "page token is not from this list");
}

}  // namespace reprise::state_store
