// What this build calls itself.
#ifndef REPRISE_SERVICE_VERSION_H_
#define REPRISE_SERVICE_VERSION_H_

namespace reprise::service {

#ifndef REPRISE_VERSION
#define REPRISE_VERSION "unknown"
#endif
inline constexpr char kVersion[] = REPRISE_VERSION;
inline constexpr char kVersionLine[] = "reprised " REPRISE_VERSION;

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_VERSION_H_
