#include "models/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "tests/models/testing/random_checkpoint.h"
#include "tests/models/testing/safetensors_writer.h"

namespace reprise::models {
namespace {

using ::testing::ElementsAre;
using testing::Encode;
using ::testing::HasSubstr;
using testing::SafetensorsBytes;
using testing::TempDir;

TEST(Safetensors, ReadsTensorsByNameWithTheirBytes) {
  const std::string bytes = SafetensorsBytes({
      {"b", "F32", {2, 3}, Encode({1, 2, 3, 4, 5, 6}, "F32")},
      {"a", "BF16", {2}, Encode({1, -2}, "BF16")},
      {"scalar", "F16", {}, Encode({0.5}, "F16")},
      {"empty", "I64", {4, 0}, ""},
  });
  const auto file = SafetensorsFile::FromBytes(bytes, "memory");
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ(file->tensors().size(), 4u);
  const TensorView& b = file->tensors().at("b");
  EXPECT_THAT(b.shape, ElementsAre(2, 3));
  EXPECT_EQ(b.bytes, Encode({1, 2, 3, 4, 5, 6}, "F32"));
  EXPECT_EQ(b.FloatDType().value(), kernels::DType::kF32);
  EXPECT_EQ(file->tensors().at("a").bytes, Encode({1, -2}, "BF16"));
  EXPECT_EQ(file->tensors().at("scalar").num_elements(), 1);
  EXPECT_EQ(file->tensors().at("empty").num_elements(), 0);
}

TEST(Safetensors, KeepsUnknownDTypesThatNobodyCanUse) {
  const std::string header = R"({"x":{"dtype":"F4","shape":[5],"data_offsets":[0,3]}})";
  const std::string bytes = SafetensorsBytes(header, "abc");
  const auto file = SafetensorsFile::FromBytes(bytes, "memory");
  ASSERT_TRUE(file.ok()) << file.status();
  const absl::Status status = file->tensors().at("x").FloatDType().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("memory: tensor \"x\": dtype \"F4\""));
}

TEST(Safetensors, TakesUnknownKeysMetadataAndPadding) {
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"n":{}}}   )";
  EXPECT_TRUE(SafetensorsFile::FromBytes(SafetensorsBytes(header, "a"), "memory").ok());
  EXPECT_TRUE(SafetensorsFile::FromBytes(SafetensorsBytes("{}", ""), "memory").ok());
}

struct Hostile {
  const char* name;
  std::string bytes;
  const char* message;
};

std::string Entry(const std::string& entry, const std::string& data) {
  return SafetensorsBytes("{\"x\":" + entry + "}", data);
}

std::string WithLength(uint64_t length, const std::string& rest) {
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + rest;
}

