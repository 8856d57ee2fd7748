// A Lua script that Redis keeps by its SHA-1. All of ours touch one key, KEYS[1], so that they work
// while a cluster moves slots, and may be run twice with the same arguments without harm.
#ifndef REPRISE_STATE_STORE_REDIS_SCRIPT_H_
#define REPRISE_STATE_STORE_REDIS_SCRIPT_H_

#include <string>
#include <string_view>

namespace reprise::state_store::redis {

class Script {
 public:
  // Both must live as long as the program.
  Script(std::string_view name, std::string_view source);
  Script(const Script&) = delete;
  Script& operator=(const Script&) = delete;

  std::string_view name() const { return name_; }
  std::string_view source() const { return source_; }
  // What SCRIPT LOAD answers: 40 lower-case hexadecimal digits.
  const std::string& sha1() const { return sha1_; }

 private:
  std::string_view name_;
  std::string_view source_;
  std::string sha1_;
};

}  // namespace reprise::state_store::redis

#endif  // REPRISE_STATE_STORE_REDIS_SCRIPT_H_
