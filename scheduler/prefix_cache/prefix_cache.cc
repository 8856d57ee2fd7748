#include "scheduler/prefix_cache/prefix_cache.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/hash.h"
#include "scheduler/prefix_cache/tenant_cache.h"

namespace reprise::scheduler {
namespace {

// Expired entries that one call drops on its way.
constexpr int kExpirePerCall = 4;
// Tenants without a byte are forgotten, with their counters, when there are more than this.
constexpr size_t kTenantsRemembered = 4096;

absl::Status Positive(const char* name, bool positive) {
  if (positive) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("prefix cache: ", name, ": expected more than 0"));
}

}  // namespace

struct PrefixCache::Tenant {
  Tenant(std::string name, const PrefixCacheOptions& options)
      : name(std::move(name)), cache(options) {}

  const std::string name;
  mutable absl::Mutex mutex;
  TenantCache cache ABSL_GUARDED_BY(mutex);
  // cache.bytes(), for whoever does not hold the lock.
  std::atomic<int64_t> bytes = 0;
};

// A change to one tenant: its lock; at the end the counts of bytes, and what it gives to the spill.
class PrefixCache::Change {
 public:
  Change(PrefixCache* owner, Tenant& tenant) : owner_(owner), tenant_(tenant) {
    tenant_.mutex.Lock();
    cache_ = &LockedCache();
  }
  ~Change() {
    const int64_t bytes = cache_->bytes();
    owner_->bytes_.fetch_add(bytes - tenant_.bytes.exchange(bytes));
    std::vector<TenantCache::Spilled> spilled = cache_->TakeSpilled();
    tenant_.mutex.Unlock();
    for (TenantCache::Spilled& state : spilled) {
      SpillPath path{tenant_.name, std::move(state.root), std::move(state.tokens)};
      if (state.image == nullptr) {
        owner_->options_.spill->Erase(std::move(path));
      } else if (state.kept_here) {
        owner_->options_.spill->Share(std::move(path), std::move(state.image));
      } else {
        owner_->options_.spill->Put(std::move(path), std::move(state.image));
      }
    }
  }
  Change(const Change&) = delete;
  Change& operator=(const Change&) = delete;
  TenantCache* operator->() const { return cache_; }

 private:
  TenantCache& LockedCache() ABSL_NO_THREAD_SAFETY_ANALYSIS { return tenant_.cache; }

  PrefixCache* const owner_;
  Tenant& tenant_;
  TenantCache* cache_;
};

absl::StatusOr<std::shared_ptr<PrefixCache>> PrefixCache::Create(
    const Clock* clock, const PrefixCacheOptions& options) {
  absl::Status status = Positive("max_bytes", options.max_bytes > 0);
  status.Update(Positive("max_tenant_bytes", options.max_tenant_bytes > 0));
  status.Update(Positive("ttl", options.ttl > absl::ZeroDuration()));
  status.Update(Positive("half_life", options.half_life > absl::ZeroDuration()));
  if (options.guaranteed_tenant_bytes < 0 || options.spill_min_tokens < 0) {
    status.Update(absl::InvalidArgumentError(
        "prefix cache: guaranteed_tenant_bytes, spill_min_tokens: must not be negative"));
  }
  if (!(options.path_share > 0 && options.path_share <= 1)) {
    status.Update(
        absl::InvalidArgumentError("prefix cache: path_share: expected a number in (0, 1]"));
  }
  if (!status.ok()) return status;
  return std::shared_ptr<PrefixCache>(new PrefixCache(clock, options));
}

PrefixCache::~PrefixCache() = default;

std::shared_ptr<PrefixCache::Tenant> PrefixCache::FindTenant(const std::string& tenant) const {
  absl::ReaderMutexLock lock(&tenants_mutex_);
  const auto found = tenants_.find(tenant);
  return found == tenants_.end() ? nullptr : found->second;
}

