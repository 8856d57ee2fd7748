// Stores that `reprise admin` works on directly, without a server.
#ifndef REPRISE_CLIENTS_CLI_ADMIN_STORE_H_
#define REPRISE_CLIENTS_CLI_ADMIN_STORE_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "state_store/disk_store.h"
#include "state_store/redis/redis_store.h"
#include "state_store/store_admin.h"

namespace reprise::cli {

struct AdminStore {
  std::string url;
  std::unique_ptr<state_store::SessionStore> store;
  state_store::StoreAdmin* admin = nullptr;         // the same object
  state_store::redis::RedisStore* redis = nullptr;  // the same object, if it is one
  state_store::RecoveryReport recovery;             // of a disk store
};

// "disk:PATH" or an address of Redis (state_store/redis/address.h). `ca_file`: of TLS, may be
// empty. `timeout_seconds`: of one call to Redis, 0 for the default. A directory must be there.
// What is read is as it is stored.
absl::StatusOr<AdminStore> OpenAdminStore(const std::string& url, const std::string& ca_file,
                                          double timeout_seconds);

// A store's status with code and reason shown as a server's would be.
absl::Status FromStore(const absl::Status& status);

}  // namespace reprise::cli

#endif  // REPRISE_CLIENTS_CLI_ADMIN_STORE_H_
