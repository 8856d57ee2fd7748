// Short texts from anyone, each into its reader: headers, names and page tokens of clients; keys,
// addresses and redirections of Redis; shared prefixes as they lie there; PEM files, and
// tokenizer_config.json. The first byte chooses. What has one spelling only is written again and
// must be the same.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "absl/time/time.h"
#include "base/hash.h"
#include "models/tokenizer/tokenizer_config.h"
#include "scheduler/prefix_cache/spill_envelope.h"
#include "service/resource_names.h"
#include "service/tls_pem.h"
#include "service/trace_context.h"
#include "state_store/internal/page_token.h"
#include "state_store/redis/address.h"
#include "state_store/redis/keys.h"
#include "state_store/redis/router.h"

namespace reprise {
namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

void FuzzTraceparent(std::string_view text) {
  const auto parent = service::ParseTraceparent(text);
  if (!parent.has_value()) return;
  const service::TraceContext trace{parent->trace_id, parent->span_id, "", parent->sampled};
  const auto again = service::ParseTraceparent(trace.Traceparent());
  Require(again.has_value() && again->trace_id == parent->trace_id &&
          again->span_id == parent->span_id && again->sampled == parent->sampled);
}

void FuzzNames(std::string_view text) {
  const auto session = service::ParseSessionName(text, "name");
  const auto snapshot = service::ParseSnapshotName(text, "name");
  const auto either = service::ParseSessionOrSnapshotName(text, "name");
  Require(either.ok() == (session.ok() || snapshot.ok()) && !(session.ok() && snapshot.ok()));
  if (session.ok()) Require(service::MakeSessionName(*session) == text);
  if (snapshot.ok()) {
    Require(service::MakeSnapshotName(snapshot->session_id, snapshot->snapshot_id) == text);
  }
}

void FuzzPageToken(std::string_view text) {
  const std::string key = "key";
  Require(!state_store::ReadPageToken(key, "sessions/t", text).ok());
  const std::string made = state_store::MakePageToken(key, "sessions/t", text);
  const auto read = state_store::ReadPageToken(key, "sessions/t", made);
  Require(read.ok() && *read == text);
  Require(!state_store::ReadPageToken(key, "sessions/u", made).ok());
}

void FuzzSharedPrefix(std::string_view text) {
  const Sha256Digest digest = Sha256("path");
  const auto image = scheduler::OpenImage(digest, text);
  if (image.ok()) Require(scheduler::SealImage(digest, *image) == text);
  // Past magic and digest, and with its checksum made right.
  std::string sealed = "RPRXPFX1";
  sealed.append(digest.begin(), digest.end());
  sealed += text;
  const uint64_t checksum = Checksum64(sealed);
  for (int i = 0; i < 8; ++i) sealed.push_back(static_cast<char>(checksum >> (8 * i)));
  const auto opened = scheduler::OpenImage(digest, sealed);
  if (opened.ok()) Require(scheduler::SealImage(digest, *opened) == sealed);
}

void FuzzAddress(std::string_view text) {
  using state_store::redis::Topology;
  const auto address = state_store::redis::ParseAddress(text);
  if (address.ok()) {
    Require(!address->endpoints.empty());
    Require(address->topology != Topology::kSingle || address->endpoints.size() == 1);
    Require(address->topology != Topology::kCluster || address->db == 0);
    for (const auto& endpoint : address->endpoints) {
      Require(endpoint.unix_path.empty() ? endpoint.port != 0 : endpoint.host.empty());
    }
  } else {
    Require(absl::IsInvalidArgument(address.status()));
  }
  const auto endpoint = state_store::redis::ParseEndpoint(text, 6379);
  if (!endpoint.ok()) return;
  const auto again = state_store::redis::ParseEndpoint(endpoint->ToString(), 6379);
  Require(again.ok() && *again == *endpoint);
}

void FuzzRedirection(std::string_view text) {
  state_store::redis::Endpoint from;
  from.host = "h";
  from.port = 1;
  const auto found = state_store::redis::ParseRedirection(text, from);
  if (found.has_value()) Require(found->slot < 16384 && found->target.port != 0);
  Require(state_store::redis::KeySlot(text) < 16384);
}

void FuzzKeys(std::string_view text) {
  using state_store::redis::EscapeTenant;
  using state_store::redis::UnescapeTenant;
  static const state_store::redis::Keys& keys = *new state_store::redis::Keys("p:");
  if (const auto name = keys.ParseSession(text); name.has_value()) {
    Require(keys.Session(name->first, name->second) == text);
  }
  if (const auto name = keys.ParseHold(text); name.has_value()) {
    Require(keys.Hold(name->first, name->second) == text);
  }
  keys.ParseChunk(text);
  Require(UnescapeTenant(EscapeTenant(text)) == std::string(text));
  if (const auto tenant = UnescapeTenant(text); tenant.has_value()) {
    Require(EscapeTenant(*tenant) == text);
  }
}

void FuzzPem(std::string_view text) {
  const size_t half = text.size() / 2;
  Require(!service::CheckCertificateAndKey(text.substr(0, half), text.substr(half),
                                           absl::FromUnixSeconds(1'800'000'000))
               .ok());
  service::CheckAuthorities(text).IgnoreError();
}

void FuzzTokenizerConfig(std::string_view text) {
  const auto config = models::ParseTokenizerConfig(text);
  if (!config.ok()) Require(config.status().message().size() < 2000);
}

constexpr void (*kReaders[])(std::string_view) = {
    FuzzTraceparent, FuzzNames,       FuzzPageToken, FuzzSharedPrefix,    FuzzAddress,
    FuzzKeys,        FuzzRedirection, FuzzPem,       FuzzTokenizerConfig,
};

}  // namespace
}  // namespace reprise

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  reprise::kReaders[data[0] % std::size(reprise::kReaders)](
      {reinterpret_cast<const char*>(data) + 1, size - 1});
  return 0;
}
