#include "service/file_watch.h"

#include <sys/stat.h>

#include <utility>

#include "absl/strings/str_cat.h"

namespace reprise::service {

FileWatch::FileWatch(std::vector<std::string> paths, std::function<void()> changed,
                     absl::Duration interval)
    : paths_(std::move(paths)), changed_(std::move(changed)), interval_(interval), seen_(Look()) {
  if (!paths_.empty()) thread_ = std::thread([this] { Run(); });
}

FileWatch::~FileWatch() {
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

void FileWatch::Run() {
  for (;;) {
    {
      absl::MutexLock lock(&mutex_);
      if (mutex_.AwaitWithTimeout(absl::Condition(&stop_), interval_)) return;
    }
    std::vector<std::string> now = Look();
    if (now == seen_) continue;
    seen_ = std::move(now);
    changed_();
  }
}

std::vector<std::string> FileWatch::Look() const {
  std::vector<std::string> marks;
  for (const std::string& path : paths_) {
    struct stat info {};
    // A file that is not there is one that looks different.
    if (stat(path.c_str(), &info) != 0) info = {};
    marks.push_back(absl::StrCat(info.st_dev, " ", info.st_ino, " ", info.st_size, " ",
                                 info.st_ctim.tv_sec, ".", info.st_ctim.tv_nsec));
  }
  return marks;
}

}  // namespace reprise::service
