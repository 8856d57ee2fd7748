#include "service/turn_progress.h"

#include <gtest/gtest.h>

#include "service/errors.h"

namespace reprise::service {
namespace {

TurnProgress Sample() {
  TurnProgress progress;
  progress.session_id = "chat";
  progress.request_id = std::string("r\0\n", 3);
  progress.start_version = 7;
  progress.start_tokens = 100;
  progress.start_snapshot = std::string(32, 'a');
  progress.start_is_ours = true;
  progress.start_detokenizer = "\xC3";
  progress.prompt_hash[3] = 9;
  progress.prompt_tokens = 50;
  progress.prompt_done = 50;
  progress.generated = {0, 255, 70000, 1};
  return progress;
}

TEST(TurnProgress, ComesBackAsItWas) {
  const TurnProgress put = Sample();
  const auto got = DecodeProgress(EncodeProgress(put));
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->session_id, put.session_id);
  EXPECT_EQ(got->request_id, put.request_id);
  EXPECT_EQ(got->start_version, put.start_version);
  EXPECT_EQ(got->start_tokens, put.start_tokens);
  EXPECT_EQ(got->start_snapshot, put.start_snapshot);
  EXPECT_EQ(got->start_is_ours, put.start_is_ours);
  EXPECT_EQ(got->start_detokenizer, put.start_detokenizer);
  EXPECT_EQ(got->prompt_hash, put.prompt_hash);
  EXPECT_EQ(got->prompt_tokens, put.prompt_tokens);
  EXPECT_EQ(got->prompt_done, put.prompt_done);
  EXPECT_EQ(got->generated, put.generated);
  EXPECT_FALSE(got->in_prompt());
}

TEST(TurnProgress, AnythingElseIsRefused) {
  const std::string whole = EncodeProgress(Sample());
  const auto expect_corrupt = [](const std::string& bytes) {
    EXPECT_EQ(ReasonOf(DecodeProgress(bytes).status()), v1::ERROR_REASON_CORRUPT_SNAPSHOT);
  };
  for (size_t size = 0; size < whole.size(); ++size) expect_corrupt(whole.substr(0, size));
  expect_corrupt(whole + "x");
  std::string other = whole;
  other[0] = 2;
  expect_corrupt(other);
  other = whole;
  other[8] = '\x7f';  // a length beyond the end
  expect_corrupt(other);
  TurnProgress impossible = Sample();
  impossible.prompt_done = 51;
  expect_corrupt(EncodeProgress(impossible));
}

}  // namespace
}  // namespace reprise::service
