// StoreImpl: the tenants' lists, expiry, integrity, garbage.
#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/numbers.h"
#include "base/status_macros.h"
#include "state_store/internal/cat.h"
#include "state_store/redis/error.h"
#include "state_store/redis/store_impl.h"
#include "state_store/redis/store_scripts.h"

namespace reprise::state_store::redis {
namespace {

constexpr size_t kBatch = 256;
constexpr char kMaxPinsAtOnce[] = "4096";
constexpr absl::Duration kDamagedRetry = absl::Hours(1);

Command Plain(std::vector<std::string> arguments) {
  std::string key = arguments[1];
  return {.arguments = std::move(arguments), .tail = {}, .key = std::move(key)};
}

absl::StatusOr<std::vector<std::string>> Texts(const absl::StatusOr<Reply>& reply,
                                               std::string_view what) {
  RETURN_IF_ERROR(reply.status());
  ASSIGN_OR_RETURN(const auto* elements, reply->Array(what));
  std::vector<std::string> texts;
  for (const Reply& element : *elements) texts.push_back(element.text);
  return texts;
}

}  // namespace

// A session is on its lists before it is made, and off them after it is gone: whoever lists looks
// at the session itself.
absl::Status StoreImpl::AddToLists(std::string_view tenant, std::string_view session_id,
                                   absl::Time expires, Deadline deadline) {
  const std::string id(session_id);
  std::vector<Command> commands = {Plain({"SADD", keys_.Tenants(), EscapeTenant(tenant)}),
                                   Plain({"ZADD", keys_.Index(tenant), "0", id})};
  if (expires < absl::InfiniteFuture()) {
    commands.push_back(
        Plain({"ZADD", keys_.Expiry(tenant), "LT", Cat(absl::ToUnixMicros(expires)), id}));
  }
  for (const Answer& answer : client_->Run(commands, deadline)) {
    RETURN_IF_ERROR(answer.reply.status());
  }
  return absl::OkStatus();
}

absl::Status StoreImpl::RemoveFromLists(std::string_view tenant, std::string_view session_id,
                                        Deadline deadline) {
  const std::string id(session_id);
  for (const Answer& answer : client_->Run(
           {Plain({"ZREM", keys_.Index(tenant), id}), Plain({"ZREM", keys_.Expiry(tenant), id})},
           deadline)) {
    RETURN_IF_ERROR(answer.reply.status());
  }
  // One of the same name may have been made meanwhile.
  ASSIGN_OR_RETURN(const Loaded loaded, Load(tenant, session_id, Wanted{}, deadline));
  if (!loaded.exists) return absl::OkStatus();
  return AddToLists(tenant, session_id, loaded.record.session.expires, deadline);
}

absl::StatusOr<std::vector<std::string>> StoreImpl::ListedAfter(std::string_view tenant,
                                                                std::string_view after,
                                                                size_t count, Deadline deadline) {
  return Texts(
      client_
          ->Run(Plain({"ZRANGE", keys_.Index(tenant), after.empty() ? "-" : Cat("(", after), "+",
                       "BYLEX", "LIMIT", "0", Cat(count)}),
                deadline)
          .reply,
      "ZRANGE");
}

absl::StatusOr<std::vector<std::string>> StoreImpl::Tenants(Deadline deadline) {
  std::set<std::string> tenants;
  std::string cursor = "0";
  do {
    const Answer answer =
        client_->Run(Plain({"SSCAN", keys_.Tenants(), cursor, "COUNT", Cat(kBatch)}), deadline);
    RETURN_IF_ERROR(answer.reply.status());
    ASSIGN_OR_RETURN(const auto* page, answer.reply->Array("SSCAN", 2));
    cursor = (*page)[0].text;
    for (const Reply& name : (*page)[1].elements) {
      if (auto tenant = UnescapeTenant(name.text)) tenants.insert(*std::move(tenant));
    }
  } while (cursor != "0");
  return std::vector<std::string>(tenants.begin(), tenants.end());
}

absl::StatusOr<int64_t> StoreImpl::SweepTenant(const std::string& tenant, absl::Time now) {
  int64_t swept = 0;
  for (;;) {
    const Deadline deadline = NewDeadline();
    ASSIGN_OR_RETURN(
        const std::vector<std::string> ids,
        Texts(client_
                  ->Run(Plain({"ZRANGE", keys_.Expiry(tenant), "-inf", Cat(absl::ToUnixMicros(now)),
                               "BYSCORE", "LIMIT", "0", Cat(kBatch)}),
                        deadline)
                  .reply,
              "ZRANGE"));
    if (ids.empty()) return swept;
    for (const std::string& id : ids) {
      bool erased = false;
      Session session;
      const auto erase_if_expired = [&](const SessionIndex& index) -> absl::StatusOr<Plan> {
        // Someone may have given it more time, or deleted it.
        erased = false;
        session = Session{};
        const SessionEntry* entry = index.FindSession(tenant, id);
        if (entry == nullptr) return Plan{};
        session = entry->session;
        if (session.expires > now) return Plan{};
        erased = true;
        return PlanDelete(index, tenant, id);
      };
      const absl::Status status =
          Mutate(tenant, id, Wanted{}, erase_if_expired, "", Change{}, deadline).status();
      // One that cannot be read must not keep the others from being swept.
      if (absl::IsDataLoss(status)) session.expires = now + kDamagedRetry;
      if (!absl::IsDataLoss(status)) RETURN_IF_ERROR(status);
      if (status.ok() && (erased || session.version == 0)) {
        swept += erased;
        RETURN_IF_ERROR(RemoveFromLists(tenant, id, deadline));
        continue;
      }
      // Its score was early, or it is damaged.
      const absl::Time next = session.expires;
      const Command move =
          next == absl::InfiniteFuture()
              ? Plain({"ZREM", keys_.Expiry(tenant), id})
              : Plain({"ZADD", keys_.Expiry(tenant), Cat(absl::ToUnixMicros(next)), id});
      RETURN_IF_ERROR(client_->Run(move, deadline).reply.status());
    }
  }
}

absl::Status StoreImpl::ForgetCreations(const std::string& tenant, absl::Time before) {
  const std::string key = keys_.Creations(tenant);
  std::string cursor = "0";
  do {
    const Deadline deadline = NewDeadline();
    const Answer answer =
        client_->Run(Plain({"HSCAN", key, cursor, "COUNT", Cat(kBatch)}), deadline);
    RETURN_IF_ERROR(answer.reply.status());
    ASSIGN_OR_RETURN(const auto* page, answer.reply->Array("HSCAN", 2));
    cursor = (*page)[0].text;
    const std::vector<Reply>& pairs = (*page)[1].elements;
    for (size_t i = 0; i + 1 < pairs.size(); i += 2) {
      const std::string& field = pairs[i].text;
      const std::string& sealed = pairs[i + 1].text;
      const auto bytes = Unseal(key, field, sealed, StoreError::kCorruptIndex);
      if (!bytes.ok()) continue;  // whoever repeats that request is told
      const auto record = DecodeRequest(*bytes);
      if (!record.ok() || record->time > before) continue;
      RETURN_IF_ERROR(client_->Run(Eval(kCompareAndSetField, key, {field, sealed, ""}), deadline)
                          .reply.status());
    }
  } while (cursor != "0");
  return absl::OkStatus();
}

absl::StatusOr<int64_t> StoreImpl::SweepExpired(absl::Time now) {
  ReleaseDue(/*all=*/false);
  ASSIGN_OR_RETURN(const std::vector<std::string> tenants, Tenants(NewDeadline()));
  int64_t swept = 0;
  for (const std::string& tenant : tenants) {
    ASSIGN_OR_RETURN(const int64_t n, SweepTenant(tenant, now));
    swept += n;
    RETURN_IF_ERROR(ForgetCreations(tenant, now - options_.store.request_id_ttl));
  }
  return swept;
}

absl::Status StoreImpl::Scan(
    const std::string& pattern,
    const std::function<absl::Status(const std::vector<std::string>&)>& visit) {
  ASSIGN_OR_RETURN(const std::vector<Endpoint> masters, client_->Masters(NewDeadline()));
  for (const Endpoint& master : masters) {
    std::string cursor = "0";
    do {
      const absl::StatusOr<Reply> reply = client_->CallAt(
          master, {"SCAN", cursor, "MATCH", pattern, "COUNT", "500"}, NewDeadline());
      RETURN_IF_ERROR(reply.status());
      ASSIGN_OR_RETURN(const auto* page, reply->Array("SCAN", 2));
      ASSIGN_OR_RETURN(const std::vector<std::string> keys, Texts((*page)[1], "SCAN"));
      cursor = (*page)[0].text;
      for (size_t begin = 0; begin < keys.size(); begin += kBatch) {
        const size_t end = std::min(keys.size(), begin + kBatch);
        RETURN_IF_ERROR(visit({keys.begin() + static_cast<ptrdiff_t>(begin),
                               keys.begin() + static_cast<ptrdiff_t>(end)}));
      }
    } while (cursor != "0");
  }
  return absl::OkStatus();
}

absl::Status StoreImpl::LoadAll(std::string_view key, Loaded& loaded, Deadline deadline) {
  const Answer answer = client_->Run(Plain({"HGETALL", std::string(key)}), deadline);
  RETURN_IF_ERROR(answer.reply.status());
  ASSIGN_OR_RETURN(const auto* pairs, answer.reply->Array("HGETALL"));
  std::vector<std::string> fields;
  std::vector<Reply> values;
  for (size_t i = 0; i + 1 < pairs->size(); i += 2) {
    fields.push_back((*pairs)[i].text);
    values.push_back((*pairs)[i + 1]);
  }
  if (fields.empty()) return absl::OkStatus();
  RETURN_IF_ERROR(ReadFields(key, fields, values, loaded));
  for (const SnapshotRow& row : loaded.record.snapshots) {
    if (loaded.manifests.count(row.id) == 0) {
      return MakeStoreError(StoreError::kCorruptManifest,
                            Cat(key, ": the manifest of snapshot ", row.id, " is missing"));
    }
  }
  return absl::OkStatus();
}

// What the sessions say about the chunks.
struct StoreImpl::Walk {
  struct Named {
    ChunkRef ref;
    std::set<std::string> pins;
  };
  std::map<std::string, Named> chunks;                    // by key
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
        return absl::InternalError(Cat(key, " has fields that its record does not name"));
      }
      for (const SnapshotRow& row : record.snapshots) {
        const Session& s = record.session;
        const bool origin = record.holds_origin && s.parent_snapshot_id == row.id;
        if (!row.retained && !origin && s.head_snapshot_id != row.id) {
          return absl::InternalError(Cat(key, " keeps snapshot ", row.id, " for nothing"));
        }
        for (const SnapshotPart& part : loaded.manifests.at(row.id)->parts) {
          for (const ChunkRef& ref : part.chunks) {
            Walk::Named& named = walk.chunks[keys_.Chunk(tenant, ref.digest)];
            if (!named.pins.empty() && !(named.ref == ref)) {
              return absl::InternalError(Cat("two descriptions of chunk ", HexDigest(ref.digest)));
            }
            named.ref = ref;
            named.pins.insert(row.pin);
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

// A chunk as it lies in Redis.
struct StoreImpl::Inspected {
  std::string header;
  uint64_t length = 0;
  uint64_t now = 0;                         // the server's, in microseconds
  std::map<std::string, std::string> pins;  // with stamp and session
};

absl::StatusOr<std::vector<StoreImpl::Inspected>> StoreImpl::Inspect(
    const std::vector<std::string>& keys, Deadline deadline) {
  std::vector<Command> commands;
  for (const std::string& key : keys)
    commands.push_back(Eval(kInspectChunk, key, {kMaxPinsAtOnce}));
  const std::vector<Answer> answers = client_->Run(commands, deadline);
  std::vector<Inspected> chunks(keys.size());
  for (size_t i = 0; i < keys.size(); ++i) {
    RETURN_IF_ERROR(answers[i].reply.status());
    ASSIGN_OR_RETURN(const auto* fields, answers[i].reply->Array("inspect_chunk", 4));
    Inspected& chunk = chunks[i];
    chunk.header = (*fields)[0].text;
    chunk.length = static_cast<uint64_t>((*fields)[1].integer);
    if (!absl::SimpleAtoi((*fields)[2].text, &chunk.now)) {
      return MakeRedisError(RedisError::kProtocol, Outcome::kNotDone, "inspect_chunk: bad time");
    }
    for (size_t p = 4; p + 1 < fields->size(); p += 2) {
      chunk.pins[(*fields)[p].text] = (*fields)[p + 1].text;
    }
    // A chunk that very many share, as one of zeros, is read in pages.
    if ((*fields)[3].integer == 1) continue;
    std::string cursor = "0";
    do {
      const Answer answer = client_->Run(
          Plain({"HSCAN", keys[i], cursor, "MATCH", "p:*", "COUNT", Cat(kBatch)}), deadline);
      RETURN_IF_ERROR(answer.reply.status());
      ASSIGN_OR_RETURN(const auto* page, answer.reply->Array("HSCAN", 2));
      cursor = (*page)[0].text;
      const std::vector<Reply>& pairs = (*page)[1].elements;
      for (size_t p = 0; p + 1 < pairs.size(); p += 2) {
        chunk.pins[pairs[p].text.substr(2)] = pairs[p + 1].text;
      }
    } while (cursor != "0");
  }
  return chunks;
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
  const auto [all, taken] = client_->ConnectionCounts();
  if (taken < 0 || taken > all) return absl::InternalError("connections are miscounted");
  return absl::OkStatus();
}

absl::Status StoreImpl::CollectPins(const std::vector<std::string>& keys,
                                    std::map<std::string, std::vector<std::string>>& held,
                                    std::map<std::string, uint64_t>& bytes, GarbageReport& report) {
  const Deadline deadline = NewDeadline();
  const uint64_t grace = static_cast<uint64_t>(absl::ToInt64Microseconds(options_.pin_grace));
  ASSIGN_OR_RETURN(const std::vector<Inspected> chunks, Inspect(keys, deadline));
  std::vector<Command> drops;
  for (size_t i = 0; i < keys.size(); ++i) {
    const auto name = keys_.ParseChunk(keys[i]);
    if (!name.has_value()) continue;
    ++report.chunks_seen;
    bytes[name->first] += chunks[i].length;
    for (const auto& [pin, value] : chunks[i].pins) {
      const size_t space = value.find(' ');
      uint64_t stamp = 0;
      // A pin that cannot be read may be a live one: it stays, and CheckIntegrity tells of it.
      if (space == std::string::npos ||
          !absl::SimpleAtoi(absl::string_view(value).substr(0, space), &stamp) ||
          stamp + grace > chunks[i].now) {
        continue;
      }
      // Old, so whoever set it has committed by now or will be refused: kApplySession sees to that.
      const std::string id = value.substr(space + 1);
      const std::string session_key = keys_.Session(name->first, id);
      auto it = held.find(session_key);
      const auto holds = [&, &wanted = pin] {
        return std::find(it->second.begin(), it->second.end(), wanted) != it->second.end();
      };
      if (it == held.end() || !holds()) {
        const absl::StatusOr<Loaded> loaded = Load(name->first, id, Wanted{}, deadline);
        // Who cannot be read may hold anything.
        if (absl::IsDataLoss(loaded.status())) continue;
        RETURN_IF_ERROR(loaded.status());
        std::vector<std::string> pins;
        for (const SnapshotRow& row : loaded->record.snapshots) pins.push_back(row.pin);
        it = held.insert_or_assign(session_key, std::move(pins)).first;
      }
      if (holds()) continue;
      drops.push_back(Eval(kUnpinChunk, keys[i], {pin, value}));
    }
  }
  for (const Answer& answer : client_->Run(drops, deadline)) {
    RETURN_IF_ERROR(answer.reply.status());
    ++report.pins_dropped;
  }
  return absl::OkStatus();
}

// Every session is listed, and what is listed is there.
absl::Status StoreImpl::RepairLists(GarbageReport& report) {
  const auto list = [&](const std::vector<std::string>& keys) -> absl::Status {
    std::vector<Command> commands;
    for (const std::string& key : keys) {
      const auto name = keys_.ParseSession(key);
      if (!name.has_value()) continue;
      commands.push_back(Plain({"SADD", keys_.Tenants(), EscapeTenant(name->first)}));
      commands.push_back(Plain({"ZADD", keys_.Index(name->first), "0", name->second}));
    }
    for (const Answer& answer : client_->Run(commands, NewDeadline())) {
      RETURN_IF_ERROR(answer.reply.status());
      report.index_repairs += answer.reply->integer;
    }
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(Scan(keys_.SessionPattern(), list));
  ASSIGN_OR_RETURN(const std::vector<std::string> tenants, Tenants(NewDeadline()));
  for (const std::string& tenant : tenants) {
    std::string after;
    for (;;) {
      const Deadline deadline = NewDeadline();
      ASSIGN_OR_RETURN(const std::vector<std::string> ids,
                       ListedAfter(tenant, after, kBatch, deadline));
      if (ids.empty()) break;
      after = ids.back();
      std::vector<Command> commands;
      for (const std::string& id : ids) {
        commands.push_back(Plain({"EXISTS", keys_.Session(tenant, id)}));
      }
      const std::vector<Answer> answers = client_->Run(commands, deadline);
      for (size_t i = 0; i < ids.size(); ++i) {
        RETURN_IF_ERROR(answers[i].reply.status());
        if (answers[i].reply->integer != 0) continue;
        RETURN_IF_ERROR(RemoveFromLists(tenant, ids[i], deadline));
        ++report.index_repairs;
      }
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<GarbageReport> StoreImpl::CollectGarbage() {
  ReleaseDue(/*all=*/false);
  GarbageReport report;
  std::map<std::string, std::vector<std::string>> held;  // pins, by session key
  std::map<std::string, uint64_t> bytes;                 // by tenant
  const auto collect = [&](const std::vector<std::string>& keys) {
    return CollectPins(keys, held, bytes, report);
  };
  RETURN_IF_ERROR(Scan(keys_.ChunkPattern(), collect));
  RETURN_IF_ERROR(RepairLists(report));
  if (options_.store.max_stored_bytes != 0) {
    // As good as a walk over a moving store can be; what it dropped counts until the next one.
    for (const auto& [tenant, sum] : bytes) {
      RETURN_IF_ERROR(client_->Run(Plain({"SET", keys_.Bytes(tenant), Cat(sum)}), NewDeadline())
                          .reply.status());
    }
  }
  return report;
}

}  // namespace reprise::state_store::redis
