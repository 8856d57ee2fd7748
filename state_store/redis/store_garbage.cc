// StoreImpl: finding what crashes left, while others go on.
//
// Whoever takes a hold or a pin must commit within a quarter of pin_grace, or is refused. So what
// is older than the whole of it is in use if and only if a session names it now.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <set>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/numbers.h"
#include "base/fault_point.h"
#include "base/status_macros.h"
#include "state_store/internal/cat.h"
#include "state_store/redis/error.h"
#include "state_store/redis/store_commands.h"
#include "state_store/redis/store_impl.h"
#include "state_store/redis/store_scripts.h"

namespace reprise::state_store::redis {
namespace {

constexpr char kMaxPinsAtOnce[] = "4096";

// The moment at the front of a pin's or a user's value, in microseconds.
bool ReadStamp(std::string_view value, uint64_t& stamp) {
  const size_t space = value.find(' ');
  return space != std::string_view::npos &&
         absl::SimpleAtoi(absl::string_view(value.data(), space), &stamp);
}

// As the scripts count a chunk.
int64_t SealedBytes(const std::string& header) {
  long long stored = 0;
  return std::sscanf(header.c_str(), "1 %*u %*u %lld ", &stored) == 1 ? stored : 0;
}

}  // namespace

// What one walk has found out.
struct StoreImpl::Garbage {
  // Of a session that names a pin.
  struct Namer {
    std::string session_id;
    std::string user;
  };

  // What a walk finds of a tenant, beside its counters.
  struct Counted {
    Counters before{};
    int64_t bytes = 0;    // of sealed chunks
    int64_t dropped = 0;  // of them, by this walk
  };

  uint64_t grace = 0;  // microseconds
  GarbageReport report{};
  std::map<std::string, uint64_t> bytes{};                            // of chunks, by tenant
  std::map<std::string, Counted> counted{};                           // by tenant
  absl::flat_hash_set<uint64_t> seen{};                               // chunks: a scan may repeat
  std::map<std::string, std::vector<SnapshotRow>> sessions{};         // by key
  std::set<std::string> holds{};                                      // keys of those seen
  std::optional<std::map<std::string, std::vector<Namer>>> namers{};  // by key of the hold
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
          Plain({"HSCAN", keys[i], cursor, "MATCH", "p:*", "COUNT", Cat(kWalkBatch)}), deadline);
      RETURN_IF_ERROR(answer.reply.status());
      ASSIGN_OR_RETURN(const auto* page, answer.reply->Array("HSCAN", 2));
      cursor = (*page)[0].text;
      const std::vector<Reply>& pairs = (*page)[1].elements;
      for (size_t p = 0; p + 1 < pairs.size(); p += 2) {
        const std::string& field = pairs[p].text;
        if (field.substr(0, 2) == "p:") chunk.pins[field.substr(2)] = pairs[p + 1].text;
      }
    } while (cursor != "0");
  }
  return chunks;
}

