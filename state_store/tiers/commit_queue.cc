#include "state_store/tiers/commit_queue.h"

#include <algorithm>
#include <random>

#include "absl/time/clock.h"
#include "state_store/internal/cat.h"

namespace reprise::state_store {

bool MayPass(const absl::Status& status) {
  // Whoever leases the session may leave it as it is.
  if (GetStoreError(status) == StoreError::kSessionLeased) return true;
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kInternal:
    // The store's own credentials and rights: its operator's to mend.
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kPermissionDenied:
      return true;
    default:
      return false;
  }
}

CommitQueue::CommitQueue(const CommitQueueOptions& options, Write write, Done done)
    : options_(options), write_(std::move(write)), done_(std::move(done)) {
  for (int i = 0; i < options.threads; ++i) threads_.emplace_back([this] { Loop(); });
}

CommitQueue::~CommitQueue() {
  {
    absl::MutexLock lock(&mu_);
    stop_ = true;
    changed_.SignalAll();
  }
  for (std::thread& thread : threads_) thread.join();
}

std::shared_ptr<CommitQueue::Line> CommitQueue::Find(std::string_view tenant,
                                                     std::string_view session_id) const {
  const auto entry = lines_.find(Key(tenant, session_id));
  return entry == lines_.end() ? nullptr : entry->second;
}

bool CommitQueue::TryAdd(QueuedCommit&& commit) {
  absl::MutexLock lock(&mu_);
  if (stop_ || stats_.commits >= static_cast<uint64_t>(options_.max_commits) ||
      stats_.bytes + commit.bytes > options_.max_bytes) {
    ++stats_.refused;
    return false;
  }
  ++stats_.commits;
  ++stats_.accepted;
  stats_.bytes += commit.bytes;
  std::shared_ptr<Line>& line = lines_[Key(commit.tenant, commit.session_id)];
  if (line == nullptr) {
    line = std::make_shared<Line>();
    ready_.push_back(line);
  }
  line->commits.push_back(std::move(commit));
  changed_.SignalAll();
  return true;
}

std::optional<CommitQueue::Last> CommitQueue::FindLast(std::string_view tenant,
                                                       std::string_view session_id) const {
  absl::MutexLock lock(&mu_);
  const auto line = Find(tenant, session_id);
  if (line == nullptr) return std::nullopt;
  const QueuedCommit& commit = line->commits.back();
  Last last{commit.result, SharedSnapshot(commit.read_back)};
  last.snapshot.manifest = commit.manifest;
  return last;
}

std::optional<CommitRecord> CommitQueue::FindCommit(std::string_view tenant,
                                                    std::string_view session_id,
                                                    std::string_view request_id) const {
  absl::MutexLock lock(&mu_);
  const auto line = Find(tenant, session_id);
  if (line == nullptr || request_id.empty()) return std::nullopt;
  for (const QueuedCommit& commit : line->commits) {
    if (commit.options.request_id == request_id) {
      return CommitRecord{commit.result, commit.expected_version, commit.options.note, true};
    }
  }
  return std::nullopt;
}

bool CommitQueue::Empty(std::string_view tenant, std::string_view session_id) const {
  absl::MutexLock lock(&mu_);
  return Find(tenant, session_id) == nullptr;
}

absl::Status CommitQueue::Wait(std::string_view tenant, std::string_view session_id,
                               absl::Duration patience) {
  const absl::Time give_up = absl::Now() + patience;
  absl::MutexLock lock(&mu_);
  const auto line = Find(tenant, session_id);
  if (line == nullptr) return absl::OkStatus();
  const uint64_t failures = line->failures;
  // A try is due now: whoever waits should not wait for the pause after the last one too.
  line->not_before = absl::InfinitePast();
  changed_.SignalAll();
  for (;;) {
    const auto now = Find(tenant, session_id);
    if (now == nullptr) return absl::OkStatus();
    if (now != line) return absl::OkStatus();  // what waits now came later
    if (now->failures > failures) return now->failure;
    if (changed_.WaitWithDeadline(&mu_, give_up)) {
      if (Find(tenant, session_id) == nullptr) return absl::OkStatus();
      return MakeStoreError(StoreError::kIoError,
                            Cat("commits of session ", session_id, " wait to be written"));
    }
  }
}

