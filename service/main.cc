// reprised: the server.
#include <google/protobuf/stubs/logging.h>
#include <malloc.h>
#include <signal.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "service/auth/token_tool.h"
#include "service/server.h"
#include "service/server_flags.h"

namespace {

constexpr int kUsageError = 2;
constexpr int kDeviceFailed = 3;  // and drained nevertheless

// States of many megabytes come and go with every turn. Given back to the system each time, their
// memory would cost more in fresh pages than in copying.
void KeepFreedMemory() {
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TRIM_THRESHOLD, 512 << 20);
}

int Fail(const absl::Status& status, int code) {
  std::fprintf(stderr, "reprised: %s\n", std::string(status.message()).c_str());
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace reprise::service;
  if (argc > 1 && std::strcmp(argv[1], "token") == 0) return RunTokenTool(argc - 1, argv + 1);
  const auto flags =
      ParseServerFlags(argc, argv, [](const char* name) { return std::getenv(name); });
  if (!flags.ok()) return Fail(flags.status(), kUsageError);
  if (!flags->print.empty()) {
    std::fputs(flags->print.c_str(), stdout);
    return 0;
  }
  KeepFreedMemory();
  // A request that does not parse is answered with a reason; it is no event of the server.
  google::protobuf::SetLogHandler(nullptr);
  // Before any thread starts, so that all inherit the mask and only this one hears.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);

  auto server = Server::Create(flags->options);
  if (!server.ok()) return Fail(server.status(), 1);
  std::printf("reprised: listening on port %d\n", (*server)->port());
  std::fflush(stdout);
  int signal = 0;
  while (sigwait(&signals, &signal) == 0 && signal == SIGHUP) (*server)->Reload();
  // A second signal ends the process at once: the store is safe at every moment.
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
  (*server)->Drain();
  return (*server)->device_failed() ? kDeviceFailed : 0;
}
