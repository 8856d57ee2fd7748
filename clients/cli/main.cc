// reprise: the command line client.
#include <cstdio>

#include "clients/cli/commands.h"
#include "clients/cli/interrupt.h"

namespace reprise::cli {
namespace {

int Report(const absl::Status& status, bool json) {
  if (status.ok()) return kExitOk;
  const ErrorReport report = Explain(status);
  const std::string text = json ? JsonLine(ErrorJson(report)) : "reprise: " + ErrorLine(report);
  std::fprintf(stderr, "%s\n", text.c_str());
  return report.exit_code;
}

int Main(int argc, char** argv) {
  StartInterruptThread();
  CLI::App app("", "reprise");
  Env env;
  BuildCommandLine(app, env);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help
    return Report(UsageError(error.what()), env.options.json);
  }
  absl::Status status = env.run();
  if (status.ok() && (std::fflush(stdout) != 0 || std::ferror(stdout) != 0)) {
    status = absl::InternalError("cannot write to standard output");
  }
  return Report(status, env.options.json);
}

}  // namespace
}  // namespace reprise::cli

int main(int argc, char** argv) { return reprise::cli::Main(argc, argv); }
