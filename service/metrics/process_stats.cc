#include "service/metrics/process_stats.h"

#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <system_error>
#include <vector>

namespace reprise::service {
namespace {

std::string ReadFile(const char* path) {
  std::ifstream file(path);
  return std::string((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
}

// Seconds since the epoch at which the machine came up.
double BootTime() {
  std::istringstream lines(ReadFile("/proc/stat"));
  std::string key;
  double value = 0;
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    if (words >> key >> value && key == "btime") return value;
  }
  return 0;
}

}  // namespace

ProcessStats ReadProcessStats() {
  ProcessStats stats;
  const std::string text = ReadFile("/proc/self/stat");
  // The second field is the program's name in brackets, and may hold spaces and brackets itself.
  const size_t name_end = text.rfind(')');
  if (name_end != std::string::npos) {
    std::istringstream words(text.substr(name_end + 1));
    const std::vector<std::string> fields{std::istream_iterator<std::string>(words), {}};
    // proc(5) counts from 1, and the first field here is its third.
    const auto field = [&](size_t number) {
      return number - 3 < fields.size() ? std::stod(fields[number - 3]) : 0.0;
    };
    const double ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
    stats.cpu_seconds = (field(14) + field(15)) / ticks;
    stats.threads = static_cast<int64_t>(field(20));
    stats.start_time_seconds = BootTime() + field(22) / ticks;
    stats.virtual_bytes = static_cast<int64_t>(field(23));
    stats.resident_bytes = static_cast<int64_t>(field(24)) * sysconf(_SC_PAGESIZE);
  }
  std::error_code error;
  for (auto fd = std::filesystem::directory_iterator("/proc/self/fd", error);
       !error && fd != std::filesystem::directory_iterator(); fd.increment(error)) {
    ++stats.open_fds;
  }
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) stats.max_fds = static_cast<int64_t>(limit.rlim_cur);
  return stats;
}

HostMemory ReadHostMemory() {
  HostMemory memory;
  std::istringstream lines(ReadFile("/proc/meminfo"));
  std::string key;
  int64_t kib = 0;
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    if (!(words >> key >> kib)) continue;
    if (key == "MemTotal:") memory.total_bytes = kib * 1024;
    if (key == "MemAvailable:") memory.free_bytes = kib * 1024;
  }
  return memory;
}

}  // namespace reprise::service
