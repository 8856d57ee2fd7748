#include "clients/cli/names.h"

#include <gtest/gtest.h>

namespace reprise::cli {
namespace {

TEST(Names, SessionsWithAndWithoutTheCollection) {
  EXPECT_EQ(SessionName("x"), "sessions/x");
  EXPECT_EQ(SessionName("sessions/x"), "sessions/x");
  EXPECT_EQ(SessionName(""), "");
  EXPECT_EQ(SessionId("sessions/x"), "x");
  EXPECT_EQ(SessionId("x"), "x");
}

TEST(Names, SnapshotsInEveryForm) {
  for (const char* text : {"x/y", "sessions/x/y", "x/snapshots/y", "sessions/x/snapshots/y"}) {
    EXPECT_EQ(SnapshotName(text), "sessions/x/snapshots/y") << text;
    EXPECT_EQ(SnapshotName(text, "other"), "sessions/x/snapshots/y") << text;
    EXPECT_EQ(SessionOrSnapshotName(text), "sessions/x/snapshots/y") << text;
  }
}

TEST(Names, ABareSnapshotTakesItsSession) {
  EXPECT_EQ(SnapshotName("y", "x"), "sessions/x/snapshots/y");
  EXPECT_EQ(SnapshotName("y", "sessions/x"), "sessions/x/snapshots/y");
  EXPECT_EQ(SnapshotName("y"), "y");  // the server says what is wrong with it
}

TEST(Names, SourceOfAForkMayBeASession) {
  EXPECT_EQ(SessionOrSnapshotName("x"), "sessions/x");
  EXPECT_EQ(SessionOrSnapshotName("sessions/x"), "sessions/x");
}

TEST(Names, ShortNamesAreAcceptedAgain) {
  EXPECT_EQ(ShortName("sessions/x"), "x");
  EXPECT_EQ(ShortName("sessions/x/snapshots/y"), "x/y");
  EXPECT_EQ(SnapshotName(ShortName("sessions/x/snapshots/y")), "sessions/x/snapshots/y");
  EXPECT_EQ(ShortName(""), "");
}

}  // namespace
}  // namespace reprise::cli
