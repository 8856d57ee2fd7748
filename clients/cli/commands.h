// The subcommands. Each function adds one to `app`; when it is chosen, it sets `env.run`. Both must
// outlive the parsing and the run.
#ifndef REPRISE_CLIENTS_CLI_COMMANDS_H_
#define REPRISE_CLIENTS_CLI_COMMANDS_H_

#include <CLI/CLI.hpp>

#include "clients/cli/env.h"

namespace reprise::cli {

void AddGenerateCommand(CLI::App& app, Env& env);
void AddChatCommand(CLI::App& app, Env& env);
void AddSessionsCommand(CLI::App& app, Env& env);
void AddSnapshotsCommand(CLI::App& app, Env& env);
void AddModelsCommand(CLI::App& app, Env& env);
void AddTokenizeCommands(CLI::App& app, Env& env);
void AddHealthCommand(CLI::App& app, Env& env);
void AddAdminCommand(CLI::App& app, Env& env);

// The whole command line: global options and all subcommands.
void BuildCommandLine(CLI::App& app, Env& env);

}  // namespace reprise::cli

#endif  // REPRISE_CLIENTS_CLI_COMMANDS_H_
