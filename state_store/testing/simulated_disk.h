// A disk in memory that can lose its power: what was not synced survives in part, or not at all.
#ifndef REPRISE_STATE_STORE_TESTING_SIMULATED_DISK_H_
#define REPRISE_STATE_STORE_TESTING_SIMULATED_DISK_H_

#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "state_store/file_system.h"

namespace reprise::state_store {

// Thread-safe. Keeps for each file what a sync has made lasting, and for each name which file it
// lastingly stands for; SyncDir makes the names of a directory lasting.
class SimulatedDisk : public FileSystem {
 public:
  SimulatedDisk();
  ~SimulatedDisk() override;

  // From now on every operation fails, also of files that are open.
  void CutPower();
  // Each name and each file's unsynced end independently survives, is lost, or (ends) survives in
  // part or as zeros. Operations work again; files and locks opened before stay dead.
  void RestorePower(std::mt19937_64& random);

  // For tests that damage files.
  std::vector<std::string> AllFiles() const;
  std::string Contents(const std::string& path) const;
  void Overwrite(const std::string& path, const std::string& bytes);
  void Delete(const std::string& path);

  absl::Status CreateDir(const std::string& path) override;
  absl::StatusOr<std::vector<std::string>> ListDir(const std::string& path) override;
  absl::StatusOr<uint64_t> FileSize(const std::string& path) override;
  absl::StatusOr<std::string> ReadFile(const std::string& path, uint64_t max_bytes) override;
  absl::StatusOr<std::unique_ptr<WritableFile>> OpenForAppend(const std::string& path,
                                                              bool truncate) override;
  absl::Status SyncFile(const std::string& path) override;
  absl::Status SyncDir(const std::string& path) override;
  absl::Status Rename(const std::string& from, const std::string& to) override;
  absl::Status Remove(const std::string& path) override;
  absl::StatusOr<std::unique_ptr<FileLock>> Lock(const std::string& path) override;

 private:
  class File;
  class Held;
  struct Inode {
    std::string bytes, lasting;
  };
  using Names = std::map<std::string, std::shared_ptr<Inode>>;  // a null inode is a directory

  absl::Status Alive(uint64_t generation) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::StatusOr<std::shared_ptr<Inode>> Find(const std::string& path) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  mutable absl::Mutex mu_;
  Names names_ ABSL_GUARDED_BY(mu_);
  Names lasting_names_ ABSL_GUARDED_BY(mu_);
  std::set<std::string> locks_ ABSL_GUARDED_BY(mu_);
  bool powered_ ABSL_GUARDED_BY(mu_) = true;
  uint64_t generation_ ABSL_GUARDED_BY(mu_) = 0;  // grows with each power cut
};

}  // namespace reprise::state_store

#endif  // REPRISE_STATE_STORE_TESTING_SIMULATED_DISK_H_
