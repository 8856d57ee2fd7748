// A call with bytes instead of messages: for requests that no stub would send, and for services
// whose protos are not in the tree.
#ifndef REPRISE_TESTS_SERVICE_TESTING_RAW_CALL_H_
#define REPRISE_TESTS_SERVICE_TESTING_RAW_CALL_H_

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace reprise::service::testing {

struct RawAnswer {
  grpc::Status status;
  std::string bytes;  // of all messages
};

using RawMetadata = std::vector<std::pair<std::string, std::string>>;

// Sends one message and reads to the end.
inline RawAnswer RawCall(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                         const std::string& message, const RawMetadata& metadata = {}) {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  for (const auto& [key, value] : metadata) context.AddMetadata(key, value);
  grpc::CompletionQueue queue;
  auto call = stub.PrepareCall(&context, method, &queue);
  void* tag;
  bool ok;
  const auto wait = [&] { queue.Next(&tag, &ok); };
  call->StartCall(nullptr);
  wait();
  grpc::Slice slice(message);
  call->Write(grpc::ByteBuffer(&slice, 1), nullptr);
  wait();
  call->WritesDone(nullptr);
  wait();
  RawAnswer answer;
  while (true) {
    grpc::ByteBuffer buffer;
    call->Read(&buffer, nullptr);
    wait();
    if (!ok) break;
    std::vector<grpc::Slice> slices;
    buffer.Dump(&slices);
    for (const grpc::Slice& piece : slices) {
      answer.bytes.append(reinterpret_cast<const char*>(piece.begin()), piece.size());
    }
  }
  call->Finish(&answer.status, nullptr);
  wait();
  return answer;
}

}  // namespace reprise::service::testing

#endif  // REPRISE_TESTS_SERVICE_TESTING_RAW_CALL_H_
