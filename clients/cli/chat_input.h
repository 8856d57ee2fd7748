// What a line typed into `reprise chat` means.
#ifndef REPRISE_CLIENTS_CLI_CHAT_INPUT_H_
#define REPRISE_CLIENTS_CLI_CHAT_INPUT_H_

#include <optional>
#include <string>
#include <string_view>

namespace reprise::cli {

struct ChatCommand {
  std::string name;      // without the slash
  std::string argument;  // the rest of the line, trimmed; may be empty
};

// A line that starts with "/" is a command; "//" starts a text with one slash.
std::optional<ChatCommand> ParseChatCommand(std::string_view line);

// The text of a line that is no command.
std::string Unescaped(std::string_view line);

}  // namespace reprise::cli

#endif  // REPRISE_CLIENTS_CLI_CHAT_INPUT_H_
