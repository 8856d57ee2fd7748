#include "service/auth/token_tool.h"

#include <fcntl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/unique_fd.h"
#include "service/auth/token_file.h"
#include "service/tls_pem.h"

namespace reprise::service {
namespace {

constexpr size_t kMaxFileBytes = 16 << 20;

// After a check that the server will take the file as it becomes.
absl::Status AppendLine(const std::string& path, const std::string& line) {
  std::string before;
  if (std::filesystem::exists(path)) {
    ASSIGN_OR_RETURN(before, ReadSmallFile(path, kMaxFileBytes));
  }
  const std::string addition =
      absl::StrCat(before.empty() || before.back() == '\n' ? "" : "\n", line, "\n");
  const auto parsed = TokenFile::Parse(before + addition);
  if (!parsed.ok()) return Prefixed(parsed.status(), path);
  const UniqueFd file(open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600));
  if (!file.valid() || write(file.get(), addition.data(), addition.size()) !=
                           static_cast<ssize_t>(addition.size())) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": cannot be written"));
  }
  return absl::OkStatus();
}

}  // namespace

int RunTokenTool(int argc, const char* const* argv) {
  CLI::App app("Makes a bearer token for --token-file. The token is shown once and kept nowhere.",
               "reprised token");
  std::string id, tenant, right = "user", file;
  app.add_option("--id", id, "name of the token, for logs and for revoking it")->required();
  app.add_option("--tenant", tenant, "tenant that its bearer is")->required();
  app.add_option("--right", right, "user or admin")->check(CLI::IsMember({"user", "admin"}));
  app.add_option("--file", file, "file to add the line to; not given: it is printed");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  auto made = MakeToken(id, tenant, right == "admin" ? Right::kAdmin : Right::kUser);
  absl::Status status = made.status();
  if (status.ok() && !file.empty()) status = AppendLine(file, made->line);
  if (!status.ok()) {
    std::fprintf(stderr, "reprised token: %s\n", std::string(status.message()).c_str());
    return 2;
  }
  std::printf("%s\n", made->token.c_str());
  if (file.empty()) std::printf("%s\n", made->line.c_str());
  return 0;
}

}  // namespace reprise::service
