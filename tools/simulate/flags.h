// The program's options, shared by its subcommands.
#ifndef REPRISE_TOOLS_SIMULATE_FLAGS_H_
#define REPRISE_TOOLS_SIMULATE_FLAGS_H_

#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tools/simulate/generators.h"
#include "tools/simulate/simulation.h"
#include "tools/simulate/trace.h"

namespace reprise::simulate {

// A trace: from a file, or made up.
struct SourceFlags {
  std::string trace;
  std::string format = "json";
  int64_t max_records = TraceLimits().max_records;
  GeneratorOptions generator;

  void AddGenerator(CLI::App& app);
  void AddAll(CLI::App& app);
  // NOT_FOUND when the file cannot be opened.
  absl::StatusOr<std::unique_ptr<ScriptSource>> Open() const;
  std::string Describe() const;
};

void AddSchedulerFlags(CLI::App& app, scheduler::SchedulerOptions& options);

struct RunFlags {
  SourceFlags source;
  std::string device = "h100-2b";
  std::vector<std::string> weights, events;
  bool route_by_session = false;
  SimulationOptions options;

  void Add(CLI::App& app);
  // `options` with what the other fields say.
  absl::StatusOr<SimulationOptions> Resolve() const;
};

// A preset's name, or a file.
absl::StatusOr<DeviceModel> LoadDevice(const std::string& device);

}  // namespace reprise::simulate

#endif  // REPRISE_TOOLS_SIMULATE_FLAGS_H_
