// Which addresses stay on this machine.
#ifndef REPRISE_BASE_LOOPBACK_H_
#define REPRISE_BASE_LOOPBACK_H_

#include <string_view>

namespace reprise {

// Whether the host of "host:port" can be this machine only: localhost, [::1] or 127.x.x.x.
bool IsLoopback(std::string_view address);

}  // namespace reprise

#endif  // REPRISE_BASE_LOOPBACK_H_
