#include <limits>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "service/flags/setters.h"
#include "service/flags/tables.h"
#include "state_store/lossy.h"
#include "state_store/redis/address.h"
#include "state_store/redis/redis_store.h"

namespace reprise::service {
namespace {

absl::Status SetStore(const std::string& text, ServerOptions* options) {
  absl::string_view rest = text;
  if (rest == "memory") {
    options->store.kind = StoreSettings::Kind::kMemory;
    return absl::OkStatus();
  }
  if (absl::StrContains(rest, "://")) {
    if (!state_store::redis::ParseAddress(text).ok()) return NotAllowed();
    options->store.kind = StoreSettings::Kind::kRedis;
    options->store.url = text;
    return absl::OkStatus();
  }
  if (!absl::ConsumePrefix(&rest, "disk:") || rest.empty()) return NotAllowed();
  options->store.kind = StoreSettings::Kind::kDisk;
  options->store.path = std::string(rest);
  return absl::OkStatus();
}

// ROLE=ENCODING, with commas between; each role once.
absl::Status SetLossy(const std::string& text, ServerOptions* options) {
  static const std::set<std::string> roles = {"rg_lru", "conv_tail", "kv_window"};
  std::vector<state_store::LossyRule> rules;
  std::set<std::string> seen;
  for (const std::string& item : std::vector<std::string>(absl::StrSplit(text, ','))) {
    const std::pair<std::string, std::string> rule = absl::StrSplit(item, absl::MaxSplits('=', 1));
    if (roles.count(rule.first) == 0 || !seen.insert(rule.first).second) return NotAllowed();
    if (rule.second == "bf16") {
      rules.push_back({rule.first, state_store::LossyEncoding::kBf16});
    } else if (rule.second == "int8") {
      rules.push_back({rule.first, state_store::LossyEncoding::kInt8Rows});
    } else {
      return NotAllowed();
    }
  }
  options->store.lossy = std::move(rules);
  return absl::OkStatus();
}

absl::Status SetPrefixShare(const std::string& text, ServerOptions* options) {
  if (text != "on" && text != "off") return NotAllowed();
  options->store.prefix_share = text == "on";
  return absl::OkStatus();
}

}  // namespace

std::vector<FlagSpec> StoreFlags() {
  using O = ServerOptions;
  return {
      {"store", "memory",
       "memory, disk:PATH, or a URL: redis:// rediss:// unix:// redis-sentinel:// "
       "redis-cluster://",
       "where sessions are kept; memory ends with the process, Redis is shared by servers", false,
       SetStore},
      {"store-sync-replicas", "0", "an integer from 0 to 16",
       "Redis replicas that must have a SYNC commit before it is acknowledged", false,
       Integer(&O::store, &StoreSettings::sync_replicas, 0,
               state_store::redis::RedisStoreOptions::kMaxReplicas)},
      {"store-max-bytes", "0", "an integer >= 0",
       "cap on the bytes of all states (in Redis: of each tenant); 0 = none", false,
       Integer(&O::store, &StoreSettings::max_bytes, 0, std::numeric_limits<int64_t>::max())},
      {"store-zstd-level", "0", "an integer from 0 to 19",
       "how hard states are compressed before they are stored; 0 = not at all", false,
       Integer(&O::store, &StoreSettings::zstd_level, 0, 19)},
      {"store-lossy", "", "ROLE=bf16 or ROLE=int8 for rg_lru, conv_tail, kv_window; commas between",
       "parts of states, if they are f32, that are stored with less precision; not given: none",
       false, SetLossy},
      {"store-timeout-seconds", "15", "a number from 0.1 to 600",
       "how long a call of Redis may take with all its tries before it is UNAVAILABLE", false,
       SecondsFrom(&O::store, &StoreSettings::timeout, 0.1, 600)},
      {"store-user", "", "a name, with --store-password-file",
       "user at Redis, if the URL of --store names none", false,
       Text(&O::store, &StoreSettings::user)},
      {"store-password-file", "", "a file that holds a password and nothing else",
       "password at Redis, so that it need not stand in the URL of --store", false,
       Text(&O::store, &StoreSettings::password_file)},
      {"store-tls-ca", "", "a PEM file, with rediss://",
       "authorities that Redis' certificate must come from; not given: the machine's own", false,
       Text(&O::store, &StoreSettings::tls_ca)},
      {"store-tls-cert", "", "a PEM file, with --store-tls-key",
       "certificate that this server shows to Redis", false,
       Text(&O::store, &StoreSettings::tls_cert)},
      {"store-tls-key", "", "a PEM file, with --store-tls-cert", "its private key", false,
       Text(&O::store, &StoreSettings::tls_key)},
      {"store-tls-server-name", "", "a host name, with rediss://",
       "name that Redis' certificate must be for; not given: the host of --store", false,
       Text(&O::store, &StoreSettings::tls_server_name)},
      {"lease-seconds", "15", "a number from 1 to 3600",
       "how long a session in Redis stays with a server that has stopped answering", false,
       SecondsFrom(&O::store, &StoreSettings::lease, 1, 3600)},
      {"host-cache-bytes", "268435456", "an integer >= 0",
       "states of sessions in Redis that are kept in memory too; 0 = none", false,
       Integer(&O::store, &StoreSettings::host_cache_bytes, 0,
               std::numeric_limits<int64_t>::max())},
      {"write-behind-bytes", "134217728", "an integer >= 0",
       "bytes of ASYNC turns that may wait to be written to Redis; more wait for room", false,
       Integer(&O::store, &StoreSettings::write_behind_bytes, 0,
               std::numeric_limits<int64_t>::max())},
      {"write-behind-turns", "1024", "an integer from 0 to 1000000",
       "ASYNC turns that may wait to be written to Redis; 0 = each is written before its answer "
       "ends",
       false, Integer(&O::store, &StoreSettings::write_behind_commits, 0, 1000000)},
      {"prefix-spill-bytes", "268435456", "an integer >= 0",
       "states that prefix caches have no room for and host memory keeps; 0 = none", false,
       Integer(&O::store, &StoreSettings::prefix_spill_bytes, 0,
               std::numeric_limits<int64_t>::max())},
      {"prefix-spill-tenant-bytes", "auto", "auto or an integer >= 0",
       "of these, states of one tenant; 0 = none, auto is all of them", false,
       BytesOrAuto(&O::store, &StoreSettings::prefix_spill_tenant_bytes)},
      {"prefix-share", "off", "on or off; on needs a --store in Redis",
       "whether servers find each other's prefixes in Redis", false, SetPrefixShare},
      {"prefix-share-bytes", "1073741824", "an integer >= 1",
       "cap on the prefixes of each tenant in Redis; the oldest go first", false,
       Integer(&O::store, &StoreSettings::prefix_share_bytes, 1,
               std::numeric_limits<int64_t>::max())},
      {"prefix-share-total-bytes", "4294967296", "an integer >= 1",
       "cap on the prefixes of all tenants in Redis; the oldest go first", false,
       Integer(&O::store, &StoreSettings::prefix_share_total_bytes, 1,
               std::numeric_limits<int64_t>::max())},
      {"prefix-share-ttl-seconds", "3600", "a number from 1 to 31536000",
       "time after which a prefix in Redis goes", false,
       SecondsFrom(&O::store, &StoreSettings::prefix_share_ttl, 1, 31536000)},
      {"prefix-share-timeout-seconds", "0.25", "a number from 0.01 to 60",
       "how long a request waits for a prefix in Redis before it computes it", false,
       SecondsFrom(&O::store, &StoreSettings::prefix_share_timeout, 0.01, 60)},
      {"sweep-seconds", "60", "a number from 0.01 to 86400",
       "time between two removals of expired sessions and prefixes", false,
       [](const std::string& text, O* o) {
         double value;
         if (!absl::SimpleAtod(text, &value) || !(value >= 0.01 && value <= 86400)) {
           return NotAllowed();
         }
         o->store.sweep_interval = absl::Seconds(value);
         return absl::OkStatus();
       }},
  };
}

absl::Status CheckStore(const StoreSettings& store) {
  const auto refuse = [](std::string_view flag, std::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat("--", std::string(flag), ": ", std::string(why)));
  };
  const bool tls =
      store.kind == StoreSettings::Kind::kRedis && store.url.compare(0, 6, "rediss") == 0;
  if (!store.tls_ca.empty() && !tls) return refuse("store-tls-ca", "needs --store rediss://...");
  if (!store.tls_cert.empty() && !tls) {
    return refuse("store-tls-cert", "needs --store rediss://...");
  }
  if (!store.tls_server_name.empty() && !tls) {
    return refuse("store-tls-server-name", "needs --store rediss://...");
  }
  if (store.tls_cert.empty() != store.tls_key.empty()) {
    return store.tls_key.empty() ? refuse("store-tls-cert", "needs --store-tls-key")
                                 : refuse("store-tls-key", "needs --store-tls-cert");
  }
  if (!store.password_file.empty() && store.kind != StoreSettings::Kind::kRedis) {
    return refuse("store-password-file", "needs a --store in Redis");
  }
  if (store.prefix_share && store.kind != StoreSettings::Kind::kRedis) {
    return refuse("prefix-share", "on needs a --store in Redis");
  }
  if (!store.user.empty() && store.password_file.empty()) {
    return refuse("store-user", "needs --store-password-file");
  }
  return absl::OkStatus();
}

}  // namespace reprise::service