std::vector<Hostile> HostileFiles() {
  const std::string u8 = R"({"dtype":"U8","shape":[2],"data_offsets":[0,2]})";
  return {
      {"empty", "", "has no header"},
      {"seven_bytes", std::string(7, '\0'), "has no header"},
      {"no_header", std::string(8, '\0'), "begin with '{'"},
      {"length_max", WithLength(UINT64_MAX, "{}"), "exceeds the limit"},
      {"length_huge", WithLength(uint64_t{1} << 40, "{}"), "exceeds the limit"},
      {"length_beyond_file", WithLength(3, "{}"), "goes beyond the file"},
      {"leading_space", SafetensorsBytes(" {}", ""), "begin with '{'"},
      {"array_root", SafetensorsBytes("[]", ""), "begin with '{'"},
      {"truncated_json", SafetensorsBytes("{\"x\":", ""), "malformed JSON"},
      {"trailing_json", SafetensorsBytes("{} {}", ""), "malformed JSON"},
      {"bad_utf8", SafetensorsBytes("{\"\xff\":" + u8 + "}", "ab"), "malformed JSON"},
      {"huge_number", Entry(R"({"dtype":"U8","shape":[1e999],"data_offsets":[0,2]})", "ab"),
       "malformed JSON"},
      {"deep", SafetensorsBytes("{\"x\":" + std::string(100000, '['), ""), "nests deeper"},
      {"duplicate_name", SafetensorsBytes("{\"x\":" + u8 + ",\"x\":" + u8 + "}", "ab"),
       "duplicate key \"x\""},
      {"duplicate_field",
       Entry(R"({"dtype":"U8","dtype":"I8","shape":[2],"data_offsets":[0,2]})", "ab"),
       "duplicate key \"dtype\""},
      {"metadata_not_object", SafetensorsBytes(R"({"__metadata__":3})", ""), "__metadata__"},
      {"metadata_not_string", SafetensorsBytes(R"({"__metadata__":{"a":1}})", ""), "not a string"},
      {"entry_not_object", Entry("[1]", ""), "not an object"},
      {"no_dtype", Entry(R"({"shape":[2],"data_offsets":[0,2]})", "ab"), "dtype is missing"},
      {"dtype_number", Entry(R"({"dtype":8,"shape":[2],"data_offsets":[0,2]})", "ab"), "dtype"},
      {"no_shape", Entry(R"({"dtype":"U8","data_offsets":[0,2]})", "ab"), "shape"},
      {"shape_object", Entry(R"({"dtype":"U8","shape":{},"data_offsets":[0,2]})", "ab"), "shape"},
      {"shape_negative", Entry(R"({"dtype":"U8","shape":[-2],"data_offsets":[0,2]})", "ab"),
       "shape"},
      {"shape_float", Entry(R"({"dtype":"U8","shape":[2.0],"data_offsets":[0,2]})", "ab"), "shape"},
      {"shape_string", Entry(R"({"dtype":"U8","shape":["2"],"data_offsets":[0,2]})", "ab"),
       "shape"},
      {"rank_17",
       Entry(R"({"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,2],"data_offsets":[0,2]})",
             "ab"),
       "at most 16"},
      {"shape_beyond_int64",
       Entry(R"({"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,2]})", "ab"),
       "overflows"},
      {"elements_overflow",
       Entry(R"({"dtype":"U8","shape":[4294967296,4294967296,2],"data_offsets":[0,2]})", "ab"),
       "overflows"},
      {"elements_wrap_to_two",  // 2^63 + 1 elements of 2 bytes are 2 bytes modulo 2^64
       Entry(R"({"dtype":"F16","shape":[9223372036854775807,1],"data_offsets":[0,2]})", "ab"),
       "needs another number"},
      {"no_offsets", Entry(R"({"dtype":"U8","shape":[2]})", "ab"), "data_offsets"},
      {"one_offset", Entry(R"({"dtype":"U8","shape":[2],"data_offsets":[0]})", "ab"),
       "data_offsets"},
      {"three_offsets", Entry(R"({"dtype":"U8","shape":[2],"data_offsets":[0,2,2]})", "ab"),
       "data_offsets"},
      {"offset_negative", Entry(R"({"dtype":"U8","shape":[2],"data_offsets":[-1,1]})", "ab"),
       "data_offsets"},
      {"offset_float", Entry(R"({"dtype":"U8","shape":[2],"data_offsets":[0,2.0]})", "ab"),
       "data_offsets"},
      {"end_before_begin", Entry(R"({"dtype":"U8","shape":[2],"data_offsets":[2,0]})", "ab"),
       "leave the data"},
      {"beyond_file", Entry(R"({"dtype":"U8","shape":[3],"data_offsets":[0,3]})", "ab"),
       "leave the data"},
      {"offsets_near_max",
       Entry(
           R"({"dtype":"U8","shape":[2],"data_offsets":[18446744073709551614,18446744073709551615]})",
           "ab"),
       "leave the data"},
      {"too_few_bytes", Entry(R"({"dtype":"F32","shape":[2],"data_offsets":[0,4]})", "abcd"),
       "hold 4 bytes"},
      {"too_many_bytes", Entry(R"({"dtype":"U8","shape":[2],"data_offsets":[0,4]})", "abcd"),
       "hold 4 bytes"},
      {"hole_at_start", Entry(R"({"dtype":"U8","shape":[2],"data_offsets":[1,3]})", "abc"),
       "behind a hole"},
      {"hole_at_end", Entry(u8, "abc"), "data of 3 bytes, but tensors cover 2"},
      {"hole_between",
       SafetensorsBytes("{\"x\":" + u8 + R"(,"y":{"dtype":"U8","shape":[1],"data_offsets":[3,4]}})",
                        "abcd"),
       "behind a hole"},
      {"overlap",
       SafetensorsBytes("{\"x\":" + u8 + R"(,"y":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
                        "abc"),
       "inside its neighbour"},
      {"same_range", SafetensorsBytes("{\"x\":" + u8 + ",\"y\":" + u8 + "}", "ab"),
       "inside its neighbour"},
      {"data_without_tensors", SafetensorsBytes("{}", "abc"), "tensors cover 0"},
  };
}

