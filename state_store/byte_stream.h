// Where exported bytes go and imported ones come from: a file, a gRPC stream, a string.
#ifndef REPRISE_STATE_STORE_BYTE_STREAM_H_
#define REPRISE_STATE_STORE_BYTE_STREAM_H_

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace reprise::state_store {

class ByteSink {
 public:
  virtual ~ByteSink() = default;
  // Takes all of `bytes`. A failure ends the export and is returned from it.
  virtual absl::Status Write(std::string_view bytes) = 0;
};

class ByteSource {
 public:
  virtual ~ByteSource() = default;
  // Fills up to buffer.size() bytes and returns how many; 0 only at the end of the stream.
  virtual absl::StatusOr<size_t> Read(absl::Span<char> buffer) = 0;
};

class StringSink : public ByteSink {
 public:
  absl::Status Write(std::string_view bytes) override {
    bytes_.append(bytes);
    return absl::OkStatus();
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

// Borrows `bytes`.
class StringSource : public ByteSource {
 public:
  explicit StringSource(std::string_view bytes) : rest_(bytes) {}
  absl::StatusOr<size_t> Read(absl::Span<char> buffer) override {
    const size_t n = std::min(buffer.size(), rest_.size());
    std::copy_n(rest_.data(), n, buffer.data());
    rest_.remove_prefix(n);
    return n;
  }

 private:
  std::string_view rest_;
};

}  // namespace reprise::state_store

#endif  // REPRISE_STATE_STORE_BYTE_STREAM_H_
