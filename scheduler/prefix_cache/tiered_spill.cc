#include "scheduler/prefix_cache/tiered_spill.h"

#include <algorithm>
#include <deque>
#include <list>
#include <map>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "base/status_macros.h"
#include "scheduler/prefix_cache/spill_envelope.h"

namespace reprise::scheduler {
namespace {

using Found = PrefixSpill::Found;

// What notes may make one reader do: anybody who can write to the store can write notes.
constexpr size_t kMostTriedLengths = 32;
constexpr int kMostErases = 4096;

Sha256Digest DigestOf(const SpillPath& path, int64_t length) {
  return SpillDigest(path.tenant, path.root, absl::MakeConstSpan(path.tokens).first(length));
}

void AppendTokens(absl::Span<const int32_t> tokens, std::string& out) {
  for (int32_t token : tokens) {
    for (int i = 0; i < 4; ++i) out.push_back(static_cast<char>(token >> (8 * i)));
  }
}

// "length:digest", of a length in first..last; 0 for anything else.
int64_t ParseNote(std::string_view note, int64_t first, int64_t last, std::string* hex) {
  const size_t colon = note.find(':');
  int64_t length = 0;
  if (colon == std::string_view::npos || note.size() - colon != 65 ||
      !absl::SimpleAtoi(absl::string_view(note.data(), colon), &length) || length < first ||
      length > last) {
    return 0;
  }
  *hex = std::string(note.substr(colon + 1));
  return length;
}

}  // namespace

std::vector<int64_t> AnchorLengths(int64_t length) {
  std::vector<int64_t> anchors;
  for (int64_t at = 1, step = 1; at <= length; at += step) {
    anchors.push_back(at);
    if (at >= 16 * step) step *= 2;
  }
  return anchors;
}

std::vector<Sha256Digest> AnchorDigests(const SpillPath& path,
                                        const std::vector<int64_t>& lengths) {
  std::vector<Sha256Digest> digests;
  std::string text =
      absl::StrCat("reprise prefix anchor 1 ", path.tenant.size(), ":", path.tenant, path.root);
  int64_t from = 0;
  for (int64_t length : lengths) {
    AppendTokens(absl::MakeConstSpan(path.tokens).subspan(from, length - from), text);
    digests.push_back(Sha256(text));
    text.assign(digests.back().begin(), digests.back().end());
    from = length;
  }
  return digests;
}

// Shared with the threads: the last reference to a spill may go on one of them.
struct TieredSpill::Core {
  using Key = std::pair<std::string, Sha256Digest>;
  // Least recently used first.
  using Uses = std::list<Key>;
  struct HostEntry {
    StateImage image;
    Uses::iterator use, tenant_use;
  };
  struct HostTenant {
    int64_t bytes = 0;
    Uses uses;
  };
  struct Question {
    SpillPath path;
    int64_t beyond = 0, known = 0;
    absl::Time asked;
    std::function<void(absl::StatusOr<Found>)> done;
  };
  struct Write {
    SpillPath path;
    StateImage image;  // null: erase
  };

  Core(const Clock* clock, const TieredSpillOptions& options,
       std::unique_ptr<state_store::BlobStore> store)
      : clock(clock), options(options), store(std::move(store)) {}