absl::Status CommitQueue::Flush(absl::Duration patience) {
  const absl::Time give_up = absl::Now() + patience;
  absl::MutexLock lock(&mu_);
  while (!lines_.empty()) {
    if (!changed_.WaitWithDeadline(&mu_, give_up) || lines_.empty()) continue;
    const absl::Status& why = lines_.begin()->second->failure;
    return MakeStoreError(
        StoreError::kIoError,
        Cat(stats_.commits, " commits of ", lines_.size(), " sessions wait to be written",
            why.ok() ? "" : "; one failed so: ", std::string(why.message())));
  }
  return absl::OkStatus();
}

std::shared_ptr<CommitQueue::Line> CommitQueue::Next(absl::Duration* wait) {
  const absl::Time now = absl::Now();
  *wait = absl::InfiniteDuration();
  for (auto it = ready_.begin(); it != ready_.end(); ++it) {
    if ((*it)->not_before <= now) {
      std::shared_ptr<Line> line = std::move(*it);
      ready_.erase(it);
      return line;
    }
    *wait = std::min(*wait, (*it)->not_before - now);
  }
  return nullptr;
}

void CommitQueue::Leave(Line& line) {
  --stats_.commits;
  stats_.bytes -= line.commits.front().bytes;
  const Key key(line.commits.front().tenant, line.commits.front().session_id);
  line.commits.pop_front();
  if (line.commits.empty()) lines_.erase(key);
}

void CommitQueue::EndAll(const std::shared_ptr<Line>& line, const absl::Status& status) {
  for (;;) {
    // Somebody may still add to it, and shares its fate.
    QueuedCommit* front;
    {
      absl::MutexLock lock(&mu_);
      front = &line->commits.front();
    }
    done_(*front, status);
    LeaseRef lease = std::move(front->lease);
    lease.Release();
    absl::MutexLock lock(&mu_);
    ++stats_.lost;
    const bool last = line->commits.size() == 1;
    Leave(*line);
    changed_.SignalAll();
    if (last) return;
  }
}

void CommitQueue::Loop() {
  std::minstd_rand random(std::random_device{}());
  for (;;) {
    std::shared_ptr<Line> line;
    QueuedCommit* commit = nullptr;
    {
      absl::MutexLock lock(&mu_);
      for (;;) {
        if (stop_) return;
        absl::Duration wait;
        line = Next(&wait);
        if (line != nullptr) break;
        changed_.WaitWithTimeout(&mu_, wait);
      }
      // A deque's elements stay where they are while others are put behind them.
      commit = &line->commits.front();
    }
    const absl::StatusOr<Session> written = write_(*commit);
    if (written.ok()) {
      done_(*commit, written);
      // Before anybody can hear that nothing waits: then the session may be held elsewhere.
      LeaseRef lease = std::move(commit->lease);
      lease.Release();
      absl::MutexLock lock(&mu_);
      line->delay = absl::ZeroDuration();
      ++stats_.written;
      Leave(*line);
      if (!line->commits.empty()) ready_.push_back(line);
      changed_.SignalAll();
      continue;
    }
    if (!MayPass(written.status())) {
      EndAll(line, written.status());
      continue;
    }
    absl::MutexLock lock(&mu_);
    line->failure = written.status();
    ++line->failures;
    ++stats_.retries;
    line->delay = std::clamp(line->delay * 2, options_.min_retry, options_.max_retry);
    const double jitter = std::uniform_real_distribution<>(0.5, 1.0)(random);
    line->not_before = absl::Now() + line->delay * jitter;
    ready_.push_back(line);
    changed_.SignalAll();
  }
}

CommitQueueStats CommitQueue::stats() const {
  absl::MutexLock lock(&mu_);
  return stats_;
}

}  // namespace reprise::state_store
