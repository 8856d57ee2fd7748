// What this build calls itself.
#ifndef REPRISE_SERVICE_VERSION_H_
#define REPRISE_SERVICE_VERSION_H_

#include <string>

namespace reprise::service {

#ifndef REPRISE_VERSION
#define REPRISE_VERSION "unknown"
#endif
inline constexpr char kVersion[] = REPRISE_VERSION;
inline constexpr char kVersionLine[] = "reprised " REPRISE_VERSION;

// kVersionLine and, a line each, commit, build type, compiler and versions of CUDA, gRPC and
// Protobuf that this was built with. Ends with a line's end.
std::string BuildFacts();

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_VERSION_H_
