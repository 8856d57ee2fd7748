#include "tools/simulate/generators.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "tools/simulate/random.h"

namespace reprise::simulate {
namespace {

constexpr int kSystemPrompts = 20;

enum class Kind { kChat, kAgentTree, kLongDocument, kMixed };

class Generator final : public ScriptSource {
 public:
  Generator(Kind kind, const GeneratorOptions& options)
      : kind_(kind),
        options_(options),
        arrivals_(options.seed),
        system_prompt_(kSystemPrompts, 1.0),
        tenant_(options.tenants, options.tenant_skew) {
    for (int i = 0; i < options.tenants; ++i) tenants_.Intern(absl::StrCat("t", i));
    for (int i = 0; i < kSystemPrompts; ++i) {
      prefixes_.Intern(absl::StrCat("system", i));
      Random random(options.seed, ~static_cast<uint64_t>(i));
      system_tokens_.push_back(Scaled(random.LogNormalTokens(300, 0.6, 50, 2000)));
    }
    instructions_ = prefixes_.Intern("instructions");
  }

  bool Next(Script* script) override {
    if (next_ == options_.scripts) return false;
    now_ += arrivals_.Exponential(1.0 / options_.rate);
    Script made;
    made.id = next_++;
    made.start = now_;
    // A stream of its own: what one script holds does not hang on what another one drew.
    Random random(options_.seed, made.id);
    tenant_of_script_ = static_cast<uint32_t>(tenant_.Draw(random));
    Kind kind = kind_;
    if (kind == Kind::kMixed) {
      const double share = random.Uniform();
      kind = share < 0.7 ? Kind::kChat : share < 0.9 ? Kind::kLongDocument : Kind::kAgentTree;
    }
    switch (kind) {
      case Kind::kChat:
        Chat(random, made);
        break;
      case Kind::kAgentTree:
        AgentTree(random, made);
        break;
      default:
        LongDocument(random, made);
        break;
    }
    *script = std::move(made);
    return true;
  }

 private:
  int32_t Scaled(int32_t tokens) const {
    return static_cast<int32_t>(
        std::clamp<double>(std::round(tokens * options_.length_scale), 1, kMaxPromptTokens / 8));
  }
  double Think(Random& random, double median, double sigma) const {
    return std::min(random.LogNormal(median, sigma) * options_.think_scale, kMaxSeconds);
  }

  Turn NewTurn(int32_t prompt, int32_t output) const {
    Turn turn;
    turn.tenant = tenant_of_script_;
    turn.own_tokens = Scaled(prompt);
    turn.output = std::min(Scaled(output), kMaxOutputTokens);
    return turn;
  }

  void AddSystemPrompt(Random& random, Turn& turn) const {
    const int which = system_prompt_.Draw(random);
    turn.prefix.push_back({static_cast<uint32_t>(which), system_tokens_[which]});
  }

  // Turns until the user leaves (after each with probability 1/4, at most 20).
  void Chat(Random& random, Script& script) const {
    script.num_sessions = 1;
    for (int i = 0; i < 20 && (i == 0 || random.Chance(0.75)); ++i) {
      const int32_t prompt = random.LogNormalTokens(60, 1.0, 1, 4000);
      Turn turn = NewTurn(prompt, random.LogNormalTokens(150, 0.8, 1, 2000));
      if (i == 0) AddSystemPrompt(random, turn);
      if (i > 0) turn.delay = Think(random, 20, 0.8);
      turn.after = i - 1;
      turn.session = 0;
      script.turns.push_back(std::move(turn));
    }
  }

