// Made-up traffic: seeded, with distributions that are written down (docs/simulation.md).
#ifndef REPRISE_TOOLS_SIMULATE_GENERATORS_H_
#define REPRISE_TOOLS_SIMULATE_GENERATORS_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "tools/simulate/trace.h"

namespace reprise::simulate {

struct GeneratorOptions {
  std::string kind = "chat";  // chat, agent-tree, long-document or mixed
  // Scripts (conversations, trees, readers of a document), and how many start per second: a
  // Poisson process. 1..2^40; > 0.
  int64_t scripts = 100;
  double rate = 1.0;
  // Drawn by Zipf's law with this exponent; 0 = all alike. 1..1024; 0..10.
  int tenants = 4;
  double tenant_skew = 1.0;
  // Scales every length, think time and document, for devices and models of other sizes. > 0.
  double length_scale = 1.0, think_scale = 1.0;
  uint64_t seed = 1;
};

// A stream in constant memory. INVALID_ARGUMENT names the option.
absl::StatusOr<std::unique_ptr<ScriptSource>> NewGenerator(const GeneratorOptions& options);

}  // namespace reprise::simulate

#endif  // REPRISE_TOOLS_SIMULATE_GENERATORS_H_
