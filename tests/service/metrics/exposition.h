// Reads the text that Prometheus reads.
#ifndef REPRISE_TESTS_SERVICE_METRICS_EXPOSITION_H_
#define REPRISE_TESTS_SERVICE_METRICS_EXPOSITION_H_

#include <algorithm>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace reprise::service::testing {

// Values by `name{label="value",...}`, labels sorted by name; without braces where there are none.
// Label values must not have commas.
inline std::map<std::string, double> ReadSamples(const std::string& text) {
  std::map<std::string, double> samples;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.empty() || line.front() == '#') continue;
    const size_t space = line.rfind(' ');
    std::string name = line.substr(0, space);
    if (const size_t brace = name.find('{'); brace != name.npos) {
      std::vector<std::string> labels =
          absl::StrSplit(name.substr(brace + 1, name.size() - brace - 2), ',');
      std::sort(labels.begin(), labels.end());
      name = absl::StrCat(name.substr(0, brace), "{", absl::StrJoin(labels, ","), "}");
    }
    samples[name] = std::stod(line.substr(space + 1));
  }
  return samples;
}

}  // namespace reprise::service::testing

#endif  // REPRISE_TESTS_SERVICE_METRICS_EXPOSITION_H_
