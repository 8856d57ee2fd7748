#include "state_store/internal/mutation.h"

#include <utility>

#include "base/status_macros.h"
#include "state_store/internal/cat.h"
#include "state_store/internal/wire.h"

namespace reprise::state_store {
namespace {

// Op numbers on disk. Frozen.
enum : uint8_t {
  kPutSession = 1,
  kEraseSession = 2,
  kPutSnapshot = 3,
  kEraseSnapshot = 4,
  kRetain = 5,
  kUnretain = 6,
  kPutRequest = 7,
  kEraseRequest = 8,
};

constexpr size_t kMaxRequestIdBytes = 256;
constexpr size_t kMaxArgumentBytes = 2 * kMaxIdBytes + 1;
constexpr size_t kMaxOps = UINT32_MAX;  // what is really there bounds it

void WriteSession(const Session& s, WireWriter& w) {
  w.String(s.tenant);
  w.String(s.id);
  w.U64(s.version);
  w.String(s.head_snapshot_id);
  w.U64(s.position);
  w.U64(s.token_count);
  w.String(s.model_id);
  w.Time(s.created);
  w.Time(s.updated);
  w.U64(static_cast<uint64_t>(absl::ToInt64Microseconds(s.ttl)));
  w.Time(s.expires);
  w.Map(s.labels);
  w.String(s.parent_session_id);
  w.String(s.parent_snapshot_id);
}

Session ReadSession(WireReader& r) {
  Session s;
  s.tenant = r.String(kMaxTenantBytes, "session.tenant");
  s.id = r.String(kMaxIdBytes, "session.id");
  s.version = r.U64("session.version");
  s.head_snapshot_id = r.String(kMaxIdBytes, "session.head");
  s.position = r.U64("session.position");
  s.token_count = r.U64("session.token_count");
  s.model_id = r.String(kMaxNameBytes, "session.model_id");
  s.created = r.Time("session.created");
  s.updated = r.Time("session.updated");
  const auto ttl = static_cast<int64_t>(r.U64("session.ttl"));
  s.ttl = ttl == INT64_MAX ? absl::InfiniteDuration() : absl::Microseconds(ttl);
  s.expires = r.Time("session.expires");
  s.labels = r.Map(kMaxLabels, kMaxLabelBytes, kMaxLabelBytes, "session.labels");
  s.parent_session_id = r.String(kMaxIdBytes, "session.parent_session");
  s.parent_snapshot_id = r.String(kMaxIdBytes, "session.parent_snapshot");
  return s;
}

struct OpWriter {
  WireWriter& w;
  absl::Status status;

  void operator()(const PutSession& op) {
    w.U8(kPutSession);
    WriteSession(op.session, w);
    w.U8(op.holds_origin ? 1 : 0);
  }
  void operator()(const EraseSession& op) { Strings(kEraseSession, {op.tenant, op.session_id}); }
  void operator()(const PutSnapshot& op) {
    w.U8(kPutSnapshot);
    w.U64(op.order);
    absl::StatusOr<std::string> manifest = EncodeManifest(*op.manifest);
    if (manifest.ok()) {
      w.String(*manifest);
    } else {
      status = manifest.status();
    }
  }
  void operator()(const EraseSnapshot& op) { Strings(kEraseSnapshot, {op.tenant, op.snapshot_id}); }
  void operator()(const Retain& op) {
    Strings(kRetain, {op.tenant, op.session_id, op.snapshot_id});
  }
  void operator()(const Unretain& op) {
    Strings(kUnretain, {op.tenant, op.session_id, op.snapshot_id});
  }
  void operator()(const PutRequest& op) {
    Strings(kPutRequest, {op.tenant});
    w.U8(static_cast<uint8_t>(op.record.kind));
    w.String(op.record.request_id);
    w.String(op.record.session_id);
    w.U64(op.record.expected_version);
    w.String(op.record.argument);
    w.Time(op.record.time);
    WriteSession(op.record.result, w);
  }
  void operator()(const EraseRequest& op) {
    Strings(kEraseRequest, {op.tenant});
    w.U8(static_cast<uint8_t>(op.kind));
    w.String(op.session_id);
    w.String(op.request_id);
  }

