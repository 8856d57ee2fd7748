#include "clients/cli/request_flags.h"

#include <gtest/gtest.h>

#include "clients/cli/errors.h"

namespace reprise::cli {
namespace {

v1::GenerateRequest Parsed(std::vector<std::string> arguments) {
  CLI::App app;
  RequestFlags flags;
  flags.AddTo(app);
  std::reverse(arguments.begin(), arguments.end());  // as CLI11 wants a vector
  app.parse(arguments);
  v1::GenerateRequest request;
  EXPECT_TRUE(flags.Fill(request).ok());
  return request;
}

TEST(RequestFlags, NothingGivenLeavesTheDefaultsToTheServer) {
  const v1::GenerateRequest request = Parsed({});
  EXPECT_FALSE(request.has_add_bos());
  EXPECT_FALSE(request.stop().has_max_tokens());
  EXPECT_FALSE(request.sampling().has_seed());
  EXPECT_FALSE(request.sampling().has_top_p());
  EXPECT_EQ(request.durability(), v1::DURABILITY_UNSPECIFIED);
}

TEST(RequestFlags, Everything) {
  const v1::GenerateRequest request = Parsed({"-m",
                                              "m",
                                              "-n",
                                              "0",
                                              "-t",
                                              "0.5",
                                              "--top-k",
                                              "40",
                                              "--top-p",
                                              "0.9",
                                              "--min-p",
                                              "0.1",
                                              "--repetition-penalty",
                                              "1.1",
                                              "--presence-penalty",
                                              "-1",
                                              "--frequency-penalty",
                                              "0.2",
                                              "--logit-bias",
                                              "5=-3.5",
                                              "--logit-bias",
                                              "7=1e2",
                                              "--seed",
                                              "18446744073709551615",
                                              "--stop",
                                              "a",
                                              "--stop",
                                              "[b, c]",
                                              "--stop-token",
                                              "9",
                                              "--ignore-eos",
                                              "--durability",
                                              "sync",
                                              "--priority",
                                              "high",
                                              "--no-bos"});
  EXPECT_EQ(request.model(), "m");
  EXPECT_TRUE(request.stop().has_max_tokens());
  EXPECT_EQ(request.stop().max_tokens(), 0);
  EXPECT_FLOAT_EQ(request.sampling().temperature(), 0.5f);
  EXPECT_EQ(request.sampling().top_k(), 40);
  EXPECT_FLOAT_EQ(request.sampling().presence_penalty(), -1);
  EXPECT_FLOAT_EQ(request.sampling().logit_bias().at(5), -3.5f);
  EXPECT_FLOAT_EQ(request.sampling().logit_bias().at(7), 100.f);
  EXPECT_EQ(request.sampling().seed(), ~uint64_t{0});
  EXPECT_EQ(request.stop().stop_strings_size(), 2);
  EXPECT_EQ(request.stop().stop_strings(1), "[b, c]");
  EXPECT_EQ(request.stop().stop_tokens(0), 9);
  EXPECT_TRUE(request.stop().ignore_eos());
  EXPECT_EQ(request.durability(), v1::DURABILITY_SYNC);
  EXPECT_EQ(request.priority(), v1::PRIORITY_HIGH);
  EXPECT_FALSE(request.add_bos());
  EXPECT_TRUE(request.has_add_bos());
}

TEST(RequestFlags, AMalformedBiasIsAUsageError) {
  for (const char* text : {"5", "=1", "x=1", "5=x"}) {
    RequestFlags flags;
    flags.logit_bias = {text};
    v1::GenerateRequest request;
    EXPECT_EQ(Explain(flags.Fill(request)).exit_code, kExitUsage) << text;
  }
}

}  // namespace
}  // namespace reprise::cli
