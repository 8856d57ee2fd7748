// Fits a device description to a real model on this machine.
#ifndef REPRISE_TOOLS_SIMULATE_CALIBRATE_H_
#define REPRISE_TOOLS_SIMULATE_CALIBRATE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "models/hybrid_model.h"
#include "tools/simulate/device_model.h"

namespace reprise::simulate {

// One kind of step, and what it took: the median of several.
struct MeasuredStep {
  std::string name;
  StepShape shape;
  double seconds = 0;
};

struct Calibration {
  DeviceModel device;
  std::vector<MeasuredStep> steps;
  // Of the steps: |predicted / measured - 1|.
  double mean_error = 0, max_error = 0;
};

// Non-negative coefficients that give the least sum of squares of the relative errors, of
//   seconds = c[0] + c[1] * sequences + c[2] * rows + c[3] * logit_rows + c[4] * row_context.
std::vector<double> FitSteps(const std::vector<MeasuredStep>& steps);

// Times steps of many shapes (with greedy draws, as the scheduler does them) and copies of states.
// `repeats` >= 1 of each. The store's figures and the host tier are given, not measured.
absl::StatusOr<Calibration> Calibrate(models::HybridModel* model, const kernels::Context& context,
                                      int repeats);

}  // namespace reprise::simulate

#endif  // REPRISE_TOOLS_SIMULATE_CALIBRATE_H_
