// The one place where an internal status becomes a wire status.
#ifndef REPRISE_SERVICE_STATUS_TO_GRPC_H_
#define REPRISE_SERVICE_STATUS_TO_GRPC_H_

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace reprise::service {

// The same code, a message of bounded length in valid UTF-8, and as details a google.rpc.Status
// with ErrorInfo (always), and BadRequest, ResourceInfo and RetryInfo where they say something.
// Details stay well below the 8 KiB that clients accept as trailing metadata.
grpc::Status ToGrpcStatus(const absl::Status& status);

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_STATUS_TO_GRPC_H_
