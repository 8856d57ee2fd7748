// The steps at which tests kill a process that uses a store; see base/fault_point.h. Each is a
// place where what is done so far and what is not differ from every other.
#ifndef REPRISE_STATE_STORE_FAULT_POINTS_H_
#define REPRISE_STATE_STORE_FAULT_POINTS_H_

namespace reprise::state_store {

inline constexpr const char* kRedisFaultPoints[] = {
    // A commit
    "redis.commit.checked",   // its version is right, nothing is written
    "redis.chunks.asked",     // hold and pins are there, or some bytes already
    "redis.connection.sent",  // a part of a pipeline is on its way, maybe half a chunk
    "redis.commit.stored",    // all chunks are there
    "redis.commit.at_once",   // all of it is planned, maybe all bytes are there
    "redis.commit.answered",  // the session has changed and the head before is let go of
    "redis.apply.ready",      // the new record is planned
    "redis.apply.done",       // the session has changed
    "redis.let_go.left",      // the hold of the old head is left, its chunks are pinned still
    "redis.let_go.done",
    // A fork or a creation
    "redis.create.claimed",  // the request id stands for a session that is not there
    "redis.fork.joined",     // uses the pin of its source
    "redis.create.listed",   // is on the tenant's list and not there
    "redis.create.made",     // is there, and its claim is not finished
    // Others
    "redis.delete.erased",  // is gone and on the list still
    "redis.lease.asked", "redis.lease.answered",
    "redis.garbage.hold",  // about to drop users of holds
    "redis.garbage.pin",   // about to drop pins
};

inline constexpr const char* kDiskFaultPoints[] = {
    "disk.chunk.written",        // under its temporary name
    "disk.chunk.renamed",        // in its place, named by nothing
    "disk.commit.stored",        // all chunks are there
    "disk.log.chunks_synced",    // a SYNC commit's chunks are on the device
    "disk.log.appended",         // the record is in the log, maybe not on the device
    "disk.log.synced",           // it is
    "disk.applied",              // the index knows it, nobody has been told
    "disk.flush.chunks_synced",  // and the log not yet
    "disk.compact.log_made",     // two logs, the checkpoint names the old one
    "disk.compact.renamed",      // the checkpoint names the new one
    "disk.compact.synced",       // the old log is there still
    "disk.chunk.removing",       // let go of, and there
    "disk.chunk.removed",
};

}  // namespace reprise::state_store

#endif  // REPRISE_STATE_STORE_FAULT_POINTS_H_
