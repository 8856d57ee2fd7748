// StoreImpl: the tenants' lists, expiry, walks.
#include <algorithm>
#include <set>
#include <utility>

#include "base/status_macros.h"
#include "state_store/internal/cat.h"
#include "state_store/redis/error.h"
#include "state_store/redis/store_commands.h"
#include "state_store/redis/store_impl.h"
#include "state_store/redis/store_scripts.h"

namespace reprise::state_store::redis {
namespace {

constexpr absl::Duration kDamagedRetry = absl::Hours(1);

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
        client_->Run(Plain({"SSCAN", keys_.Tenants(), cursor, "COUNT", Cat(kWalkBatch)}), deadline);
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
                               "BYSCORE", "LIMIT", "0", Cat(kWalkBatch)}),
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
          Mutate(tenant, id, Wanted{}, erase_if_expired, {}, Change{}, deadline).status();
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
        client_->Run(Plain({"HSCAN", key, cursor, "COUNT", Cat(kWalkBatch)}), deadline);
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
      for (size_t begin = 0; begin < keys.size(); begin += kWalkBatch) {
        const size_t end = std::min(keys.size(), begin + kWalkBatch);
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

}  // namespace reprise::state_store::redis
