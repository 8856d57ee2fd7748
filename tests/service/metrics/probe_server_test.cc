// The second port, over a plain socket.
#include "service/http/probe_server.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <thread>

namespace reprise::service {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class Connection {
 public:
  explicit Connection(int port) : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  }
  ~Connection() { close(fd_); }
  bool connected() const { return connected_; }
  void Send(const std::string& bytes) {
    ASSERT_EQ(send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
  }
  // Until the other side closes.
  std::string ReadAll() {
    std::string all;
    char buffer[4096];
    for (ssize_t n; (n = recv(fd_, buffer, sizeof(buffer), 0)) > 0;) {
      all.append(buffer, static_cast<size_t>(n));
    }
    return all;
  }

 private:
  const int fd_;
  bool connected_ = false;
};

// The whole answer to one request.
std::string Ask(const ProbeServer& server, const std::string& request_line) {
  Connection connection(server.port());
  connection.Send(request_line + " HTTP/1.1\r\nHost: x\r\n\r\n");
  return connection.ReadAll();
}

ProbePages Pages() {
  return {[] { return std::string("a_metric 1\n"); },
          [] {
            return ProbePages::Answer{true, "alive"};
          },
          [] {
            return ProbePages::Answer{false, "draining"};
          }};
}

TEST(ProbeServerTest, EachPageSaysItsPart) {
  auto server = ProbeServer::Start("127.0.0.1:0", Pages());
  ASSERT_TRUE(server.ok()) << server.status();
  const std::string metrics = Ask(**server, "GET /metrics");
  EXPECT_THAT(metrics, StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(metrics, HasSubstr("Content-Type: text/plain; version=0.0.4"));
  EXPECT_THAT(metrics, EndsWith("\r\n\r\na_metric 1\n"));
  EXPECT_THAT(Ask(**server, "GET /healthz"), StartsWith("HTTP/1.1 200"));
  const std::string ready = Ask(**server, "GET /readyz");
  EXPECT_THAT(ready, StartsWith("HTTP/1.1 503"));
  EXPECT_THAT(ready, EndsWith("draining\n"));
}

TEST(ProbeServerTest, ThereIsNothingElse) {
  auto server = ProbeServer::Start("127.0.0.1:0", Pages());
  ASSERT_TRUE(server.ok());
  for (const std::string line : {"GET /", "GET /metrics/x", "POST /metrics", "DELETE /readyz",
                                 "GET /../etc/passwd", "GET /%2e%2e/etc/passwd"}) {
    EXPECT_THAT(Ask(**server, line), StartsWith("HTTP/1.1 4")) << line;
  }
}

TEST(ProbeServerTest, BytesThatAreNoRequestAreRefused) {
  auto server = ProbeServer::Start("127.0.0.1:0", Pages());
  ASSERT_TRUE(server.ok());
  for (const std::string& bytes :
       {std::string("\x16\x03\x01\x02\x00", 5) + "\r\n\r\n", std::string("GET\r\n\r\n"),
        "GET /" + std::string(100000, 'a') + " HTTP/1.1\r\n\r\n",
        "POST /metrics HTTP/1.1\r\nContent-Length: 999999999\r\n\r\n" + std::string(4096, 'x')}) {
    Connection connection(server.value()->port());
    connection.Send(bytes);
    EXPECT_THAT(connection.ReadAll(), ::testing::Not(HasSubstr("a_metric")));
  }
  Connection connection((*server)->port());
  connection.Send("POST /metrics HTTP/1.1\r\nContent-Length: 1025\r\n\r\n" +
                  std::string(1025, 'x'));
  EXPECT_THAT(connection.ReadAll(), StartsWith("HTTP/1.1 413"));
  EXPECT_THAT(Ask(**server, "GET /healthz"), StartsWith("HTTP/1.1 200"));
}

TEST(ProbeServerTest, APortHasOneServer) {
  auto first = ProbeServer::Start("127.0.0.1:0", Pages());
  ASSERT_TRUE(first.ok());
  const std::string address = "127.0.0.1:" + std::to_string((*first)->port());
  const auto second = ProbeServer::Start(address, Pages());
  EXPECT_TRUE(absl::IsUnavailable(second.status())) << second.status();
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(address));
  // And is free again afterwards.
  first->reset();
  EXPECT_TRUE(ProbeServer::Start(address, Pages()).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(ProbeServer::Start("nowhere", Pages()).status()));
}

TEST(ProbeServerTest, ItEndsWhilePeersHangAndOthersAsk) {
  auto server = ProbeServer::Start("127.0.0.1:0", Pages());
  ASSERT_TRUE(server.ok());
  Connection silent((*server)->port());
  silent.Send("GET /met");
  EXPECT_THAT(Ask(**server, "GET /healthz"), StartsWith("HTTP/1.1 200"));
  server->reset();  // a hang is the failure
  EXPECT_THAT(silent.ReadAll(), ::testing::Not(HasSubstr("a_metric")));
}

}  // namespace
}  // namespace reprise::service
