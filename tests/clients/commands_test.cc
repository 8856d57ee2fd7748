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

TEST_F(Commands, SecurityThatDoesNotGoTogetherIsAUsageError) {
  const auto exit_code = [](std::vector<std::string> flags) {
    Env env;
    CLI::App app("", "reprise");
    BuildCommandLine(app, env);
    flags.insert(flags.begin(), {"models", "list", "--server", "127.0.0.1:1", "--timeout", "2"});
    std::reverse(flags.begin(), flags.end());
    app.parse(flags);
    return Explain(env.run()).exit_code;
  };
  EXPECT_EQ(exit_code({"--tls"}), kExitUnreachable);
  EXPECT_EQ(exit_code({"--cert", "/dev/null"}), kExitUsage);
  EXPECT_EQ(exit_code({"--tls", "--key", "/dev/null"}), kExitUsage);
  EXPECT_EQ(exit_code({"--server-name", "x"}), kExitUsage);
  EXPECT_EQ(exit_code({"--ca", "/nonexistent"}), kExitLocal);
}

TEST_F(Commands, ATokenLeavesThisMachineUnderTlsOnly) {
  SecurityOptions options;
  options.token = "t";
  for (const char* here : {"127.0.0.1:1", "127.9.9.9:1", "localhost:1", "[::1]:1", "unix:/x"}) {
    EXPECT_TRUE(CheckTokenIsSafe(options, here).ok()) << here;
  }
  for (const char* away : {"10.0.0.1:1", "127.example.com:1", "example.com:1", "[2001:db8::1]:1"}) {
    EXPECT_FALSE(CheckTokenIsSafe(options, away).ok()) << away;
    options.ca = "ca";
    EXPECT_TRUE(CheckTokenIsSafe(options, away).ok()) << away;
    options.ca.clear();
  }
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
