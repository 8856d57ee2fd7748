// The failures that the service itself finds, as absl::Status with google.rpc details as payloads.
// status_to_grpc.h turns them, and those of the modules below, into what goes over the wire.
#ifndef REPRISE_SERVICE_ERRORS_H_
#define REPRISE_SERVICE_ERRORS_H_

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "reprise/v1/errors.pb.h"

namespace reprise::service {

// Payload URLs begin with this; what follows is the name of the google.rpc message inside.
inline constexpr std::string_view kDetailPrefix = "type.googleapis.com/google.rpc.";

using Metadata = std::vector<std::pair<std::string, std::string>>;

// The canonical code that belongs to `reason`, as errors.proto says it.
absl::StatusCode CodeOf(v1::ErrorReason reason);

// A status with ErrorInfo{reason, metadata}.
absl::Status MakeError(v1::ErrorReason reason, std::string_view message,
                       const Metadata& metadata = {});

// `status` with ResourceInfo{type, name}: which session, snapshot or model it is about.
absl::Status WithResource(absl::Status status, std::string_view type, std::string_view name);

// The reason in `status`: its own, or the one that its module's payload or its code stands for.
v1::ErrorReason ReasonOf(const absl::Status& status);

// Collects what is wrong with a request's fields, so that one answer names everything.
class FieldViolations {
 public:
  // `field` is the path from the request, e.g. "sampling.top_k".
  void Add(std::string_view field, std::string_view description);
  bool empty() const { return violations_.empty(); }
  // OK when empty; otherwise INVALID_FIELD with BadRequest, which keeps the first few.
  absl::Status ToStatus() const;

 private:
  std::vector<std::pair<std::string, std::string>> violations_;
};

// INVALID_FIELD about one field.
absl::Status FieldError(std::string_view field, std::string_view description);

// At most `limit` bytes of `text`, cut before a character rather than inside one.
std::string_view Shortened(std::string_view text, size_t limit);

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_ERRORS_H_
