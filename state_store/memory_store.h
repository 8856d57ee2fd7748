// The store that ends with its process.
#ifndef REPRISE_STATE_STORE_MEMORY_STORE_H_
#define REPRISE_STATE_STORE_MEMORY_STORE_H_

#include <memory>

#include "absl/status/statusor.h"
#include "state_store/session_store.h"
#include "state_store/store_options.h"

namespace reprise::state_store {

// kSync means no more than kAsync here. INVALID_ARGUMENT names the option out of range.
absl::StatusOr<std::unique_ptr<SessionStore>> CreateMemoryStore(const StoreOptions& options);

}  // namespace reprise::state_store

#endif  // REPRISE_STATE_STORE_MEMORY_STORE_H_
