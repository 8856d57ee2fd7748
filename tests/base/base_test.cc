#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "absl/strings/cord.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/mapped_file.h"
#include "base/status_macros.h"
#include "base/unique_fd.h"

namespace reprise {
namespace {

// The example of FIPS 180-2, appendix B.1.
TEST(HashTest, Sha256OfAbc) {
  EXPECT_EQ(HexDigest(Sha256("abc")),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(HashTest, AStreamOfPiecesGivesTheSameDigest) {
  Sha256Stream stream;
  stream.Update("a");
  stream.Update("");
  Sha256Stream moved = std::move(stream);
  moved.Update("bc");
  EXPECT_EQ(moved.Finish(), Sha256("abc"));
}

TEST(HashTest, ChecksumNoticesOneBit) {
  std::string bytes(1000, 'x');
  const uint64_t before = Checksum64(bytes);
  bytes[500] ^= 1;
  EXPECT_NE(Checksum64(bytes), before);
}

bool IsOpen(int fd) { return ::fcntl(fd, F_GETFD) != -1; }

TEST(UniqueFdTest, ClosesOnceOnEveryPath) {
  const int a = ::open("/dev/null", O_RDONLY), b = ::open("/dev/null", O_RDONLY);
  {
    UniqueFd first(a), second(b);
    first = std::move(second);  // over a live one
    EXPECT_FALSE(IsOpen(a));
    EXPECT_TRUE(IsOpen(b));
    EXPECT_FALSE(second.valid());
    UniqueFd& self = first;
    first = std::move(self);
    EXPECT_TRUE(IsOpen(b));
  }
  EXPECT_FALSE(IsOpen(b));
}

TEST(MappedFileTest, MapsAndRefuses) {
  const std::string path = ::testing::TempDir() + "/mapped_file_test";
  std::ofstream(path) << "hello";
  absl::StatusOr<MappedFile> file = MappedFile::Open(path);
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(file->bytes(), "hello");
  MappedFile moved = *std::move(file);
  EXPECT_EQ(moved.bytes(), "hello");
  std::ofstream(path, std::ios::trunc).close();
  moved = MappedFile();
  EXPECT_EQ(MappedFile::Open(path)->bytes().size(), 0u);
  EXPECT_TRUE(absl::IsNotFound(MappedFile::Open(path + ".no").status()));
  EXPECT_FALSE(MappedFile::Open(::testing::TempDir()).ok());
}

absl::StatusOr<int> Half(int value) {
  if (value % 2 != 0) return absl::InvalidArgumentError("odd");
  return value / 2;
}

absl::Status Quarter(int value, int* out) {
  ASSIGN_OR_RETURN(const int half, Half(value));
  ASSIGN_OR_RETURN(*out, Half(half));
  return absl::OkStatus();
}

TEST(StatusMacrosTest, PassFailuresOn) {
  int out = 0;
  EXPECT_TRUE(Quarter(12, &out).ok());
  EXPECT_EQ(out, 3);
  EXPECT_FALSE(Quarter(6, &out).ok());
}

TEST(StatusMacrosTest, PrefixKeepsCodeAndPayload) {
  absl::Status status = absl::NotFoundError("gone");
  status.SetPayload("url", absl::Cord("value"));
  const absl::Status prefixed = Prefixed(status, "file x");
  EXPECT_EQ(prefixed.message(), "file x: gone");
  EXPECT_TRUE(absl::IsNotFound(prefixed));
  EXPECT_EQ(*prefixed.GetPayload("url"), "value");
  EXPECT_TRUE(Prefixed(absl::OkStatus(), "x").ok());
}

TEST(FakeClockTest, MovesOnlyWhenTold) {
  FakeClock clock;
  const absl::Time start = clock.Now();
  EXPECT_EQ(clock.Now(), start);
  clock.Advance(absl::Hours(1));
  EXPECT_EQ(clock.Now() - start, absl::Hours(1));
}

}  // namespace
}  // namespace reprise
