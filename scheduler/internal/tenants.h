// What the stepping thread knows of each tenant that has requests.
#ifndef REPRISE_SCHEDULER_INTERNAL_TENANTS_H_
#define REPRISE_SCHEDULER_INTERNAL_TENANTS_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/container/flat_hash_map.h"

namespace reprise::scheduler {

struct Tenant {
  std::string name;
  double weight = 1.0;
  // Rows computed, each divided by its weight: virtual time of weighted fair queueing. The tenant
  // with the least is served next.
  double service = 0.0;
  int live = 0;   // requests that have not ended
  int slots = 0;  // of them, with a slot

  double slot_share() const { return slots / weight; }

  // Scratch of one step's plan.
  int plan_index = -1;
};

// Not thread-safe.
class TenantTable {
 public:
  // Counts one more live request. A tenant that was away starts level with the least served of
  // those that are there: being idle saves nothing up. The pointer is valid until the matching
  // Leave.
  Tenant* Enter(const std::string& name, double weight);
  void Leave(Tenant* tenant);
  int size() const { return static_cast<int>(tenants_.size()); }

 private:
  double LeastLiveService() const;
  // What a tenant that left had used beyond others is remembered until they caught up, so that
  // coming and going gains nothing.
  void ForgetSettled();

  absl::flat_hash_map<std::string, std::unique_ptr<Tenant>> tenants_;
  int away_ = 0;
  int forget_at_ = 64;  // away_ at which the table is swept next
};

}  // namespace reprise::scheduler

#endif  // REPRISE_SCHEDULER_INTERNAL_TENANTS_H_
