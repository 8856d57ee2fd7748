// The command line as a whole, up to the point where it would connect.
#include "clients/cli/commands.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace reprise::cli {
namespace {

class Commands : public testing::Test {
 protected:
  Commands() : app_("", "reprise") { BuildCommandLine(app_, env_); }

  void Parse(std::vector<std::string> arguments) {
    std::reverse(arguments.begin(), arguments.end());  // as CLI11 wants a vector
    app_.parse(arguments);
  }

  Env env_;
  CLI::App app_;
};

TEST_F(Commands, ACommandIsNeeded) { EXPECT_THROW(Parse({}), CLI::ParseError); }

TEST_F(Commands, AGroupNeedsItsCommand) { EXPECT_THROW(Parse({"sessions"}), CLI::ParseError); }

TEST_F(Commands, GlobalFlagsMayFollowTheCommand) {
  Parse({"sessions", "list", "--json", "--server", "h:1"});
  EXPECT_TRUE(env_.options.json);
  EXPECT_EQ(env_.options.server, "h:1");
  EXPECT_TRUE(env_.run);
}

TEST_F(Commands, UnknownFlagsAndSpareArgumentsAreRefused) {
  EXPECT_THROW(Parse({"generate", "a", "b"}), CLI::ParseError);
  EXPECT_THROW(Parse({"models", "list", "--bogus"}), CLI::ParseError);
}

TEST_F(Commands, TimeoutIsPositive) {
  EXPECT_THROW(Parse({"models", "list", "--timeout", "0"}), CLI::ParseError);
}

TEST_F(Commands, OnePromptOnly) {
  Parse({"generate", "text", "--file", "f"});
  EXPECT_EQ(Explain(env_.run()).exit_code, kExitUsage);
}

TEST_F(Commands, ContinueNeedsASession) {
  Parse({"generate", "--continue"});
  EXPECT_EQ(Explain(env_.run()).exit_code, kExitUsage);
}

TEST_F(Commands, AMissingFileIsALocalFailure) {
  Parse({"generate", "--file", "/nonexistent"});
  EXPECT_EQ(Explain(env_.run()).exit_code, kExitLocal);
}

TEST_F(Commands, NobodyListening) {
  Parse({"models", "list", "--server", "127.0.0.1:1", "--timeout", "2"});
  EXPECT_EQ(Explain(env_.run()).exit_code, kExitUnreachable);
}

TEST_F(Commands, LabelWithNothingToDoIsAUsageError) {
  Parse({"sessions", "label", "x"});
  EXPECT_EQ(Explain(env_.run()).exit_code, kExitUsage);
}

}  // namespace
}  // namespace reprise::cli
