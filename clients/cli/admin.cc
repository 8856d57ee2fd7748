// reprise admin: usage, verify, gc, migrate. On stores, not on a server.
#include <atomic>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "clients/cli/admin_store.h"
#include "clients/cli/commands.h"
#include "clients/cli/interrupt.h"
#include "clients/cli/table.h"
#include "state_store/leases.h"
#include "state_store/store_error.h"
#include "state_store/tiers/lease_keeper.h"

namespace reprise::cli {
namespace {

using state_store::CopyOutcome;
using state_store::SessionCopy;
using state_store::SnapshotInfo;

// Of the source's sessions while they move; renewed, so that one that was killed blocks nobody for
// longer.
constexpr absl::Duration kMoveLease = absl::Seconds(10);
// How long a session is waited for that somebody else has, as a run that was killed just before.
constexpr absl::Duration kLeasePatience = absl::Seconds(15);

struct AdminFlags {
  std::string store;
  std::string target;
  std::string tenant;
  std::string session;
  std::string ca_file;
  bool move = false;
};

// Goes on between two sessions, not in the middle of one.
class Interruptible {
 public:
  absl::Status Check() const {
    return interrupted_ ? Interrupted("interrupted; what is done stays done") : absl::OkStatus();
  }

 private:
  std::atomic<bool> interrupted_ = false;
  OnInterrupt handler_{[this] { interrupted_ = true; }};
};

absl::StatusOr<std::vector<std::string>> TenantsOf(const AdminStore& store,
                                                   const AdminFlags& flags) {
  if (!flags.tenant.empty()) return std::vector<std::string>{flags.tenant};
  if (!flags.session.empty()) return UsageError("--session needs --tenant");
  auto tenants = store.admin->ListTenants();
  if (!tenants.ok()) return FromStore(tenants.status());
  return tenants;
}

absl::StatusOr<std::vector<std::string>> SessionsOf(const AdminStore& store,
                                                    const AdminFlags& flags,
                                                    const std::string& tenant) {
  if (!flags.session.empty()) return std::vector<std::string>{flags.session};
  auto ids = store.admin->ListSessionIds(tenant);
  if (!ids.ok()) return FromStore(ids.status());
  return ids;
}

std::string Count(uint64_t n) { return std::to_string(n); }

absl::Status RunUsage(Env& env, const AdminFlags& flags) {
  ASSIGN_OR_RETURN(const AdminStore store,
                   OpenAdminStore(flags.store, flags.ca_file, env.options.timeout_seconds));
  ASSIGN_OR_RETURN(const std::vector<std::string> tenants, TenantsOf(store, flags));
  Table table({"TENANT", "SESSIONS", "SNAPSHOTS", "CHUNKS", "LOGICAL", "STORED"});
  const Interruptible interrupt;
  for (const std::string& tenant : tenants) {
    RETURN_IF_ERROR(interrupt.Check());
    const absl::StatusOr<state_store::StoreStats> stats = store.store->Stats(tenant);
    if (!stats.ok()) return FromStore(stats.status());
    if (env.options.json) {
      env.PrintJson({{"tenant", tenant},
                     {"sessions", stats->sessions},
                     {"snapshots", stats->snapshots},
                     {"chunks", stats->chunks},
                     {"logical_bytes", stats->logical_bytes},
                     {"stored_bytes", stats->stored_bytes}});
    } else {
      table.Add({tenant, Count(stats->sessions), Count(stats->snapshots), Count(stats->chunks),
                 Bytes(static_cast<int64_t>(stats->logical_bytes)),
                 Bytes(static_cast<int64_t>(stats->stored_bytes))});
    }
  }
  if (!env.options.json) env.Print(table.ToString());
  return absl::OkStatus();
}

struct Verified {
  uint64_t sessions = 0, snapshots = 0, bytes = 0, problems = 0;
};

// Every chunk of every snapshot that the session sees; `seen` are those read before.
absl::Status VerifySession(const AdminStore& store, const std::string& tenant,
                           const std::string& id, std::set<std::string>& seen, Verified& sum) {
  ASSIGN_OR_RETURN(const SessionCopy session,
                   state_store::DescribeSession(*store.store, tenant, id));
  ++sum.sessions;
  for (const SnapshotInfo& info : session.snapshots) {
    const std::string& snapshot_id = info.manifest.snapshot_id;
    if (seen.count(snapshot_id) != 0) continue;
    RETURN_IF_ERROR(store.store->ReadSnapshot(tenant, id, snapshot_id).status());
    seen.insert(snapshot_id);
    ++sum.snapshots;
    sum.bytes += info.manifest.LogicalBytes();
  }
  return absl::OkStatus();
}

absl::Status RunVerify(Env& env, const AdminFlags& flags) {
  ASSIGN_OR_RETURN(const AdminStore store,
                   OpenAdminStore(flags.store, flags.ca_file, env.options.timeout_seconds));
  ASSIGN_OR_RETURN(const std::vector<std::string> tenants, TenantsOf(store, flags));
  Table table({"TENANT", "SESSIONS", "SNAPSHOTS", "BYTES", "PROBLEMS"});
  const Interruptible interrupt;
  uint64_t problems = 0;
  for (const std::string& tenant : tenants) {
    Verified sum;
    std::set<std::string> seen;
    ASSIGN_OR_RETURN(const std::vector<std::string> ids, SessionsOf(store, flags, tenant));
    for (const std::string& id : ids) {
      RETURN_IF_ERROR(interrupt.Check());
      const absl::Status status = VerifySession(store, tenant, id, seen, sum);
      if (status.ok()) continue;
      // Deleted or expired since it was listed.
      if (absl::IsNotFound(status) && flags.session.empty()) continue;
      if (!absl::IsDataLoss(status)) return FromStore(status);
      ++sum.problems;
      const std::string problem(status.message());
      if (env.options.json) {
        env.PrintJson({{"tenant", tenant}, {"session", id}, {"problem", problem}});
      } else {
        env.Print(absl::StrCat(tenant, " ", id, ": ", problem, "\n"));
      }
    }
    problems += sum.problems;
    if (env.options.json) {
      env.PrintJson({{"tenant", tenant},
                     {"sessions", sum.sessions},
                     {"snapshots", sum.snapshots},
                     {"bytes", sum.bytes},
                     {"problems", sum.problems}});
    } else {
      table.Add({tenant, Count(sum.sessions), Count(sum.snapshots),
                 Bytes(static_cast<int64_t>(sum.bytes)), Count(sum.problems)});
    }
  }
  if (!env.options.json) env.Print(table.ToString());
  if (problems == 0) return absl::OkStatus();
  return FromStore(absl::DataLossError(
      absl::StrCat(problems, problems == 1 ? " session is" : " sessions are", " damaged")));
}

absl::Status RunGc(Env& env, const AdminFlags& flags) {
  ASSIGN_OR_RETURN(const AdminStore store,
                   OpenAdminStore(flags.store, flags.ca_file, env.options.timeout_seconds));
  const absl::StatusOr<int64_t> expired = store.store->SweepExpired(absl::Now());
  if (!expired.ok()) return FromStore(expired.status());
  std::vector<std::pair<std::string, int64_t>> found = {{"expired_sessions", *expired}};
  if (store.redis != nullptr) {
    const auto report = store.redis->CollectGarbage();
    if (!report.ok()) return FromStore(report.status());
    found.emplace_back("dropped_holds", report->holds_dropped);
    found.emplace_back("dropped_pins", report->pins_dropped);
    found.emplace_back("dropped_fields", report->fields_dropped);
    found.emplace_back("repaired_lists", report->index_repairs);
    found.emplace_back("chunks", report->chunks_seen);
  } else {
    found.emplace_back("orphan_chunks", store.recovery.orphan_chunks);
    found.emplace_back("temporary_files", store.recovery.temporary_files);
    found.emplace_back("torn_bytes", store.recovery.cut_bytes);
    for (const std::string& note : store.recovery.notes) env.Note(note);
  }
  Json json;
  std::vector<std::pair<std::string, std::string>> lines;
  for (const auto& [name, count] : found) {
    json[name] = count;
    lines.emplace_back(name, std::to_string(count));
  }
  if (env.options.json) {
    env.PrintJson(json);
  } else {
    env.Print(KeyValues(lines));
  }
  return absl::OkStatus();
}

absl::StatusOr<state_store::LeaseRef> AcquireSoon(state_store::LeaseKeeper& leases,
                                                  const std::string& tenant,
                                                  const std::string& id) {
  const absl::Time patience = absl::Now() + kLeasePatience;
  for (;;) {
    auto acquired = leases.Acquire(tenant, id);
    if (state_store::GetStoreError(acquired.status()) != state_store::StoreError::kSessionLeased ||
        absl::Now() > patience) {
      return acquired;
    }
    absl::SleepFor(absl::Milliseconds(100));
  }
}

// With `move` the source's session is deleted once its copy is whole; `leases` are the source's,
// null where there are none.
absl::StatusOr<const char*> MigrateSession(const AdminStore& from, const AdminStore& to,
                                           state_store::LeaseKeeper* leases,
                                           const std::string& tenant, const std::string& id,
                                           bool move) {
  if (!move) {
    ASSIGN_OR_RETURN(const CopyOutcome outcome,
                     state_store::CopySession(*from.store, *to.store, tenant, id));
    return outcome == CopyOutcome::kCopied ? "copied" : "there already";
  }
  // With a lease nobody commits to it meanwhile. A directory is ours alone anyway.
  state_store::LeaseRef lease;
  if (leases != nullptr) {
    auto acquired = AcquireSoon(*leases, tenant, id);
    // Moved by a run that was broken off before it could say so.
    if (absl::IsNotFound(acquired.status()) && to.store->GetSession(tenant, id).ok()) {
      return "moved already";
    }
    RETURN_IF_ERROR(acquired.status());
    lease = *std::move(acquired);
  } else if (absl::IsNotFound(from.store->GetSession(tenant, id).status()) &&
             to.store->GetSession(tenant, id).ok()) {
    return "moved already";
  }
  const absl::Status moved = [&]() -> absl::Status {
    RETURN_IF_ERROR(state_store::CopySession(*from.store, *to.store, tenant, id).status());
    // Labels may change under a lease.
    ASSIGN_OR_RETURN(const state_store::Session source, from.store->GetSession(tenant, id));
    ASSIGN_OR_RETURN(const state_store::Session copy, to.store->GetSession(tenant, id));
    if (!(source == copy)) {
      return state_store::MakeStoreError(state_store::StoreError::kVersionMismatch,
                                         "it was changed while it was copied");
    }
    if (lease && !lease.Runs()) {
      return state_store::MakeStoreError(state_store::StoreError::kLeaseLost,
                                         "it could not be kept from others; it stays here too");
    }
    return from.store->DeleteSession(tenant, id);
  }();
  if (lease) lease.Release();
  RETURN_IF_ERROR(moved);
  return "moved";
}

absl::Status RunMigrate(Env& env, const AdminFlags& flags) {
  if (flags.store == flags.target) return UsageError("source and target are the same store");
  ASSIGN_OR_RETURN(const AdminStore from,
                   OpenAdminStore(flags.store, flags.ca_file, env.options.timeout_seconds));
  ASSIGN_OR_RETURN(const AdminStore to,
                   OpenAdminStore(flags.target, flags.ca_file, env.options.timeout_seconds));
  ASSIGN_OR_RETURN(const std::vector<std::string> tenants, TenantsOf(from, flags));
  std::unique_ptr<state_store::LeaseKeeper> keeper;
  auto* const lease_table = dynamic_cast<state_store::LeaseTable*>(from.store.get());
  if (flags.move && lease_table != nullptr) {
    keeper = std::make_unique<state_store::LeaseKeeper>(
        lease_table, absl::StrCat("reprise admin, ", state_store::MakeLeaseOwner()), kMoveLease);
  }
  Table table({"TENANT", "SESSION", "RESULT"});
  const Interruptible interrupt;
  absl::Status failure = absl::OkStatus();
  const auto finish = [&](const absl::Status& status) {
    if (!env.options.json) env.Print(table.ToString());
    return status;
  };
  for (const std::string& tenant : tenants) {
    ASSIGN_OR_RETURN(const std::vector<std::string> ids, SessionsOf(from, flags, tenant));
    for (const std::string& id : ids) {
      if (!interrupt.Check().ok()) return finish(interrupt.Check());
      const absl::StatusOr<const char*> done =
          MigrateSession(from, to, keeper.get(), tenant, id, flags.move);
      // Deleted or expired since it was listed.
      if (absl::IsNotFound(done.status()) && flags.session.empty()) continue;
      const std::string result = done.ok() ? *done : std::string(done.status().message());
      if (env.options.json) {
        Json line = {{"tenant", tenant}, {"session", id}};
        line[done.ok() ? "result" : "problem"] = result;
        env.PrintJson(line);
      } else {
        table.Add({tenant, id, done.ok() ? result : absl::StrCat("FAILED: ", result)});
      }
      if (!done.ok()) failure.Update(FromStore(done.status()));
      // Without a store nothing more can be done.
      if (absl::IsUnavailable(done.status()) || absl::IsDeadlineExceeded(done.status())) {
        return finish(failure);
      }
    }
  }
  return finish(failure);
}

using Run = absl::Status (*)(Env&, const AdminFlags&);

CLI::App* AddOne(CLI::App& group, Env& env, const std::shared_ptr<AdminFlags>& flags,
                 const char* name, const char* description, Run run) {
  CLI::App* command = group.add_subcommand(name, description);
  command->add_option("store", flags->store, "disk:PATH or an address of Redis")
      ->required()
      ->envname("REPRISE_STORE");
  command->add_option("--ca-file", flags->ca_file, "Authorities for rediss://, PEM");
  command->callback(
      [flags, run, &env] { env.run = [flags, run, &env] { return run(env, *flags); }; });
  return command;
}

}  // namespace

void AddAdminCommand(CLI::App& app, Env& env) {
  CLI::App* group = app.add_subcommand("admin", "Upkeep of stores, without a server");
  group->require_subcommand(1);
  group->fallthrough();
  const auto flags = std::make_shared<AdminFlags>();
  CLI::App* usage = AddOne(*group, env, flags, "usage", "What each tenant has stored", RunUsage);
  CLI::App* verify = AddOne(*group, env, flags, "verify", "Read and check every chunk", RunVerify);
  AddOne(*group, env, flags, "gc", "Remove what expired, and what crashes left", RunGc);
  CLI::App* migrate =
      AddOne(*group, env, flags, "migrate", "Copy or move sessions to another store", RunMigrate);
  migrate->add_option("target", flags->target, "The other store")->required();
  migrate->add_flag("--move", flags->move, "Delete each session here once it is whole there");
  for (CLI::App* command : {usage, verify, migrate}) {
    command->add_option("--tenant", flags->tenant, "One tenant only");
  }
  for (CLI::App* command : {verify, migrate}) {
    command->add_option("--session", flags->session, "One session only; with --tenant");
  }
}

}  // namespace reprise::cli
