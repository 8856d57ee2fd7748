// What a server can be told, grouped by component. flags/ has the tables of names, ranges
// and meanings from which command line, environment, config file and help come.
#ifndef REPRISE_SERVICE_SERVER_OPTIONS_H_
#define REPRISE_SERVICE_SERVER_OPTIONS_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "state_store/lossy.h"

namespace reprise::service {

struct ModelSource {
  std::string name;
  std::string directory;
};

struct StoreSettings {
  enum class Kind { kMemory, kDisk, kRedis };
  Kind kind = Kind::kMemory;
  std::string path;        // of kDisk
  std::string url;         // of kRedis, as state_store/redis/address.h reads it
  int sync_replicas = 0;   // of kRedis: replicas that a SYNC commit waits for
  uint64_t max_bytes = 0;  // 0 = no cap; of kRedis: for each tenant
  int zstd_level = 0;      // of states written from now on, 1..19; 0: not compressed
  std::vector<state_store::LossyRule> lossy;  // parts of states that may lose precision
  // Of kRedis.
  absl::Duration timeout = absl::Seconds(15);  // of one call of the store with all its tries
  std::string user, password_file;             // empty: they are in the URL, or there are none
  std::string tls_ca, tls_cert, tls_key, tls_server_name;  // as TlsOptions
  absl::Duration lease = absl::Seconds(15);
  uint64_t host_cache_bytes = 256 << 20;
  uint64_t write_behind_bytes = 128 << 20;
  int write_behind_commits = 1024;  // 0: ASYNC commits are written before they are acknowledged
  absl::Duration sweep_interval = absl::Seconds(60);
  // Of the prefix caches of all models.
  int64_t prefix_spill_bytes = 256 << 20;            // in host memory; 0 = none
  std::optional<int64_t> prefix_spill_tenant_bytes;  // 0 = tenants have none; unset = all
  bool prefix_share = false;                         // of kRedis: through the store
  int64_t prefix_share_bytes = int64_t{1} << 30;     // of each tenant
  int64_t prefix_share_total_bytes = int64_t{4} << 30;
  absl::Duration prefix_share_ttl = absl::Hours(1);
  absl::Duration prefix_share_timeout = absl::Milliseconds(250);
};

struct ComputeSettings {
  std::string device = "auto";               // cpu, cuda, or auto: cuda where there is one
  std::string weight_format = "checkpoint";  // or fp8
  int threads = 0;                           // 0 = one per core
  int slots = 0;                             // of each model; 0 = what PlanMemory has room for
  int step_tokens = 0;           // 0 = 256 on the CPU, 4096 on CUDA, and at least the slots
  int prefill_chunk_tokens = 0;  // 0 = half of step_tokens

  // Of all models and stores together, as PlanMemory adds it up; 0 = without limit.
  int64_t memory_bytes = 0;
  // Of all models together on the GPU; 0 = most of what is free at the start.
  int64_t device_memory_bytes = 0;

  // Of each model.
  int max_queued = 1024;
  int max_queued_per_tenant = 0;                 // 0 = max_queued
  std::map<std::string, double> tenant_weights;  // 0.001 to 1000; 1 for those that are not here
  absl::Duration max_wait = absl::Seconds(10);
  absl::Duration time_slice = absl::Seconds(1);
  int64_t max_request_bytes = int64_t{4} << 30;
  int64_t max_parked_bytes = int64_t{1} << 30;
  int step_logit_rows = 0;                           // 0 = the slots, at least 64
  int64_t prefix_cache_bytes = 256 << 20;            // 0 = none
  std::optional<int64_t> prefix_cache_tenant_bytes;  // 0 = tenants have none; unset = all
  absl::Duration prefix_cache_ttl = absl::Hours(1);
};

// What one request may ask for.
struct RequestLimits {
  int64_t max_prompt_tokens = 1 << 20;
  int32_t max_tokens = 65536;
  int32_t default_max_tokens = 1024;
  absl::Duration default_session_ttl = absl::InfiniteDuration();
  int max_unwritten_tokens = 64;              // per stream; more pause the sequence
  absl::Duration stall = absl::Seconds(300);  // a sequence paused for longer is cancelled
  int max_sync_replicas = 0;                  // that a commit may wait for; 0 where there are none
};

// Empty names: none.
struct TlsSettings {
  std::string certificate_file, key_file;  // PEM; both or none
  std::string client_ca_file;              // whose certificates clients may show
  bool require_client_certificate = true;  // or may connect without

  bool enabled() const { return !certificate_file.empty(); }
};

// How callers prove who they are. Nothing of it given: they need not.
struct AuthSettings {
  std::string token_file, tenants_file;  // as auth/token_file.h and auth/tenants_file.h
  std::string jwks_file, jwt_issuer, jwt_audience;
  std::string jwt_tenant_claim = "tenant";
  absl::Duration jwt_clock_skew = absl::Seconds(30);
  bool client_certificates = false;  // TLS verifies them
  std::string certificate_tenant;    // of certificates that the tenants file does not name
  bool open_health = true;           // health checks need no proof

  bool required() const { return !token_file.empty() || !jwks_file.empty() || client_certificates; }
};

struct WireSettings {
  std::string profile = "development";  // or production
  bool insecure = false;                // without TLS on an address that others can reach
  std::string listen = "127.0.0.1:7420";
  std::string port_file;  // empty = none
  int max_concurrent_streams = 1024;
  int max_message_bytes = 16 << 20;
  int max_metadata_bytes = 16 << 10;
  // A connection that is older, or has had no call for so long, is asked to go; after `grace` it is
  // closed with the calls that it has.
  absl::Duration max_connection_age = absl::InfiniteDuration();
  absl::Duration max_connection_age_grace = absl::InfiniteDuration();
  absl::Duration max_connection_idle = absl::InfiniteDuration();
  int io_threads = 4;
  bool reflection = true;  // once all flags are read; see CheckSecurity
  std::string reflection_choice = "auto";
  absl::Duration drain = absl::Seconds(30);
};

struct LogSettings {
  std::string level = "info";
  std::string format = "text";
};

struct TelemetrySettings {
  std::string listen;     // of metrics and probes; empty = none
  std::string port_file;  // empty = none
  int max_tenants = 0;    // whose metrics are told apart
  std::string spans = "sampled";
};

struct ServerOptions {
  std::vector<ModelSource> models;
  StoreSettings store;
  ComputeSettings compute;
  RequestLimits limits;
  WireSettings wire;
  TlsSettings tls;
  AuthSettings auth;
  LogSettings log;
  TelemetrySettings telemetry;
};

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_SERVER_OPTIONS_H_
