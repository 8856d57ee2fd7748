#include "bench/state_store/raw_client.h"

#include <hiredis/hiredis.h>

#include <cstdio>
#include <cstdlib>

namespace reprise::state_store::redis::bench {
namespace {

void Require(bool condition, const redisContext* context) {
  if (condition) return;
  std::fprintf(stderr, "hiredis: %s\n", context == nullptr ? "no context" : context->errstr);
  std::exit(1);
}

struct FreeReply {
  void operator()(redisReply* reply) const { freeReplyObject(reply); }
};
using OwnedReply = std::unique_ptr<redisReply, FreeReply>;

OwnedReply NextReply(redisContext* context) {
  void* reply = nullptr;
  Require(redisGetReply(context, &reply) == REDIS_OK && reply != nullptr, context);
  OwnedReply owned(static_cast<redisReply*>(reply));
  Require(owned->type != REDIS_REPLY_ERROR, context);
  return owned;
}

void Append(redisContext* context, const std::vector<std::string_view>& arguments) {
  std::vector<const char*> pointers;
  std::vector<size_t> lengths;
  for (const std::string_view argument : arguments) {
    pointers.push_back(argument.data());
    lengths.push_back(argument.size());
  }
  Require(redisAppendCommandArgv(context, static_cast<int>(pointers.size()), pointers.data(),
                                 lengths.data()) == REDIS_OK,
          context);
}

}  // namespace

void RawClient::Free::operator()(redisContext* context) const { redisFree(context); }

RawClient::RawClient(redisContext* context) : context_(context) {
  Require(context != nullptr && context->err == 0, context);
}

RawClient RawClient::Unix(const std::string& path) {
  return RawClient(redisConnectUnix(path.c_str()));
}

RawClient RawClient::Tcp(uint16_t port) { return RawClient(redisConnect("127.0.0.1", port)); }

void RawClient::Command(const std::vector<std::string>& arguments) {
  Append(context_.get(), {arguments.begin(), arguments.end()});
  NextReply(context_.get());
}

void RawClient::Set(const std::string& key, std::string_view value) {
  Append(context_.get(), {"SET", key, value});
  NextReply(context_.get());
}

std::string RawClient::Get(const std::string& key) {
  Append(context_.get(), {"GET", key});
  const OwnedReply reply = NextReply(context_.get());
  return std::string(reply->str, static_cast<size_t>(reply->len));
}

void RawClient::SetPieces(const std::string& key, std::string_view value, size_t piece) {
  size_t count = 0;
  for (; count * piece < value.size(); ++count) {
    const std::string name = key + ":" + std::to_string(count);
    Append(context_.get(), {"SET", name, value.substr(count * piece, piece)});
  }
  for (size_t i = 0; i < count; ++i) NextReply(context_.get());
}

std::string RawClient::GetPieces(const std::string& key, size_t bytes, size_t piece) {
  size_t count = 0;
  for (; count * piece < bytes; ++count) {
    const std::string name = key + ":" + std::to_string(count);
    Append(context_.get(), {"GET", name});
  }
  std::string value;
  value.reserve(bytes);
  for (size_t i = 0; i < count; ++i) {
    const OwnedReply reply = NextReply(context_.get());
    value.append(reply->str, static_cast<size_t>(reply->len));
  }
  return value;
}

}  // namespace reprise::state_store::redis::bench
