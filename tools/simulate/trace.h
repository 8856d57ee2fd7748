// simulate: request traces through the real scheduler, on a device that is only a cost model.
//
// A trace is a sequence of scripts. A script is a set of turns that depend on each other: one
// request, a conversation, or a tree of forked sessions. Turns name who asks, how much is read and
// written, and after which turn they come, so that a trace stays closed: a reply that comes later
// moves all that follows from it.
//
// Readers and generators (generators.h) give scripts; a Simulation (simulation.h) runs them.
#ifndef REPRISE_TOOLS_SIMULATE_TRACE_H_
#define REPRISE_TOOLS_SIMULATE_TRACE_H_

#include <cstdint>
#include <istream>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace reprise::simulate {

// Names to small numbers, in the order of their first use.
class NameTable {
 public:
  uint32_t Intern(const std::string& name) {
    const auto [entry, added] = index_.emplace(name, static_cast<uint32_t>(names_.size()));
    if (added) names_.push_back(name);
    return entry->second;
  }
  const std::vector<std::string>& names() const { return names_; }

 private:
  std::vector<std::string> names_;
  absl::flat_hash_map<std::string, uint32_t> index_;
};

enum class TurnPriority : uint8_t { kLow, kNormal, kHigh };

// The first `tokens` tokens of the text that `name` (in ScriptSource::prefixes) stands for.
struct PrefixPart {
  uint32_t name = 0;
  int32_t tokens = 0;
};

struct Turn {
  int32_t after = -1;     // index in the script of the turn whose end it waits for; -1 = none
  double delay = 0;       // seconds after that end, or after the script's start
  double not_before = 0;  // seconds since the trace's start
  int32_t session = -1;   // index within the script; -1: its state is not kept
  uint32_t tenant = 0;    // index in ScriptSource::tenants
  TurnPriority priority = TurnPriority::kNormal;
  // The prompt, in order: shared parts, given tokens, tokens of its own. Of a turn that goes on
  // from a state (after >= 0 and session >= 0) only what is new, without prefix.
  std::vector<PrefixPart> prefix;
  std::vector<int32_t> tokens;
  int32_t own_tokens = 0;
  int32_t output = 0;  // tokens drawn; 0 = the prompt is only read

  int64_t prompt_tokens() const {
    int64_t count = static_cast<int64_t>(tokens.size()) + own_tokens;
    for (const PrefixPart& part : prefix) count += part.tokens;
    return count;
  }
};

struct Script {
  uint64_t id = 0;   // its number in the trace
  double start = 0;  // seconds since the trace's start
  int32_t num_sessions = 0;
  std::vector<Turn> turns;  // `after` points backwards
};

// Gives the scripts of a trace in the order of their starts.
class ScriptSource {
 public:
  virtual ~ScriptSource() = default;
  // False at the end; then *script is untouched.
  virtual bool Next(Script* script) = 0;
  const NameTable& tenants() const { return tenants_; }
  const NameTable& prefixes() const { return prefixes_; }

 protected:
  NameTable tenants_, prefixes_;
};

// Bounds of what a trace may say; beyond them a reader refuses it.
struct TraceLimits {
  int64_t max_records = 4'000'000;
  int64_t max_line_bytes = 1 << 20;
  int64_t max_tenants = 1024;
};
inline constexpr int32_t kMaxPromptTokens = 1 << 24;
inline constexpr int32_t kMaxOutputTokens = 1 << 20;
inline constexpr double kMaxSeconds = 1e8;

// One JSON object a line, as docs/simulation.md describes. `name` stands in errors, which are
// INVALID_ARGUMENT "name:line:column: what"; RESOURCE_EXHAUSTED beyond max_records.
absl::StatusOr<std::unique_ptr<ScriptSource>> ReadJsonTrace(std::istream& in,
                                                            const std::string& name,
                                                            const TraceLimits& limits);

// The public Azure LLM inference traces: TIMESTAMP,ContextTokens,GeneratedTokens. Times count from
// the first row; rows may be out of order. Errors as above.
absl::StatusOr<std::unique_ptr<ScriptSource>> ReadAzureTrace(std::istream& in,
                                                             const std::string& name,
                                                             const TraceLimits& limits);

// Writes every script of `source` in the format of ReadJsonTrace. DATA_LOSS when `out` fails.
absl::Status WriteJsonTrace(ScriptSource& source, std::ostream& out);

// Scripts that lie in memory.
class ScriptList final : public ScriptSource {
 public:
  ScriptList() = default;
  NameTable& mutable_tenants() { return tenants_; }
  NameTable& mutable_prefixes() { return prefixes_; }
  void Add(Script script) { scripts_.push_back(std::move(script)); }
  Script& script(size_t index) { return scripts_[index]; }
  size_t size() const { return scripts_.size(); }
  // Stable, by start; ids follow the order.
  void Sort();
  bool Next(Script* script) override;
  // Next begins again.
  void Rewind() { next_ = 0; }

 private:
  std::vector<Script> scripts_;
  size_t next_ = 0;
};

}  // namespace reprise::simulate

#endif  // REPRISE_TOOLS_SIMULATE_TRACE_H_
