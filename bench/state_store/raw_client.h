// SET and GET as plain hiredis does them: the peer that the store is measured against.
#ifndef REPRISE_BENCH_STATE_STORE_RAW_CLIENT_H_
#define REPRISE_BENCH_STATE_STORE_RAW_CLIENT_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

struct redisContext;

namespace reprise::state_store::redis::bench {

// Ends the process when anything fails.
class RawClient {
 public:
  static RawClient Unix(const std::string& path);
  static RawClient Tcp(uint16_t port);

  // One value.
  void Set(const std::string& key, std::string_view value);
  std::string Get(const std::string& key);
  // The same bytes as values of `piece` bytes each, in one pipeline.
  void SetPieces(const std::string& key, std::string_view value, size_t piece);
  std::string GetPieces(const std::string& key, size_t bytes, size_t piece);
  void Command(const std::vector<std::string>& arguments);

 private:
  struct Free {
    void operator()(redisContext* context) const;
  };
  explicit RawClient(redisContext* context);

  std::unique_ptr<redisContext, Free> context_;
};

}  // namespace reprise::state_store::redis::bench

#endif  // REPRISE_BENCH_STATE_STORE_RAW_CLIENT_H_
