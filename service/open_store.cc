#include "service/open_store.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <memory>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "service/metrics/metrics.h"
#include "service/metrics/sources.h"
#include "state_store/disk_store.h"
#include "state_store/memory_store.h"
#include "state_store/redis/address.h"
#include "state_store/redis/redis_blobs.h"
#include "state_store/redis/redis_store.h"
#include "state_store/tiers/tiered_store.h"

namespace reprise::service {
namespace {

namespace redis = state_store::redis;

absl::StatusOr<std::string> ReadPassword(const std::string& path) {
  std::ifstream file(path);
  std::string password((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  // Editors and `echo` end a line.
  absl::StripTrailingAsciiWhitespace(&password);
  if (!file || password.empty() || password.size() > 4096) {
    return absl::InvalidArgumentError(
        absl::StrCat("--store-password-file: cannot read a password from ", path));
  }
  return password;
}

std::string PercentEncoded(const std::string& text) {
  std::string encoded;
  for (const char c : text) {
    absl::StrAppendFormat(&encoded, "%%%02X", static_cast<unsigned char>(c));
  }
  return encoded;
}

void LogTiers(const state_store::TierStats& stats, spdlog::logger& log) {
  log.info(
      "store: {} commits written behind, {} through, {} waiting, {} lost; cache {} hits, {} "
      "misses, "
      "{} evictions; leases {} acquired, {} lost; backend lost {} times, {} reads and {} commits "
      "without it",
      stats.queue.written, stats.written_through, stats.queue.commits, stats.queue.lost,
      stats.cache.hits, stats.cache.misses, stats.cache.evictions, stats.leases.acquired,
      stats.leases.lost, stats.backend_losses, stats.degraded_reads, stats.degraded_commits);
}

absl::StatusOr<redis::ClientOptions> RedisClient(const StoreSettings& settings,
                                                 absl::Duration timeout) {
  redis::ClientOptions client;
  client.url = settings.url;
  if (!settings.password_file.empty()) {
    ASSIGN_OR_RETURN(const std::string password, ReadPassword(settings.password_file));
    auto url = WithCredentials(settings.url, settings.user, password);
    if (!url.ok()) return Prefixed(url.status(), "--store-password-file");
    client.url = *std::move(url);
  }
  client.tls = {settings.tls_ca, settings.tls_cert, settings.tls_key, settings.tls_server_name};
  client.call_timeout = std::min(client.call_timeout, timeout);
  client.connect_timeout = std::min(client.connect_timeout, timeout);
  return client;
}

absl::Status OpenRedis(const StoreSettings& settings, const state_store::StoreOptions& store,
                       std::shared_ptr<spdlog::logger> log, ServerParts* parts) {
  auto cache = std::make_shared<state_store::HostCache>(settings.host_cache_bytes);
  redis::RedisStoreOptions options;
  ASSIGN_OR_RETURN(options.client, RedisClient(settings, settings.timeout));
  options.store = store;
  options.sync_replicas = settings.sync_replicas;
  options.operation_timeout = settings.timeout;
  options.known_chunks = cache;
  ASSIGN_OR_RETURN(const redis::Address address, redis::ParseAddress(options.client.url));
  // Its address, for a URL may hold a password.
  log->info("store: Redis at {}{}", address.endpoints.front().ToString(),
            address.tls ? " with TLS" : "");
  auto opened = redis::RedisStore::Create(options);
  if (!opened.ok()) return Prefixed(opened.status(), "--store");
  redis::RedisStore* const redis_store = opened->get();
  parts->collect_garbage = [redis_store] { return redis_store->CollectGarbage().status(); };

  state_store::TieredStoreOptions tiers;
  tiers.write_behind.max_bytes = settings.write_behind_bytes;
  tiers.write_behind.max_commits = settings.write_behind_commits;
  tiers.lease = settings.lease;
  tiers.flush_patience = settings.timeout;
  tiers.lossy = store.lossy;
  tiers.one_backend = address.topology != redis::Topology::kCluster;
  tiers.on_backend = [log](const absl::Status& status) {
    if (status.ok()) {
      log->warn("store: Redis answers again");
    } else {
      log->error("store: Redis does not answer, sessions go on from the host cache: {}",
                 ForLog(std::string(status.message())));
    }
  };
  tiers.on_lost = [log](const absl::Status& status) {
    log->error("store: acknowledged turns are lost: {}", ForLog(std::string(status.message())));
  };
  ASSIGN_OR_RETURN(auto tiered, state_store::TieredStore::Create(
                                    tiers, {parts->metrics->Measured(*std::move(opened), "store"),
                                            redis_store, std::move(cache)}));
  parts->flush_store = [store = tiered.get(), log](absl::Duration patience) {
    absl::Status flushed = store->Flush(patience);
    LogTiers(store->stats(), *log);
    return flushed;
  };
  parts->store_answers = [store = tiered.get()] { return !store->stats().backend_lost; };
  parts->metrics->AddSource(
      [store = tiered.get()](Scrape& scrape) { ScrapeTiers(store->stats(), scrape); });
  parts->store = parts->metrics->Measured(std::move(tiered), "host");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> WithCredentials(const std::string& url, const std::string& user,
                                            const std::string& password) {
  ASSIGN_OR_RETURN(const redis::Address address, redis::ParseAddress(url));
  if (!address.user.empty() || !address.password.empty()) {
    return absl::InvalidArgumentError("the URL of --store has a password already");
  }
  const size_t begin = url.find("://") + 3;
  return absl::StrCat(url.substr(0, begin), PercentEncoded(user), ":", PercentEncoded(password),
                      "@", url.substr(begin));
}

absl::StatusOr<std::shared_ptr<scheduler::TieredSpill>> OpenPrefixSpill(
    const StoreSettings& settings, const Clock* clock, std::shared_ptr<spdlog::logger> log) {
  std::unique_ptr<state_store::BlobStore> blobs;
  scheduler::TieredSpillOptions options;
  options.max_host_bytes = settings.prefix_spill_bytes;
  options.max_tenant_host_bytes = settings.prefix_spill_tenant_bytes;
  options.timeout = settings.prefix_share_timeout;
  if (settings.prefix_share) {
    redis::RedisBlobOptions redis;
    ASSIGN_OR_RETURN(redis.client, RedisClient(settings, settings.prefix_share_timeout));
    redis.timeout = settings.prefix_share_timeout;
    redis.ttl = settings.prefix_share_ttl;
    redis.max_tenant_bytes = settings.prefix_share_bytes;
    redis.max_total_bytes = settings.prefix_share_total_bytes;
    ASSIGN_OR_RETURN(blobs, redis::MakeRedisBlobs(redis));
    options.on_store = [log = std::move(log)](const absl::Status& status) {
      if (status.ok()) {
        log->warn("prefix cache: Redis answers again");
      } else {
        log->error("prefix cache: Redis does not answer, prompts are computed: {}",
                   ForLog(std::string(status.message())));
      }
    };
  } else if (settings.prefix_spill_bytes == 0) {
    return nullptr;
  }
  return scheduler::TieredSpill::Create(clock, options, std::move(blobs));
}

absl::Status OpenStore(const StoreSettings& settings, std::shared_ptr<spdlog::logger> log,
                       ServerParts* parts) {
  state_store::StoreOptions store;
  store.max_stored_bytes = settings.max_bytes;
  if (settings.zstd_level != 0) {
    store.codec = state_store::ChunkCodec::kZstd;
    store.zstd_level = settings.zstd_level;
  }
  store.lossy = settings.lossy;
  for (const state_store::LossyRule& rule : settings.lossy) {
    log->warn("store: {} is kept with less precision, so what is resumed is not exact", rule.role);
  }
  if (settings.kind == StoreSettings::Kind::kMemory) {
    log->info("store: memory, sessions end with this process");
    ASSIGN_OR_RETURN(auto memory, state_store::CreateMemoryStore(store));
    parts->store = parts->metrics->Measured(std::move(memory), "store");
    return absl::OkStatus();
  }
  if (settings.kind == StoreSettings::Kind::kRedis) {
    return OpenRedis(settings, store, std::move(log), parts);
  }
  state_store::DiskStoreOptions disk;
  disk.directory = settings.path;
  disk.store = store;
  auto opened = state_store::OpenDiskStore(disk);
  if (!opened.ok()) return Prefixed(opened.status(), absl::StrCat("--store disk:", settings.path));
  const state_store::RecoveryReport& report = opened->report;
  log->info(
      "store: disk {}, {} log records, {} bytes of a torn tail cut, {} orphan chunks and {} "
      "temporary files removed",
      settings.path, report.records, report.cut_bytes, report.orphan_chunks,
      report.temporary_files);
  for (const std::string& note : report.notes) log->warn("store: {}", note);
  parts->store = parts->metrics->Measured(std::move(opened->store), "store");
  return absl::OkStatus();
}

}  // namespace reprise::service