  void Strings(uint8_t number, std::initializer_list<std::string_view> strings) {
    w.U8(number);
    for (const std::string_view s : strings) w.String(s);
  }
};

RequestKind ReadKind(WireReader& r) {
  const uint8_t kind = r.U8("request.kind");
  if (r.ok() && (kind < 1 || kind > 5)) r.Fail("request.kind", Cat("is ", int{kind}));
  return static_cast<RequestKind>(kind);
}

absl::StatusOr<Op> ReadOp(WireReader& r) {
  const uint8_t number = r.U8("op");
  RETURN_IF_ERROR(r.status());
  if (number == kPutSession) {
    PutSession op{ReadSession(r), false};
    const uint8_t holds = r.U8("holds_origin");
    if (holds > 1) r.Fail("holds_origin", "is not a bool");
    op.holds_origin = holds == 1;
    return op;
  }
  if (number == kPutSnapshot) {
    PutSnapshot op;
    op.order = r.U64("snapshot.order");
    const std::string_view bytes = r.String(kMaxManifestBytes, "snapshot.manifest");
    RETURN_IF_ERROR(r.status());
    ASSIGN_OR_RETURN(SnapshotManifest manifest, DecodeManifest(bytes));
    op.manifest = std::make_shared<const SnapshotManifest>(std::move(manifest));
    return op;
  }
  const auto id = [&r](std::string_view field) {
    return std::string(r.String(kMaxIdBytes, field));
  };
  if (number < kPutSession || number > kEraseRequest) {
    r.Fail("op", Cat("is ", int{number}));
    return r.status();
  }
  std::string tenant(r.String(kMaxTenantBytes, "tenant"));
  switch (number) {
    case kEraseSession:
      return EraseSession{std::move(tenant), id("session")};
    case kEraseSnapshot:
      return EraseSnapshot{std::move(tenant), id("snapshot")};
    case kRetain: {
      std::string session = id("session");
      return Retain{std::move(tenant), std::move(session), id("snapshot")};
    }
    case kUnretain: {
      std::string session = id("session");
      return Unretain{std::move(tenant), std::move(session), id("snapshot")};
    }
    case kPutRequest: {
      PutRequest op;
      op.tenant = std::move(tenant);
      op.record.kind = ReadKind(r);
      op.record.request_id = r.String(kMaxRequestIdBytes, "request.id");
      op.record.session_id = id("request.session");
      op.record.expected_version = r.U64("request.expected_version");
      op.record.argument = r.String(kMaxArgumentBytes, "request.argument");
      op.record.time = r.Time("request.time");
      op.record.result = ReadSession(r);
      return op;
    }
    default: {
      const RequestKind kind = ReadKind(r);
      std::string session = id("request.session");
      return EraseRequest{std::move(tenant), kind, std::move(session),
                          std::string(r.String(kMaxRequestIdBytes, "request.id"))};
    }
  }
}

}  // namespace

absl::StatusOr<std::string> EncodeMutation(const Mutation& mutation) {
  WireWriter w;
  w.U32(static_cast<uint32_t>(mutation.ops.size()));
  OpWriter writer{w, absl::OkStatus()};
  for (const Op& op : mutation.ops) std::visit(writer, op);
  RETURN_IF_ERROR(writer.status);
  return w.Take();
}

absl::StatusOr<Mutation> DecodeMutation(std::string_view bytes) {
  WireReader r(bytes, StoreError::kCorruptIndex, "record");
  Mutation mutation;
  const uint32_t count = r.Count(kMaxOps, 1, "ops.count");
  for (uint32_t i = 0; i < count && r.ok(); ++i) {
    ASSIGN_OR_RETURN(Op op, ReadOp(r));
    mutation.ops.push_back(std::move(op));
  }
  r.End();
  RETURN_IF_ERROR(r.status());
  return mutation;
}

}  // namespace reprise::state_store
