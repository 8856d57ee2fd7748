#include "clients/cli/commands.h"

#include <cstdlib>

namespace reprise::cli {

void BuildCommandLine(CLI::App& app, Env& env) {
  app.description("Client of a Reprise server.");
  app.footer(
      "Exit codes: 0 done, 1 local failure, 2 usage, 3 unreachable, 4 refused, 5 not found, "
      "6 conflict, 7 try later, 8 timeout, 9 server fault, 130 interrupted.");
  app.require_subcommand(1);
  app.fallthrough();
  app.add_option("--server", env.options.server, "Address of the server, host:port")
      ->envname("REPRISE_SERVER")
      ->capture_default_str();
  app.add_option("--timeout", env.options.timeout_seconds,
                 "Seconds that a call may take (default: none for streams, 30 for the rest)")
      ->check(CLI::PositiveNumber);
  SecurityOptions& security = env.options.security;
  app.add_flag("--tls", security.tls,
               "Encrypt, and verify the server by this machine's authorities");
  app.add_option("--ca", security.ca, "PEM file of the server's authorities; implies --tls")
      ->envname("REPRISE_CA");
  app.add_option("--cert", security.certificate, "PEM file of a certificate to show, with --key");
  app.add_option("--key", security.key, "PEM file of its private key");
  app.add_option("--server-name", security.server_name,
                 "Name that the server's certificate must be for (default: the address' host)");
  // Not on the command line, where others on this machine can read it.
  if (const char* token = std::getenv("REPRISE_TOKEN")) security.token = token;
  app.add_flag("--json", env.options.json, "Print JSON, one object a line");
  app.add_flag("--timing", env.options.timing, "Say how long each call took");
  AddGenerateCommand(app, env);
  AddChatCommand(app, env);
  AddSessionsCommand(app, env);
  AddSnapshotsCommand(app, env);
  AddModelsCommand(app, env);
  AddTokenizeCommands(app, env);
  AddHealthCommand(app, env);
  AddAdminCommand(app, env);
}

}  // namespace reprise::cli
