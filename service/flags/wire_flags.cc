#include "service/flags/setters.h"
#include "service/flags/tables.h"

namespace reprise::service {

std::vector<FlagSpec> WireFlags() {
  using O = ServerOptions;
  return {
      {"listen", "127.0.0.1:7420", "HOST:PORT, port 0 to 65535",
       "address to serve on; port 0 picks a free one", false,
       Address(&O::wire, &WireSettings::listen)},
      {"port-file", "", "a path", "file that gets the port once the server accepts calls", false,
       [](const std::string& text, O* o) {
         o->wire.port_file = text;
         return absl::OkStatus();
       }},
      {"drain-seconds", "30", "a number from 0 to 86400",
       "how long running requests may go on after SIGTERM", false,
       Seconds(&O::wire, &WireSettings::drain, 86400, false)},
      {"max-concurrent-streams", "1024", "an integer from 1 to 1000000",
       "calls in progress on one connection", false,
       Integer(&O::wire, &WireSettings::max_concurrent_streams, 1, 1000000)},
      {"max-message-bytes", "16777216", "an integer from 65536 to 1073741824",
       "longest message that is accepted", false,
       Integer(&O::wire, &WireSettings::max_message_bytes, 1 << 16, 1 << 30)},
      {"max-metadata-bytes", "16384", "an integer from 1024 to 1048576",
       "longest headers of a call, tokens among them", false,
       Integer(&O::wire, &WireSettings::max_metadata_bytes, 1024, 1 << 20)},
      {"max-connection-age-seconds", "0", "a number from 0 to 2000000, 0 = for ever",
       "age, give or take a tenth, at which a connection is asked to go, so that clients find new "
       "servers",
       false, Seconds(&O::wire, &WireSettings::max_connection_age, 2000000, true)},
      {"max-connection-age-grace-seconds", "0", "a number from 0 to 2000000, 0 = for ever",
       "how long calls on a connection that was asked to go may go on", false,
       Seconds(&O::wire, &WireSettings::max_connection_age_grace, 2000000, true)},
      {"max-connection-idle-seconds", "0", "a number from 0 to 2000000, 0 = for ever",
       "how long a connection without calls is kept", false,
       Seconds(&O::wire, &WireSettings::max_connection_idle, 2000000, true)},
      {"io-threads", "4", "an integer from 1 to 256", "threads that wait for the store", false,
       Integer(&O::wire, &WireSettings::io_threads, 1, 256)},
      {"reflection", "auto", "auto, on or off",
       "whether clients may ask for the protos; auto is on in --profile development, unless "
       "callers must prove who they are",
       false, OneOf(&O::wire, &WireSettings::reflection_choice, {"auto", "on", "off"})},
      {"log-level", "info", "debug, info, warn or error", "least severe line that is logged", false,
       OneOf(&O::log, &LogSettings::level, {"debug", "info", "warn", "error"})},
      {"log-format", "text", "text or json", "form of a log line, on standard error", false,
       OneOf(&O::log, &LogSettings::format, {"text", "json"})},
  };
}

}  // namespace reprise::service
