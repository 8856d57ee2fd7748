#include "service/server_flags.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <fstream>
#include <limits>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "service/logging.h"
#include "service/version.h"
#include "state_store/redis/address.h"

namespace reprise::service {
namespace {

using Setter = std::function<absl::Status(const std::string&, ServerOptions*)>;

absl::Status NotAllowed() { return absl::InvalidArgumentError("not allowed"); }

// An integer field of one of the groups.
template <typename Group, typename Int>
Setter Integer(Group ServerOptions::*group, Int Group::*field, int64_t min, int64_t max) {
  return [=](const std::string& text, ServerOptions* options) {
    int64_t value;
    if (!absl::SimpleAtoi(text, &value) || value < min || value > max) return NotAllowed();
    options->*group.*field = static_cast<Int>(value);
    return absl::OkStatus();
  };
}

// Seconds, as a decimal number; `zero_is_forever` for times to live.
template <typename Group>
Setter Seconds(Group ServerOptions::*group, absl::Duration Group::*field, double max,
               bool zero_is_forever) {
  return [=](const std::string& text, ServerOptions* options) {
    double value;
    if (!absl::SimpleAtod(text, &value) || !(value >= 0) || value > max) return NotAllowed();
    options->*group.*field =
        zero_is_forever && value == 0 ? absl::InfiniteDuration() : absl::Seconds(value);
    return absl::OkStatus();
  };
}

// A number that nobody need choose: "auto" is 0 here.
template <typename Group, typename Int>
Setter IntegerOrAuto(Group ServerOptions::*group, Int Group::*field, int64_t max) {
  return [=, integer = Integer(group, field, 1, max)](const std::string& text,
                                                      ServerOptions* options) {
    if (text != "auto") return integer(text, options);
    options->*group.*field = 0;
    return absl::OkStatus();
  };
}

// Seconds within a range.
template <typename Group>
Setter SecondsFrom(Group ServerOptions::*group, absl::Duration Group::*field, double min,
                   double max) {
  return [=](const std::string& text, ServerOptions* options) {
    double value;
    if (!absl::SimpleAtod(text, &value) || !(value >= min && value <= max)) return NotAllowed();
    options->*group.*field = absl::Seconds(value);
    return absl::OkStatus();
  };
}

// Any text but the empty one.
template <typename Group>
Setter Text(Group ServerOptions::*group, std::string Group::*field) {
  return [=](const std::string& text, ServerOptions* options) {
    if (text.empty()) return NotAllowed();
    options->*group.*field = text;
    return absl::OkStatus();
  };
}

template <typename Group>
Setter OneOf(Group ServerOptions::*group, std::string Group::*field, std::set<std::string> values) {
  return [=](const std::string& text, ServerOptions* options) {
    if (values.count(text) == 0) return NotAllowed();
    options->*group.*field = text;
    return absl::OkStatus();
  };
}

bool IsModelName(const std::string& name) {
  return !name.empty() && name.size() <= 128 && std::all_of(name.begin(), name.end(), [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '-' ||
           c == '/';
  });
}

absl::Status SetModel(const std::string& text, ServerOptions* options) {
  ModelSource source;
  if (const size_t equals = text.find('='); equals != std::string::npos) {
    source = {text.substr(0, equals), text.substr(equals + 1)};
  } else {
    // The folder's own name.
    std::string path = text;
    while (path.size() > 1 && path.back() == '/') path.pop_back();
    source = {path.substr(path.rfind('/') + 1), text};
  }
  if (!IsModelName(source.name) || source.directory.empty()) return NotAllowed();
  for (const ModelSource& other : options->models) {
    if (other.name == source.name) return NotAllowed();
  }
  options->models.push_back(std::move(source));
  return absl::OkStatus();
}

absl::Status SetStore(const std::string& text, ServerOptions* options) {
  absl::string_view rest = text;
  if (rest == "memory") {
    options->store.kind = StoreSettings::Kind::kMemory;
    return absl::OkStatus();
  }
  if (absl::StrContains(rest, "://")) {
    if (!state_store::redis::ParseAddress(text).ok()) return NotAllowed();
    options->store.kind = StoreSettings::Kind::kRedis;
    options->store.url = text;
    return absl::OkStatus();
  }
  if (!absl::ConsumePrefix(&rest, "disk:") || rest.empty()) return NotAllowed();
  options->store.kind = StoreSettings::Kind::kDisk;
  options->store.path = std::string(rest);
  return absl::OkStatus();
}

absl::Status SetListen(const std::string& text, ServerOptions* options) {
  const size_t colon = text.rfind(':');
  int port;
  if (colon == std::string::npos || colon == 0 ||
      !absl::SimpleAtoi(text.substr(colon + 1), &port) || port < 0 || port > 65535) {
    return NotAllowed();
  }
  options->wire.listen = text;
  return absl::OkStatus();
}

absl::Status SetReflection(const std::string& text, ServerOptions* options) {
  if (text != "on" && text != "off") return NotAllowed();
  options->wire.reflection = text == "on";
  return absl::OkStatus();
}

std::vector<FlagSpec> MakeFlags() {
  using O = ServerOptions;
  constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();
  return {
      {"model", "", "NAME=DIRECTORY or DIRECTORY; names are letters, digits and . _ - /, used once",
       "checkpoint folder to serve, and the name that requests use", true, SetModel},
      {"listen", "127.0.0.1:7420", "HOST:PORT, port 0 to 65535",
       "address to serve on; port 0 picks a free one", false, SetListen},
      {"port-file", "", "a path", "file that gets the port once the server accepts calls", false,
       [](const std::string& text, O* o) {
         o->wire.port_file = text;
         return absl::OkStatus();
       }},
      {"store", "memory",
       "memory, disk:PATH, or a URL: redis:// rediss:// unix:// redis-sentinel:// "
       "redis-cluster://",
       "where sessions are kept; memory ends with the process, Redis is shared by servers", false,
       SetStore},
      {"store-sync-replicas", "0", "an integer from 0 to 16",
       "Redis replicas that must have a SYNC commit before it is acknowledged", false,
       Integer(&O::store, &StoreSettings::sync_replicas, 0, 16)},
      {"store-max-bytes", "0", "an integer >= 0",
       "cap on the bytes of all states (in Redis: of each tenant); 0 = none", false,
       Integer(&O::store, &StoreSettings::max_bytes, 0, std::numeric_limits<int64_t>::max())},
      {"store-timeout-seconds", "15", "a number from 0.1 to 600",
       "how long a call of Redis may take with all its tries before it is UNAVAILABLE", false,
       SecondsFrom(&O::store, &StoreSettings::timeout, 0.1, 600)},
      {"store-user", "", "a name, with --store-password-file",
       "user at Redis, if the URL of --store names none", false,
       Text(&O::store, &StoreSettings::user)},
      {"store-password-file", "", "a file that holds a password and nothing else",
       "password at Redis, so that it need not stand in the URL of --store", false,
       Text(&O::store, &StoreSettings::password_file)},
      {"store-tls-ca", "", "a PEM file, with rediss://",
       "authorities that Redis' certificate must come from; not given: the machine's own", false,
       Text(&O::store, &StoreSettings::tls_ca)},
      {"store-tls-cert", "", "a PEM file, with --store-tls-key",
       "certificate that this server shows to Redis", false,
       Text(&O::store, &StoreSettings::tls_cert)},
      {"store-tls-key", "", "a PEM file, with --store-tls-cert", "its private key", false,
       Text(&O::store, &StoreSettings::tls_key)},
      {"store-tls-server-name", "", "a host name, with rediss://",
       "name that Redis' certificate must be for; not given: the host of --store", false,
       Text(&O::store, &StoreSettings::tls_server_name)},
      {"lease-seconds", "15", "a number from 1 to 3600",
       "how long a session in Redis stays with a server that has stopped answering", false,
       SecondsFrom(&O::store, &StoreSettings::lease, 1, 3600)},
      {"host-cache-bytes", "268435456", "an integer >= 0",
       "states of sessions in Redis that are kept in memory too; 0 = none", false,
       Integer(&O::store, &StoreSettings::host_cache_bytes, 0,
               std::numeric_limits<int64_t>::max())},
      {"write-behind-bytes", "134217728", "an integer >= 0",
       "bytes of ASYNC turns that may wait to be written to Redis; more wait for room", false,
       Integer(&O::store, &StoreSettings::write_behind_bytes, 0,
               std::numeric_limits<int64_t>::max())},
      {"write-behind-turns", "1024", "an integer from 0 to 1000000",
       "ASYNC turns that may wait to be written to Redis; 0 = each is written before its answer "
       "ends",
       false, Integer(&O::store, &StoreSettings::write_behind_commits, 0, 1000000)},
      {"sweep-seconds", "60", "a number from 0.01 to 86400",
       "time between two removals of expired sessions", false,
       [](const std::string& text, O* o) {
         double value;
         if (!absl::SimpleAtod(text, &value) || !(value >= 0.01 && value <= 86400)) {
           return NotAllowed();
         }
         o->store.sweep_interval = absl::Seconds(value);
         return absl::OkStatus();
       }},
      {"device", "auto", "auto, cpu or cuda",
       "where the models run; auto is cuda where there is a GPU that this build can use", false,
       OneOf(&O::compute, &ComputeSettings::device, {"auto", "cpu", "cuda"})},
      {"threads", "0", "an integer from 0 to 256", "threads that compute; 0 = one per core", false,
       Integer(&O::compute, &ComputeSettings::threads, 0, 256)},
      {"slots", "auto", "auto or an integer from 1 to 65536",
       "sequences that run at once, per model; auto is 32 on the CPU and what the GPU's memory "
       "holds",
       false, IntegerOrAuto(&O::compute, &ComputeSettings::slots, 65536)},
      {"step-tokens", "auto",
       "auto or an integer from 1 to 65536, at least --slots and --prefill-chunk-tokens",
       "tokens of one step over all sequences; auto is 256 on the CPU and 4096 on a GPU", false,
       IntegerOrAuto(&O::compute, &ComputeSettings::step_tokens, 65536)},
      {"prefill-chunk-tokens", "auto", "auto or an integer from 1 to 65536",
       "prompt tokens of one sequence in one step while others wait; auto is half of a step", false,
       IntegerOrAuto(&O::compute, &ComputeSettings::prefill_chunk_tokens, 65536)},
      {"max-queued", "1024", "an integer from 1 to 1000000",
       "requests that may wait for a slot, per model; more are refused", false,
       Integer(&O::compute, &ComputeSettings::max_queued, 1, 1000000)},
      {"prefix-cache-bytes", "268435456", "an integer >= 0",
       "states of prompts that are kept for later ones that begin alike, per model; 0 = none",
       false,
       Integer(&O::compute, &ComputeSettings::prefix_cache_bytes, 0,
               std::numeric_limits<int64_t>::max())},
      {"max-prompt-tokens", "1048576", "an integer from 1 to 2147483647",
       "longest prompt of one request", false,
       Integer(&O::limits, &RequestLimits::max_prompt_tokens, 1, kMaxInt32)},
      {"max-tokens", "65536", "an integer from 1 to 2147483647", "most tokens of one answer", false,
       Integer(&O::limits, &RequestLimits::max_tokens, 1, kMaxInt32)},
      {"default-max-tokens", "1024", "an integer from 1 to --max-tokens",
       "tokens of an answer whose request does not say", false,
       Integer(&O::limits, &RequestLimits::default_max_tokens, 1, kMaxInt32)},
      {"session-ttl", "0", "seconds from 0 to 3153600000",
       "how long a session lives unused if its creator does not say; 0 = for ever", false,
       Seconds(&O::limits, &RequestLimits::default_session_ttl, 3153600000.0, true)},
      {"max-unwritten-tokens", "64", "an integer from 1 to 65536",
       "tokens that wait for a slow reader before its sequence pauses", false,
       Integer(&O::limits, &RequestLimits::max_unwritten_tokens, 1, 65536)},
      {"stall-seconds", "300", "a number from 0 to 86400, 0 = for ever",
       "how long a sequence waits for a client that does not read before it is cancelled", false,
       Seconds(&O::limits, &RequestLimits::stall, 86400, true)},
      {"drain-seconds", "30", "a number from 0 to 86400",
       "how long running requests may go on after SIGTERM", false,
       Seconds(&O::wire, &WireSettings::drain, 86400, false)},
      {"max-concurrent-streams", "1024", "an integer from 1 to 1000000",
       "calls in progress on one connection", false,
       Integer(&O::wire, &WireSettings::max_concurrent_streams, 1, 1000000)},
      {"max-message-bytes", "16777216", "an integer from 65536 to 1073741824",
       "longest message that is accepted", false,
       Integer(&O::wire, &WireSettings::max_message_bytes, 1 << 16, 1 << 30)},
      {"io-threads", "4", "an integer from 1 to 256", "threads that wait for the store", false,
       Integer(&O::wire, &WireSettings::io_threads, 1, 256)},
      {"reflection", "on", "on or off", "whether clients may ask for the protos", false,
       SetReflection},
      {"log-level", "info", "debug, info, warn or error", "least severe line that is logged", false,
       OneOf(&O::log, &LogSettings::level, {"debug", "info", "warn", "error"})},
      {"log-format", "text", "text or json", "form of a log line, on standard error", false,
       OneOf(&O::log, &LogSettings::format, {"text", "json"})},
  };
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

absl::Status CheckStore(const StoreSettings& store) {
  const auto refuse = [](std::string_view flag, std::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat("--", std::string(flag), ": ", std::string(why)));
  };
  const bool tls =
      store.kind == StoreSettings::Kind::kRedis && store.url.compare(0, 6, "rediss") == 0;
  if (!store.tls_ca.empty() && !tls) return refuse("store-tls-ca", "needs --store rediss://...");
  if (!store.tls_cert.empty() && !tls) {
    return refuse("store-tls-cert", "needs --store rediss://...");
  }
  if (!store.tls_server_name.empty() && !tls) {
    return refuse("store-tls-server-name", "needs --store rediss://...");
  }
  if (store.tls_cert.empty() != store.tls_key.empty()) {
    return store.tls_key.empty() ? refuse("store-tls-cert", "needs --store-tls-key")
                                 : refuse("store-tls-key", "needs --store-tls-cert");
  }
  if (!store.password_file.empty() && store.kind != StoreSettings::Kind::kRedis) {
    return refuse("store-password-file", "needs a --store in Redis");
  }
  if (!store.user.empty() && store.password_file.empty()) {
    return refuse("store-user", "needs --store-password-file");
  }
  return absl::OkStatus();
}

// What only the whole of the options shows.
absl::Status CheckTogether(const ServerOptions& options) {
  RETURN_IF_ERROR(CheckStore(options.store));
  if (options.models.empty()) {
    return absl::InvalidArgumentError("--model: at least one is needed");
  }
  const bool step_known = options.compute.step_tokens > 0;
  if (step_known && options.compute.step_tokens < options.compute.slots) {
    return absl::InvalidArgumentError(
        absl::StrCat("--step-tokens: ", options.compute.step_tokens,
                     " is not allowed; allowed: at least --slots (", options.compute.slots,
                     "), so that each sequence can move in each step"));
  }
  if (step_known && options.compute.prefill_chunk_tokens > options.compute.step_tokens) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--prefill-chunk-tokens: ", options.compute.prefill_chunk_tokens,
        " is not allowed; allowed: at most --step-tokens (", options.compute.step_tokens, ")"));
  }
  if (options.limits.default_max_tokens > options.limits.max_tokens) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--default-max-tokens: ", options.limits.default_max_tokens,
        " is not allowed; allowed: at most --max-tokens (", options.limits.max_tokens, ")"));
  }
  return absl::OkStatus();
}

std::string Description(const FlagSpec& flag) {
  std::string text = absl::StrCat(flag.meaning, ". Allowed: ", flag.allowed);
  if (!flag.default_value.empty()) absl::StrAppend(&text, ". Default: ", flag.default_value);
  if (flag.repeatable) absl::StrAppend(&text, ". May be given several times");
  return absl::StrCat(text, ". Variable: ", EnvironmentName(flag.name));
}

}  // namespace

absl::Span<const FlagSpec> ServerFlags() {
  static const auto& flags = *new std::vector<FlagSpec>(MakeFlags());
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
    parsed.print = absl::StrCat(kVersionLine, "\n");
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