  StateImage FindInHost(const Key& key) {
    absl::MutexLock lock(&mutex);
    const auto found = host.find(key);
    if (found == host.end()) return nullptr;
    uses.splice(uses.end(), uses, found->second.use);
    Uses& own = tenants[key.first].uses;
    own.splice(own.end(), own, found->second.tenant_use);
    ++stats.host_hits;
    return found->second.image;
  }
  void EraseInHost(const Key& key) {
    absl::MutexLock lock(&mutex);
    if (const auto found = host.find(key); found != host.end()) Drop(found);
  }
  void Drop(std::map<Key, HostEntry>::iterator entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    const auto bytes = static_cast<int64_t>(entry->second.image->size());
    const auto tenant = tenants.find(entry->first.first);
    stats.host_bytes -= bytes;
    tenant->second.bytes -= bytes;
    tenant->second.uses.erase(entry->second.tenant_use);
    if (tenant->second.uses.empty()) tenants.erase(tenant);
    uses.erase(entry->second.use);
    host.erase(entry);
  }
  // The least recently used of `from` makes room.
  void Evict(const Uses& from) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    Drop(host.find(from.front()));
    ++stats.host_evictions;
  }
  bool Paused() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) { return clock->Now() < paused_until; }

  // What a call of the store came to; NOT_FOUND and a full store are answers.
  void Note(const absl::Status& status) {
    const bool failed = !status.ok() && !absl::IsNotFound(status) &&
                        !absl::IsResourceExhausted(status) && !absl::IsDataLoss(status);
    {
      absl::MutexLock lock(&mutex);
      if (failed) {
        ++stats.store_failures;
        paused_until = clock->Now() + options.pause;
      }
      if (failed == std::exchange(failing, failed)) return;
    }
    if (options.on_store) options.on_store(failed ? status : absl::OkStatus());
  }

  void Read();
  void WriteAll();
  absl::StatusOr<Found> Answer(const Question& question);
  absl::StatusOr<Found> AskStore(const Question& question);
  absl::StatusOr<StateImage> GetSealed(const SpillPath& path, int64_t length,
                                       const Sha256Digest& digest);
  absl::Status WriteOne(const Write& write);
  void Ask(Question question);
  void Enqueue(Write write);
  void Stop();

  const Clock* const clock;
  const TieredSpillOptions options;
  const std::unique_ptr<state_store::BlobStore> store;

  mutable absl::Mutex mutex;
  std::map<Key, HostEntry> host ABSL_GUARDED_BY(mutex);
  Uses uses ABSL_GUARDED_BY(mutex);
  std::map<std::string, HostTenant> tenants ABSL_GUARDED_BY(mutex);  // those with entries
  std::deque<Question> questions ABSL_GUARDED_BY(mutex);
  std::deque<Write> writes ABSL_GUARDED_BY(mutex);
  bool writing ABSL_GUARDED_BY(mutex) = false;
  bool failing ABSL_GUARDED_BY(mutex) = false;
  bool stop ABSL_GUARDED_BY(mutex) = false;
  absl::Time paused_until ABSL_GUARDED_BY(mutex) = absl::InfinitePast();
  TieredSpillStats stats ABSL_GUARDED_BY(mutex);
};

absl::StatusOr<std::shared_ptr<TieredSpill>> TieredSpill::Create(
    const Clock* clock, const TieredSpillOptions& options,
    std::unique_ptr<state_store::BlobStore> store) {
  if (options.max_host_bytes < 0 || options.max_tenant_host_bytes.value_or(0) < 0 ||
      options.max_queued_bytes < 0 || options.max_waiting < 1) {
    return absl::InvalidArgumentError(
        "prefix spill: max_host_bytes, max_tenant_host_bytes, max_queued_bytes: expected 0 or "
        "more; max_waiting: 1 or more");
  }
  if (options.timeout <= absl::ZeroDuration() || options.pause < absl::ZeroDuration()) {
    return absl::InvalidArgumentError("prefix spill: timeout, pause: out of range");
  }
  return std::shared_ptr<TieredSpill>(
      new TieredSpill(std::make_shared<Core>(clock, options, std::move(store))));
}

TieredSpill::TieredSpill(std::shared_ptr<Core> core) : core_(std::move(core)) {
  if (core_->store == nullptr) return;
  reader_ = std::thread([core = core_] { core->Read(); });
  writer_ = std::thread([core = core_] { core->WriteAll(); });
}

TieredSpill::~TieredSpill() {
  core_->Stop();
  for (std::thread* thread : {&reader_, &writer_}) {
    if (!thread->joinable()) continue;
    if (thread->get_id() == std::this_thread::get_id()) {
      thread->detach();  // it ends by itself, with a share of core_
    } else {
      thread->join();
    }
  }
}

void TieredSpill::Core::Stop() {
  std::deque<Question> left;
  {
    absl::MutexLock lock(&mutex);
    stop = true;
    writes.clear();
    stats.queued_bytes = 0;
    left.swap(questions);
  }
  for (Question& question : left) question.done(absl::CancelledError("shutting down"));
}

bool TieredSpill::shares() const { return core_->store != nullptr; }

void TieredSpill::Put(SpillPath path, StateImage image) {
  const auto bytes = static_cast<int64_t>(image->size());
  const int64_t cap = core_->options.max_host_bytes;
  const int64_t tenant_cap = std::min(cap, core_->options.max_tenant_host_bytes.value_or(cap));
  if (bytes > tenant_cap) return;
  Core::Key key{path.tenant, DigestOf(path, static_cast<int64_t>(path.tokens.size()))};
  absl::MutexLock lock(&core_->mutex);
  if (const auto found = core_->host.find(key); found != core_->host.end()) core_->Drop(found);
  for (auto own = core_->tenants.find(key.first);
       own != core_->tenants.end() && own->second.bytes + bytes > tenant_cap;
       own = core_->tenants.find(key.first)) {
    core_->Evict(own->second.uses);
  }
  while (core_->stats.host_bytes + bytes > cap) core_->Evict(core_->uses);
  Core::HostTenant& tenant = core_->tenants[key.first];
  core_->uses.push_back(key);
  tenant.uses.push_back(key);
  tenant.bytes += bytes;
  core_->stats.host_bytes += bytes;
  core_->host[std::move(key)] = {std::move(image), std::prev(core_->uses.end()),
                                 std::prev(tenant.uses.end())};
}