absl::Status StoreImpl::CollectHolds(const std::vector<std::string>& keys, Garbage& garbage) {
  const Deadline deadline = NewDeadline();
  // By the clock of the server that the keys are on.
  const Answer time = client_->Run({.arguments = {"TIME"}, .tail = {}, .key = keys[0]}, deadline);
  ASSIGN_OR_RETURN(const std::vector<std::string> clock, Texts(time.reply, "TIME"));
  uint64_t seconds = 0, micros = 0;
  if (clock.size() != 2 || !absl::SimpleAtoi(clock[0], &seconds) ||
      !absl::SimpleAtoi(clock[1], &micros)) {
    return MakeRedisError(RedisError::kProtocol, Outcome::kNotDone, "TIME: strange answer");
  }
  const uint64_t now = seconds * 1'000'000 + micros;
  std::vector<Command> commands;
  for (const std::string& key : keys) commands.push_back(Plain({"HGETALL", key}));
  const std::vector<Answer> answers = client_->Run(commands, deadline);
  std::vector<Command> drops;
  for (size_t i = 0; i < keys.size(); ++i) {
    ASSIGN_OR_RETURN(const std::vector<std::string> pairs, Texts(answers[i].reply, "HGETALL"));
    const auto name = keys_.ParseHold(keys[i]);
    if (!name.has_value()) continue;
    for (size_t u = 0; u + 1 < pairs.size(); u += 2) {
      uint64_t stamp = 0;
      // What cannot be read may be in use.
      if (!ReadStamp(pairs[u + 1], stamp) || stamp + garbage.grace > now) continue;
      const std::string id = pairs[u + 1].substr(pairs[u + 1].find(' ') + 1);
      const std::string session_key = keys_.Session(name->first, id);
      auto it = garbage.sessions.find(session_key);
      const auto names_it = [&] {
        return std::any_of(it->second.begin(), it->second.end(), [&](const SnapshotRow& row) {
          return row.use.pin == name->second && row.use.user == pairs[u];
        });
      };
      if (it == garbage.sessions.end() || !names_it()) {
        const absl::StatusOr<Loaded> loaded = Load(name->first, id, Wanted{}, deadline);
        // Who cannot be read may use anything.
        if (absl::IsDataLoss(loaded.status())) continue;
        RETURN_IF_ERROR(loaded.status());
        it = garbage.sessions.insert_or_assign(session_key, loaded->record.snapshots).first;
      }
      if (!names_it()) drops.push_back(Eval(kHold, keys[i], {"drop", pairs[u], pairs[u + 1]}));
    }
  }
  REPRISE_FAULT_POINT("redis.garbage.hold");
  for (const Answer& answer : client_->Run(drops, deadline)) {
    RETURN_IF_ERROR(answer.reply.status());
    ++garbage.report.holds_dropped;
  }
  return absl::OkStatus();
}

// All pins that sessions name, once per walk: only pins without a hold ask for it.
absl::Status StoreImpl::FindNamers(Garbage& garbage) {
  if (garbage.namers.has_value()) return absl::OkStatus();
  std::map<std::string, std::vector<Garbage::Namer>> namers;
  RETURN_IF_ERROR(
      Scan(keys_.SessionPattern(), [&](const std::vector<std::string>& keys) -> absl::Status {
        for (const std::string& key : keys) {
          const auto name = keys_.ParseSession(key);
          if (!name.has_value()) continue;
          ASSIGN_OR_RETURN(const Loaded loaded,
                           Load(name->first, name->second, Wanted{}, NewDeadline()));
          for (const SnapshotRow& row : loaded.record.snapshots) {
            namers[keys_.Hold(name->first, row.use.pin)].push_back({name->second, row.use.user});
          }
        }
        return absl::OkStatus();
      }));
  garbage.namers = std::move(namers);
  return absl::OkStatus();
}

absl::StatusOr<bool> StoreImpl::IsNamed(const std::string& tenant, const std::string& pin,
                                        Garbage& garbage) {
  const std::string key = keys_.Hold(tenant, pin);
  if (garbage.holds.count(key) != 0) return true;
  const Answer exists = client_->Run(Plain({"EXISTS", key}), NewDeadline());
  RETURN_IF_ERROR(exists.reply.status());
  if (exists.reply->integer != 0) {
    garbage.holds.insert(key);
    return true;
  }
  // Nobody can join it any more, so who does not name it now never will.
  const absl::Status found = FindNamers(garbage);
  // A session that cannot be read may name it.
  if (absl::IsDataLoss(found)) return true;
  RETURN_IF_ERROR(found);
  const auto namers = garbage.namers->find(key);
  if (namers == garbage.namers->end()) return false;
  for (const Garbage::Namer& namer : namers->second) {
    // Its hold was lost in a failover.
    if (namer.user.empty()) continue;
    RETURN_IF_ERROR(
        client_->Run(Eval(kHold, key, {"take", namer.user, namer.session_id}), NewDeadline())
            .reply.status());
  }
  return true;
}

