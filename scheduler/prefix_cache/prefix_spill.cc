#include "scheduler/prefix_cache/prefix_spill.h"

#include "absl/strings/str_cat.h"

namespace reprise::scheduler {
namespace {

std::string LittleEndian(uint64_t value) {
  std::string out(8, '\0');
  for (int i = 0; i < 8; ++i) out[i] = static_cast<char>(value >> (8 * i));
  return out;
}

}  // namespace

Sha256Digest SpillDigest(const std::string& tenant, const std::string& root,
                         absl::Span<const int32_t> tokens) {
  std::string text = absl::StrCat("reprise prefix 1", LittleEndian(tenant.size()), tenant,
                                  LittleEndian(root.size()), root);
  text.reserve(text.size() + 4 * tokens.size());
  for (int32_t token : tokens) {
    for (int i = 0; i < 4; ++i) text.push_back(static_cast<char>(token >> (8 * i)));
  }
  return Sha256(text);
}

void PrefixSpill::Find(SpillPath /*path*/, int64_t /*beyond*/, int64_t /*known*/,
                       std::function<void(absl::StatusOr<Found>)> done) {
  done(absl::NotFoundError("this spill shares nothing"));
}

}  // namespace reprise::scheduler
