// A replica's memory of sessions that it served.
#ifndef REPRISE_TOOLS_SIMULATE_HOST_TIER_H_
#define REPRISE_TOOLS_SIMULATE_HOST_TIER_H_

#include <cstdint>
#include <deque>

namespace reprise::simulate {

// States of one size, at most `capacity` of them, the least recently put evicted first. Takes a
// byte for each put that is not older than the oldest entry, and no map: the session remembers
// where its entry is.
class HostTier {
 public:
  explicit HostTier(int64_t capacity) : capacity_(capacity) {}

  // A new entry; the result names it for Has and Drop.
  uint64_t Put() {
    entries_.push_back(1);
    ++live_;
    while (live_ > capacity_ || (!entries_.empty() && entries_.front() == 0)) {
      live_ -= entries_.front();
      entries_.pop_front();
      ++base_;
    }
    return base_ + entries_.size() - 1;
  }
  bool Has(uint64_t entry) const {
    return entry >= base_ && entry - base_ < entries_.size() && entries_[entry - base_] == 1;
  }
  void Drop(uint64_t entry) {
    if (!Has(entry)) return;
    entries_[entry - base_] = 0;
    --live_;
  }
  // All entries are gone, and no later one has their names.
  void Clear() {
    base_ += entries_.size();
    entries_.clear();
    live_ = 0;
  }
  int64_t size() const { return live_; }

 private:
  const int64_t capacity_;
  std::deque<uint8_t> entries_;  // 1 = there
  uint64_t base_ = 1;            // name of the first; 0 names nothing
  int64_t live_ = 0;
};

}  // namespace reprise::simulate

#endif  // REPRISE_TOOLS_SIMULATE_HOST_TIER_H_