std::shared_ptr<PrefixCache::Tenant> PrefixCache::FindOrAddTenant(const std::string& tenant) {
  if (std::shared_ptr<Tenant> found = FindTenant(tenant)) return found;
  absl::MutexLock lock(&tenants_mutex_);
  if (tenants_.size() >= kTenantsRemembered) DropIdleTenants();
  std::shared_ptr<Tenant>& entry = tenants_[tenant];
  if (entry == nullptr) entry = std::make_shared<Tenant>(tenant, options_);
  return entry;
}

void PrefixCache::DropIdleTenants() {
  // Nobody else has it: whoever adds to a tenant holds it from before it was looked up here.
  absl::erase_if(tenants_, [](const auto& entry) {
    return entry.second->bytes == 0 && entry.second.use_count() == 1;
  });
}

std::vector<std::shared_ptr<PrefixCache::Tenant>> PrefixCache::Tenants() const {
  absl::ReaderMutexLock lock(&tenants_mutex_);
  std::vector<std::shared_ptr<Tenant>> tenants;
  tenants.reserve(tenants_.size());
  for (const auto& [name, tenant] : tenants_) tenants.push_back(tenant);
  return tenants;
}

int64_t PrefixCache::TenantCap(const std::string& tenant) const {
  const int64_t own =
      options_.tenant_bytes == nullptr ? options_.max_tenant_bytes : options_.tenant_bytes(tenant);
  return std::min(own, options_.max_bytes);
}

PrefixMatch PrefixCache::Lookup(const PrefixScope& scope, absl::Span<const int32_t> tokens,
                                int64_t most) {
  const std::shared_ptr<Tenant> tenant = FindOrAddTenant(scope.tenant);
  PrefixMatch match;
  if (TenantCap(scope.tenant) <= 0) {
    Change change(this, *tenant);
    match.miss = PrefixMiss::kTenant;
    ++change->counters().misses[static_cast<int>(match.miss)];
    return match;
  }
  {
    const absl::Time now = clock_->Now();
    Change change(this, *tenant);
    match = change->Find(scope, tokens, most, now);
    change->Expire(now, kExpirePerCall);
  }
  if (match.known < static_cast<int64_t>(tokens.size())) Grow(*tenant, scope, tokens, nullptr);
  return match;
}

bool PrefixCache::Insert(const PrefixScope& scope, absl::Span<const int32_t> tokens,
                         StateImage image) {
  const std::shared_ptr<Tenant> tenant = FindOrAddTenant(scope.tenant);
  const bool kept =
      image != nullptr && !image->empty() && Grow(*tenant, scope, tokens, std::move(image));
  if (!kept) ++Change(this, *tenant)->counters().refusals;
  return kept;
}

bool PrefixCache::Touch(const PrefixScope& scope, absl::Span<const int32_t> tokens) {
  const std::shared_ptr<Tenant> tenant = FindTenant(scope.tenant);
  return tenant != nullptr && Change(this, *tenant)->TouchEntry(scope, tokens, clock_->Now());
}

int64_t PrefixCache::FindSpilled(const PrefixScope& scope, absl::Span<const int32_t> tokens,
                                 int64_t most) const {
  const std::shared_ptr<Tenant> tenant = FindTenant(scope.tenant);
  if (tenant == nullptr) return 0;
  absl::MutexLock lock(&tenant->mutex);
  return tenant->cache.FindSpilled(scope, tokens, most, clock_->Now());
}

bool PrefixCache::Grow(Tenant& tenant, const PrefixScope& scope, absl::Span<const int32_t> tokens,
                       StateImage image, bool from_spill) {
  if (tokens.empty()) return false;
  const int64_t cap = TenantCap(tenant.name);
  const auto path_cap = static_cast<int64_t>(options_.path_share * static_cast<double>(cap));
  const int64_t image_bytes = image == nullptr ? 0 : static_cast<int64_t>(image->size());
  absl::MutexLock lock(&grow_mutex_);
  // Making room may take away a part of this very path, which makes it dearer: look again.
  for (int i = 0; i < 4; ++i) {
    int64_t cost = 0;
    {
      const absl::Time now = clock_->Now();
      Change change(this, tenant);
      const int64_t path = change->PathCost(scope, tokens);
      if (path > path_cap || path + image_bytes > cap) return false;
      if (!change->MakePathRoom(path, path_cap, now)) return false;
      cost = change->Cost(scope, tokens, image_bytes);
      while (change->bytes() + cost > cap && change->NextVictim().exists) change->Evict(now);
      if (change->bytes() + cost > cap) continue;
      if (change->Cost(scope, tokens, image_bytes) != cost) continue;
      // What others add meanwhile waits for grow_mutex_; what they drop only helps.
      if (bytes_ - tenant.bytes + change->bytes() + cost <= options_.max_bytes) {
        change->Add(scope, tokens, std::move(image), from_spill, now);
        return true;
      }
    }
    if (!MakeTotalRoom(tenant, cost)) return false;
  }
  return false;
}