void TieredSpill::Get(SpillPath path, std::function<void(absl::StatusOr<StateImage>)> done) {
  const auto length = static_cast<int64_t>(path.tokens.size());
  if (StateImage image = core_->FindInHost({path.tenant, DigestOf(path, length)})) {
    done(std::move(image));
    return;
  }
  core_->Ask({std::move(path),
              length - 1,
              length,
              {},
              [done = std::move(done)](absl::StatusOr<Found> found) {
                if (found.ok()) {
                  done(std::move(found->image));
                } else {
                  done(found.status());
                }
              }});
}

void TieredSpill::Erase(SpillPath path) {
  core_->EraseInHost({path.tenant, DigestOf(path, static_cast<int64_t>(path.tokens.size()))});
  core_->Enqueue({std::move(path), nullptr});
}

void TieredSpill::Share(SpillPath path, StateImage image) {
  core_->Enqueue({std::move(path), std::move(image)});
}

void TieredSpill::Find(SpillPath path, int64_t beyond, int64_t known,
                       std::function<void(absl::StatusOr<Found>)> done) {
  core_->Ask({std::move(path), beyond, known, {}, std::move(done)});
}

TieredSpillStats TieredSpill::stats() const {
  TieredSpillStats stats;
  {
    absl::MutexLock lock(&core_->mutex);
    stats = core_->stats;
    stats.host_entries = static_cast<int64_t>(core_->host.size());
  }
  if (core_->store != nullptr) stats.store = core_->store->stats();
  return stats;
}

void TieredSpill::Flush() {
  absl::MutexLock lock(&core_->mutex);
  Core* const core = core_.get();
  const auto idle = [core]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(core->mutex) {
    return core->stop || (core->writes.empty() && !core->writing);
  };
  if (core->store != nullptr) core->mutex.Await(absl::Condition(&idle));
}

void TieredSpill::Core::Enqueue(Write write) {
  if (store == nullptr) return;
  const int64_t bytes = write.image == nullptr ? 0 : static_cast<int64_t>(write.image->size());
  absl::MutexLock lock(&mutex);
  const bool full = bytes > 0 ? Paused() || stats.queued_bytes + bytes > options.max_queued_bytes
                              : writes.size() >= kMostErases;
  if (stop || full) {
    ++stats.share_drops;
    return;
  }
  stats.queued_bytes += bytes;
  writes.push_back(std::move(write));
}

void TieredSpill::Core::WriteAll() {
  while (true) {
    Write write;
    {
      absl::MutexLock lock(&mutex);
      const auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
        return stop || !writes.empty();
      };
      mutex.Await(absl::Condition(&ready));
      if (stop) return;
      write = std::move(writes.front());
      writes.pop_front();
      writing = true;
      // What waits while the store is left alone is dropped, but for what must go from there.
      if (write.image != nullptr && Paused()) {
        ++stats.share_drops;
        stats.queued_bytes -= static_cast<int64_t>(write.image->size());
        writing = false;
        continue;
      }
    }
    const absl::Status written = WriteOne(write);
    Note(written);
    absl::MutexLock lock(&mutex);
    writing = false;
    if (stop || write.image == nullptr) continue;
    stats.queued_bytes -= static_cast<int64_t>(write.image->size());
    ++(written.ok() ? stats.shared : stats.share_drops);
  }
}

absl::Status TieredSpill::Core::WriteOne(const Write& write) {
  const SpillPath& path = write.path;
  const auto length = static_cast<int64_t>(path.tokens.size());
  const Sha256Digest digest = DigestOf(path, length);
  if (write.image == nullptr) return store->Erase(path.tenant, digest);
  RETURN_IF_ERROR(store->Put(path.tenant, digest, SealImage(digest, write.image)));
  // Last, so that whoever finds the note finds the state.
  return store->AddNote(path.tenant, AnchorDigests(path, AnchorLengths(length)).back(),
                        absl::StrCat(length, ":", HexDigest(digest)));
}

