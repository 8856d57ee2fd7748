#include "service/server_flags.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <fstream>
#include <iterator>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "service/flags/tables.h"
#include "service/logging.h"
#include "service/version.h"

namespace reprise::service {
namespace {

std::vector<FlagSpec> AllFlags() {
  std::vector<FlagSpec> all;
  for (auto table : {WireFlags, SecurityFlags, ComputeFlags, SchedulingFlags, StoreFlags,
                     LimitFlags, TelemetryFlags}) {
    std::vector<FlagSpec> rows = table();
    std::move(rows.begin(), rows.end(), std::back_inserter(all));
  }
  return all;
}

using Values = std::map<std::string, std::vector<std::string>>;

absl::StatusOr<Values> ReadConfigFile(const std::string& path) {
  std::ifstream file(path);
  if (!file) return absl::InvalidArgumentError(absl::StrCat("--config: cannot read ", path));
  std::vector<CLI::ConfigItem> items;
  try {
    items = CLI::ConfigTOML().from_config(file);
  } catch (const std::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", error.what()));
  }
  Values values;
  for (const CLI::ConfigItem& item : items) {
    const std::string name = item.fullname();
    const auto flags = ServerFlags();
    const auto known = std::find_if(flags.begin(), flags.end(),
                                    [&](const FlagSpec& flag) { return flag.name == name; });
    if (known == flags.end()) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": unknown key \"", name, "\""));
    }
    auto& list = values[name];
    list.insert(list.end(), item.inputs.begin(), item.inputs.end());
  }
  return values;
}

// `source` says where the values came from.
absl::Status SetAll(const FlagSpec& flag, const std::vector<std::string>& values,
                    absl::string_view source, ServerOptions* options) {
  if (!flag.repeatable && values.size() != 1) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": given ", values.size(), " times"));
  }
  for (const std::string& value : values) {
    if (!flag.set(value, options).ok()) {
      return absl::InvalidArgumentError(absl::StrCat(source, ": \"", Redacted(value),
                                                     "\" is not allowed; allowed: ", flag.allowed));
    }
  }
  return absl::OkStatus();
}

// What only the whole of the options shows.
absl::Status CheckTogether(ServerOptions& options) {
  RETURN_IF_ERROR(CheckSecurity(&options));
  RETURN_IF_ERROR(CheckStore(options.store));
  if (options.models.empty()) {
    return absl::InvalidArgumentError("--model: at least one is needed");
  }
  RETURN_IF_ERROR(CheckCompute(options.compute));
  RETURN_IF_ERROR(CheckTelemetry(options.telemetry));
  return CheckLimits(options.limits);
}

std::string Description(const FlagSpec& flag) {
  std::string text = absl::StrCat(flag.meaning, ". Allowed: ", flag.allowed);
  if (!flag.default_value.empty()) absl::StrAppend(&text, ". Default: ", flag.default_value);
  if (flag.repeatable) absl::StrAppend(&text, ". May be given several times");
  return absl::StrCat(text, ". Variable: ", EnvironmentName(flag.name));
}

}  // namespace

absl::Span<const FlagSpec> ServerFlags() {
  static const auto& flags = *new std::vector<FlagSpec>(AllFlags());
  return flags;
}

std::string EnvironmentName(const std::string& flag) {
  std::string name = "REPRISE_";
  for (char c : flag) {
    name.push_back(c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c))));
  }
  return name;
}

absl::StatusOr<ParsedFlags> ParseServerFlags(
    int argc, const char* const* argv, const std::function<const char*(const char*)>& environment) {
  CLI::App app("reprised: serves hybrid recurrent language models over gRPC", "reprised");
  Values command_line;
  std::string config_path;
  app.set_version_flag("--version", kVersionLine);
  app.add_option("--config", config_path,
                 "file of `key = value` lines with the names below. Variable: REPRISE_CONFIG");
  for (const FlagSpec& flag : ServerFlags()) {
    app.add_option("--" + flag.name, command_line[flag.name], Description(flag))
        ->type_name("")
        ->expected(1)
        ->allow_extra_args(false)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  }
  ParsedFlags parsed;
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    parsed.print = app.help();
    return parsed;
  } catch (const CLI::CallForVersion&) {
    parsed.print = BuildFacts();
    return parsed;
  } catch (const CLI::ParseError& error) {
    // It may quote a URL.
    return absl::InvalidArgumentError(absl::StrCat(Redacted(error.what()), "; see --help"));
  }
  if (config_path.empty()) {
    if (const char* path = environment("REPRISE_CONFIG"); path != nullptr) config_path = path;
  }
  Values config;
  if (!config_path.empty()) {
    ASSIGN_OR_RETURN(config, ReadConfigFile(config_path));
  }
  for (const FlagSpec& flag : ServerFlags()) {
    const std::string variable = EnvironmentName(flag.name);
    const char* from_environment = environment(variable.c_str());
    if (const auto& given = command_line[flag.name]; !given.empty()) {
      RETURN_IF_ERROR(SetAll(flag, given, absl::StrCat("--", flag.name), &parsed.options));
    } else if (from_environment != nullptr) {
      RETURN_IF_ERROR(SetAll(flag, {from_environment}, variable, &parsed.options));
    } else if (auto it = config.find(flag.name); it != config.end()) {
      RETURN_IF_ERROR(
          SetAll(flag, it->second, absl::StrCat(config_path, ": ", flag.name), &parsed.options));
    } else if (!flag.default_value.empty()) {
      // Through the same door, so that the table's default is the default.
      RETURN_IF_ERROR(SetAll(flag, {flag.default_value}, absl::StrCat("default of --", flag.name),
                             &parsed.options));
    }
  }
  RETURN_IF_ERROR(CheckTogether(parsed.options));
  return parsed;
}

}  // namespace reprise::service
