#include "clients/cli/chat_input.h"

namespace reprise::cli {
namespace {

std::string_view Trimmed(std::string_view text) {
  constexpr std::string_view kBlank = " \t\r";
  const size_t first = text.find_first_not_of(kBlank);
  if (first == text.npos) return {};
  return text.substr(first, text.find_last_not_of(kBlank) - first + 1);
}

}  // namespace

std::optional<ChatCommand> ParseChatCommand(std::string_view line) {
  if (!line.starts_with('/') || line.starts_with("//")) return std::nullopt;
  line = Trimmed(line.substr(1));
  const size_t space = line.find_first_of(" \t");
  if (space == line.npos) return ChatCommand{std::string(line), ""};
  return ChatCommand{std::string(line.substr(0, space)), std::string(Trimmed(line.substr(space)))};
}

std::string Unescaped(std::string_view line) {
  if (line.starts_with("//")) line.remove_prefix(1);
  return std::string(line);
}

}  // namespace reprise::cli
