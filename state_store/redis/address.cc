#include "state_store/redis/address.h"

#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "base/status_macros.h"
#include "state_store/internal/cat.h"
#include "state_store/store_error.h"

namespace reprise::state_store::redis {
namespace {

constexpr uint16_t kRedisPort = 6379;
constexpr uint16_t kSentinelPort = 26379;

struct Scheme {
  std::string_view prefix;
  Topology topology;
  bool tls;
};
constexpr Scheme kSchemes[] = {
    {"redis://", Topology::kSingle, false},
    {"rediss://", Topology::kSingle, true},
    {"redis-sentinel://", Topology::kSentinel, false},
    {"rediss-sentinel://", Topology::kSentinel, true},
    {"redis-cluster://", Topology::kCluster, false},
    {"rediss-cluster://", Topology::kCluster, true},
};

absl::Status Invalid(std::string_view problem) {
  return MakeStoreError(StoreError::kInvalidArgument, Cat("Redis address: ", problem));
}

int HexValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

std::optional<std::string> PercentDecoded(std::string_view text) {
  std::string decoded;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      decoded.push_back(text[i]);
      continue;
    }
    if (i + 2 >= text.size()) return std::nullopt;
    const int high = HexValue(text[i + 1]), low = HexValue(text[i + 2]);
    if (high < 0 || low < 0) return std::nullopt;
    decoded.push_back(static_cast<char>(high * 16 + low));
    i += 2;
  }
  return decoded;
}

// Takes "user:password@" off the front of `rest`.
absl::Status TakeCredentials(std::string_view& rest, Address& address) {
  // The last '@' before the path: passwords hold unescaped ones often enough.
  const size_t at = rest.substr(0, rest.find('/')).rfind('@');
  if (at == std::string_view::npos) return absl::OkStatus();
  const std::string_view credentials = rest.substr(0, at);
  rest.remove_prefix(at + 1);
  const size_t colon = credentials.find(':');
  const auto user = PercentDecoded(credentials.substr(0, colon));
  const auto password = colon == std::string_view::npos
                            ? std::optional<std::string>("")
                            : PercentDecoded(credentials.substr(colon + 1));
  if (!user.has_value() || !password.has_value()) return Invalid("credentials have a bad %XX");
  if (!user->empty() && password->empty()) return Invalid("user without a password");
  address.user = *user;
  address.password = *password;
  return absl::OkStatus();
}

absl::Status ReadDb(std::string_view text, Address& address) {
  if (!absl::SimpleAtoi(ToAbsl(text), &address.db) || address.db < 0) {
    return Invalid(Cat("\"", text, "\" is no database number"));
  }
  return absl::OkStatus();
}

absl::StatusOr<Address> ParseUnix(std::string_view rest) {
  Address address;
  RETURN_IF_ERROR(TakeCredentials(rest, address));
  const size_t question = rest.find('?');
  if (question != std::string_view::npos) {
    const std::string_view query = rest.substr(question + 1);
    if (query.substr(0, 3) != "db=") return Invalid("a socket takes ?db=N only");
    RETURN_IF_ERROR(ReadDb(query.substr(3), address));
  }
  const auto path = PercentDecoded(rest.substr(0, question));
  if (!path.has_value() || path->empty() || path->front() != '/') {
    return Invalid("the path of a socket must be absolute");
  }
  address.endpoints.push_back({.unix_path = *path});
  return address;
}

}  // namespace

std::string Endpoint::ToString() const {
  if (!unix_path.empty()) return Cat("unix:", unix_path);
  const bool v6 = host.find(':') != std::string::npos;
  return v6 ? Cat("[", host, "]:", port) : Cat(host, ":", port);
}

absl::StatusOr<Endpoint> ParseEndpoint(std::string_view text, uint16_t default_port) {
  Endpoint endpoint;
  endpoint.port = default_port;
  std::string_view port;
  bool has_port = false;
  if (!text.empty() && text.front() == '[') {
    const size_t close = text.find(']');
    if (close == std::string_view::npos) return Invalid("IPv6 host without \"]\"");
    endpoint.host = text.substr(1, close - 1);
    const std::string_view after = text.substr(close + 1);
    has_port = !after.empty();
    if (has_port && after.front() != ':') return Invalid("text after \"]\"");
    if (has_port) port = after.substr(1);
  } else {
    const size_t colon = text.rfind(':');
    endpoint.host = text.substr(0, colon);
    has_port = colon != std::string_view::npos;
    if (has_port) port = text.substr(colon + 1);
    if (endpoint.host.find(':') != std::string::npos) {
      return Invalid(Cat("\"", text, "\": an IPv6 host stands in brackets"));
    }
  }
  if (endpoint.host.empty()) return Invalid("host is empty");
  if (has_port) {
    uint32_t number = 0;
    if (!absl::SimpleAtoi(ToAbsl(port), &number) || number == 0 || number > 65535) {
      return Invalid(Cat("\"", port, "\" is no port"));
    }
    endpoint.port = static_cast<uint16_t>(number);
  }
  return endpoint;
}

absl::StatusOr<Address> ParseAddress(std::string_view url) {
  if (url.substr(0, 7) == "unix://") return ParseUnix(url.substr(7));
  const Scheme* scheme = nullptr;
  for (const Scheme& row : kSchemes) {
    if (url.substr(0, row.prefix.size()) == row.prefix) scheme = &row;
  }
  if (scheme == nullptr) {
    return Invalid("must begin with redis://, rediss://, unix://, redis-sentinel:// or so");
  }
  std::string_view rest = url.substr(scheme->prefix.size());
  Address address;
  address.topology = scheme->topology;
  address.tls = scheme->tls;
  RETURN_IF_ERROR(TakeCredentials(rest, address));

  const size_t slash = rest.find('/');
  std::string_view hosts = rest.substr(0, slash);
  std::string_view path = slash == std::string_view::npos ? "" : rest.substr(slash + 1);
  const uint16_t port = address.topology == Topology::kSentinel ? kSentinelPort : kRedisPort;
  for (;;) {
    const size_t comma = hosts.find(',');
    ASSIGN_OR_RETURN(Endpoint endpoint, ParseEndpoint(hosts.substr(0, comma), port));
    address.endpoints.push_back(std::move(endpoint));
    if (comma == std::string_view::npos) break;
    hosts.remove_prefix(comma + 1);
  }
  if (address.topology == Topology::kSingle && address.endpoints.size() > 1) {
    return Invalid("several hosts need redis-sentinel:// or redis-cluster://");
  }
  if (address.topology == Topology::kSentinel) {
    const size_t end = path.find('/');
    const auto service = PercentDecoded(path.substr(0, end));
    if (!service.has_value() || service->empty()) return Invalid("sentinels need /service");
    address.service = *service;
    path = end == std::string_view::npos ? "" : path.substr(end + 1);
  }
  if (!path.empty()) {
    if (address.topology == Topology::kCluster) return Invalid("a cluster has no databases");
    RETURN_IF_ERROR(ReadDb(path, address));
  }
  return address;
}

}  // namespace reprise::state_store::redis