class SafetensorsHostile : public ::testing::TestWithParam<Hostile> {};

TEST_P(SafetensorsHostile, IsRefusedWithTheFileName) {
  const auto file = SafetensorsFile::FromBytes(GetParam().bytes, "evil.safetensors");
  ASSERT_FALSE(file.ok());
  EXPECT_TRUE(absl::IsInvalidArgument(file.status()) || absl::IsDataLoss(file.status()))
      << file.status();
  EXPECT_THAT(std::string(file.status().message()), HasSubstr("evil.safetensors: "));
  EXPECT_THAT(std::string(file.status().message()), HasSubstr(GetParam().message));
  EXPECT_LT(file.status().message().size(), 400u);
}

INSTANTIATE_TEST_SUITE_P(Files, SafetensorsHostile, ::testing::ValuesIn(HostileFiles()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(Safetensors, SurvivesEveryTruncationOfAGoodFile) {
  const std::string bytes = SafetensorsBytes({
      {"a", "F32", {2}, Encode({1, 2}, "F32")},
      {"b", "BF16", {2, 2}, Encode({1, 2, 3, 4}, "BF16")},
  });
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(SafetensorsFile::FromBytes(std::string_view(bytes).substr(0, size), "cut").ok());
  }
}

std::string Index(const std::string& weight_map) {
  return "{\"metadata\":{},\"weight_map\":" + weight_map + "}";
}

TEST(Checkpoint, JoinsShards) {
  const TempDir folder;
  folder.Write("s1.safetensors", SafetensorsBytes({{"a", "U8", {1}, "x"}}));
  folder.Write("s2.safetensors", SafetensorsBytes({{"b", "U8", {2}, "yz"}}));
  folder.Write("model.safetensors.index.json",
               Index(R"({"a":"s1.safetensors","b":"s2.safetensors"})"));
  const auto checkpoint = Checkpoint::Open(folder.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_THAT(checkpoint->names(), ElementsAre("a", "b"));
  EXPECT_EQ(checkpoint->Find("b")->bytes, "yz");
  EXPECT_EQ(checkpoint->Find("c"), nullptr);
}

TEST(Checkpoint, RefusesBrokenFolders) {
  struct Row {
    std::string index;
    absl::StatusCode code;
    const char* message;
  };
  const Row rows[] = {
      {"[]", absl::StatusCode::kInvalidArgument, "not an object"},
      {"{}", absl::StatusCode::kInvalidArgument, "weight_map is missing"},
      {Index("[]"), absl::StatusCode::kInvalidArgument, "weight_map"},
      {Index(R"({"a":3})"), absl::StatusCode::kInvalidArgument, "plain file name"},
      {Index(R"({"a":"../s1.safetensors"})"), absl::StatusCode::kInvalidArgument,
       "plain file name"},
      {Index(R"({"a":""})"), absl::StatusCode::kInvalidArgument, "plain file name"},
      {Index(R"({"a":".."})"), absl::StatusCode::kInvalidArgument, "plain file name"},
      {Index(R"({"a":"gone.safetensors"})"), absl::StatusCode::kNotFound, "gone.safetensors"},
      {Index(R"({"a":"s1.safetensors","b":"s1.safetensors"})"), absl::StatusCode::kDataLoss,
       "tensor \"b\" is not in \"s1.safetensors\""},
      {Index(R"({"a":"s1.safetensors","c":"s2.safetensors"})"), absl::StatusCode::kInvalidArgument,
       "tensor \"a\" is both in"},
  };
  for (const Row& row : rows) {
    const TempDir folder;
    folder.Write("s1.safetensors", SafetensorsBytes({{"a", "U8", {1}, "x"}}));
    folder.Write("s2.safetensors",
                 SafetensorsBytes({{"a", "U8", {1}, "x"}, {"c", "U8", {1}, "y"}}));
    folder.Write("model.safetensors.index.json", row.index);
    const absl::Status status = Checkpoint::Open(folder.path()).status();
    EXPECT_EQ(status.code(), row.code) << row.index << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(row.message)) << row.index;
  }
  const TempDir empty;
  const absl::Status status = Checkpoint::Open(empty.path()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("model.safetensors"));
}

}  // namespace
}  // namespace reprise::models
