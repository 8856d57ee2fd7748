#include "scheduler/internal/tenants.h"

#include <algorithm>
#include <limits>

namespace reprise::scheduler {

Tenant* TenantTable::Enter(const std::string& name, double weight) {
  std::unique_ptr<Tenant>& tenant = tenants_[name];
  const bool is_new = tenant == nullptr;
  if (is_new) {
    tenant = std::make_unique<Tenant>();
    tenant->name = name;
  }
  tenant->weight = weight;
  if (tenant->live == 0) {
    if (!is_new) --away_;
    tenant->service = std::max(tenant->service, LeastLiveService());
  }
  ++tenant->live;
  return tenant.get();
}

void TenantTable::Leave(Tenant* tenant) {
  if (--tenant->live > 0) return;
  if (++away_ >= forget_at_) {
    ForgetSettled();
    forget_at_ = std::max(64, 2 * away_);
  }
}

double TenantTable::LeastLiveService() const {
  double least = std::numeric_limits<double>::infinity();
  for (const auto& [name, tenant] : tenants_) {
    if (tenant->live > 0) least = std::min(least, tenant->service);
  }
  return least == std::numeric_limits<double>::infinity() ? 0.0 : least;
}

void TenantTable::ForgetSettled() {
  const double least = LeastLiveService();
  const bool nobody = away_ == static_cast<int>(tenants_.size());
  for (auto entry = tenants_.begin(); entry != tenants_.end();) {
    const Tenant& tenant = *entry->second;
    if (tenant.live == 0 && (nobody || tenant.service <= least)) {
      tenants_.erase(entry++);
      --away_;
    } else {
      ++entry;
    }
  }
}

}  // namespace reprise::scheduler
