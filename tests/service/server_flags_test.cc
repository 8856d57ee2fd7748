#include "service/server_flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "service/logging.h"
#include "service/open_store.h"
#include "state_store/redis/address.h"

namespace reprise::service {
namespace {

using ::testing::HasSubstr;

using Environment = std::map<std::string, std::string>;

absl::StatusOr<ParsedFlags> Parse(std::vector<std::string> arguments,
                                  const Environment& environment = {}) {
  arguments.insert(arguments.begin(), "reprised");
  std::vector<const char*> argv;
  for (const std::string& argument : arguments) argv.push_back(argument.c_str());
  return ParseServerFlags(static_cast<int>(argv.size()), argv.data(),
                          [&](const char* name) -> const char* {
                            auto it = environment.find(name);
                            return it == environment.end() ? nullptr : it->second.c_str();
                          });
}

class ConfigFile {
 public:
  explicit ConfigFile(const std::string& text)
      : path_(::testing::TempDir() + "reprise-flags-" + std::to_string(getpid()) + ".conf") {
    std::ofstream(path_) << text;
  }
  ~ConfigFile() { unlink(path_.c_str()); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

TEST(ServerFlagsTest, TheTableIsWellFormed) {
  std::set<std::string> names;
  for (const FlagSpec& flag : ServerFlags()) {
    EXPECT_TRUE(names.insert(flag.name).second) << flag.name;
    EXPECT_FALSE(flag.allowed.empty()) << flag.name;
    EXPECT_FALSE(flag.meaning.empty()) << flag.name;
    ServerOptions options;
    if (!flag.default_value.empty()) {
      EXPECT_TRUE(flag.set(flag.default_value, &options).ok()) << flag.name;
    }
    // Where any text will do, it is checked when it is used.
    const std::set<std::string> free = {
        "port-file",        "metrics-port-file", "store-user",    "store-password-file",
        "store-tls-ca",     "store-tls-cert",    "store-tls-key", "store-tls-server-name",
        "tls-cert",         "tls-key",           "tls-client-ca", "certificate-tenant",
        "token-file",       "jwks-file",         "jwt-issuer",    "jwt-audience",
        "jwt-tenant-claim", "tenants-file"};
    if (free.count(flag.name) == 0) {
      EXPECT_FALSE(flag.set("=?=", &options).ok()) << flag.name;
    }
  }
}

TEST(ServerFlagsTest, TheStoreInRedis) {
  const auto parsed = Parse({"--model",
                             "m=/models/m",
                             "--store",
                             "rediss://r:7000",
                             "--store-tls-ca",
                             "/ca.pem",
                             "--store-tls-cert",
                             "/c.pem",
                             "--store-tls-key",
                             "/k.pem",
                             "--store-tls-server-name",
                             "redis",
                             "--store-user",
                             "reprise",
                             "--store-password-file",
                             "/pw",
                             "--lease-seconds",
                             "2.5",
                             "--host-cache-bytes",
                             "1000",
                             "--write-behind-bytes",
                             "0",
                             "--write-behind-turns",
                             "7",
                             "--store-timeout-seconds",
                             "3"});
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const StoreSettings& store = parsed->options.store;
  EXPECT_EQ(store.tls_ca, "/ca.pem");
  EXPECT_EQ(store.tls_cert, "/c.pem");
  EXPECT_EQ(store.tls_key, "/k.pem");
  EXPECT_EQ(store.tls_server_name, "redis");
  EXPECT_EQ(store.user, "reprise");
  EXPECT_EQ(store.password_file, "/pw");
  EXPECT_EQ(store.lease, absl::Milliseconds(2500));
  EXPECT_EQ(store.host_cache_bytes, 1000u);
  EXPECT_EQ(store.write_behind_bytes, 0u);
  EXPECT_EQ(store.write_behind_commits, 7);
  EXPECT_EQ(store.timeout, absl::Seconds(3));
}

TEST(ServerFlagsTest, HowStatesAreStored) {
  const auto parsed = Parse({"--model", "m=/models/m", "--store-zstd-level", "3", "--store-lossy",
                             "rg_lru=int8,kv_window=bf16"});
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const StoreSettings& store = parsed->options.store;
  EXPECT_EQ(store.zstd_level, 3);
  ASSERT_EQ(store.lossy.size(), 2u);
  EXPECT_EQ(store.lossy[0].role, "rg_lru");
  EXPECT_EQ(store.lossy[0].encoding, state_store::LossyEncoding::kInt8Rows);
  EXPECT_EQ(store.lossy[1].role, "kv_window");
  EXPECT_EQ(store.lossy[1].encoding, state_store::LossyEncoding::kBf16);

  const auto plain = Parse({"--model", "m=/models/m"});
  ASSERT_TRUE(plain.ok());
  EXPECT_EQ(plain->options.store.zstd_level, 0);
  EXPECT_TRUE(plain->options.store.lossy.empty());

  for (const char* wrong : {"ssm=bf16", "rg_lru", "rg_lru=", "rg_lru=fp8", "rg_lru=bf16,",
                            "rg_lru=bf16,rg_lru=int8", "rg_lru=bf16=int8", "RG_LRU=bf16"}) {
    const absl::Status status = Parse({"--model", "m=/models/m", "--store-lossy", wrong}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << wrong;
    EXPECT_NE(status.message().find("store-lossy"), std::string::npos) << status;
  }
  for (const char* wrong : {"20", "-1", "fast", "1.5"}) {
    const auto status = Parse({"--model", "m=/models/m", "--store-zstd-level", wrong}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << wrong;
    EXPECT_NE(status.message().find("store-zstd-level"), std::string::npos) << status;
  }
}

TEST(ServerFlagsTest, ErrorsAboutTheStoreNameTheFlag) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> wrong = {
      {{"--lease-seconds", "0.5"}, "--lease-seconds"},
      {{"--lease-seconds", "nan"}, "--lease-seconds"},
      {{"--host-cache-bytes", "-1"}, "--host-cache-bytes"},
      {{"--write-behind-bytes", "1e9"}, "--write-behind-bytes"},
      {{"--write-behind-turns", "1000001"}, "--write-behind-turns"},
      {{"--store-timeout-seconds", "0"}, "--store-timeout-seconds"},
      {{"--store-tls-ca", "/ca"}, "--store-tls-ca"},
      {{"--store", "redis://h", "--store-tls-server-name", "n"}, "--store-tls-server-name"},
      {{"--store", "rediss://h", "--store-tls-cert", "/c"}, "--store-tls-cert"},
      {{"--store", "rediss://h", "--store-tls-key", "/k"}, "--store-tls-key"},
      {{"--store-password-file", "/p"}, "--store-password-file"},
      {{"--store", "redis://h", "--store-user", "u"}, "--store-user"},
  };
  for (const auto& [given, flag] : wrong) {
    std::vector<std::string> arguments = {"--model", "m=/models/m"};
    arguments.insert(arguments.end(), given.begin(), given.end());
    const auto parsed = Parse(arguments);
    ASSERT_TRUE(absl::IsInvalidArgument(parsed.status())) << flag;
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(flag + ":"));
  }
}

// `given` beside a model.
absl::StatusOr<ParsedFlags> ParseWith(std::vector<std::string> given) {
  given.insert(given.begin(), {"--model", "m=/models/m"});
  return Parse(given);
}

TEST(ServerFlagsTest, WithoutTlsOnlyThisMachineIsServedUnlessAsked) {
  for (const std::string listen : {"127.0.0.1:0", "127.8.8.8:1", "localhost:1", "[::1]:1"}) {
    EXPECT_TRUE(ParseWith({"--listen", listen}).ok()) << listen;
  }
  for (const std::string listen :
       {"0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example.com:1", "localhost.example.com:1",
        "127.example.com:1", "127:1", "12.0.0.1:1"}) {
    const auto parsed = ParseWith({"--listen", listen});
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr("--insecure on")) << listen;
    EXPECT_TRUE(ParseWith({"--listen", listen, "--insecure", "on"}).ok()) << listen;
    EXPECT_TRUE(ParseWith({"--listen", listen, "--tls-cert", "/c", "--tls-key", "/k"}).ok());
  }
}

TEST(ServerFlagsTest, ProductionDemandsTlsAndIdentitiesAndHasNoReflection) {
  const std::vector<std::string> tls = {"--tls-cert", "/c", "--tls-key", "/k"};
  const auto with = [](std::vector<std::string> flags, const std::vector<std::string>& more) {
    flags.insert(flags.end(), more.begin(), more.end());
    return ParseWith(flags);
  };
  const std::vector<std::string> production = {"--profile", "production"};
  EXPECT_THAT(std::string(ParseWith(production).status().message()), HasSubstr("--tls-cert"));
  EXPECT_THAT(std::string(with(production, tls).status().message()), HasSubstr("--token-file"));
  EXPECT_FALSE(with(production, {"--token-file", "/t"}).ok());
  EXPECT_FALSE(with(production, {"--token-file", "/t", "--insecure", "on"}).ok());
  for (const std::vector<std::string>& proof : std::vector<std::vector<std::string>>{
           {"--token-file", "/t"},
           {"--tls-client-ca", "/ca"},
           {"--jwks-file", "/j", "--jwt-issuer", "i", "--jwt-audience", "a"}}) {
    std::vector<std::string> flags = production;
    flags.insert(flags.end(), tls.begin(), tls.end());
    const auto parsed = with(flags, proof);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_FALSE(parsed->options.wire.reflection);
    EXPECT_TRUE(parsed->options.auth.required());
    flags.insert(flags.end(), {"--reflection", "on"});
    EXPECT_TRUE(with(flags, proof)->options.wire.reflection);
  }
  EXPECT_TRUE(ParseWith({})->options.wire.reflection);
  EXPECT_FALSE(ParseWith({})->options.auth.required());
  EXPECT_FALSE(ParseWith({"--reflection", "off"})->options.wire.reflection);
  EXPECT_FALSE(ParseWith({"--token-file", "/t"})->options.wire.reflection);
}

TEST(ServerFlagsTest, FlagsOfSecurityThatDoNotGoTogether) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> wrong = {
      {{"--tls-cert", "/c"}, "--tls-cert:"},
      {{"--tls-key", "/k"}, "--tls-key:"},
      {{"--tls-client-ca", "/ca"}, "--tls-client-ca:"},
      {{"--tls-client-auth", "maybe"}, "--tls-client-auth:"},
      {{"--certificate-tenant", "t"}, "--certificate-tenant:"},
      {{"--jwks-file", "/j"}, "--jwks-file:"},
      {{"--jwks-file", "/j", "--jwt-issuer", "i"}, "--jwks-file:"},
      {{"--jwt-issuer", "i"}, "--jwt-issuer:"},
      {{"--jwt-audience", "a"}, "--jwt-audience:"},
      {{"--jwt-clock-skew-seconds", "301"}, "--jwt-clock-skew-seconds:"},
      {{"--token-file", "/t", "--reflection", "on"}, "--reflection:"},
      {{"--token-file", "/t", "--open-health", "off"}, "--open-health:"},
  };
  for (const auto& [flags, message] : wrong) {
    const auto parsed = ParseWith(flags);
    ASSERT_TRUE(absl::IsInvalidArgument(parsed.status())) << message;
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(message));
  }
}

TEST(ServerFlagsTest, PasswordsAreInNoError) {
  for (const std::string& url :
       {std::string("redis://me:hunter2@host:99999"), std::string("redus://:hunter2@host"),
        std::string("redis://me:hun/hunter2@x@host/db")}) {
    for (const std::vector<std::string>& arguments :
         {std::vector<std::string>{"--model", "m=/m", "--store", url},
          std::vector<std::string>{"--model", "m=/m", url}}) {
      const auto parsed = Parse(arguments);
      ASSERT_FALSE(parsed.ok()) << url;
      EXPECT_EQ(std::string(parsed.status().message()).find("hunter2"), std::string::npos)
          << parsed.status();
    }
  }
  EXPECT_EQ(Redacted("redis://u:p@h/0"), "redis://***@h/0");
  EXPECT_EQ(Redacted("redis://h/0"), "redis://h/0");
  EXPECT_EQ(Redacted("no URL @ all"), "no URL @ all");
}

TEST(ServerFlagsTest, APasswordFromAFileMayHaveAnyCharacter) {
  const auto url = WithCredentials("redis-sentinel://a,b/main/2", "u@x", "p@:/ %\n");
  ASSERT_TRUE(url.ok()) << url.status();
  const auto address = state_store::redis::ParseAddress(*url);
  ASSERT_TRUE(address.ok()) << address.status();
  EXPECT_EQ(address->user, "u@x");
  EXPECT_EQ(address->password, "p@:/ %\n");
  EXPECT_EQ(address->db, 2);
  EXPECT_EQ(WithCredentials("redis://h", "", "pw").value(), "redis://:%70%77@h");
  EXPECT_TRUE(absl::IsInvalidArgument(WithCredentials("redis://:a@h", "", "b").status()));
}

TEST(ServerFlagsTest, WeightsOfTenants) {
  const auto parsed =
      Parse({"--model", "m=/models/m", "--tenant-weight", "gold=4", "--tenant-weight", "a=b=0.5"});
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const std::map<std::string, double> expected = {{"gold", 4}, {"a=b", 0.5}};
  EXPECT_EQ(parsed->options.compute.tenant_weights, expected);
  for (const char* bad : {"gold", "=1", "gold=", "gold=0", "gold=1001", "gold=nan", "go ld=1"}) {
    EXPECT_FALSE(Parse({"--model", "m=/models/m", "--tenant-weight", bad}).ok()) << bad;
  }
  EXPECT_FALSE(
      Parse({"--model", "m=/models/m", "--tenant-weight", "a=1", "--tenant-weight", "a=2"}).ok());
}

TEST(ServerFlagsTest, SchedulingIsWhatTheFlagsSay) {
  const auto parsed = Parse({"--model",
                             "m=/models/m",
                             "--max-queued-per-tenant",
                             "7",
                             "--max-wait-seconds",
                             "2.5",
                             "--time-slice-seconds",
                             "0.25",
                             "--max-request-bytes",
                             "1000",
                             "--max-parked-bytes",
                             "0",
                             "--step-logit-rows",
                             "32",
                             "--prefix-cache-tenant-bytes",
                             "0",
                             "--prefix-cache-ttl-seconds",
                             "60",
                             "--prefix-spill-tenant-bytes",
                             "5000",
                             "--prefix-share-bytes",
                             "6000",
                             "--prefix-share-total-bytes",
                             "7000"});
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const ComputeSettings& compute = parsed->options.compute;
  EXPECT_EQ(compute.max_queued_per_tenant, 7);
  EXPECT_EQ(compute.max_wait, absl::Milliseconds(2500));
  EXPECT_EQ(compute.time_slice, absl::Milliseconds(250));
  EXPECT_EQ(compute.max_request_bytes, 1000);
  EXPECT_EQ(compute.max_parked_bytes, 0);
  EXPECT_EQ(compute.step_logit_rows, 32);
  EXPECT_EQ(compute.prefix_cache_tenant_bytes, 0);
  EXPECT_EQ(compute.prefix_cache_ttl, absl::Minutes(1));
  EXPECT_EQ(parsed->options.store.prefix_spill_tenant_bytes, 5000);
  EXPECT_EQ(parsed->options.store.prefix_share_bytes, 6000);
  EXPECT_EQ(parsed->options.store.prefix_share_total_bytes, 7000);
  EXPECT_FALSE(
      Parse({"--model", "m=/models/m", "--step-tokens", "64", "--step-logit-rows", "65"}).ok());
}

// docs/configuration.md has a row for each flag, with its default.
TEST(ServerFlagsTest, EveryFlagIsDocumented) {
  std::ifstream file(REPRISE_SOURCE_DIR "/docs/configuration.md");
  std::stringstream text;
  text << file.rdbuf();
  for (const FlagSpec& flag : ServerFlags()) {
    const std::string row = "| `--" + flag.name + "` | " +
                            (flag.default_value.empty() ? "" : flag.default_value + " ") + "|";
    EXPECT_THAT(text.str(), HasSubstr(row));
  }
}

TEST(ServerFlagsTest, HelpComesFromTheTable) {
  const auto parsed = Parse({"--help"});
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  for (const FlagSpec& flag : ServerFlags()) {
    EXPECT_THAT(parsed->print, HasSubstr("--" + flag.name));
    EXPECT_THAT(parsed->print, HasSubstr(EnvironmentName(flag.name)));
  }
  const std::string version = Parse({"--version"})->print;
  for (const char* fact : {"reprised ", "\ncommit: ", "\nbuild: ", "\ncompiler: ", "\nCUDA: ",
                           "\ngRPC: 1.", "\nProtobuf: "}) {
    EXPECT_THAT(version, HasSubstr(fact));
  }
}

TEST(ServerFlagsTest, TheStructsDefaultsAreTheTables) {
  const auto parsed = Parse({"--model", "m=/models/m"});
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const ServerOptions defaults;
  const ServerOptions& options = parsed->options;
  EXPECT_EQ(options.wire.listen, defaults.wire.listen);
  EXPECT_EQ(options.wire.max_concurrent_streams, defaults.wire.max_concurrent_streams);
  EXPECT_EQ(options.wire.max_message_bytes, defaults.wire.max_message_bytes);
  EXPECT_EQ(options.wire.io_threads, defaults.wire.io_threads);
  EXPECT_EQ(options.wire.reflection, defaults.wire.reflection);
  EXPECT_EQ(options.wire.drain, defaults.wire.drain);
  EXPECT_EQ(options.telemetry.listen, defaults.telemetry.listen);
  EXPECT_EQ(options.telemetry.max_tenants, defaults.telemetry.max_tenants);
  EXPECT_EQ(options.telemetry.spans, defaults.telemetry.spans);
  EXPECT_EQ(options.store.kind, defaults.store.kind);
  EXPECT_EQ(options.compute.max_queued_per_tenant, defaults.compute.max_queued_per_tenant);
  EXPECT_EQ(options.compute.tenant_weights, defaults.compute.tenant_weights);
  EXPECT_EQ(options.compute.max_wait, defaults.compute.max_wait);
  EXPECT_EQ(options.compute.time_slice, defaults.compute.time_slice);
  EXPECT_EQ(options.compute.max_request_bytes, defaults.compute.max_request_bytes);
  EXPECT_EQ(options.compute.max_parked_bytes, defaults.compute.max_parked_bytes);
  EXPECT_EQ(options.compute.step_logit_rows, defaults.compute.step_logit_rows);
  EXPECT_EQ(options.compute.prefix_cache_tenant_bytes, defaults.compute.prefix_cache_tenant_bytes);
  EXPECT_EQ(options.compute.prefix_cache_ttl, defaults.compute.prefix_cache_ttl);
  EXPECT_EQ(options.store.prefix_spill_tenant_bytes, defaults.store.prefix_spill_tenant_bytes);
  EXPECT_EQ(options.store.prefix_share_bytes, defaults.store.prefix_share_bytes);
  EXPECT_EQ(options.store.prefix_share_total_bytes, defaults.store.prefix_share_total_bytes);
  EXPECT_EQ(options.store.max_bytes, defaults.store.max_bytes);
  EXPECT_EQ(options.store.sweep_interval, defaults.store.sweep_interval);
  EXPECT_EQ(options.compute.threads, defaults.compute.threads);
  EXPECT_EQ(options.compute.slots, defaults.compute.slots);
  EXPECT_EQ(options.compute.step_tokens, defaults.compute.step_tokens);
  EXPECT_EQ(options.compute.prefill_chunk_tokens, defaults.compute.prefill_chunk_tokens);
  EXPECT_EQ(options.compute.max_queued, defaults.compute.max_queued);
  EXPECT_EQ(options.limits.max_prompt_tokens, defaults.limits.max_prompt_tokens);
  EXPECT_EQ(options.limits.max_tokens, defaults.limits.max_tokens);
  EXPECT_EQ(options.limits.default_max_tokens, defaults.limits.default_max_tokens);
  EXPECT_EQ(options.limits.default_session_ttl, defaults.limits.default_session_ttl);
  EXPECT_EQ(options.limits.max_unwritten_tokens, defaults.limits.max_unwritten_tokens);
  EXPECT_EQ(options.limits.stall, defaults.limits.stall);
  EXPECT_EQ(options.log.level, defaults.log.level);
  EXPECT_EQ(options.log.format, defaults.log.format);
}

TEST(ServerFlagsTest, ModelsAreNamedOrNamedAfterTheirFolder) {
  const auto parsed = Parse({"--model", "a=/x/y", "--model", "/models/b-1/"});
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  ASSERT_EQ(parsed->options.models.size(), 2u);
  EXPECT_EQ(parsed->options.models[0].name, "a");
  EXPECT_EQ(parsed->options.models[0].directory, "/x/y");
  EXPECT_EQ(parsed->options.models[1].name, "b-1");
  EXPECT_EQ(parsed->options.models[1].directory, "/models/b-1/");
  EXPECT_FALSE(Parse({"--model", "a=/x", "--model", "a=/y"}).ok());
  EXPECT_FALSE(Parse({"--model", "a b=/x"}).ok());
  EXPECT_FALSE(Parse({"--model", "a="}).ok());
}

TEST(ServerFlagsTest, TheCommandLineWinsOverTheEnvironmentAndThatOverTheFile) {
  ConfigFile file(
      "slots = 3\nstep-tokens = 200\nmodel = [\"a=/x\", \"b=/y\"]\nstore = \"disk:/s\"\n");
  const auto parsed = Parse({"--config", file.path(), "--slots", "5"},
                            {{"REPRISE_SLOTS", "4"}, {"REPRISE_STEP_TOKENS", "150"}});
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->options.compute.slots, 5);
  EXPECT_EQ(parsed->options.compute.step_tokens, 150);
  EXPECT_EQ(parsed->options.models.size(), 2u);
  EXPECT_EQ(parsed->options.store.kind, StoreSettings::Kind::kDisk);
  EXPECT_EQ(parsed->options.store.path, "/s");
  EXPECT_EQ(Parse({}, {{"REPRISE_CONFIG", file.path()}})->options.compute.slots, 3);
}

