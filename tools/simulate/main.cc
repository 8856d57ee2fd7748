// simulate: see trace.h and docs/simulation.md.
#include <CLI/CLI.hpp>
#include <chrono>
#include <fstream>
#include <iostream>
#include <string>

#include "absl/status/status.h"
#include "base/status_macros.h"
#include "tools/simulate/flags.h"

namespace reprise::simulate {
namespace {

absl::Status Generate(const SourceFlags& source, const std::string& out) {
  ASSIGN_OR_RETURN(const std::unique_ptr<ScriptSource> scripts, NewGenerator(source.generator));
  if (out.empty() || out == "-") return WriteJsonTrace(*scripts, std::cout);
  std::ofstream file(out, std::ios::binary);
  if (!file) return absl::NotFoundError(out + ": cannot be written");
  return Prefixed(WriteJsonTrace(*scripts, file), out.c_str());
}

void Print(const Report& report, bool json) {
  std::cout << (json ? ReportJson(report) + "\n" : ReportTable(report));
}

absl::Status Run(const RunFlags& flags, bool json) {
  ASSIGN_OR_RETURN(const SimulationOptions options, flags.Resolve());
  ASSIGN_OR_RETURN(const std::unique_ptr<ScriptSource> source, flags.source.Open());
  const auto begin = std::chrono::steady_clock::now();
  ASSIGN_OR_RETURN(Report report, Simulate(*source, options));
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  report.title = flags.source.Describe() + " on " + options.device.name;
  Print(report, json);
  std::cerr << "simulated in " << seconds.count() << " s\n";
  return absl::OkStatus();
}

absl::Status Device(const std::string& name) {
  if (name.empty()) {
    for (const std::string& preset : DevicePresets()) std::cout << preset << "\n";
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const DeviceModel device, LoadDevice(name));
  std::cout << DeviceModelJson(device) << "\n";
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  CLI::App app("The real scheduler on a device that is only a cost model (docs/simulation.md)");
  app.require_subcommand(1);
  bool json = false;

  CLI::App* generate = app.add_subcommand("generate", "write made-up traffic as a trace");
  SourceFlags generated;
  std::string out;
  generated.AddGenerator(*generate);
  generate->add_option("--out", out, "file to write; without it, standard output");

  CLI::App* run = app.add_subcommand("run", "simulate a trace or made-up traffic");
  RunFlags run_flags;
  run_flags.Add(*run);
  run->add_flag("--json", json, "the report as JSON");

  CLI::App* device = app.add_subcommand("device", "print a device's description, or the presets");
  std::string device_name;
  device->add_option("name", device_name, "a preset or a JSON file");

  CLI11_PARSE(app, argc, argv);
  absl::Status status;
  if (*generate) status = Generate(generated, out);
  if (*run) status = Run(run_flags, json);
  if (*device) status = Device(device_name);
  if (status.ok()) return 0;
  std::cerr << "simulate: " << status.message() << "\n";
  return 1;
}

}  // namespace
}  // namespace reprise::simulate

int main(int argc, char** argv) { return reprise::simulate::Main(argc, argv); }
