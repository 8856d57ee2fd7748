// What the kernel says of this process and machine.
#ifndef REPRISE_SERVICE_METRICS_PROCESS_STATS_H_
#define REPRISE_SERVICE_METRICS_PROCESS_STATS_H_

#include <cstdint>

namespace reprise::service {

// Zero where /proc does not say.
struct ProcessStats {
  double cpu_seconds = 0;         // user and system
  double start_time_seconds = 0;  // since the epoch
  int64_t resident_bytes = 0, virtual_bytes = 0;
  int64_t threads = 0;
  int64_t open_fds = 0, max_fds = 0;
};
ProcessStats ReadProcessStats();

struct HostMemory {
  int64_t total_bytes = 0, free_bytes = 0;  // free: that programs could get without swapping
};
HostMemory ReadHostMemory();

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_METRICS_PROCESS_STATS_H_