TEST(ServerFlagsTest, TheStoreIsMemoryAFolderOrRedis) {
  const auto store = [](const char* text) { return Parse({"--model", "m=/m", "--store", text}); };
  EXPECT_EQ(store("memory")->options.store.kind, StoreSettings::Kind::kMemory);
  const auto redis = store("redis-cluster://10.0.0.1,10.0.0.2");
  ASSERT_TRUE(redis.ok()) << redis.status();
  EXPECT_EQ(redis->options.store.kind, StoreSettings::Kind::kRedis);
  EXPECT_EQ(redis->options.store.url, "redis-cluster://10.0.0.1,10.0.0.2");
  EXPECT_FALSE(store("http://host").ok());
  EXPECT_FALSE(store("redis://host:port").ok());
  EXPECT_FALSE(store("disk:").ok());
  EXPECT_FALSE(store("disc:/x").ok());
}

TEST(ServerFlagsTest, ErrorsNameTheKeyTheValueAndWhatIsAllowed) {
  const auto flag = Parse({"--model", "m=/m", "--slots", "0"});
  EXPECT_THAT(std::string(flag.status().message()), HasSubstr("--slots"));
  EXPECT_THAT(std::string(flag.status().message()), HasSubstr("\"0\""));
  EXPECT_THAT(std::string(flag.status().message()), HasSubstr("from 1 to 65536"));
  const auto variable = Parse({"--model", "m=/m"}, {{"REPRISE_LOG_LEVEL", "loud"}});
  EXPECT_THAT(std::string(variable.status().message()), HasSubstr("REPRISE_LOG_LEVEL"));
  EXPECT_THAT(std::string(variable.status().message()), HasSubstr("debug, info, warn or error"));
  ConfigFile file("model = \"m=/m\"\ndrain-seconds = -1\n");
  const auto key = Parse({"--config", file.path()});
  EXPECT_THAT(std::string(key.status().message()), HasSubstr("drain-seconds"));
  EXPECT_THAT(std::string(key.status().message()), HasSubstr(file.path()));
}

