#include "clients/cli/chat_input.h"

#include <gtest/gtest.h>

namespace reprise::cli {
namespace {

TEST(ChatInput, TextIsNoCommand) {
  for (const char* line : {"", "hello", " /fork", "//fork", "1/2"}) {
    EXPECT_FALSE(ParseChatCommand(line).has_value()) << line;
  }
}

TEST(ChatInput, CommandsWithAndWithoutArgument) {
  EXPECT_EQ(ParseChatCommand("/quit")->name, "quit");
  EXPECT_EQ(ParseChatCommand("/quit")->argument, "");
  EXPECT_EQ(ParseChatCommand("/fork  a branch \r")->name, "fork");
  EXPECT_EQ(ParseChatCommand("/fork  a branch \r")->argument, "a branch");
  EXPECT_EQ(ParseChatCommand("/")->name, "");
}

TEST(ChatInput, TwoSlashesStartATextWithOne) {
  EXPECT_EQ(Unescaped("//etc"), "/etc");
  EXPECT_EQ(Unescaped("a//b"), "a//b");
}

}  // namespace
}  // namespace reprise::cli
