// RESP: commands to bytes and bytes to replies. The only door to hiredis.
#ifndef REPRISE_STATE_STORE_REDIS_REPLY_H_
#define REPRISE_STATE_STORE_REDIS_REPLY_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

struct redisReader;

namespace reprise::state_store::redis {

struct Reply {
  enum class Type { kNil, kString, kStatus, kError, kInteger, kArray };

  Type type = Type::kNil;
  std::string text{};  // of kString, kStatus and kError
  int64_t integer = 0;
  std::vector<Reply> elements{};

  bool is_nil() const { return type == Type::kNil; }
  bool is_error() const { return type == Type::kError; }

  // The value if it has that type; INTERNAL (kProtocol) with `what` otherwise.
  absl::StatusOr<int64_t> Integer(std::string_view what) const;
  absl::StatusOr<std::string_view> String(std::string_view what) const;  // kString or kStatus
  absl::StatusOr<const std::vector<Reply>*> Array(std::string_view what) const;
  // An array of at least `size` elements.
  absl::StatusOr<const std::vector<Reply>*> Array(std::string_view what, size_t size) const;
};

// Appends one command to `out`.
void AppendCommand(const std::vector<std::string_view>& arguments, std::string& out);

// Replies out of a stream of bytes that anyone may have written. Not thread-safe.
class ReplyReader {
 public:
  // No reply may take more than `max_reply_bytes`.
  explicit ReplyReader(size_t max_reply_bytes);
  ~ReplyReader();
  ReplyReader(const ReplyReader&) = delete;
  ReplyReader& operator=(const ReplyReader&) = delete;

  // After a failure the reader is of no more use.
  absl::Status Feed(std::string_view bytes);
  // nullopt: more bytes are needed.
  absl::StatusOr<std::optional<Reply>> Next();
  // Whether bytes wait that are not a whole reply, or replies that nobody took.
  bool HasLeftovers() const;

 private:
  struct ReaderDeleter {
    void operator()(redisReader* reader) const;
  };

  const size_t max_reply_bytes_;
  size_t pending_bytes_ = 0;  // fed since the last whole reply
  std::unique_ptr<redisReader, ReaderDeleter> reader_;
};

}  // namespace reprise::state_store::redis

#endif  // REPRISE_STATE_STORE_REDIS_REPLY_H_
