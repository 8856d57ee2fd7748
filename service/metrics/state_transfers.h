// Copies of states between tiers: a slot on the device, host memory, the store.
#ifndef REPRISE_SERVICE_METRICS_STATE_TRANSFERS_H_
#define REPRISE_SERVICE_METRICS_STATE_TRANSFERS_H_

#include <prometheus/counter.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include "service/metrics/buckets.h"

namespace reprise::service {

// `labels` name the tier that a state is saved from (device) or to (host, store), and is loaded
// to or from, and of the device the model; `direction` is "save" or "load".
inline prometheus::Histogram& StateTransferSeconds(prometheus::Registry& registry,
                                                   prometheus::Labels labels,
                                                   const char* direction) {
  labels.emplace("direction", direction);
  return prometheus::BuildHistogram()
      .Name("reprise_state_transfer_seconds")
      .Help("Time to save or load one state, by tier")
      .Register(registry)
      .Add(labels, buckets::Call());
}

inline prometheus::Counter& StateTransferBytes(prometheus::Registry& registry,
                                               prometheus::Labels labels, const char* direction) {
  labels.emplace("direction", direction);
  return prometheus::BuildCounter()
      .Name("reprise_state_transfer_bytes_total")
      .Help("Bytes of states that were saved or loaded, by tier")
      .Register(registry)
      .Add(labels);
}

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_METRICS_STATE_TRANSFERS_H_
