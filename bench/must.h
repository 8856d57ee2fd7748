// For benchmarks: one that cannot run has no figures, so it says why and ends.
#ifndef REPRISE_BENCH_MUST_H_
#define REPRISE_BENCH_MUST_H_

#include <cstdio>
#include <cstdlib>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace reprise::bench {

inline void Must(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  std::exit(1);
}

template <typename T>
T Must(absl::StatusOr<T> value) {
  Must(value.status());
  return *std::move(value);
}

}  // namespace reprise::bench

#endif  // REPRISE_BENCH_MUST_H_