bool PrefixCache::MakeTotalRoom(Tenant& tenant, int64_t bytes) {
  const std::vector<std::shared_ptr<Tenant>> tenants = Tenants();
  const int64_t active = std::count_if(tenants.begin(), tenants.end(), [&](const auto& other) {
    return other.get() == &tenant || other->bytes > 0;
  });
  const int64_t guaranteed =
      std::min(options_.guaranteed_tenant_bytes, options_.max_bytes / std::max<int64_t>(active, 1));
  const auto may_go = [&](const Tenant& other, int64_t held, const TenantCache::Victim& victim) {
    const bool guarded = victim.bytes <= guaranteed && held - victim.bytes < guaranteed;
    return victim.exists && (&other == &tenant || !guarded);
  };
  const absl::Time now = clock_->Now();
  while (bytes_ + bytes > options_.max_bytes) {
    Tenant* poorest = nullptr;
    double worth = 0;
    for (const std::shared_ptr<Tenant>& other : tenants) {
      if (other->bytes == 0) continue;
      Change change(this, *other);
      const TenantCache::Victim victim = change->NextVictim();
      if (!may_go(*other, change->bytes(), victim)) continue;
      if (poorest == nullptr || victim.worth < worth) {
        poorest = other.get();
        worth = victim.worth;
      }
    }
    if (poorest == nullptr) return false;
    // A lookup may have made another entry the next one meanwhile: ask again.
    Change change(this, *poorest);
    if (may_go(*poorest, change->bytes(), change->NextVictim())) change->Evict(now);
  }
  return true;
}

void PrefixCache::Fetch(const PrefixScope& scope, std::vector<int32_t> tokens, int64_t image_bytes,
                        std::function<void(absl::StatusOr<StateImage>)> done) {
  if (options_.spill == nullptr) {
    done(absl::NotFoundError("the prefix cache spills nowhere"));
    return;
  }
  SpillPath path{scope.tenant, TenantCache::RootName(scope), std::move(tokens)};
  options_.spill->Get(path, [self = shared_from_this(), scope, path, image_bytes,
                             done = std::move(done)](absl::StatusOr<StateImage> image) {
    done(self->TakeFetched(scope, path, path.tokens.size(), image_bytes, std::move(image)));
  });
}

bool PrefixCache::FetchLongest(const PrefixScope& scope, absl::Span<const int32_t> tokens,
                               int64_t most, int64_t image_bytes, std::function<void()> done) {
  if (options_.spill == nullptr || TenantCap(scope.tenant) <= 0) return false;
  int64_t here = 0, spilled = 0;
  if (const std::shared_ptr<Tenant> tenant = FindTenant(scope.tenant)) {
    const absl::Time now = clock_->Now();
    absl::MutexLock lock(&tenant->mutex);
    here = tenant->cache.FindLongest(scope, tokens, most, now);
    spilled = tenant->cache.FindSpilled(scope, tokens, most, now);
  }
  if (!options_.spill->shares() || most - here < options_.spill_min_tokens) {
    if (spilled == 0) return false;
    Fetch(scope, {tokens.begin(), tokens.begin() + spilled}, image_bytes,
          [done = std::move(done)](const absl::StatusOr<StateImage>&) { done(); });
    return true;
  }
  SpillPath path{
      scope.tenant, TenantCache::RootName(scope), {tokens.begin(), tokens.begin() + most}};
  const int64_t beyond = here + std::max<int64_t>(options_.spill_min_tokens, 1) - 1;
  options_.spill->Find(
      path, beyond, spilled,
      [self = shared_from_this(), scope, path, spilled, image_bytes,
       done = std::move(done)](absl::StatusOr<PrefixSpill::Found> found) {
        if (found.ok()) {
          (void)self->TakeFetched(scope, path, found->tokens, image_bytes, std::move(found->image));
        } else {
          (void)self->TakeFetched(scope, path, spilled, image_bytes, found.status());
        }
        done();
      });
  return true;
}

