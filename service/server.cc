#include "service/server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/impl/server_builder_option.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "service/auth/authenticator.h"
#include "service/auth/method_guard.h"
#include "service/auth/quota_book.h"
#include "service/environment.h"
#include "service/file_watch.h"
#include "service/generation_service.h"
#include "service/http/probe_server.h"
#include "service/log_fields.h"
#include "service/metrics/metrics.h"
#include "service/metrics/sources.h"
#include "service/model_service.h"
#include "service/server_loading.h"
#include "service/session_service.h"
#include "service/sweeper.h"
#include "service/tls_credentials.h"
#include "service/version.h"
#include "state_store/redis/redis_store.h"

namespace reprise::service {
namespace {

constexpr int kMaxQueuedIo = 4096;
// Clients may ping each 10 s; a bit less, since pings jitter.
constexpr int kMinPingIntervalMs = 9000;
// From the first NOT_SERVING to the close: clients that watch the health have gone elsewhere by
// then. Calls that arrive while gRPC closes end with CANCELLED and without a reason.
constexpr absl::Duration kFarewell = absl::Milliseconds(250);
// For commits and last messages after the drain's deadline, before connections are cut.
constexpr absl::Duration kCommitGrace = absl::Seconds(10);
constexpr absl::Duration kCloseGrace = absl::Seconds(1);
// For turns that were acknowledged and still have to be written.
constexpr absl::Duration kFlushGrace = absl::Seconds(10);

// Linking the reflection library turns it on; this turns it off again.
class WithoutReflection final : public grpc::ServerBuilderOption {
 public:
  void UpdateArguments(grpc::ChannelArguments*) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    plugins->erase(std::remove_if(plugins->begin(), plugins->end(),
                                  [](const auto& plugin) {
                                    return plugin->name() == "proto_server_reflection";
                                  }),
                   plugins->end());
  }
};

// As gRPC has it: the greatest number is for ever.
int Milliseconds(absl::Duration duration) {
  constexpr int kForEver = std::numeric_limits<int>::max();
  return static_cast<int>(std::min<int64_t>(absl::ToInt64Milliseconds(duration), kForEver));
}

// Under which the health of one model is asked for.
std::string HealthName(const ServedModel& model) {
  return absl::StrCat(v1::GenerationService::service_full_name(), "/", model.name);
}

std::vector<std::string> ServiceNames() {
  return {v1::GenerationService::service_full_name(), v1::SessionService::service_full_name(),
          v1::ModelService::service_full_name()};
}

absl::Status WritePort(const std::string& flag, const std::string& path, int port) {
  // Under its name only when whole: whoever waits for the file may read it at once.
  const std::string temporary = path + ".tmp";
  std::ofstream file(temporary, std::ios::trunc);
  file << port << "\n";
  file.close();
  if (!file || std::rename(temporary.c_str(), path.c_str()) != 0) {
    return absl::InvalidArgumentError(absl::StrCat(flag, ": cannot write ", path));
  }
  return absl::OkStatus();
}

}  // namespace

class Server::Impl {
 public:
  Impl(const ServerOptions& options, ServerParts parts, const Clock* clock,
       std::shared_ptr<spdlog::logger> log)
      : options_(options),
        metrics_(parts.metrics != nullptr
                     ? std::move(parts.metrics)
                     : std::make_shared<Metrics>(options.telemetry.max_tenants)),
        parts_compute_(std::move(parts.compute)),
        store_(std::move(parts.store)),
        flush_store_(std::move(parts.flush_store)),
        store_answers_(std::move(parts.store_answers)),
        models_(std::move(parts.models)) {
    environment_.limits = options.limits;
    if (options.store.kind == StoreSettings::Kind::kRedis) {
      environment_.limits.max_sync_replicas = state_store::redis::RedisStoreOptions::kMaxReplicas;
    }
    environment_.clock = clock;
    environment_.log = std::move(log);
    environment_.models = &models_;
    environment_.store = store_.get();
    environment_.collect_garbage = std::move(parts.collect_garbage);
    environment_.metrics = metrics_.get();
    environment_.spans = MakeSpanLogger(options.telemetry);
    environment_.all_spans = options.telemetry.spans == "all";
  }

