// TLS over a PlainSocket. OpenSSL reads and writes memory; the socket stays ours, so that deadlines
// hold in the middle of records and a broken pipe raises no signal.
#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "base/status_macros.h"
#include "state_store/internal/cat.h"
#include "state_store/redis/error.h"
#include "state_store/redis/plain_socket.h"
#include "state_store/store_error.h"

namespace reprise::state_store::redis {
namespace {

// Encrypted bytes that may wait for the socket before TryWrite takes no more.
constexpr size_t kMaxUnsent = 256 << 10;

std::string OpenSslError() {
  char buffer[256] = "unknown error";
  const unsigned long error = ERR_get_error();
  if (error != 0) ERR_error_string_n(error, buffer, sizeof buffer);
  ERR_clear_error();
  return buffer;
}

struct ContextDeleter {
  void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
};
struct SslDeleter {
  void operator()(SSL* ssl) const { SSL_free(ssl); }
};
using UniqueSsl = std::unique_ptr<SSL, SslDeleter>;

class OpenSslContext final : public TlsContext {
 public:
  OpenSslContext(std::unique_ptr<SSL_CTX, ContextDeleter> context, std::string server_name)
      : context_(std::move(context)), server_name_(std::move(server_name)) {}

  // Null if there is no memory or `host` is no name.
  UniqueSsl NewConnection(const std::string& host) const {
    const std::string& name = server_name_.empty() ? host : server_name_;
    UniqueSsl ssl(SSL_new(context_.get()));
    if (ssl == nullptr) return nullptr;
    std::array<unsigned char, 16> number;
    const bool is_ip = ::inet_pton(AF_INET, name.c_str(), number.data()) == 1 ||
                       ::inet_pton(AF_INET6, name.c_str(), number.data()) == 1;
    if (is_ip) {
      if (!X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl.get()), name.c_str())) return nullptr;
    } else if (!SSL_set1_host(ssl.get(), name.c_str()) ||
               !SSL_set_tlsext_host_name(ssl.get(), name.c_str())) {
      return nullptr;
    }
    BIO* in = BIO_new(BIO_s_mem());
    BIO* out = BIO_new(BIO_s_mem());
    if (in == nullptr || out == nullptr) {
      BIO_free(in);
      BIO_free(out);
      return nullptr;
    }
    SSL_set_bio(ssl.get(), in, out);
    SSL_set_connect_state(ssl.get());
    return ssl;
  }

 private:
  std::unique_ptr<SSL_CTX, ContextDeleter> context_;
  std::string server_name_;
};

class TlsSocket final : public Socket {
 public:
  TlsSocket(std::unique_ptr<PlainSocket> plain, UniqueSsl ssl, std::shared_ptr<TlsContext> context)
      : context_(std::move(context)), plain_(std::move(plain)), ssl_(std::move(ssl)) {}

  absl::Status Handshake(const Endpoint& endpoint, Deadline deadline) {
    const auto refuse = [&](std::string_view problem) {
      return MakeRedisError(RedisError::kTls, Outcome::kNotDone,
                            Cat(endpoint.ToString(), ": TLS: ", problem));
    };
    for (;;) {
      ERR_clear_error();
      const int result = SSL_do_handshake(ssl_.get());
      const int error = SSL_get_error(ssl_.get(), result);
      const absl::Status flushed = Flush();
      if (result == 1) return flushed;
      if (error != SSL_ERROR_WANT_READ) {
        const long verified = SSL_get_verify_result(ssl_.get());
        if (verified != X509_V_OK) return refuse(X509_verify_cert_error_string(verified));
        return refuse(OpenSslError());
      }
      RETURN_IF_ERROR(flushed);
      const absl::StatusOr<size_t> received = Receive();
      if (!received.ok()) return refuse("the server closed the connection in the handshake");
      if (*received == 0) {
        const absl::Status waited = Wait(HasUnsent(), deadline);
        if (!waited.ok()) {
          return MakeRedisError(RedisError::kTimeout, Outcome::kNotDone,
                                Cat(endpoint.ToString(), ": TLS handshake not done in time"));
        }
      }
    }
  }

  absl::StatusOr<size_t> TryRead(absl::Span<char> buffer) override {
    RETURN_IF_ERROR(Flush());
    for (;;) {
      ERR_clear_error();
      const int n = SSL_read(ssl_.get(), buffer.data(), static_cast<int>(buffer.size()));
      if (n > 0) return static_cast<size_t>(n);
      const int error = SSL_get_error(ssl_.get(), n);
      if (error == SSL_ERROR_ZERO_RETURN) return Closed("the server closed the connection");
      if (error != SSL_ERROR_WANT_READ) return Closed(Cat("TLS: ", OpenSslError()));
      ASSIGN_OR_RETURN(const size_t received, Receive());
      if (received == 0) return 0;
    }
  }

