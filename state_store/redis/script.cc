#include "state_store/redis/script.h"

#include <openssl/evp.h>

#include <array>

namespace reprise::state_store::redis {

Script::Script(std::string_view name, std::string_view source) : name_(name), source_(source) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int size = 0;
  // Not for security: it is how Redis names scripts. If it failed, the name would be unknown to the
  // server, which says NOSCRIPT to it for ever; nothing wrong would run.
  EVP_Digest(source.data(), source.size(), digest.data(), &size, EVP_sha1(), nullptr);
  constexpr char kHex[] = "0123456789abcdef";
  for (unsigned int i = 0; i < size; ++i) {
    sha1_.push_back(kHex[digest[i] >> 4]);
    sha1_.push_back(kHex[digest[i] & 15]);
  }
}

}  // namespace reprise::state_store::redis