  ~Impl() {
    for (const auto& model : models_.models()) model->health->SetListener(nullptr);
    if (server_ != nullptr && !drained_) Drain(absl::ZeroDuration());
    metrics_->ForgetSources();  // they look at what goes now
  }

  absl::Status Listen() {
    const WireSettings& wire = options_.wire;
    RETURN_IF_ERROR(Secure());
    io_ = std::make_unique<WorkerPool>(wire.io_threads, kMaxQueuedIo);
    environment_.io = io_.get();
    generation_ = std::make_unique<GenerationService>(&environment_);
    sessions_ = std::make_unique<SessionService>(&environment_);
    model_service_ = std::make_unique<ModelService>(&environment_);
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    grpc::ServerBuilder builder;
    builder.AddListeningPort(wire.listen, credentials_, &port_);
    builder.RegisterService(generation_.get());
    builder.RegisterService(sessions_.get());
    builder.RegisterService(model_service_.get());
    builder.SetMaxReceiveMessageSize(wire.max_message_bytes);
    builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, wire.max_concurrent_streams);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                               kMinPingIntervalMs);
    builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, wire.max_metadata_bytes);
    builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS,
                               Milliseconds(wire.max_connection_age));
    builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS,
                               Milliseconds(wire.max_connection_age_grace));
    builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS,
                               Milliseconds(wire.max_connection_idle));
    // Two servers on one port would each get some of the connections.
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    if (!wire.reflection) builder.SetOption(std::make_unique<WithoutReflection>());
    std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>>
        interceptors;
    interceptors.push_back(metrics_->rpc().Interceptor());
    builder.experimental().SetInterceptorCreators(std::move(interceptors));
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port_ == 0) {
      return absl::UnavailableError(absl::StrCat("--listen: cannot listen on ", wire.listen));
    }
    SetServing(true);
    for (const auto& model : models_.models()) {
      // Models of one device set the same listener, which hears once.
      model->health->SetListener([this, health = model->health.get()](const absl::Status& why) {
        OnDeviceFailed(*health, why);
      });
    }
    std::vector<std::string> files = auth_->files();
    if (tls_ != nullptr) {
      for (std::string& file : tls_->files()) files.push_back(std::move(file));
    }
    watch_ = std::make_unique<FileWatch>(std::move(files), [this] { Reload(); });
    sweeper_ = std::make_unique<Sweeper>(&environment_, options_.store.sweep_interval);
    RETURN_IF_ERROR(ListenForProbes());
    if (!wire.port_file.empty()) {
      RETURN_IF_ERROR(WritePort("--port-file", wire.port_file, port_));
    }
    environment_.log->info("{} serves on port {} ({})", kVersionLine, port_, wire.listen);
    return absl::OkStatus();
  }

  int port() const { return port_; }
  int metrics_port() const { return probes_ == nullptr ? 0 : probes_->port(); }

  void Reload() {
    // One at a time, or the lines of two would mix.
    absl::MutexLock lock(&reload_mutex_);
    ReportReload("certificates", tls_ == nullptr ? absl::OkStatus() : tls_->Reload());
    ReportReload("tokens, keys and quotas", auth_->Reload());
  }

  void Drain(absl::Duration patience) {
    if (drained_.exchange(true)) return;
    environment_.log->info("draining: {} calls in progress, at most {}", environment_.gate.calls(),
                           absl::FormatDuration(patience));
    SetServing(false);
    const absl::Time not_before = absl::Now() + std::min(patience, kFarewell);
    environment_.gate.Close();
    const absl::Time deadline = environment_.clock->Now() + patience;
    for (const auto& model : models_.models()) model->scheduler->Drain(deadline);
    sweeper_.reset();
    watch_.reset();
    const bool done = environment_.gate.WaitEmpty(absl::Now() + patience + kCommitGrace);
    if (!done) environment_.log->warn("cutting {} calls off", environment_.gate.calls());
    absl::SleepFor(not_before - absl::Now());
    // Waits for calls that are left, after it has cancelled them; theirs commits too are done then.
    server_->Shutdown(absl::ToChronoTime(absl::Now() + kCloseGrace));
    server_->Wait();
    for (const auto& model : models_.models()) model->scheduler->Stop();
    if (flush_store_) {
      const absl::Status flushed = flush_store_(kFlushGrace);
      if (!flushed.ok()) {
        environment_.log->error("store: acknowledged turns are lost: {}", ForLog(flushed));
      }
    }
    environment_.log->info("drained");
  }

  const ServerOptions& options() const { return options_; }
  bool device_failed() const {
    return std::any_of(models_.models().begin(), models_.models().end(),
                       [](const auto& model) { return model->device_failed(); });
  }

 private:
  // Who may connect, and who may call.
  absl::Status Secure() {
    ASSIGN_OR_RETURN(auth_, Authenticator::Create(options_.auth, environment_.clock));
    quotas_ = std::make_unique<QuotaBook>(
        environment_.clock, [auth = auth_.get()] { return auth->tenants(); }, environment_.store);
    for (const auto& model : models_.models()) {
      model->tenant_weights->Follow([auth = auth_.get()](const std::string& tenant) {
        return auth->tenants()->QuotaOf(tenant).weight;
      });
    }
    environment_.auth = auth_.get();
    environment_.quotas = quotas_.get();
    if (!options_.tls.enabled()) {
      credentials_ = grpc::InsecureServerCredentials();
    } else {
      ASSIGN_OR_RETURN(tls_, TlsCredentials::Create(options_.tls));
      credentials_ = tls_->credentials();
      credentials_->SetAuthMetadataProcessor(
          std::make_shared<MethodGuard>(auth_.get(), options_.auth.open_health));
    }
    environment_.log->info("security: {}, callers {}", tls_ != nullptr ? "TLS" : "no TLS",
                           auth_->required() ? "prove who they are" : "are not asked who they are");
    return absl::OkStatus();
  }

  void ReportReload(const char* what, const absl::Status& status) {
    if (status.ok()) {
      environment_.log->info("reload: {} are in force", what);
    } else {
      environment_.log->error("reload: {} STAY AS THEY WERE: {}", what,
                              std::string(status.message()));
    }
  }

  // The second port, and what is counted when somebody asks there.
  absl::Status ListenForProbes() {
    metrics_->AddSource([this](Scrape& scrape) {
      for (const auto& model : models_.models()) ScrapeModel(*model, scrape);
      ScrapeProcess(models_.models().front()->device, scrape);
      ScrapeServer(drained_, scrape);
    });
    const TelemetrySettings& telemetry = options_.telemetry;
    if (telemetry.listen.empty()) return absl::OkStatus();
    auto started = ProbeServer::Start(
        telemetry.listen, {[this] { return metrics_->Text(); }, [this] { return Alive(); },
                           [this] { return Ready(); }});
    if (!started.ok()) return Prefixed(started.status(), "--metrics-listen");
    probes_ = *std::move(started);
    if (!telemetry.port_file.empty()) {
      RETURN_IF_ERROR(WritePort("--metrics-port-file", telemetry.port_file, probes_->port()));
    }
    environment_.log->info("metrics and probes on port {} ({})", probes_->port(), telemetry.listen);
    return absl::OkStatus();
  }

  // A device that has failed comes back with a new process only.
  ProbePages::Answer Alive() const {
    for (const auto& model : models_.models()) {
      if (model->device_failed()) {
        return {false, "the device of model " + model->name + " has failed"};
      }
    }
    return {true, "alive"};
  }

  // A store that does not answer does not count: it is missing to every replica alike, and what
  // needs no store, or finds its session in the host cache, is served.
  ProbePages::Answer Ready() const {
    if (drained_) return {false, "draining"};
    if (ProbePages::Answer alive = Alive(); !alive.ok) return alive;
    if (store_answers_ && !store_answers_()) return {true, "ready; the store does not answer"};
    return {true, "ready"};
  }

  void SetServing(bool serving) {
    auto* health = server_->GetHealthCheckService();
    health->SetServingStatus(serving);  // the server as a whole: service name ""
    for (const std::string& name : ServiceNames()) health->SetServingStatus(name, serving);
    for (const auto& model : models_.models()) {
      health->SetServingStatus(HealthName(*model), serving);
    }
  }

  // The server as a whole is out then, to be restarted; models on other devices go on until that.
  void OnDeviceFailed(const kernels::DeviceHealth& device, const absl::Status& why) {
    auto* health = server_->GetHealthCheckService();
    health->SetServingStatus("", false);  // without a name: all, those other models too
    for (const std::string& name : ServiceNames()) health->SetServingStatus(name, false);
    for (const auto& model : models_.models()) {
      if (model->health.get() != &device) continue;
      health->SetServingStatus(HealthName(*model), false);
      environment_.log->error("the device of model {} HAS FAILED, restart this server: {}",
                              model->name, ForLog(why));
    }
  }

  // In order of construction: what comes later uses what came before.
  const ServerOptions options_;
  const std::shared_ptr<Metrics> metrics_;
  std::unique_ptr<kernels::ThreadPool> parts_compute_;
  std::unique_ptr<state_store::SessionStore> store_;
  const std::function<absl::Status(absl::Duration)> flush_store_;
  const std::function<bool()> store_answers_;
  ModelRegistry models_;
  Environment environment_;
  std::unique_ptr<Authenticator> auth_;
  std::unique_ptr<QuotaBook> quotas_;
  std::unique_ptr<TlsCredentials> tls_;
  std::shared_ptr<grpc::ServerCredentials> credentials_;
  std::unique_ptr<WorkerPool> io_;
  std::unique_ptr<GenerationService> generation_;
  std::unique_ptr<SessionService> sessions_;
  std::unique_ptr<ModelService> model_service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<Sweeper> sweeper_;
  std::unique_ptr<ProbeServer> probes_;
  absl::Mutex reload_mutex_;
  std::unique_ptr<FileWatch> watch_;
  int port_ = 0;
  std::atomic<bool> drained_ = false;  // or about to be
};

absl::StatusOr<std::unique_ptr<Server>> Server::Create(const ServerOptions& options) {
  static const RealClock& clock = *new RealClock;
  // Files that cannot be used are said at once; minutes may pass before the models are loaded.
  RETURN_IF_ERROR(Authenticator::Create(options.auth, &clock).status());
  if (options.tls.enabled()) RETURN_IF_ERROR(TlsCredentials::Create(options.tls).status());
  auto log = MakeLogger(options.log);
  ASSIGN_OR_RETURN(ServerParts parts, LoadParts(options, &clock, log));
  return Start(options, std::move(parts), &clock);
}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerOptions& options,
                                                      ServerParts parts, const Clock* clock) {
  auto impl = std::make_unique<Impl>(options, std::move(parts), clock, MakeLogger(options.log));
  RETURN_IF_ERROR(impl->Listen());
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Server::~Server() = default;

int Server::port() const { return impl_->port(); }
int Server::metrics_port() const { return impl_->metrics_port(); }

void Server::Reload() { impl_->Reload(); }

bool Server::device_failed() const { return impl_->device_failed(); }

void Server::Drain() { impl_->Drain(impl_->options().wire.drain); }

}  // namespace reprise::service
