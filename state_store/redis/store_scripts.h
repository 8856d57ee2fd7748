// The scripts of the store. Each touches one key, outside clusters some have the tenant's counters
// as one more, and may run twice but for kReserveBytes and kCount: see script.h.
#ifndef REPRISE_STATE_STORE_REDIS_STORE_SCRIPTS_H_
#define REPRISE_STATE_STORE_REDIS_STORE_SCRIPTS_H_

#include "state_store/redis/script.h"

namespace reprise::state_store::redis {

// Session: fields by name, where "@head" is the manifest of the head. Like HMGET.
extern const Script kReadSession;

// Session: compare-and-set of the whole record, the one way that a session changes.
//   ARGV: expected rev ("": absent), new rev ("": delete), mode ("update" or "replace"),
//         oldest pin (microseconds, 0: none), longest age of a pin, fencing token ("": none,
//         "*": a change that leases do not guard),
//         number of fields to delete, those fields, then field and value of each to set
//   -> {"ok", field, value, ...} with the manifests that the session let go of
//   -> {"same"} this very change is there already
//   -> {"conflict", rev}, {"stale"} pins too old, {"leased", owner}, {"fenced"}
extern const Script kApplySession;

// The same behind a check of chunks, which it pins: a whole commit in one go, for servers that hold
// all keys. Session, hold, chunks, the tenant's counters.
//   ARGV: number of chunks, pin, user, session id, the chunks' headers, what kApplySession wants
//   -> as kApplySession, or {"chunks"} if one is missing, damaged or there in another form
extern const Script kCommit;

// Session: a lease, on the server's clock.
//   ARGV: "acquire", owner, length in microseconds -> {token, until} or {"leased", owner, until}
//         "renew", token, length -> {token, until} or {"fenced"}
//         "release", token -> {"released"} or {"fenced"}
//   -> {"absent"} if there is no such session
extern const Script kLease;

// Chunk: a pin, whether or not the bytes are there.
//   ARGV: pin, session id -> {1 if they are there and sound, header or "", stamp}
extern const Script kPinChunk;

// Chunk, and outside clusters counters: after HSETNX of the bytes, which so need not go through a
// script. Says what they are, unless somebody else has.
//   ARGV: pin, session id, header
//   -> {1, header, stamp, bytes added, bytes to count}, or {0, header or ""} if other bytes are
//   there
extern const Script kSealChunk;

// Chunk, counters: bytes with a pin. Bytes that are there and sound stay.
//   ARGV: pin, session id, header, header that may be replaced or "", bytes
//   -> {1, header, stamp, bytes added, bytes to count}, or {0, header} if there are others that
//   must not be replaced
extern const Script kPutChunk;

// Chunk, counters: ARGV: pin, value that it must have or "" -> {bytes freed, bytes to count}
extern const Script kUnpinChunk;

// Session, hold: leaves the hold. ARGV: rev that the session must have, user
//   -> {1 if nobody uses it now}, or {-1} if the session has another revision
extern const Script kLeaveHold;

// Chunk, session, hold, counters: like kUnpinChunk, if the session has that revision and the hold
// is gone.
//   ARGV: pin, rev -> {bytes freed, bytes to count}
//   or {-1}
extern const Script kUnpinLeft;

// Chunk: marks the bytes as bad, so that the next writer brings them again. ARGV: header -> {}
extern const Script kCondemnChunk;

// Chunk: ARGV: most fields to list
//   -> {header, length of the bytes, now, 1 if pins follow (0: they are too many), pin, value, ...}
extern const Script kInspectChunk;

// Hold: who uses a pin; it goes with its last user.
//   ARGV: "take", user, session id: makes it if need be -> {1, stamp}
//         "share", user, session id -> {1, stamp}, or {0, stamp} if there is none
//         "drop", user, value that it must have or "" -> {1 if nobody uses it now, stamp}
extern const Script kHold;

// Session: removes fields, if its revision is still that one. ARGV: rev, fields -> {how many}
extern const Script kDropFields;

// Any hash: compare-and-set of one field. ARGV: field, expected or "", new or ""
//   -> {1, new} or {0, what is there}
extern const Script kCompareAndSetField;

// Counters: bytes to count, for clusters, where the scripts of chunks cannot; and corrections.
//   ARGV: bytes, what "moved" must be or "" -> {1}, or {0} if it is not
extern const Script kCount;

// Counter: ARGV: amount to add, cap -> {1} or {0, count}. Run twice it counts twice: the count is
// of a cap, and CollectGarbage sets it right.
extern const Script kReserveBytes;

}  // namespace reprise::state_store::redis

#endif  // REPRISE_STATE_STORE_REDIS_STORE_SCRIPTS_H_
