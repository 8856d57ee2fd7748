// Little-endian fields in and out of strings. The Reader treats every byte as hostile.
#ifndef REPRISE_STATE_STORE_INTERNAL_WIRE_H_
#define REPRISE_STATE_STORE_INTERNAL_WIRE_H_

#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/hash.h"
#include "state_store/internal/cat.h"
#include "state_store/store_error.h"

namespace reprise::state_store {

// Appends to a string. Lengths are checked by whoever validated the value before.
class WireWriter {
 public:
  void U8(uint8_t v) { out_.push_back(static_cast<char>(v)); }
  void U32(uint32_t v) { Integer(v); }
  void U64(uint64_t v) { Integer(v); }
  void Bytes(std::string_view v) { out_.append(v); }
  void Digest(const Sha256Digest& d) {
    out_.append(reinterpret_cast<const char*>(d.data()), d.size());
  }
  // u32 length, bytes.
  void String(std::string_view v) {
    U32(static_cast<uint32_t>(v.size()));
    out_.append(v);
  }
  // u32 count, then key and value of each, keys ascending.
  void Map(const std::map<std::string, std::string>& map) {
    U32(static_cast<uint32_t>(map.size()));
    for (const auto& [key, value] : map) {
      String(key);
      String(value);
    }
  }
  // Microseconds since 1970; the two infinities are the two extreme integers.
  void Time(absl::Time t) { U64(static_cast<uint64_t>(absl::ToUnixMicros(t))); }

  size_t size() const { return out_.size(); }
  std::string& out() { return out_; }
  std::string Take() { return std::move(out_); }

 private:
  template <typename T>
  void Integer(T v) {
    for (size_t i = 0; i < sizeof(T); ++i) out_.push_back(static_cast<char>(v >> (8 * i)));
  }

  std::string out_;
};

// Reads `bytes`, which must outlive it. The first failure sticks: everything after it reads as
// zero or empty, and status() names the field and its offset. Nothing is allocated beyond what is
// really there.
class WireReader {
 public:
  WireReader(std::string_view bytes, StoreError error, std::string_view what)
      : bytes_(bytes), error_(error), what_(what) {}

  bool ok() const { return status_.ok(); }
  const absl::Status& status() const { return status_; }
  size_t offset() const { return offset_; }
  size_t remaining() const { return bytes_.size() - offset_; }

  uint8_t U8(std::string_view field) { return Integer<uint8_t>(field); }
  uint32_t U32(std::string_view field) { return Integer<uint32_t>(field); }
  uint64_t U64(std::string_view field) { return Integer<uint64_t>(field); }

  std::string_view Bytes(size_t n, std::string_view field) {
    if (!ok()) return {};
    if (n > remaining()) {
      Fail(field, Cat("needs ", n, " bytes, ", remaining(), " are left"));
      return {};
    }
    const std::string_view view = bytes_.substr(offset_, n);
    offset_ += n;
    return view;
  }
  Sha256Digest Digest(std::string_view field) {
    Sha256Digest digest{};
    const std::string_view view = Bytes(digest.size(), field);
    if (view.size() == digest.size()) std::memcpy(digest.data(), view.data(), digest.size());
    return digest;
  }
  std::string_view String(size_t max_bytes, std::string_view field) {
    const uint32_t n = U32(field);
    if (ok() && n > max_bytes) {
      Fail(field, Cat("has ", n, " bytes, more than ", max_bytes));
    }
    return Bytes(n, field);
  }
  // A count of things that take at least `min_bytes_each` bytes; 0 after a failure.
  uint32_t Count(size_t max_count, size_t min_bytes_each, std::string_view field) {
    const uint32_t n = U32(field);
    if (ok() && n > max_count) Fail(field, Cat("is ", n, ", more than ", max_count));
    if (ok() && n > remaining() / min_bytes_each) {
      Fail(field, Cat("is ", n, ", too many for ", remaining(), " bytes"));
    }
    return ok() ? n : 0;
  }
  // Keys must ascend, so that one map has one encoding.
  std::map<std::string, std::string> Map(size_t max_count, size_t max_key, size_t max_value,
                                         std::string_view field) {
    std::map<std::string, std::string> map;
    const uint32_t n = Count(max_count, 8, field);
    for (uint32_t i = 0; i < n && ok(); ++i) {
      const std::string_view key = String(max_key, field);
      const std::string_view value = String(max_value, field);
      if (!ok()) break;
      if (!map.empty() && map.rbegin()->first >= key) {
        Fail(field, "has keys out of order");
        break;
      }
      map.emplace_hint(map.end(), key, value);
    }
    return map;
  }
  absl::Time Time(std::string_view field) {
    const auto micros = static_cast<int64_t>(U64(field));
    if (micros == INT64_MAX) return absl::InfiniteFuture();
    if (micros == INT64_MIN) return absl::InfinitePast();
    return absl::FromUnixMicros(micros);
  }

  void Fail(std::string_view field, std::string_view problem) {
    if (!ok()) return;
    status_ =
        MakeStoreError(error_, Cat(what_, ": ", field, " before offset ", offset_, " ", problem));
  }
  // Fails if anything is left over.
  void End() {
    if (ok() && remaining() != 0) Fail("end", Cat("has ", remaining(), " bytes too many"));
  }

 private:
  template <typename T>
  T Integer(std::string_view field) {
    const std::string_view view = Bytes(sizeof(T), field);
    T v = 0;
    for (size_t i = 0; i < view.size(); ++i) {
      v = static_cast<T>(v | static_cast<T>(static_cast<uint8_t>(view[i])) << (8 * i));
    }
    return v;
  }

  std::string_view bytes_;
  size_t offset_ = 0;
  StoreError error_;
  std::string_view what_;
  absl::Status status_;
};

}  // namespace reprise::state_store

#endif  // REPRISE_STATE_STORE_INTERNAL_WIRE_H_
