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
#include "absl/types/span.h"

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

// A command is the header of an array, and for each argument a bulk header, its bytes and CRLF.
void AppendArrayHeader(size_t elements, std::string& out);
void AppendBulkHeader(size_t bytes, std::string& out);
// Appends one whole command to `out`.
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
  // Where the coming bytes may be read to instead of being fed, because they belong to a long
  // string whose length is known; empty if they do not. Then FilledInPlace says how many came.
  absl::Span<char> InPlace();
  void FilledInPlace(size_t bytes);
  // nullopt: more bytes are needed.
  absl::StatusOr<std::optional<Reply>> Next();
  // Whether bytes wait that are not a whole reply, or replies that nobody took.
  bool HasLeftovers() const;

 private:
  struct ReaderDeleter {
    void operator()(redisReader* reader) const;
  };

  // Takes a long string away from hiredis, which would copy it several times.
  void BeginInPlace();
  absl::Status FeedReader(std::string_view bytes);

  const size_t max_reply_bytes_;
  size_t pending_bytes_ = 0;  // fed to hiredis since the last whole reply
  // A string that is a whole reply, of which `filled_` bytes are there.
  std::optional<std::string> in_place_;
  size_t filled_ = 0;
  size_t crlf_seen_ = 0;  // of the two bytes after it
  std::unique_ptr<redisReader, ReaderDeleter> reader_;
};

}  // namespace reprise::state_store::redis

#endif  // REPRISE_STATE_STORE_REDIS_REPLY_H_