TEST(ServerFlagsTest, UnknownKeysAreRefusedEverywhere) {
  EXPECT_FALSE(Parse({"--model", "m=/m", "--slot", "3"}).ok());
  EXPECT_FALSE(Parse({"--model", "m=/m", "stray"}).ok());
  ConfigFile file("model = \"m=/m\"\nslot = 3\n");
  const auto parsed = Parse({"--config", file.path()});
  EXPECT_THAT(std::string(parsed.status().message()), HasSubstr("\"slot\""));
  EXPECT_FALSE(Parse({"--config", "/nowhere/at/all.conf"}).ok());
}

TEST(ServerFlagsTest, ValuesOutOfRangeAreRefused) {
  const std::vector<std::vector<std::string>> cases = {
      {"--listen", "127.0.0.1"},
      {"--listen", ":7420"},
      {"--listen", "h:65536"},
      {"--listen", "h:x"},
      {"--store", "disk:"},
      {"--store", "tape"},
      {"--store-max-bytes", "-1"},
      {"--store-max-bytes", "1e9"},
      {"--threads", "257"},
      {"--step-tokens", "70000"},
      {"--slots", "1.5"},
      {"--slots", ""},
      {"--max-prompt-tokens", "0"},
      {"--max-tokens", "2147483648"},
      {"--session-ttl", "-1"},
      {"--session-ttl", "nan"},
      {"--drain-seconds", "inf"},
      {"--reflection", "yes"},
      {"--max-message-bytes", "10"},
      {"--log-format", "xml"},
      {"--sweep-seconds", "0"},
      {"--max-concurrent-streams", "99999999999999999999"},
  };
  for (const auto& extra : cases) {
    std::vector<std::string> arguments = {"--model", "m=/m"};
    arguments.insert(arguments.end(), extra.begin(), extra.end());
    EXPECT_FALSE(Parse(arguments).ok()) << extra[0] << " " << extra[1];
  }
}

TEST(ServerFlagsTest, OptionsThatContradictEachOtherAreRefused) {
  EXPECT_FALSE(Parse({}).ok());  // no model
  EXPECT_FALSE(Parse({"--model", "m=/m", "--slots", "300", "--step-tokens", "256"}).ok());
  EXPECT_FALSE(
      Parse({"--model", "m=/m", "--prefill-chunk-tokens", "300", "--step-tokens", "256"}).ok());
  EXPECT_FALSE(Parse({"--model", "m=/m", "--default-max-tokens", "70000"}).ok());
  EXPECT_FALSE(Parse({"--model", "m=/m", "--slots", "3", "--slots", "4"}).ok());
}

TEST(ServerFlagsTest, ATimeToLiveOfZeroIsForEver) {
  EXPECT_EQ(Parse({"--model", "m=/m", "--session-ttl", "0"})->options.limits.default_session_ttl,
            absl::InfiniteDuration());
  EXPECT_EQ(Parse({"--model", "m=/m", "--session-ttl", "1.5"})->options.limits.default_session_ttl,
            absl::Seconds(1.5));
}

}  // namespace
}  // namespace reprise::service
