#include "state_store/redis/reply.h"

#include <hiredis/hiredis.h>
#include <hiredis/read.h>

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "base/status_macros.h"
#include "state_store/internal/cat.h"
#include "state_store/redis/error.h"

namespace reprise::state_store::redis {
namespace {

// More than any command of ours is answered with.
constexpr int kMaxElements = 1 << 17;
// Strings of such lengths are read in place: a length is what the server says, and memory for it is
// taken at once.
constexpr size_t kInPlaceBytes = 16 << 10;
constexpr size_t kMostInPlaceBytes = 32 << 20;

// hiredis builds its replies through these. They are called from C, so nothing may be thrown; null
// makes the reader fail with "out of memory". Elements are created in place in their parent, which
// owns them: only a root is ever freed.
void* Place(const redisReadTask* task, Reply value) noexcept {
  try {
    if (task->parent == nullptr) return new Reply(std::move(value));
    Reply& slot = static_cast<Reply*>(task->parent->obj)->elements[task->idx];
    slot = std::move(value);
    return &slot;
  } catch (...) {
    return nullptr;
  }
}

void* CreateString(const redisReadTask* task, char* text, size_t size) {
  try {
    Reply reply;
    reply.type = task->type == REDIS_REPLY_ERROR    ? Reply::Type::kError
                 : task->type == REDIS_REPLY_STATUS ? Reply::Type::kStatus
                                                    : Reply::Type::kString;
    reply.text.assign(text, size);
    return Place(task, std::move(reply));
  } catch (...) {
    return nullptr;
  }
}

void* CreateArray(const redisReadTask* task, int elements) {
  if (elements > kMaxElements) return nullptr;
  try {
    Reply reply;
    reply.type = Reply::Type::kArray;
    reply.elements.resize(elements < 0 ? 0 : elements);
    return Place(task, std::move(reply));
  } catch (...) {
    return nullptr;
  }
}

void* CreateInteger(const redisReadTask* task, long long value) {
  Reply reply;
  reply.type = Reply::Type::kInteger;
  reply.integer = value;
  return Place(task, std::move(reply));
}

void* CreateNil(const redisReadTask* task) { return Place(task, Reply()); }

void FreeReply(void* reply) { delete static_cast<Reply*>(reply); }

redisReplyObjectFunctions kFunctions = {CreateString, CreateArray, CreateInteger, CreateNil,
                                        FreeReply};

absl::Status BadProtocol(std::string_view problem) {
  return MakeRedisError(RedisError::kProtocol, Outcome::kUnknown, problem);
}

absl::Status Unexpected(std::string_view what, std::string_view wanted) {
  return MakeRedisError(RedisError::kProtocol, Outcome::kUnknown,
                        Cat(what, ": the reply is no ", wanted));
}

}  // namespace

absl::StatusOr<int64_t> Reply::Integer(std::string_view what) const {
  if (type != Type::kInteger) return Unexpected(what, "integer");
  return integer;
}

absl::StatusOr<std::string_view> Reply::String(std::string_view what) const {
  if (type != Type::kString && type != Type::kStatus) return Unexpected(what, "string");
  return text;
}

absl::StatusOr<const std::vector<Reply>*> Reply::Array(std::string_view what) const {
  if (type != Type::kArray) return Unexpected(what, "array");
  return &elements;
}

absl::StatusOr<const std::vector<Reply>*> Reply::Array(std::string_view what, size_t size) const {
  if (type != Type::kArray || elements.size() < size) return Unexpected(what, "array of its size");
  return &elements;
}

void AppendArrayHeader(size_t elements, std::string& out) {
  absl::StrAppend(&out, "*", elements, "\r\n");
}

void AppendBulkHeader(size_t bytes, std::string& out) { absl::StrAppend(&out, "$", bytes, "\r\n"); }

void AppendCommand(const std::vector<std::string_view>& arguments, std::string& out) {
  AppendArrayHeader(arguments.size(), out);
  for (const std::string_view argument : arguments) {
    AppendBulkHeader(argument.size(), out);
    absl::StrAppend(&out, ToAbsl(argument), "\r\n");
  }
}

void ReplyReader::ReaderDeleter::operator()(redisReader* reader) const { redisReaderFree(reader); }

ReplyReader::ReplyReader(size_t max_reply_bytes)
    : max_reply_bytes_(max_reply_bytes), reader_(redisReaderCreateWithFunctions(&kFunctions)) {}

ReplyReader::~ReplyReader() = default;

absl::Status ReplyReader::FeedReader(std::string_view bytes) {
  if (bytes.empty()) return absl::OkStatus();
  pending_bytes_ += bytes.size();
  if (redisReaderFeed(reader_.get(), bytes.data(), bytes.size()) != REDIS_OK) {
    return BadProtocol(reader_->errstr);
  }
  return absl::OkStatus();
}

absl::Status ReplyReader::Feed(std::string_view bytes) {
  if (reader_ == nullptr) return BadProtocol("no memory for a reader");
  if (in_place_.has_value()) {
    const size_t n = std::min(bytes.size(), in_place_->size() - filled_);
    bytes.copy(in_place_->data() + filled_, n);
    filled_ += n;
    bytes.remove_prefix(n);
    for (; crlf_seen_ < 2 && !bytes.empty(); ++crlf_seen_, bytes.remove_prefix(1)) {
      if (bytes.front() != "\r\n"[crlf_seen_]) return BadProtocol("a string has no end");
    }
  }
  return FeedReader(bytes);
}

absl::Span<char> ReplyReader::InPlace() {
  if (!in_place_.has_value()) return {};
  return absl::MakeSpan(in_place_->data() + filled_, in_place_->size() - filled_);
}

void ReplyReader::FilledInPlace(size_t bytes) { filled_ += bytes; }

void ReplyReader::BeginInPlace() {
  if (reader_->ridx != -1) return;  // in the middle of a reply
  const std::string_view rest(reader_->buf + reader_->pos, reader_->len - reader_->pos);
  constexpr size_t kLongestHeader = 12;
  const size_t end = rest.substr(0, kLongestHeader).find("\r\n");
  size_t size = 0;
  if (rest.empty() || rest[0] != '$' || end == std::string_view::npos ||
      !absl::SimpleAtoi(ToAbsl(rest.substr(1, end - 1)), &size)) {
    return;
  }
  // What is there whole is no work for hiredis either, and what is too long it shall refuse.
  const std::string_view body = rest.substr(end + 2);
  if (size < kInPlaceBytes || size > std::min(max_reply_bytes_, kMostInPlaceBytes) ||
      body.size() >= size) {
    return;
  }
  in_place_.emplace(size, '\0');
  body.copy(in_place_->data(), body.size());
  filled_ = body.size();
  crlf_seen_ = 0;
  // Nothing of what hiredis has is left.
  reader_.reset(redisReaderCreateWithFunctions(&kFunctions));
  pending_bytes_ = 0;
}

absl::StatusOr<std::optional<Reply>> ReplyReader::Next() {
  if (reader_ == nullptr) return BadProtocol("no memory for a reader");
  if (!in_place_.has_value()) BeginInPlace();
  if (reader_ == nullptr) return BadProtocol("no memory for a reader");
  if (in_place_.has_value()) {
    if (filled_ < in_place_->size() || crlf_seen_ < 2) return std::nullopt;
    Reply reply;
    reply.type = Reply::Type::kString;
    reply.text = *std::move(in_place_);
    in_place_.reset();
    return reply;
  }
  void* object = nullptr;
  if (redisReaderGetReply(reader_.get(), &object) != REDIS_OK) return BadProtocol(reader_->errstr);
  if (object == nullptr) {
    if (pending_bytes_ > max_reply_bytes_) {
      return BadProtocol(Cat("a reply takes more than ", max_reply_bytes_, " bytes"));
    }
    return std::nullopt;
  }
  pending_bytes_ = reader_->len - reader_->pos;
  const std::unique_ptr<Reply> reply(static_cast<Reply*>(object));
  return std::move(*reply);
}

bool ReplyReader::HasLeftovers() const { return pending_bytes_ != 0 || in_place_.has_value(); }

}  // namespace reprise::state_store::redis
