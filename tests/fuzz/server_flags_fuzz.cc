// A config file of the server as anyone may have written it: options that are allowed, or an error
// that says where.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <string>

#include "service/server_flags.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // A file in memory under a name that stays.
  static const int file = memfd_create("config", 0);
  static const std::string& path = *new std::string("/proc/self/fd/" + std::to_string(file));
  if (ftruncate(file, 0) != 0 || pwrite(file, data, size, 0) != static_cast<ssize_t>(size)) {
    std::abort();
  }
  const char* const argv[] = {"reprised", "--config", path.c_str()};
  const auto parsed =
      reprise::service::ParseServerFlags(3, argv, [](const char*) { return nullptr; });
  if (!parsed.ok()) {
    if (!absl::IsInvalidArgument(parsed.status()) || parsed.status().message().empty()) {
      std::abort();
    }
    return 0;
  }
  const reprise::service::ServerOptions& options = parsed->options;
  if (options.models.empty() || options.wire.io_threads < 1 ||
      options.limits.default_max_tokens > options.limits.max_tokens) {
    std::abort();
  }
  return 0;
}