void TieredSpill::Core::Ask(Question question) {
  question.asked = clock->Now();
  if (store != nullptr) {
    absl::MutexLock lock(&mutex);
    if (!stop && !Paused() && questions.size() < static_cast<size_t>(options.max_waiting)) {
      questions.push_back(std::move(question));
      return;
    }
  }
  // Only what host memory has.
  question.done(Answer(question));
}

void TieredSpill::Core::Read() {
  while (true) {
    Question question;
    bool late = false;
    {
      absl::MutexLock lock(&mutex);
      const auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
        return stop || !questions.empty();
      };
      mutex.Await(absl::Condition(&ready));
      if (stop) return;
      question = std::move(questions.front());
      questions.pop_front();
      late = Paused() || clock->Now() - question.asked > options.timeout;
    }
    absl::StatusOr<Found> found = absl::UnavailableError("the store is too slow");
    if (!late) {
      found = AskStore(question);
      Note(found.status());
      absl::MutexLock lock(&mutex);
      stats.store_misses += !found.ok();
    }
    if (!found.ok()) {
      if (absl::StatusOr<Found> in_host = Answer(question); in_host.ok()) found = in_host;
    }
    question.done(std::move(found));
    // Before the next wait: it may hold the last reference to the spill.
    question = {};
  }
}

// From host memory, of the one length that is known.
absl::StatusOr<Found> TieredSpill::Core::Answer(const Question& question) {
  if (question.known > 0) {
    const Key key{question.path.tenant, DigestOf(question.path, question.known)};
    if (StateImage image = FindInHost(key)) return Found{question.known, std::move(image)};
  }
  return absl::NotFoundError("no such state");
}

absl::StatusOr<StateImage> TieredSpill::Core::GetSealed(const SpillPath& path, int64_t length,
                                                        const Sha256Digest& digest) {
  ASSIGN_OR_RETURN(const std::string sealed, store->Get(path.tenant, digest));
  absl::StatusOr<StateImage> image = OpenImage(digest, sealed);
  {
    absl::MutexLock lock(&mutex);
    ++(image.ok() ? stats.store_hits : stats.damaged);
  }
  if (image.ok()) return image;
  Enqueue({{path.tenant, path.root, {path.tokens.begin(), path.tokens.begin() + length}}, nullptr});
  return image;
}

absl::StatusOr<Found> TieredSpill::Core::AskStore(const Question& question) {
  const SpillPath& path = question.path;
  const auto longest = static_cast<int64_t>(path.tokens.size());
  // Lengths that others left, with their digests; one that is known here needs no note.
  std::map<int64_t, std::vector<std::string>> lengths;
  if (question.beyond + 1 < longest || question.known != longest) {
    std::vector<int64_t> anchors = AnchorLengths(longest);
    std::vector<Sha256Digest> digests = AnchorDigests(path, anchors);
    // Of the anchors up to `beyond` only the last may have longer ones.
    const auto first = std::upper_bound(anchors.begin(), anchors.end(), question.beyond + 1);
    const auto skipped = std::max<int64_t>(0, first - anchors.begin() - 1);
    digests.erase(digests.begin(), digests.begin() + skipped);
    ASSIGN_OR_RETURN(const auto all, store->Notes(path.tenant, digests));
    for (const std::vector<std::string>& notes : all) {
      for (const std::string& note : notes) {
        std::string hex;
        const int64_t length = ParseNote(note, question.beyond + 1, longest, &hex);
        if (length > 0) lengths[length].push_back(std::move(hex));
      }
    }
  }
  if (question.known > 0) lengths[question.known];
  absl::Status status = absl::NotFoundError("no such state");
  size_t tried = 0;
  for (auto at = lengths.rbegin(); at != lengths.rend() && tried < kMostTriedLengths; ++at) {
    ++tried;
    const auto& [length, hexes] = *at;
    const Sha256Digest digest = DigestOf(path, length);
    if (length == question.known) {
      if (StateImage image = FindInHost({path.tenant, digest})) return Found{length, image};
    } else if (std::find(hexes.begin(), hexes.end(), HexDigest(digest)) == hexes.end()) {
      continue;
    }
    absl::StatusOr<StateImage> image = GetSealed(path, length, digest);
    if (image.ok()) return Found{length, *std::move(image)};
    status = image.status();
    if (!absl::IsNotFound(status) && !absl::IsDataLoss(status)) return status;
  }
  return status;
}

}  // namespace reprise::scheduler
