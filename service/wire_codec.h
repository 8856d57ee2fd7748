// Messages from and to the bytes that gRPC hands over. The services take requests unparsed, because
// gRPC answers one that does not parse (a string that is not UTF-8, say) with UNIMPLEMENTED.
#ifndef REPRISE_SERVICE_WIRE_CODEC_H_
#define REPRISE_SERVICE_WIRE_CODEC_H_

#include <google/protobuf/descriptor.h>
#include <grpcpp/impl/codegen/proto_utils.h>
#include <grpcpp/support/byte_buffer.h>

#include <utility>

#include "absl/status/status.h"

namespace reprise::service {

// Why `bytes` are no message of that type: INVALID_UTF8 with field and offset, or INVALID_FIELD
// without a field when they are malformed.
absl::Status ExplainUnparsed(grpc::ByteBuffer bytes, const google::protobuf::Descriptor& type);

// Empties `bytes`. Fails as ExplainUnparsed says.
template <typename Message>
absl::Status ParseMessage(grpc::ByteBuffer* bytes, Message* message) {
  grpc::ByteBuffer kept = *bytes;  // shares the memory
  if (grpc::SerializationTraits<Message>::Deserialize(bytes, message).ok()) return absl::OkStatus();
  return ExplainUnparsed(std::move(kept), *Message::descriptor());
}

template <typename Message>
grpc::ByteBuffer SerializeMessage(const Message& message) {
  grpc::ByteBuffer bytes;
  bool own_buffer = false;
  grpc::SerializationTraits<Message>::Serialize(message, &bytes, &own_buffer);
  return bytes;
}

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_WIRE_CODEC_H_