absl::Status StoreImpl::CollectPins(const std::vector<std::string>& keys, Garbage& garbage) {
  const Deadline deadline = NewDeadline();
  ASSIGN_OR_RETURN(const std::vector<Inspected> chunks, Inspect(keys, deadline));
  std::vector<Command> drops;
  std::vector<Garbage::Counted*> owners;  // of what is dropped
  const auto drop = [&](const std::string& tenant, Command command) {
    drops.push_back(std::move(command));
    owners.push_back(&garbage.counted[tenant]);
  };
  for (size_t i = 0; i < keys.size(); ++i) {
    const auto name = keys_.ParseChunk(keys[i]);
    if (!name.has_value()) continue;
    if (garbage.seen.insert(Checksum64(keys[i])).second) {
      ++garbage.report.chunks_seen;
      garbage.bytes[name->first] += chunks[i].length;
      garbage.counted[name->first].bytes += SealedBytes(chunks[i].header);
    }
    // As bytes leave it that arrive after their writer has given up. Who pins it meanwhile keeps
    // it.
    if (chunks[i].pins.empty()) {
      drop(name->first, chunks_.Counting(kUnpinChunk, name->first, keys[i], {"none", ""}));
    }
    for (const auto& [pin, value] : chunks[i].pins) {
      uint64_t stamp = 0;
      // A pin that cannot be read may be a live one: it stays, and CheckIntegrity tells of it.
      if (!ReadStamp(value, stamp) || stamp + garbage.grace > chunks[i].now) continue;
      ASSIGN_OR_RETURN(const bool named, IsNamed(name->first, pin, garbage));
      if (!named) {
        drop(name->first, chunks_.Counting(kUnpinChunk, name->first, keys[i], {pin, value}));
      }
    }
  }
  REPRISE_FAULT_POINT("redis.garbage.pin");
  const std::vector<Answer> answers = client_->Run(drops, deadline);
  for (size_t i = 0; i < answers.size(); ++i) {
    RETURN_IF_ERROR(answers[i].reply.status());
    ASSIGN_OR_RETURN(const auto* freed, answers[i].reply->Array("unpin_chunk", 2));
    owners[i]->dropped -= (*freed)[1].integer;
    ++garbage.report.pins_dropped;
  }
  return absl::OkStatus();
}

absl::StatusOr<StoreImpl::Counters> StoreImpl::ReadCounters(std::string_view tenant,
                                                            Deadline deadline) {
  const Answer answer =
      client_->Run(Plain({"HMGET", keys_.Counters(tenant), "bytes", "moved"}), deadline);
  RETURN_IF_ERROR(answer.reply.status());
  ASSIGN_OR_RETURN(const auto* values, answer.reply->Array("HMGET", 2));
  Counters counters;
  for (const auto& [value, to] :
       {std::pair(&(*values)[0], &counters.bytes), std::pair(&(*values)[1], &counters.moved)}) {
    if (!value->is_nil() && !absl::SimpleAtoi(value->text, to)) {
      return MakeStoreError(StoreError::kCorruptIndex,
                            Cat(keys_.Counters(tenant), " holds what is no count"));
    }
  }
  return counters;
}