  absl::StatusOr<size_t> TryWrite(std::string_view bytes) override {
    RETURN_IF_ERROR(Flush());
    size_t taken = 0;
    while (taken < bytes.size() && UnsentBytes() < kMaxUnsent) {
      const size_t piece = std::min<size_t>(bytes.size() - taken, 16 << 10);
      ERR_clear_error();
      const int n = SSL_write(ssl_.get(), bytes.data() + taken, static_cast<int>(piece));
      if (n <= 0) {
        // Key updates aside, memory always takes what is written.
        if (SSL_get_error(ssl_.get(), n) == SSL_ERROR_WANT_READ) break;
        return Closed(Cat("TLS: ", OpenSslError()));
      }
      taken += n;
      RETURN_IF_ERROR(Flush());
    }
    return taken;
  }

  absl::Status Wait(bool for_writing, Deadline deadline) override {
    return plain_->Wait(for_writing || HasUnsent(), deadline);
  }

  bool HasUnsent() const override { return UnsentBytes() > 0; }

 private:
  static absl::Status Closed(std::string_view problem) {
    return MakeRedisError(RedisError::kClosed, Outcome::kUnknown, problem);
  }

  size_t UnsentBytes() const {
    return sending_.size() - sent_ + BIO_ctrl_pending(SSL_get_wbio(ssl_.get()));
  }

  // From the socket to OpenSSL; 0 if nothing has come.
  absl::StatusOr<size_t> Receive() {
    ASSIGN_OR_RETURN(const size_t n, plain_->TryRead(absl::MakeSpan(buffer_)));
    if (n > 0 && BIO_write(SSL_get_rbio(ssl_.get()), buffer_.data(), static_cast<int>(n)) <= 0) {
      return Closed("no memory for TLS");
    }
    return n;
  }

  // From OpenSSL to the socket, as much as it takes.
  absl::Status Flush() {
    for (;;) {
      if (sent_ == sending_.size()) {
        const size_t pending = BIO_ctrl_pending(SSL_get_wbio(ssl_.get()));
        if (pending == 0) return absl::OkStatus();
        sending_.resize(pending);
        sent_ = 0;
        const int n =
            BIO_read(SSL_get_wbio(ssl_.get()), sending_.data(), static_cast<int>(sending_.size()));
        sending_.resize(std::max(n, 0));
      }
      ASSIGN_OR_RETURN(const size_t n, plain_->TryWrite(std::string_view(sending_).substr(sent_)));
      if (n == 0) return absl::OkStatus();
      sent_ += n;
    }
  }

  const std::shared_ptr<TlsContext> context_;
  const std::unique_ptr<PlainSocket> plain_;
  const UniqueSsl ssl_;
  std::string sending_;
  size_t sent_ = 0;
  std::array<char, 32 << 10> buffer_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<TlsContext>> TlsContext::Create(const TlsOptions& options) {
  std::unique_ptr<SSL_CTX, ContextDeleter> context(SSL_CTX_new(TLS_client_method()));
  if (context == nullptr) return absl::InternalError(OpenSslError());
  const auto refuse = [](std::string_view what, std::string_view file) {
    return MakeStoreError(StoreError::kInvalidArgument,
                          Cat("TLS: ", what, " \"", file, "\": ", OpenSslError()));
  };
  SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION);
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
  if (options.ca_file.empty()) {
    if (!SSL_CTX_set_default_verify_paths(context.get())) return refuse("authorities", "");
  } else if (!SSL_CTX_load_verify_locations(context.get(), options.ca_file.c_str(), nullptr)) {
    return refuse("ca_file", options.ca_file);
  }
  if (options.cert_file.empty() != options.key_file.empty()) {
    return MakeStoreError(StoreError::kInvalidArgument, "TLS: cert_file and key_file go together");
  }
  if (!options.cert_file.empty()) {
    if (SSL_CTX_use_certificate_chain_file(context.get(), options.cert_file.c_str()) != 1) {
      return refuse("cert_file", options.cert_file);
    }
    if (SSL_CTX_use_PrivateKey_file(context.get(), options.key_file.c_str(), SSL_FILETYPE_PEM) !=
        1) {
      return refuse("key_file", options.key_file);
    }
  }
  return std::make_shared<OpenSslContext>(std::move(context), options.server_name);
}

absl::StatusOr<std::unique_ptr<Socket>> ConnectTls(const Endpoint& endpoint,
                                                   std::shared_ptr<TlsContext> context,
                                                   Deadline deadline) {
  ASSIGN_OR_RETURN(std::unique_ptr<PlainSocket> plain, PlainSocket::Connect(endpoint, deadline));
  UniqueSsl ssl = static_cast<OpenSslContext&>(*context).NewConnection(endpoint.host);
  if (ssl == nullptr) {
    return MakeRedisError(RedisError::kTls, Outcome::kNotDone,
                          Cat(endpoint.ToString(), ": TLS: ", OpenSslError()));
  }
  auto socket = std::make_unique<TlsSocket>(std::move(plain), std::move(ssl), std::move(context));
  RETURN_IF_ERROR(socket->Handshake(endpoint, deadline));
  return socket;
}

}  // namespace reprise::state_store::redis
