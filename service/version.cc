#include "service/version.h"

#include <google/protobuf/stubs/common.h>
#include <grpcpp/grpcpp.h>

#include "absl/strings/str_cat.h"

namespace reprise::service {

std::string BuildFacts() {
#ifdef __clang__
  constexpr char kCompiler[] = "Clang " __clang_version__;
#else
  constexpr char kCompiler[] = "GCC " __VERSION__;
#endif
  const absl::string_view commit = REPRISE_COMMIT;
  return absl::StrCat(kVersionLine, "\ncommit: ", commit.empty() ? "unknown" : commit,
                      "\nbuild: ", REPRISE_BUILD_TYPE, "\ncompiler: ", kCompiler,
                      "\nCUDA: ", REPRISE_CUDA_VERSION, "\ngRPC: ", grpc::Version(), "\nProtobuf: ",
                      google::protobuf::internal::VersionString(GOOGLE_PROTOBUF_VERSION), "\n");
}

}  // namespace reprise::service
