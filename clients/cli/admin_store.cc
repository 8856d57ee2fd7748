#include "clients/cli/admin_store.h"

#include <filesystem>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "clients/cli/errors.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace reprise::cli {
namespace {

constexpr char kDisk[] = "disk:";

}  // namespace

absl::Status FromStore(const absl::Status& status) {
  if (status.ok()) return status;
  google::rpc::Status details;
  const state_store::StoreError error = state_store::GetStoreError(status);
  if (error != state_store::StoreError::kNone) {
    google::rpc::ErrorInfo info;
    info.set_reason(std::string(state_store::StoreErrorName(error)));
    details.add_details()->PackFrom(info);
  }
  return FromRpc(grpc::Status(static_cast<grpc::StatusCode>(status.raw_code()),
                              std::string(status.message()), details.SerializeAsString()));
}

absl::StatusOr<AdminStore> OpenAdminStore(const std::string& url, const std::string& ca_file,
                                          double timeout_seconds) {
  AdminStore opened;
  opened.url = url;
  state_store::StoreOptions options;
  options.read_as_stored = true;
  if (absl::StartsWith(url, kDisk)) {
    state_store::DiskStoreOptions disk;
    disk.directory = url.substr(sizeof kDisk - 1);
    disk.store = options;
    // A mistyped path must not become a new, empty store.
    std::error_code error;
    if (!std::filesystem::is_directory(disk.directory, error)) {
      return UsageError(absl::StrCat("no directory ", disk.directory));
    }
    absl::StatusOr<state_store::OpenedDiskStore> store = state_store::OpenDiskStore(disk);
    if (!store.ok()) return FromStore(store.status());
    opened.store = std::move(store->store);
    opened.recovery = std::move(store->report);
  } else if (absl::StrContains(url, "://")) {
    state_store::redis::RedisStoreOptions redis;
    redis.client.url = url;
    redis.client.tls.ca_file = ca_file;
    redis.store = options;
    if (timeout_seconds > 0) redis.operation_timeout = absl::Seconds(timeout_seconds);
    auto store = state_store::redis::RedisStore::Create(redis);
    if (!store.ok()) return UsageError(std::string(store.status().message()));
    opened.redis = store->get();
    opened.store = *std::move(store);
  } else {
    return UsageError(absl::StrCat(
        "a store is disk:PATH or an address like redis://HOST:PORT, not \"", url, "\""));
  }
  opened.admin = dynamic_cast<state_store::StoreAdmin*>(opened.store.get());
  return opened;
}

}  // namespace reprise::cli
