#include "tools/simulate/generators.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <sstream>
#include <string>
#include <vector>

namespace reprise::simulate {
namespace {

std::string Written(const GeneratorOptions& options) {
  auto source = NewGenerator(options);
  EXPECT_TRUE(source.ok()) << source.status();
  std::ostringstream out;
  EXPECT_TRUE(WriteJsonTrace(**source, out).ok());
  return out.str();
}

std::vector<Script> Scripts(const GeneratorOptions& options) {
  auto source = NewGenerator(options);
  EXPECT_TRUE(source.ok()) << source.status();
  std::vector<Script> scripts;
  Script script;
  while ((*source)->Next(&script)) scripts.push_back(script);
  return scripts;
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

TEST(Generators, AreFunctionsOfTheSeedAndReadBack) {
  for (const char* kind : {"chat", "agent-tree", "long-document", "mixed"}) {
    GeneratorOptions options{.kind = kind, .scripts = 200, .seed = 7};
    const std::string first = Written(options);
    EXPECT_EQ(first, Written(options)) << kind;
    std::istringstream in(first);
    const auto read = ReadJsonTrace(in, kind, {});
    ASSERT_TRUE(read.ok()) << read.status();
    std::ostringstream again;
    ASSERT_TRUE(WriteJsonTrace(**read, again).ok());
    EXPECT_EQ(again.str(), first) << kind;
    options.seed = 8;
    EXPECT_NE(first, Written(options)) << kind;
  }
}

TEST(Generators, MoreScriptsBeginWithTheSameOnes) {
  const GeneratorOptions few{.kind = "mixed", .scripts = 50}, many{.kind = "mixed", .scripts = 90};
  EXPECT_EQ(Written(many).substr(0, Written(few).size()), Written(few));
}

TEST(Generators, ChatFollowsItsDistributions) {
  const std::vector<Script> scripts = Scripts({.kind = "chat", .scripts = 4000, .rate = 5});
  EXPECT_NEAR(scripts.back().start, 4000 / 5.0, 60);  // Poisson, sigma 12.6
  double turns = 0;
  std::vector<double> prompts, outputs, thinks;
  std::map<uint32_t, int> tenants;
  for (const Script& script : scripts) {
    turns += static_cast<double>(script.turns.size());
    ++tenants[script.turns[0].tenant];
    for (const Turn& turn : script.turns) {
      prompts.push_back(turn.own_tokens);
      outputs.push_back(turn.output);
      if (turn.after >= 0) thinks.push_back(turn.delay);
      EXPECT_EQ(turn.prefix.size(), turn.after < 0 ? 1u : 0u);
    }
  }
  EXPECT_NEAR(turns / 4000, 4, 0.25);  // geometric, cut at 20
  EXPECT_NEAR(Median(prompts), 60, 3);
  EXPECT_NEAR(Median(outputs), 150, 6);
  EXPECT_NEAR(Median(thinks), 20, 1);
  // Zipf over four: 1 : 1/2 : 1/3 : 1/4.
  EXPECT_NEAR(tenants[0], 4000 * 12 / 25.0, 150);
  EXPECT_NEAR(tenants[3], 4000 * 3 / 25.0, 100);
}

TEST(Generators, AgentTreesFork) {
  double nodes = 0;
  for (const Script& script : Scripts({.kind = "agent-tree", .scripts = 2000})) {
    nodes += static_cast<double>(script.turns.size());
    EXPECT_EQ(script.num_sessions, static_cast<int32_t>(script.turns.size()));
    for (size_t i = 1; i < script.turns.size(); ++i) {
      EXPECT_LT(script.turns[i].after, static_cast<int32_t>(i));
      EXPECT_TRUE(script.turns[i].prefix.empty());
    }
  }
  // 1 + 1.8 + 1.8^2 + 1.8^3
  EXPECT_NEAR(nodes / 2000, 11.872, 0.6);
}

TEST(Generators, FewDocumentsHoldMostOfTheTokens) {
  double documents = 0, in_documents = 0, all = 0;
  for (const Script& script : Scripts({.kind = "long-document", .scripts = 4000})) {
    documents += script.num_sessions;
    for (const Turn& turn : script.turns) {
      all += static_cast<double>(turn.prompt_tokens());
      if (script.num_sessions > 0) in_documents += static_cast<double>(turn.prompt_tokens());
    }
  }
  EXPECT_NEAR(documents / 4000, 0.05, 0.015);
  EXPECT_GT(in_documents / all, 0.85);
}

TEST(Generators, ScalesMultiply) {
  const auto mean_prompt = [](double scale) {
    double tokens = 0, turns = 0;
    for (const Script& s : Scripts({.kind = "chat", .scripts = 1000, .length_scale = scale})) {
      for (const Turn& turn : s.turns) {
        tokens += static_cast<double>(turn.prompt_tokens());
        ++turns;
      }
    }
    return tokens / turns;
  };
  EXPECT_NEAR(mean_prompt(0.5) / mean_prompt(1), 0.5, 0.01);
}

TEST(Generators, RefuseOptionsOutOfRange) {
  EXPECT_FALSE(NewGenerator({.kind = "poetry"}).ok());
  EXPECT_FALSE(NewGenerator({.scripts = 0}).ok());
  EXPECT_FALSE(NewGenerator({.rate = 0}).ok());
  EXPECT_FALSE(NewGenerator({.tenants = 0}).ok());
  EXPECT_FALSE(NewGenerator({.tenant_skew = -1}).ok());
  EXPECT_FALSE(NewGenerator({.length_scale = 0}).ok());
  EXPECT_FALSE(NewGenerator({.think_scale = -1}).ok());
}

}  // namespace
}  // namespace reprise::simulate