// A count is wrong for certain when it is further from what the walk found than everything that
// moved meanwhile; then that far it is set right. In a quiet moment that is to the byte.
absl::Status StoreImpl::CorrectCounters(Garbage& garbage) {
  for (auto& [tenant, counted] : garbage.counted) {
    const Deadline deadline = NewDeadline();
    RETURN_IF_ERROR(chunks_.Count(tenant, -counted.dropped, deadline));
    absl::StatusOr<Counters> read = ReadCounters(tenant, deadline);
    if (absl::IsDataLoss(read.status())) {
      RETURN_IF_ERROR(
          client_->Run(Plain({"DEL", keys_.Counters(tenant)}), deadline).reply.status());
      counted.before = {};
      read = Counters{};
    }
    ASSIGN_OR_RETURN(const Counters now, read);
    const int64_t off = counted.bytes - counted.dropped - now.bytes;
    const int64_t moved = now.moved - counted.before.moved - counted.dropped;
    if (std::abs(off) <= moved) continue;
    const Answer answer =
        client_->Run(Eval(kCount, keys_.Counters(tenant), {Cat(off), Cat(now.moved)}), deadline);
    RETURN_IF_ERROR(answer.reply.status());
    ASSIGN_OR_RETURN(const auto* done, answer.reply->Array("count", 1));
    garbage.report.counts_corrected += (*done)[0].integer;
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
                       ListedAfter(tenant, after, kWalkBatch, deadline));
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

absl::Status StoreImpl::DropUnnamedFields(const std::vector<std::string>& keys,
                                          GarbageReport& report) {
  std::vector<Command> commands;
  for (const std::string& key : keys) {
    commands.push_back(Eval(kReadSession, key, {"rev", "r"}));
    commands.push_back(Plain({"HKEYS", key}));
  }
  const Deadline deadline = NewDeadline();
  const std::vector<Answer> answers = client_->Run(commands, deadline);
  for (size_t i = 0; i < keys.size(); ++i) {
    RETURN_IF_ERROR(answers[2 * i].reply.status());
    ASSIGN_OR_RETURN(const auto* values, answers[2 * i].reply->Array("read_session"));
    ASSIGN_OR_RETURN(const std::vector<std::string> fields,
                     Texts(answers[2 * i + 1].reply, "HKEYS"));
    Loaded loaded;
    // What cannot be read names anything.
    if (!ReadFields(keys[i], {"rev", "r"}, *values, loaded).ok() || !loaded.exists) continue;
    std::set<std::string> named;
    for (const SnapshotRow& row : loaded.record.snapshots) named.insert(ManifestField(row.id));
    for (const RequestRow& row : loaded.record.requests) {
      named.insert(RequestField(row.kind, row.request_id));
    }
    // If the session changes meanwhile, its revision does, and nothing is dropped.
    std::vector<std::string> arguments = {loaded.rev};
    for (const std::string& field : fields) {
      const std::string_view kind = std::string_view(field).substr(0, 2);
      if ((kind == "m:" || kind == "q:") && named.count(field) == 0) arguments.push_back(field);
    }
    if (arguments.size() == 1) continue;
    const Answer dropped = client_->Run(Eval(kDropFields, keys[i], std::move(arguments)), deadline);
    RETURN_IF_ERROR(dropped.reply.status());
    ASSIGN_OR_RETURN(const auto* count, dropped.reply->Array("drop_fields", 1));
    report.fields_dropped += (*count)[0].integer;
  }
  return absl::OkStatus();
}

absl::StatusOr<GarbageReport> StoreImpl::CollectGarbage() {
  ReleaseDue(/*all=*/false);
  Garbage garbage{static_cast<uint64_t>(absl::ToInt64Microseconds(options_.pin_grace))};
  ASSIGN_OR_RETURN(const std::vector<std::string> tenants, Tenants(NewDeadline()));
  for (const std::string& tenant : tenants) {
    const absl::StatusOr<Counters> before = ReadCounters(tenant, NewDeadline());
    if (!absl::IsDataLoss(before.status())) RETURN_IF_ERROR(before.status());
    garbage.counted[tenant].before = before.value_or(Counters{});
  }
  // Holds first: with its last user a hold goes, and with it the reason for its pins.
  RETURN_IF_ERROR(Scan(keys_.HoldPattern(), [&](const std::vector<std::string>& keys) {
    return CollectHolds(keys, garbage);
  }));
  RETURN_IF_ERROR(Scan(keys_.ChunkPattern(), [&](const std::vector<std::string>& keys) {
    return CollectPins(keys, garbage);
  }));
  RETURN_IF_ERROR(CorrectCounters(garbage));
  RETURN_IF_ERROR(Scan(keys_.SessionPattern(), [&](const std::vector<std::string>& keys) {
    return DropUnnamedFields(keys, garbage.report);
  }));
  RETURN_IF_ERROR(RepairLists(garbage.report));
  if (options_.store.max_stored_bytes != 0) {
    // As good as a walk over a moving store can be; what it dropped counts until the next one.
    for (const auto& [tenant, sum] : garbage.bytes) {
      RETURN_IF_ERROR(client_->Run(Plain({"SET", keys_.Bytes(tenant), Cat(sum)}), NewDeadline())
                          .reply.status());
    }
  }
  return garbage.report;
}

}  // namespace reprise::state_store::redis