  // A context that all branches share; each node of three levels tries up to three continuations.
  void AgentTree(Random& random, Script& script) const {
    Turn root = NewTurn(random.LogNormalTokens(2000, 0.7, 200, 30000),
                        random.LogNormalTokens(60, 0.5, 10, 400));
    root.prefix.push_back({instructions_, Scaled(1500)});
    root.session = script.num_sessions++;
    script.turns.push_back(std::move(root));
    size_t level_begin = 0;
    for (int depth = 0; depth < 3; ++depth) {
      const size_t level_end = script.turns.size();
      for (size_t node = level_begin; node < level_end; ++node) {
        for (int branch = 0; branch < 3; ++branch) {
          if (!random.Chance(0.6)) continue;
          const int32_t result = random.LogNormalTokens(80, 0.8, 5, 2000);
          Turn turn = NewTurn(result, random.LogNormalTokens(100, 0.6, 10, 800));
          turn.after = static_cast<int32_t>(node);
          turn.delay = Think(random, 0.5, 1.0);  // a tool runs
          turn.session = script.num_sessions++;
          script.turns.push_back(std::move(turn));
        }
      }
      level_begin = level_end;
    }
  }

  // One in twenty asks a document up to four questions; the others ask once, briefly.
  void LongDocument(Random& random, Script& script) const {
    if (!random.Chance(0.05)) {
      const int32_t prompt = random.LogNormalTokens(120, 1.0, 1, 4000);
      script.turns.push_back(NewTurn(prompt, random.LogNormalTokens(120, 0.7, 1, 1000)));
      return;
    }
    script.num_sessions = 1;
    for (int i = 0; i < 4 && (i == 0 || random.Chance(0.5)); ++i) {
      const int32_t prompt = i == 0 ? random.LogNormalTokens(30000, 0.8, 8000, 1'000'000)
                                    : random.LogNormalTokens(40, 0.6, 5, 400);
      Turn turn = NewTurn(prompt, random.LogNormalTokens(250, 0.6, 10, 1500));
      if (i > 0) turn.delay = Think(random, 30, 0.8);
      turn.after = i - 1;
      turn.session = 0;
      script.turns.push_back(std::move(turn));
    }
  }

  const Kind kind_;
  const GeneratorOptions options_;
  Random arrivals_;
  const Zipf system_prompt_, tenant_;
  std::vector<int32_t> system_tokens_;
  uint32_t instructions_ = 0;
  uint32_t tenant_of_script_ = 0;
  int64_t next_ = 0;
  double now_ = 0;
};

absl::Status Check(const char* name, bool ok, const char* expected) {
  if (ok) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(name, ": expected ", expected));
}

}  // namespace

absl::StatusOr<std::unique_ptr<ScriptSource>> NewGenerator(const GeneratorOptions& options) {
  Kind kind;
  if (options.kind == "chat") {
    kind = Kind::kChat;
  } else if (options.kind == "agent-tree") {
    kind = Kind::kAgentTree;
  } else if (options.kind == "long-document") {
    kind = Kind::kLongDocument;
  } else if (options.kind == "mixed") {
    kind = Kind::kMixed;
  } else {
    return absl::InvalidArgumentError(absl::StrCat(
        "kind: expected chat, agent-tree, long-document or mixed, found \"", options.kind, "\""));
  }
  RETURN_IF_ERROR(
      Check("scripts", options.scripts >= 1 && options.scripts <= int64_t{1} << 40, "1 to 2^40"));
  RETURN_IF_ERROR(Check("rate", options.rate > 0 && options.rate <= 1e9, "more than 0, to 1e9"));
  RETURN_IF_ERROR(Check("tenants", options.tenants >= 1 && options.tenants <= 1024, "1 to 1024"));
  RETURN_IF_ERROR(
      Check("tenant_skew", options.tenant_skew >= 0 && options.tenant_skew <= 10, "0 to 10"));
  RETURN_IF_ERROR(Check("length_scale", options.length_scale > 0 && options.length_scale <= 100,
                        "more than 0, to 100"));
  RETURN_IF_ERROR(
      Check("think_scale", options.think_scale >= 0 && options.think_scale <= 1000, "0 to 1000"));
  return std::unique_ptr<ScriptSource>(std::make_unique<Generator>(kind, options));
}

}  // namespace reprise::simulate
