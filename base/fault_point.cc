#include "base/fault_point.h"

#ifdef REPRISE_FAULT_POINTS

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <string>
#include <string_view>

namespace reprise {
namespace {

struct Chosen {
  Chosen() {
    const char* value = std::getenv("REPRISE_FAULT_POINT");
    if (value == nullptr) return;
    const std::string_view text(value);
    const size_t colon = text.find(':');
    name = text.substr(0, colon);
    if (colon != std::string_view::npos) left = std::atoi(value + colon + 1);
  }
  std::string name;
  std::atomic<int> left = 1;
};

}  // namespace

void ReachFaultPoint(const char* name) {
  static Chosen& chosen = *new Chosen;
  if (chosen.name != name || --chosen.left != 0) return;
  ::kill(::getpid(), SIGKILL);
  for (;;) ::pause();
}

}  // namespace reprise

#endif  // REPRISE_FAULT_POINTS
