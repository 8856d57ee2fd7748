// Messages from and to the bytes that gRPC hands over. The services take requests unparsed, because gRPC
// answers one that does not parse (a string that is not UTF-8, say) with UNIMPLEMENTED.
#ifndef REPRISE_SERVICE_WIRE_CODEC_H_
#define REPRISE_SERVICE_WIRE_CODEC_H_

#include <grpcpp/impl/codegen/proto_utils.h>
#include <grpcpp/support/byte_buffer.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "service/errors.h"

namespace reprise::service {

// Empties `bytes`. INVALID_FIELD without a field: the parser does not say which.
template <typename Message>
absl::Status ParseMessage(grpc::ByteBuffer* bytes, Message* message) {
  if (grpc::SerializationTraits<Message>::Deserialize(bytes, message).ok()) return absl::OkStatus();
  return MakeError(v1::ERROR_REASON_INVALID_FIELD,
                   absl::StrCat("not a ", Message::descriptor()->name(),
                                ": malformed, or a string is not UTF-8"));
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