// What the spill said of the first `length` tokens of `path`.
absl::StatusOr<StateImage> PrefixCache::TakeFetched(const PrefixScope& scope, const SpillPath& path,
                                                    int64_t length, int64_t image_bytes,
                                                    absl::StatusOr<StateImage> image) {
  const absl::Span<const int32_t> tokens = absl::MakeConstSpan(path.tokens).first(length);
  if (image.ok() && (*image == nullptr || static_cast<int64_t>((*image)->size()) != image_bytes)) {
    options_.spill->Erase({path.tenant, path.root, {tokens.begin(), tokens.end()}});
    image = absl::DataLossError("the spilled state has not the size of a state");
  }
  const std::shared_ptr<Tenant> tenant = FindOrAddTenant(scope.tenant);
  {
    Change change(this, *tenant);
    if (image.ok()) {
      ++change->counters().spill_hits;
    } else {
      ++change->counters().spill_misses;
      if (length > 0) change->ForgetSpilled(scope, tokens);
    }
  }
  if (image.ok() && !Grow(*tenant, scope, tokens, *image, /*from_spill=*/true)) {
    ++Change(this, *tenant)->counters().refusals;
  }
  return image;
}

void PrefixCache::Erase(const PrefixScope& scope, absl::Span<const int32_t> tokens) {
  if (const std::shared_ptr<Tenant> tenant = FindTenant(scope.tenant)) {
    Change(this, *tenant)->Erase(scope, tokens);
  }
}

void PrefixCache::Clear(const std::string& tenant) {
  if (const std::shared_ptr<Tenant> found = FindTenant(tenant)) Change(this, *found)->Clear();
}

void PrefixCache::Sweep() {
  const absl::Time now = clock_->Now();
  for (const std::shared_ptr<Tenant>& tenant : Tenants()) {
    Change(this, *tenant)->Expire(now, std::numeric_limits<int>::max());
  }
}

PrefixCacheStats PrefixCache::TenantStats(const std::string& tenant) const {
  const std::shared_ptr<Tenant> found = FindTenant(tenant);
  if (found == nullptr) return {};
  absl::MutexLock lock(&found->mutex);
  return found->cache.stats();
}

PrefixCacheStats PrefixCache::TotalStats() const {
  PrefixCacheStats total;
  for (const std::shared_ptr<Tenant>& tenant : Tenants()) {
    absl::MutexLock lock(&tenant->mutex);
    total += tenant->cache.stats();
  }
  return total;
}

absl::Status PrefixCache::CheckIntegrity() const {
  for (const std::shared_ptr<Tenant>& tenant : Tenants()) {
    absl::MutexLock lock(&tenant->mutex);
    if (!tenant->cache.CheckIntegrity()) {
      return absl::InternalError("prefix cache: a tenant's counts or links do not agree");
    }
    const PrefixCacheStats stats = tenant->cache.stats();
    const int64_t cap = TenantCap(tenant->name);
    if (stats.bytes > std::max<int64_t>(cap, 0)) {
      return absl::InternalError(
          absl::StrCat("prefix cache: a tenant has ", stats.bytes, " bytes, its cap is ", cap));
    }
  }
  if (bytes_ > options_.max_bytes) {
    return absl::InternalError(
        absl::StrCat("prefix cache: ", bytes_.load(), " bytes, the cap is ", options_.max_bytes));
  }
  return absl::OkStatus();
}

}  // namespace reprise::scheduler
