#include "state_store/lossy.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "state_store/memory_store.h"
#include "state_store/testing/builders.h"

namespace reprise::state_store {
namespace {

std::string Floats(const std::vector<float>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * 4);
}

std::vector<float> FromBytes(const std::string& bytes) {
  std::vector<float> values(bytes.size() / 4);
  std::memcpy(values.data(), bytes.data(), values.size() * 4);
  return values;
}

SnapshotPart Part(const std::string& name, const std::string& dtype, std::vector<uint64_t> shape,
                  const std::string& payload) {
  SnapshotPart part;
  part.name = name;
  part.dtype = dtype;
  part.shape = std::move(shape);
  part.byte_length = payload.size();
  return part;
}

// Through one rule and back.
absl::StatusOr<std::vector<float>> RoundTrip(const std::vector<float>& values, LossyEncoding kind,
                                             uint64_t row, std::string* stored = nullptr) {
  const std::vector<std::string> payloads = {Floats(values)};
  std::vector<SnapshotPart> parts = {Part("layers.0.ssm", "f32", {1, row}, payloads[0])};
  auto encoded = EncodeLossy({{"ssm", kind}}, payloads, parts);
  if (!encoded.ok()) return encoded.status();
  Snapshot snapshot;
  snapshot.manifest.parts = parts;
  snapshot.payloads = {std::string(encoded->views[0])};
  EXPECT_EQ(parts[0].byte_length, snapshot.payloads[0].size());
  if (stored != nullptr) *stored = snapshot.payloads[0];
  EXPECT_EQ(CheckLossy(snapshot.manifest), absl::OkStatus());
  const absl::Status decoded = DecodeLossy(snapshot);
  if (!decoded.ok()) return decoded;
  EXPECT_EQ(snapshot.manifest.parts[0].dtype, "f32");
  EXPECT_EQ(snapshot.manifest.parts[0].byte_length, payloads[0].size());
  return FromBytes(snapshot.payloads[0]);
}

// Numbers of all magnitudes.
std::vector<float> Numbers(size_t n) {
  std::mt19937 random(11);
  std::vector<float> values(n);
  for (float& x : values) {
    x = std::ldexp(std::uniform_real_distribution<float>(-1, 1)(random),
                   static_cast<int>(random() % 40) - 20);
  }
  return values;
}

TEST(Lossy, Bf16IsTheNearestOneTiesToEven) {
  const std::vector<float> values = Numbers(5000);
  const auto read = RoundTrip(values, LossyEncoding::kBf16, 10).value();
  for (size_t i = 0; i < values.size(); ++i) {
    uint32_t bits;
    std::memcpy(&bits, &read[i], 4);
    ASSERT_EQ(bits & 0xffff, 0u);
    // No neighbour is nearer.
    for (const uint32_t other : {bits - 0x10000, bits + 0x10000}) {
      float neighbour;
      std::memcpy(&neighbour, &other, 4);
      if (!std::isfinite(neighbour)) continue;
      ASSERT_LE(std::abs(double{values[i]} - read[i]), std::abs(double{values[i]} - neighbour));
    }
    ASSERT_EQ(RoundTrip({read[i]}, LossyEncoding::kBf16, 1)->at(0), read[i]) << "once is enough";
  }
  const float inf = std::numeric_limits<float>::infinity();
  const auto special = RoundTrip({0.0f, -0.0f, inf, -inf, std::nanf("1"), 3.4e38f,
                                  std::ldexp(257.0f, 0), std::ldexp(259.0f, 0)},
                                 LossyEncoding::kBf16, 1)
                           .value();
  EXPECT_TRUE(special[0] == 0 && std::signbit(special[1]) && special[1] == 0);
  EXPECT_TRUE(special[2] == inf && special[3] == -inf && std::isnan(special[4]));
  EXPECT_EQ(special[5], inf);
  EXPECT_EQ(special[6], 256.0f);  // 257 lies between 256 and 258: to the even one
  EXPECT_EQ(special[7], 260.0f);
}

TEST(Lossy, Int8ErrsByHalfAScaleOfItsRow) {
  for (const uint64_t row : {1u, 7u, 256u, 10'000u}) {
    std::vector<float> values = Numbers(5003);  // the last row is shorter
    for (size_t i = 256; i < 512; ++i) values[i] = 0;
    std::string stored;
    const auto read = RoundTrip(values, LossyEncoding::kInt8Rows, row, &stored).value();
    ASSERT_EQ(read.size(), values.size());
    EXPECT_EQ(stored.size(), values.size() + (values.size() + row - 1) / row * 4);
    for (size_t begin = 0; begin < values.size(); begin += row) {
      const size_t end = std::min(values.size(), begin + row);
      float largest = 0;
      for (size_t i = begin; i < end; ++i) largest = std::max(largest, std::abs(values[i]));
      for (size_t i = begin; i < end; ++i) {
        ASSERT_LE(std::abs(read[i] - values[i]), largest / 127 * 0.5001f) << i;
      }
    }
  }
  const float tiny = std::numeric_limits<float>::denorm_min();
  EXPECT_EQ(RoundTrip({tiny, 0, -tiny}, LossyEncoding::kInt8Rows, 3)->at(1), 0);
  for (const float bad : {std::numeric_limits<float>::infinity(), std::nanf("")}) {
    const auto refused = RoundTrip({1, bad, 2}, LossyEncoding::kInt8Rows, 3);
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(std::string(refused.status().message()).find("layers.0.ssm"), std::string::npos);
  }
}

TEST(Lossy, ChoosesByRoleAndDtype) {
  const std::string four(16, 'x');
  const std::vector<std::string> payloads(5, four);
  std::vector<SnapshotPart> parts = {
      Part("layers.0.ssm", "f32", {4}, four), Part("layers.1.ssm.tail", "f32", {4}, four),
      Part("layers.2.ssmx", "f32", {4}, four), Part("layers.3.ssm", "bf16", {8}, four),
      Part("layers.4.conv", "f32", {4}, four)};
  const auto encoded = EncodeLossy(
      {{"ssm", LossyEncoding::kInt8Rows}, {"tail", LossyEncoding::kBf16}}, payloads, parts);
  ASSERT_TRUE(encoded.ok());
  EXPECT_EQ(parts[0].dtype, "f32~i8x4");
  EXPECT_EQ(parts[1].dtype, "f32~i8x4") << "the first rule counts";
  EXPECT_EQ(parts[2].dtype, "f32");
  EXPECT_EQ(parts[3].dtype, "bf16");
  EXPECT_EQ(encoded->views[4].data(), payloads[4].data()) << "the rest is not copied";
}

TEST(Lossy, WhatDoesNotFitIsAnError) {
  const auto decode = [](const std::string& dtype, size_t bytes) {
    Snapshot snapshot;
    snapshot.payloads = {std::string(bytes, 'x')};
    snapshot.manifest.parts = {Part("p", dtype, {}, snapshot.payloads[0])};
    const absl::Status check = CheckLossy(snapshot.manifest);
    const absl::Status decoded = DecodeLossy(snapshot);
    EXPECT_EQ(check, decoded);
    EXPECT_LE(snapshot.payloads[0].size(), bytes * 4);
    return GetStoreError(decoded);
  };
  EXPECT_EQ(decode("f32~bf16", 7), StoreError::kCorruptManifest);
  EXPECT_EQ(decode("f32~i8x4", 12), StoreError::kCorruptManifest);
  EXPECT_EQ(decode("f32~i8x4", 3), StoreError::kCorruptManifest);
  EXPECT_EQ(decode("f32~i8x4", 13), StoreError::kNone);
  EXPECT_EQ(decode("f32~i8x4", 0), StoreError::kNone);
  for (const auto* unknown : {"f32~", "~bf16", "f32~i8x", "f32~i8x0", "f32~i8x04", "f32~i8x-4",
                              "f32~i8x99999999999", "f64~bf16", "f32~bf16~"}) {
    EXPECT_EQ(decode(unknown, 8), StoreError::kUnsupportedVersion) << unknown;
  }
}

TEST(Lossy, AStoreKeepsWhatItWasAskedForAndAnyStoreReadsIt) {
  StoreOptions options;
  options.lossy = {{"rg_lru", LossyEncoding::kBf16}};
  const auto lossy = CreateMemoryStore(options).value();
  StoreOptions as_stored;
  as_stored.read_as_stored = true;
  const auto exact = CreateMemoryStore({}).value(), raw = CreateMemoryStore(as_stored).value();
  Snapshot snapshot = MakeTestSnapshot(3);
  snapshot.payloads[0] = Floats(Numbers(24));
  snapshot.manifest.parts[0].dtype = "f32";
  const Session made = lossy->CreateSession("t", {.id = "s"}).value();
  ASSERT_TRUE(lossy->PutAndCommit("t", "s", made.version, snapshot, {}).ok());
  EXPECT_EQ(lossy->GetSnapshot("t", "s", "")->manifest.parts[0].dtype, "f32~bf16");
  const Snapshot read = lossy->ReadSnapshot("t", "s", "").value();
  EXPECT_NE(read.payloads[0], snapshot.payloads[0]);
  EXPECT_EQ(FromBytes(read.payloads[0]),
            RoundTrip(FromBytes(snapshot.payloads[0]), LossyEncoding::kBf16, 1).value());
  EXPECT_EQ(read.payloads[1], snapshot.payloads[1]);
  EXPECT_EQ(read.manifest.parts[0].dtype, "f32");
  // A stream carries what is stored.
  StringSink sink;
  ASSERT_TRUE(lossy->ExportSnapshot("t", "s", "", sink).ok());
  for (SessionStore* store : {exact.get(), raw.get()}) {
    StringSource source(sink.bytes());
    ASSERT_TRUE(store->ImportSnapshot("t", {.id = "s"}, source).ok());
  }
  EXPECT_EQ(exact->ReadSnapshot("t", "s", "")->payloads, read.payloads);
  const Snapshot stored = raw->ReadSnapshot("t", "s", "").value();
  EXPECT_EQ(stored.payloads[0].size(), snapshot.payloads[0].size() / 2);
  EXPECT_EQ(stored.manifest.parts[0].dtype, "f32~bf16");
  // As it is stored it can be put again, but not with sizes that do not fit.
  const Session copy = raw->CreateSession("t", {.id = "copy"}).value();
  EXPECT_TRUE(raw->PutAndCommit("t", "copy", copy.version, stored, {}).ok());
  Snapshot bad = stored;
  bad.payloads[0].pop_back();
  bad.manifest.parts[0].byte_length -= 1;
  EXPECT_EQ(raw->PutAndCommit("t", "copy", copy.version + 1, bad, {}).status().code(),
            absl::StatusCode::kInvalidArgument);
  options.lossy[0].role = "a.b";
  EXPECT_FALSE(CreateMemoryStore(options).ok());
}

}  // namespace
}  // namespace reprise::state_store
