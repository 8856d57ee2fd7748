#include "base/loopback.h"

namespace reprise {

bool IsLoopback(std::string_view address) {
  const std::string_view host = address.substr(0, address.rfind(':'));
  // A name that begins so may be anybody's.
  const bool numeric = host.find_first_not_of("0123456789.") == host.npos;
  return host == "localhost" || host == "[::1]" || (numeric && host.substr(0, 4) == "127.");
}

}  // namespace reprise
