// StoreImpl: whether everything in Redis fits together.
#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/numbers.h"
#include "base/status_macros.h"
#include "state_store/internal/cat.h"
#include "state_store/redis/error.h"
#include "state_store/redis/store_commands.h"
#include "state_store/redis/store_impl.h"
#include "state_store/redis/store_scripts.h"

namespace reprise::state_store::redis {

// What the sessions say about the chunks.
struct StoreImpl::Walk {
  struct Named {
    ChunkRef ref;
    std::set<std::string> pins;
  };
  std::map<std::string, Named> chunks;                    // by key
  std::map<std::string, std::set<std::string>> holds;     // users, by key
  std::map<std::string, std::set<std::string>> sessions;  // by tenant
};

absl::Status StoreImpl::WalkSessions(Walk& walk) {
  const auto visit = [&](const std::vector<std::string>& keys) -> absl::Status {
    for (const std::string& key : keys) {
      const auto name = keys_.ParseSession(key);
      if (!name.has_value()) return absl::InternalError(Cat("key ", key, " is none of ours"));
      const auto& [tenant, id] = *name;
      if (!walk.sessions[tenant].insert(id).second) continue;
      Loaded loaded;
      RETURN_IF_ERROR(LoadAll(key, loaded, NewDeadline()));
      if (!loaded.exists) continue;
      const SessionRecord& record = loaded.record;
      if (record.session.tenant != tenant || record.session.id != id) {
        return MakeStoreError(StoreError::kCorruptIndex, Cat(key, " holds another session"));
      }
      if (loaded.manifests.size() != record.snapshots.size() ||
          loaded.requests.size() != record.requests.size()) {
        return absl::InternalError(Cat(key, " has ", loaded.manifests.size(), " manifests and ",
                                       loaded.requests.size(), " requests, its record names ",
                                       record.snapshots.size(), " and ", record.requests.size()));
      }
      for (const SnapshotRow& row : record.snapshots) {
        const Session& s = record.session;
        const bool origin = record.holds_origin && s.parent_snapshot_id == row.id;
        if (!row.retained && !origin && s.head_snapshot_id != row.id) {
          return absl::InternalError(Cat(key, " keeps snapshot ", row.id, " for nothing"));
        }
        for (const SnapshotPart& part : loaded.manifests.at(row.id)->parts) {
          if (!part.chunks.empty() && !row.use.user.empty()) {
            walk.holds[keys_.Hold(tenant, row.use.pin)].insert(row.use.user);
          }
          for (const ChunkRef& ref : part.chunks) {
            Walk::Named& named = walk.chunks[keys_.Chunk(tenant, ref.digest)];
            if (!named.pins.empty() && !(named.ref == ref)) {
              return absl::InternalError(Cat("two descriptions of chunk ", HexDigest(ref.digest)));
            }
            named.ref = ref;
            named.pins.insert(row.use.pin);
          }
        }
      }
    }
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(Scan(keys_.SessionPattern(), visit));
  ASSIGN_OR_RETURN(const std::vector<std::string> tenants, Tenants(NewDeadline()));
  for (const std::string& tenant : tenants) walk.sessions.try_emplace(tenant);
  for (const auto& [tenant, ids] : walk.sessions) {
    ASSIGN_OR_RETURN(const std::vector<std::string> listed,
                     ListedAfter(tenant, "", ids.size() + 1, NewDeadline()));
    if (!std::equal(listed.begin(), listed.end(), ids.begin(), ids.end())) {
      return absl::InternalError(Cat("tenant \"", tenant, "\" has ", ids.size(), " sessions, ",
                                     listed.size(), " are listed or others"));
    }
  }
  return absl::OkStatus();
}

absl::Status StoreImpl::CheckChunks(const std::vector<std::string>& keys, Walk& walk) {
  ASSIGN_OR_RETURN(const std::vector<Inspected> chunks, Inspect(keys, NewDeadline()));
  for (size_t i = 0; i < keys.size(); ++i) {
    const Inspected& chunk = chunks[i];
    const auto named = walk.chunks.find(keys[i]);
    if (named == walk.chunks.end()) {
      return absl::InternalError(Cat("chunk ", keys[i], " is named by no manifest"));
    }
    const ChunkRef& ref = named->second.ref;
    if (chunk.header != ChunkTable::HeaderOf(keys[i], ref) || chunk.length != ref.stored_length) {
      return MakeStoreError(StoreError::kCorruptChunk,
                            Cat("chunk ", keys[i], " is not as its manifest says"));
    }
    std::set<std::string> pins;
    for (const auto& [pin, value] : chunk.pins) pins.insert(pin);
    if (pins != named->second.pins) {
      return absl::InternalError(Cat("chunk ", keys[i], " has ", pins.size(), " pins, ",
                                     named->second.pins.size(), " manifests name it"));
    }
  }
  return absl::OkStatus();
}

absl::Status StoreImpl::CheckHolds(const Walk& walk) {
  std::set<std::string> seen;
  RETURN_IF_ERROR(
      Scan(keys_.HoldPattern(), [&](const std::vector<std::string>& keys) -> absl::Status {
        for (const std::string& key : keys) {
          const Answer answer = client_->Run(Plain({"HKEYS", key}), NewDeadline());
          ASSIGN_OR_RETURN(const std::vector<std::string> users, Texts(answer.reply, "HKEYS"));
          const auto named = walk.holds.find(key);
          if (named == walk.holds.end() ||
              named->second != std::set<std::string>(users.begin(), users.end())) {
            return absl::InternalError(Cat("hold ", key, " has ", users.size(), " users, ",
                                           named == walk.holds.end() ? 0 : named->second.size(),
                                           " manifests use it"));
          }
          seen.insert(key);
        }
        return absl::OkStatus();
      }));
  for (const auto& [key, users] : walk.holds) {
    if (seen.count(key) == 0) return absl::InternalError(Cat("hold ", key, " is missing"));
  }
  return absl::OkStatus();
}

absl::Status StoreImpl::CheckCounters(const Walk& walk) {
  std::map<std::string, int64_t> bytes;
  for (const auto& [tenant, ids] : walk.sessions) bytes[tenant] = 0;
  for (const auto& [key, named] : walk.chunks) {
    const auto name = keys_.ParseChunk(key);
    if (name.has_value()) bytes[name->first] += named.ref.stored_length;
  }
  for (const auto& [tenant, sum] : bytes) {
    ASSIGN_OR_RETURN(const Counters counters, ReadCounters(tenant, NewDeadline()));
    if (counters.bytes == sum) continue;
    return absl::InternalError(
        Cat("tenant \"", tenant, "\" has chunks of ", sum, " bytes, counted ", counters.bytes));
  }
  return absl::OkStatus();
}

absl::Status StoreImpl::CheckIntegrity() {
  ReleaseDue(/*all=*/true);
  Walk walk;
  RETURN_IF_ERROR(WalkSessions(walk));
  std::set<std::string> seen;
  RETURN_IF_ERROR(Scan(keys_.ChunkPattern(), [&](const std::vector<std::string>& keys) {
    std::vector<std::string> fresh;
    for (const std::string& key : keys) {
      if (seen.insert(key).second) fresh.push_back(key);
    }
    return CheckChunks(fresh, walk);
  }));
  for (const auto& [key, named] : walk.chunks) {
    if (seen.count(key) == 0) {
      return MakeStoreError(StoreError::kCorruptChunk, Cat("chunk ", key, " is missing"));
    }
  }
  RETURN_IF_ERROR(CheckHolds(walk));
  RETURN_IF_ERROR(CheckCounters(walk));
  const auto [all, taken] = client_->ConnectionCounts();
  if (taken < 0 || taken > all) return absl::InternalError("connections are miscounted");
  return absl::OkStatus();
}

}  // namespace reprise::state_store::redis
