#include "service/trace_context.h"

#include <openssl/rand.h>

#include <algorithm>
#include <cstdint>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace reprise::service {
namespace {

// version "-" trace-id "-" parent-id "-" trace-flags
constexpr size_t kLength = 2 + 1 + 32 + 1 + 16 + 1 + 2;
constexpr uint8_t kSampled = 1;

// Upper case is not allowed.
bool IsHex(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

bool IsZero(std::string_view text) { return text.find_first_not_of('0') == text.npos; }

// `bytes` random bytes in hexadecimal, not all zero. Ids only tell calls apart, so that a generator
// that fails needs no error of its own.
std::string RandomHex(int bytes) {
  std::string raw(static_cast<size_t>(bytes), '\x01');
  RAND_bytes(reinterpret_cast<unsigned char*>(raw.data()), bytes);
  const std::string hex = absl::BytesToHexString(raw);
  return IsZero(hex) ? std::string(hex.size(), '1') : hex;
}

}  // namespace

std::string TraceContext::Traceparent() const {
  return absl::StrFormat("00-%s-%s-%02x", trace_id, span_id, sampled ? kSampled : 0);
}

std::optional<Traceparent> ParseTraceparent(std::string_view header) {
  if (header.size() < kLength || header[2] != '-' || header[35] != '-' || header[52] != '-') {
    return std::nullopt;
  }
  const std::string_view version = header.substr(0, 2);
  const std::string_view trace_id = header.substr(3, 32);
  const std::string_view span_id = header.substr(36, 16);
  const std::string_view flags = header.substr(53, 2);
  if (!IsHex(version) || !IsHex(trace_id) || !IsHex(span_id) || !IsHex(flags)) return std::nullopt;
  if (version == "ff" || IsZero(trace_id) || IsZero(span_id)) return std::nullopt;
  // Later versions may add to the end, and only there.
  const bool longer = header.size() > kLength;
  if (longer && (version == "00" || header[kLength] != '-')) return std::nullopt;
  Traceparent parent{std::string(trace_id), std::string(span_id)};
  const std::string bits = absl::HexStringToBytes(absl::string_view(flags.data(), flags.size()));
  parent.sampled = (static_cast<uint8_t>(bits[0]) & kSampled) != 0;
  return parent;
}

TraceContext BeginTrace(grpc::CallbackServerContext* context) {
  TraceContext trace;
  const auto& metadata = context->client_metadata();
  const auto [begin, end] = metadata.equal_range(kTraceparentKey);
  // Two headers contradict each other: then none counts.
  if (begin != end && std::next(begin) == end) {
    const auto parent = ParseTraceparent({begin->second.data(), begin->second.size()});
    if (parent.has_value()) {
      trace.trace_id = parent->trace_id;
      trace.parent_span = parent->span_id;
      trace.sampled = parent->sampled;
    }
  }
  if (trace.trace_id.empty()) trace.trace_id = RandomHex(16);
  trace.span_id = RandomHex(8);
  context->AddInitialMetadata(kTraceparentKey, trace.Traceparent());
  return trace;
}

}  // namespace reprise::service
