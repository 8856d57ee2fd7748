#include "state_store/redis/record.h"

#include <algorithm>
#include <variant>

#include "base/hash.h"
#include "base/status_macros.h"
#include "state_store/internal/cat.h"
#include "state_store/internal/wire.h"

namespace reprise::state_store::redis {
namespace {

// Version 1 had no users of pins.
constexpr uint8_t kRecordVersion = 2;
constexpr size_t kHexIdBytes = 32;
constexpr size_t kMaxRows = 1 << 16;
constexpr size_t kMaxRequestIdBytes = 256;
constexpr size_t kMaxSessionBytes = 4 << 20;

uint64_t SealChecksum(std::string_view key, std::string_view field, std::string_view value) {
  WireWriter writer;
  writer.String(key);
  writer.String(field);
  writer.U64(Checksum64(value));
  return Checksum64(writer.out());
}

absl::Status Corrupt(std::string_view problem) {
  return MakeStoreError(StoreError::kCorruptIndex, Cat("session record: ", problem));
}

// The one op of a mutation, if it is a T.
template <typename T>
absl::StatusOr<T> DecodeOp(std::string_view bytes) {
  ASSIGN_OR_RETURN(Mutation mutation, DecodeMutation(bytes));
  if (mutation.ops.size() != 1 || !std::holds_alternative<T>(mutation.ops[0])) {
    return Corrupt("holds something else");
  }
  return std::get<T>(std::move(mutation.ops[0]));
}

std::string TimeText(absl::Time time) {
  return time == absl::InfiniteFuture() ? "never" : Cat(absl::ToUnixMicros(time));
}

}  // namespace

const SnapshotRow* SessionRecord::FindSnapshot(std::string_view id) const {
  for (const SnapshotRow& row : snapshots) {
    if (row.id == id) return &row;
  }
  return nullptr;
}

std::string Seal(std::string_view key, std::string_view field, std::string_view value) {
  WireWriter writer;
  writer.U64(SealChecksum(key, field, value));
  writer.Bytes(value);
  return writer.Take();
}

absl::StatusOr<std::string_view> Unseal(std::string_view key, std::string_view field,
                                        std::string_view sealed, StoreError error) {
  WireReader reader(sealed, error, field);
  const uint64_t checksum = reader.U64("checksum");
  RETURN_IF_ERROR(reader.status());
  sealed.remove_prefix(reader.offset());
  if (checksum != SealChecksum(key, field, sealed)) {
    return MakeStoreError(error, Cat("field ", field, " of ", key, " does not match its checksum"));
  }
  return sealed;
}

std::string ManifestField(std::string_view snapshot_id) { return Cat("m:", snapshot_id); }

std::string RequestField(RequestKind kind, std::string_view request_id) {
  return Cat("q:", int{static_cast<uint8_t>(kind)}, ":", request_id);
}

absl::StatusOr<std::string> EncodeSession(const Session& session) {
  return EncodeMutation({{PutSession{session, false}}});
}

absl::StatusOr<Session> DecodeSession(std::string_view bytes) {
  ASSIGN_OR_RETURN(PutSession op, DecodeOp<PutSession>(bytes));
  return std::move(op.session);
}

absl::StatusOr<std::string> EncodeRequest(std::string_view tenant, const RequestRecord& record) {
  return EncodeMutation({{PutRequest{std::string(tenant), record}}});
}

absl::StatusOr<RequestRecord> DecodeRequest(std::string_view bytes) {
  ASSIGN_OR_RETURN(PutRequest op, DecodeOp<PutRequest>(bytes));
  return std::move(op.record);
}

absl::StatusOr<std::string> EncodeRecord(const SessionRecord& record) {
  ASSIGN_OR_RETURN(const std::string session,
                   EncodeMutation({{PutSession{record.session, record.holds_origin}}}));
  WireWriter writer;
  writer.U8(kRecordVersion);
  writer.String(session);
  writer.String(record.uid);
  writer.U64(record.next_order);
  writer.U32(static_cast<uint32_t>(record.snapshots.size()));
  for (const SnapshotRow& row : record.snapshots) {
    writer.U64(row.order);
    writer.String(row.id);
    writer.U8(row.retained ? 1 : 0);
    writer.String(row.use.pin);
    writer.String(row.use.user);
  }
  writer.U32(static_cast<uint32_t>(record.requests.size()));
  for (const RequestRow& row : record.requests) {
    writer.U8(static_cast<uint8_t>(row.kind));
    writer.U64(row.order);
    writer.String(row.request_id);
  }
  return writer.Take();
}

absl::StatusOr<SessionRecord> DecodeRecord(std::string_view bytes) {
  WireReader reader(bytes, StoreError::kCorruptIndex, "session record");
  const uint8_t version = reader.U8("version");
  if (reader.ok() && (version < 1 || version > kRecordVersion)) {
    return MakeStoreError(StoreError::kUnsupportedVersion,
                          Cat("session record of version ", int{version}));
  }
  const std::string_view session = reader.String(kMaxSessionBytes, "session");
  SessionRecord record;
  record.uid = reader.String(kHexIdBytes, "uid");
  record.next_order = reader.U64("next order");
  const uint32_t snapshots = reader.Count(kMaxRows, 17, "snapshots");
  for (uint32_t i = 0; i < snapshots && reader.ok(); ++i) {
    SnapshotRow& row = record.snapshots.emplace_back();
    row.order = reader.U64("order");
    row.id = reader.String(kMaxIdBytes, "snapshot id");
    row.retained = reader.U8("retained") != 0;
    row.use.pin = reader.String(kHexIdBytes, "pin");
    if (version >= 2) row.use.user = reader.String(kHexIdBytes, "user of the pin");
  }
  const uint32_t requests = reader.Count(kMaxRows, 13, "requests");
  for (uint32_t i = 0; i < requests && reader.ok(); ++i) {
    RequestRow& row = record.requests.emplace_back();
    row.kind = static_cast<RequestKind>(reader.U8("kind"));
    row.order = reader.U64("order");
    row.request_id = reader.String(kMaxRequestIdBytes, "request id");
  }
  reader.End();
  RETURN_IF_ERROR(reader.status());
  ASSIGN_OR_RETURN(PutSession op, DecodeOp<PutSession>(session));
  record.session = std::move(op.session);
  record.holds_origin = op.holds_origin;
  return record;
}

absl::Status AddToIndex(const SessionRecord& record, const Manifests& manifests,
                        const Requests& requests, SessionIndex& index) {
  const Session& session = record.session;
  Mutation mutation;
  // Each session counts for itself, but an index tells snapshots apart by their order.
  const uint64_t base = index.last_order();
  for (const SnapshotRow& row : record.snapshots) {
    // A fork and its source share snapshots.
    if (index.FindSnapshot(session.tenant, row.id) != nullptr) continue;
    std::shared_ptr<const SnapshotManifest> manifest;
    if (const auto it = manifests.find(row.id); it != manifests.end()) {
      manifest = it->second;
      if (manifest->tenant != session.tenant) {
        return MakeStoreError(StoreError::kCorruptManifest,
                              Cat("snapshot ", row.id, " is of another tenant"));
      }
    } else {
      auto stub = std::make_shared<SnapshotManifest>();
      stub->tenant = session.tenant;
      stub->snapshot_id = row.id;
      manifest = std::move(stub);
    }
    mutation.ops.push_back(PutSnapshot{base + row.order, std::move(manifest)});
  }
  mutation.ops.push_back(PutSession{session, record.holds_origin});
  for (const SnapshotRow& row : record.snapshots) {
    if (row.retained) mutation.ops.push_back(Retain{session.tenant, session.id, row.id});
  }
  std::vector<RequestRow> rows = record.requests;
  std::sort(rows.begin(), rows.end(),
            [](const RequestRow& a, const RequestRow& b) { return a.order < b.order; });
  for (const RequestRow& row : rows) {
    RequestRecord request;
    if (const auto it = requests.find({row.kind, row.request_id}); it != requests.end()) {
      request = it->second;
    } else {
      request.kind = row.kind;
      request.request_id = row.request_id;
      request.session_id = session.id;
    }
    mutation.ops.push_back(PutRequest{session.tenant, std::move(request)});
  }
  std::vector<ChunkRef> freed;
  return index.Apply(mutation, &freed);
}

absl::StatusOr<FieldChanges> ApplyToRecord(const Mutation& mutation, std::string_view key,
                                           const PinUse& use, SessionRecord& record) {
  FieldChanges changes;
  const auto find = [&](std::string_view id) {
    return std::find_if(record.snapshots.begin(), record.snapshots.end(),
                        [&](const SnapshotRow& row) { return row.id == id; });
  };
  for (const Op& op : mutation.ops) {
    if (const auto* put = std::get_if<PutSession>(&op)) {
      record.session = put->session;
      record.holds_origin = put->holds_origin;
    } else if (const auto* snapshot = std::get_if<PutSnapshot>(&op)) {
      const std::string& id = snapshot->manifest->snapshot_id;
      ASSIGN_OR_RETURN(const std::string bytes, EncodeManifest(*snapshot->manifest));
      record.snapshots.push_back({record.next_order++, id, false, use});
      changes.sets.emplace_back(ManifestField(id), Seal(key, ManifestField(id), bytes));
    } else if (const auto* erase = std::get_if<EraseSnapshot>(&op)) {
      const auto row = find(erase->snapshot_id);
      if (row == record.snapshots.end()) continue;
      changes.deletes.push_back(ManifestField(row->id));
      changes.dropped.push_back(*row);
      record.snapshots.erase(row);
    } else if (const auto* retain = std::get_if<Retain>(&op)) {
      const auto row = find(retain->snapshot_id);
      if (row == record.snapshots.end()) return Corrupt("retains what it has not");
      row->retained = true;
    } else if (const auto* unretain = std::get_if<Unretain>(&op)) {
      const auto row = find(unretain->snapshot_id);
      if (row != record.snapshots.end()) row->retained = false;
    } else if (const auto* request = std::get_if<PutRequest>(&op)) {
      const RequestRecord& r = request->record;
      const std::string field = RequestField(r.kind, r.request_id);
      ASSIGN_OR_RETURN(const std::string bytes, EncodeRequest(request->tenant, r));
      record.requests.push_back({r.kind, record.next_order++, r.request_id});
      changes.sets.emplace_back(field, Seal(key, field, bytes));
    } else if (const auto* forget = std::get_if<EraseRequest>(&op)) {
      std::erase_if(record.requests, [&](const RequestRow& row) {
        return row.kind == forget->kind && row.request_id == forget->request_id;
      });
      changes.deletes.push_back(RequestField(forget->kind, forget->request_id));
    }
  }
  ASSIGN_OR_RETURN(const std::string bytes, EncodeRecord(record));
  const Session& session = record.session;
  changes.sets.emplace_back("r", Seal(key, "r", bytes));
  changes.sets.emplace_back("version", Cat(session.version));
  changes.sets.emplace_back("head", session.head_snapshot_id);
  changes.sets.emplace_back("position", Cat(session.position));
  changes.sets.emplace_back("expires", TimeText(session.expires));
  return changes;
}

}  // namespace reprise::state_store::redis
