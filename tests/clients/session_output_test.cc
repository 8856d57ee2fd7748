#include "clients/cli/session_output.h"

#include <gtest/gtest.h>

namespace reprise::cli {
namespace {

TEST(SessionOutput, AnEmptySessionHasNoEmptyLines) {
  v1::Session session;
  session.set_name("sessions/x");
  const std::string text = SessionText(session);
  EXPECT_NE(text.find("session:  x\n"), std::string::npos);
  EXPECT_NE(text.find("expires:  never\n"), std::string::npos);
  EXPECT_EQ(text.find("head:"), std::string::npos);
}

TEST(SessionOutput, LabelsAreSorted) {
  v1::Session session;
  session.mutable_labels()->insert({"b", "2"});
  session.mutable_labels()->insert({"a", "1"});
  EXPECT_EQ(LabelText(session), "a=1, b=2");
}

TEST(SessionOutput, LabelChanges) {
  std::map<std::string, std::string> labels = {{"keep", "1"}, {"drop", "2"}};
  ASSERT_TRUE(ApplyLabels({"new=a=b", "drop-", "absent-", "minus=-"}, labels).ok());
  EXPECT_EQ(labels,
            (std::map<std::string, std::string>{{"keep", "1"}, {"minus", "-"}, {"new", "a=b"}}));
}

TEST(SessionOutput, ABadLabelChangesNothing) {
  std::map<std::string, std::string> labels = {{"keep", "1"}};
  EXPECT_FALSE(ApplyLabels({"keep-", "nonsense"}, labels).ok());
  EXPECT_FALSE(ApplyLabels({"=x"}, labels).ok());
  EXPECT_EQ(labels.size(), 1u);
}

TEST(SessionOutput, TimesToLive) {
  EXPECT_EQ(*ParseTtl("90"), absl::Seconds(90));
  EXPECT_EQ(*ParseTtl("1h30m"), absl::Minutes(90));
  EXPECT_EQ(*ParseTtl("never"), absl::ZeroDuration());
  for (const char* bad : {"", "soon", "-5s", "inf", "nan"}) EXPECT_FALSE(ParseTtl(bad).ok()) << bad;
  EXPECT_EQ(ToProto(absl::Milliseconds(1500)).seconds(), 1);
  EXPECT_EQ(ToProto(absl::Milliseconds(1500)).nanos(), 500'000'000);
}

}  // namespace
}  // namespace reprise::cli
