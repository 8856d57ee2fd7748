// simulate: see trace.h and docs/simulation.md.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <fstream>
#include <iostream>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "base/clock.h"
#include "base/status_macros.h"
#include "models/load_model.h"
#include "tools/simulate/calibrate.h"
#include "tools/simulate/flags.h"
#include "tools/simulate/replay.h"

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

struct ModelFlags {
  std::string directory;
  int threads = 2;
  int max_rows = 512;

  void Add(CLI::App& app) {
    app.add_option("--model", directory, "checkpoint folder")->required();
    app.add_option("--threads", threads, "compute threads")->capture_default_str();
  }
};

// A model on the CPU, with the threads that it needs.
struct Loaded {
  std::unique_ptr<kernels::ThreadPool> pool;
  kernels::Context context;
  models::LoadedModel model;
};

absl::StatusOr<Loaded> Load(const ModelFlags& flags) {
  Loaded loaded;
  ASSIGN_OR_RETURN(loaded.pool, kernels::ThreadPool::Create(flags.threads));
  loaded.context.pool = loaded.pool.get();
  models::LoadOptions options;
  options.context = loaded.context;
  options.max_rows = flags.max_rows;
  ASSIGN_OR_RETURN(loaded.model, models::LoadModel(flags.directory, options));
  return loaded;
}

struct ReplayFlags {
  scheduler::SchedulerOptions options;
  int64_t prefix_bytes = 0;
  bool resend_history = false;

  void Add(CLI::App& app) {
    AddSchedulerFlags(app, options);
    app.add_option("--parked-bytes", options.max_parked_bytes,
                   "host memory for states that gave up their slot; 0 = none does")
        ->capture_default_str();
    app.add_option("--prefix-bytes", prefix_bytes, "host memory of the prefix cache; 0 = none")
        ->capture_default_str();
    app.add_flag("--resend-history", resend_history,
                 "sessions keep no state: each turn sends the whole conversation");
  }
};

absl::Status RunReplay(const ModelFlags& flags, const SourceFlags& source,
                       const ReplayFlags& replay, bool json) {
  static const RealClock& clock = *new RealClock;
  scheduler::SchedulerOptions options = replay.options;
  if (replay.prefix_bytes != 0) {
    scheduler::PrefixCacheOptions prefix;
    prefix.max_bytes = replay.prefix_bytes;
    ASSIGN_OR_RETURN(options.prefix_cache, scheduler::PrefixCache::Create(&clock, prefix));
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<ScriptSource> scripts, source.Open());
  ASSIGN_OR_RETURN(const Loaded loaded, Load(flags));
  ASSIGN_OR_RETURN(Report report, Replay(*scripts, loaded.model.model.get(), loaded.context,
                                         options, replay.resend_history));
  report.title = source.Describe() + " on " + flags.directory + ", measured";
  Print(report, json);
  return absl::OkStatus();
}

absl::Status RunCalibrate(const ModelFlags& flags, const std::string& name, int repeats) {
  ASSIGN_OR_RETURN(const Loaded loaded, Load(flags));
  ASSIGN_OR_RETURN(Calibration calibration,
                   Calibrate(loaded.model.model.get(), loaded.context, repeats));
  calibration.device.name = name;
  for (const MeasuredStep& step : calibration.steps) {
    const double predicted = StepSeconds(calibration.device, step.shape);
    std::cerr << absl::StrFormat("%-48s measured %8.3f ms, fitted %8.3f ms, %+5.1f%%\n", step.name,
                                 step.seconds * 1e3, predicted * 1e3,
                                 100 * (predicted / step.seconds - 1));
  }
  std::cerr << absl::StrFormat("mean error %.1f%%, largest %.1f%%\n", 100 * calibration.mean_error,
                               100 * calibration.max_error);
  std::cout << DeviceModelJson(calibration.device) << "\n";
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

  CLI::App* replay = app.add_subcommand(
      "replay", "run a trace on a real model, in real time, to compare a simulation with");
  ModelFlags model;
  SourceFlags replayed;
  ReplayFlags replay_flags;
  model.Add(*replay);
  replayed.AddAll(*replay);
  replay_flags.Add(*replay);
  replay->add_flag("--json", json, "the report as JSON");

  CLI::App* calibrate =
      app.add_subcommand("calibrate", "fit a device's description to a real model, here");
  std::string fitted_name = "fitted";
  int repeats = 9;
  model.Add(*calibrate);
  calibrate->add_option("--name", fitted_name, "of the description")->capture_default_str();
  calibrate->add_option("--repeats", repeats, "steps of each shape; the median counts")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();

  CLI11_PARSE(app, argc, argv);
  absl::Status status;
  if (*generate) status = Generate(generated, out);
  if (*run) status = Run(run_flags, json);
  if (*replay) {
    const scheduler::SchedulerOptions& options = replay_flags.options;
    model.max_rows = std::max(options.step_tokens, options.step_logit_rows);
    status = RunReplay(model, replayed, replay_flags, json);
  }
  if (*calibrate) status = RunCalibrate(model, fitted_name, repeats);
  if (*device) status = Device(device_name);
  if (status.ok()) return 0;
  std::cerr << "simulate: " << status.message() << "\n";
  return 1;
}

}  // namespace
}  // namespace reprise::simulate

int main(int argc, char** argv) { return reprise::simulate::Main(argc, argv); }
