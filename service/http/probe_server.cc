#include "service/http/probe_server.h"

#include <httplib.h>
#include <sys/socket.h>

#include <atomic>
#include <thread>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace reprise::service {
namespace {

// Probes must be answered while a few scrapers are slow.
constexpr size_t kThreads = 4;
// Of one read or write; a peer that hangs holds up the end of the process for so long.
constexpr time_t kTimeoutSeconds = 2;
// Bodies are read and dropped; no page wants one.
constexpr size_t kMaxBody = 1024;
constexpr char kMetricsType[] = "text/plain; version=0.0.4; charset=utf-8";
constexpr char kPlainType[] = "text/plain; charset=utf-8";

void Show(const ProbePages::Answer& answer, httplib::Response& response) {
  response.status = answer.ok ? 200 : 503;
  response.set_content(answer.text + "\n", kPlainType);
}

}  // namespace

class ProbeServer::Impl {
 public:
  explicit Impl(ProbePages pages) : pages_(std::move(pages)) {
    server_.new_task_queue = [] { return new httplib::ThreadPool(kThreads); };
    // The library would let a second server have the same port.
    server_.set_socket_options([](int socket) {
      const int yes = 1;
      setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    });
    server_.set_read_timeout(kTimeoutSeconds);
    server_.set_write_timeout(kTimeoutSeconds);
    server_.set_payload_max_length(kMaxBody);
    // An idle connection would keep a thread.
    server_.set_keep_alive_max_count(1);
    server_.Get("/metrics", [this](const httplib::Request&, httplib::Response& response) {
      response.set_content(pages_.metrics(), kMetricsType);
    });
    server_.Get("/healthz", [this](const httplib::Request&, httplib::Response& response) {
      Show(pages_.healthz(), response);
    });
    server_.Get("/readyz", [this](const httplib::Request&, httplib::Response& response) {
      Show(pages_.readyz(), response);
    });
  }

  ~Impl() {
    if (!thread_.joinable()) return;
    server_.stop();
    thread_.join();
  }

  absl::Status Listen(const std::string& listen) {
    const size_t colon = listen.rfind(':');
    std::string host = listen.substr(0, colon);
    if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
      host = host.substr(1, host.size() - 2);
    }
    if (colon == listen.npos || !absl::SimpleAtoi(listen.substr(colon + 1), &port_)) {
      return absl::InvalidArgumentError(absl::StrCat(listen, " is not HOST:PORT"));
    }
    if (port_ == 0) {
      port_ = server_.bind_to_any_port(host);
    } else if (!server_.bind_to_port(host, port_)) {
      port_ = -1;
    }
    if (port_ < 0) return absl::UnavailableError(absl::StrCat("cannot listen on ", listen));
    thread_ = std::thread([this] {
      server_.listen_after_bind();
      ended_ = true;
    });
    // A stop that comes before the library's loop has begun would be forgotten.
    while (!server_.is_running() && !ended_) absl::SleepFor(absl::Milliseconds(1));
    return absl::OkStatus();
  }

  int port() const { return port_; }

 private:
  const ProbePages pages_;
  httplib::Server server_;
  int port_ = -1;
  std::atomic<bool> ended_ = false;
  std::thread thread_;
};

absl::StatusOr<std::unique_ptr<ProbeServer>> ProbeServer::Start(const std::string& listen,
                                                                ProbePages pages) {
  auto impl = std::make_unique<Impl>(std::move(pages));
  if (absl::Status status = impl->Listen(listen); !status.ok()) return status;
  return std::unique_ptr<ProbeServer>(new ProbeServer(std::move(impl)));
}

ProbeServer::ProbeServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ProbeServer::~ProbeServer() = default;

int ProbeServer::port() const { return impl_->port(); }

}  // namespace reprise::service
