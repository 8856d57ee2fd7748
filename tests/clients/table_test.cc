#include "clients/cli/table.h"

#include <gtest/gtest.h>

namespace reprise::cli {
namespace {

TEST(Table, ColumnsAlignByCharacters) {
  Table table({"NAME", "N"});
  table.Add({"\xc3\xbc", "1"});
  table.Add({"longer name", ""});
  EXPECT_EQ(table.ToString(), "NAME         N\n\xc3\xbc            1\nlonger name\n");
}

TEST(Table, KeyValuesLeaveOutWhatIsEmpty) {
  EXPECT_EQ(KeyValues({{"a", "1"}, {"a long name", ""}, {"bcd", "2"}}), "a:    1\nbcd:  2\n");
}

TEST(Table, Units) {
  EXPECT_EQ(Bytes(0), "0 B");
  EXPECT_EQ(Bytes(1023), "1023 B");
  EXPECT_EQ(Bytes(1536), "1.5 KiB");
  EXPECT_EQ(Bytes(5 << 20), "5.0 MiB");
  EXPECT_EQ(Seconds(0.00123), "1.23 ms");
  EXPECT_EQ(Seconds(2.5), "2.50 s");
}

TEST(Table, TimesAreUtc) {
  google::protobuf::Timestamp time;
  EXPECT_EQ(Time(time), "-");
  time.set_seconds(1'700'000'000);
  EXPECT_EQ(Time(time), "2023-11-14 22:13:20");
}

}  // namespace
}  // namespace reprise::cli
