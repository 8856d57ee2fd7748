#include "service/resource_names.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "service/errors.h"

namespace reprise::service {
namespace {

TEST(ResourceNamesTest, NamesRoundTrip) {
  EXPECT_EQ(ParseSessionName(MakeSessionName("chat-1"), "name").value(), "chat-1");
  const SnapshotName name = ParseSnapshotName(MakeSnapshotName("chat-1", "0a9z"), "name").value();
  EXPECT_EQ(name.session_id, "chat-1");
  EXPECT_EQ(name.snapshot_id, "0a9z");
}

TEST(ResourceNamesTest, EitherFormIsToldApart) {
  EXPECT_EQ(ParseSessionOrSnapshotName("sessions/a", "source").value().snapshot_id, "");
  EXPECT_EQ(ParseSessionOrSnapshotName("sessions/a/snapshots/b", "source").value().snapshot_id,
            "b");
}

TEST(ResourceNamesTest, OtherFormsAreRefused) {
  for (const std::string& name :
       {std::string(""), std::string("sessions"), std::string("sessions/"), std::string("a"),
        std::string("Sessions/a"), std::string("sessions/A"), std::string("sessions/-a"),
        std::string("sessions/a-"), std::string("sessions/a/"), std::string("sessions//a"),
        std::string("/sessions/a"), std::string("sessions/a "), std::string("sessions/../a"),
        std::string("sessions/a\0b", 12), "sessions/" + std::string(64, 'a'),
        std::string("sessions/a/snapshots/b")}) {
    const auto parsed = ParseSessionName(name, "name");
    EXPECT_EQ(ReasonOf(parsed.status()), v1::ERROR_REASON_INVALID_FIELD) << name;
  }
  for (const std::string& name :
       {std::string("sessions/a"), std::string("sessions/a/snapshots"),
        std::string("sessions/a/snapshots/"), std::string("sessions/a/snapshots/B"),
        std::string("sessions/a/snapshots/b/"), std::string("sessions/a/snapshots/b/c"),
        std::string("sessions/a/snapshot/b"), std::string("sessions/a/snapshots/.."),
        "sessions/a/snapshots/" + std::string(129, 'b')}) {
    const auto parsed = ParseSnapshotName(name, "name");
    EXPECT_EQ(ReasonOf(parsed.status()), v1::ERROR_REASON_INVALID_FIELD) << name;
  }
}

}  // namespace
}  // namespace reprise::service
