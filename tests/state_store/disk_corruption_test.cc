// Files of the disk store that were damaged while it was closed: noticed, reported, never loaded.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "state_store/disk_store.h"
#include "state_store/internal/cat.h"
#include "state_store/testing/builders.h"
#include "state_store/testing/simulated_disk.h"

namespace reprise::state_store {
namespace {

using Image = std::map<std::string, std::string>;

constexpr char kRoot[] = "/disk/store";

DiskStoreOptions Options(SimulatedDisk& disk) {
  DiskStoreOptions options;
  options.directory = kRoot;
  options.store.chunk_bytes = 512;
  options.flush_interval = absl::ZeroDuration();
  options.compact_log_bytes = 4000;
  options.file_system = &disk;
  return options;
}

Image ImageOf(const SimulatedDisk& disk) {
  Image image;
  for (const std::string& path : disk.AllFiles()) image[path] = disk.Contents(path);
  return image;
}

// `states[id][version]` is the seed of what was committed.
using States = std::map<std::string, std::map<uint64_t, uint64_t>>;

class DiskCorruption : public testing::Test {
 protected:
  // A checkpoint with sessions in it, a log that goes on for some records, and a clean close.
  void SetUp() override {
    SimulatedDisk disk;
    auto opened = OpenDiskStore(Options(disk));
    ASSERT_TRUE(opened.ok()) << opened.status();
    SessionStore& store = *opened->store;
    for (int i = 0; i < 14; ++i) {
      const std::string id = Cat("s", i % 3);
      if (i < 3) {
        ASSERT_TRUE(store.CreateSession("t", {.id = id}).ok());
      }
      const uint64_t version = i / 3 + 1;
      const auto moved = store.PutAndCommit("t", id, version, MakeTestSnapshot(i),
                                            {.durability = Durability::kSync, .keep = i % 2 == 0});
      ASSERT_TRUE(moved.ok()) << moved.status();
      states_[id][moved->version] = i;
    }
    opened->store.reset();
    image_ = ImageOf(disk);
    for (const auto& [path, bytes] : image_) {
      const std::string name = path.substr(path.rfind('/') + 1);
      if (name.rfind("log.", 0) == 0) log_ = path;
      if (name.size() == 64) chunks_.push_back(path);
    }
    ASSERT_GT(image_[log_].size(), 1500u);
    ASSERT_GT(image_[std::string(kRoot) + "/checkpoint"].size(), 1000u);
    ASSERT_GT(chunks_.size(), 20u);
  }

  // Opens the image with one file replaced. The directories are made by opening, so chunks are put
  // in through a first, empty store.
  absl::StatusOr<OpenedDiskStore> OpenWith(SimulatedDisk& disk, const std::string& path,
                                           const std::string& bytes) {
    for (const auto& [name, contents] : image_) {
      for (size_t slash = name.find('/', 1); slash != name.npos;
           slash = name.find('/', slash + 1)) {
        EXPECT_TRUE(disk.CreateDir(name.substr(0, slash)).ok());
      }
      disk.Overwrite(name, name == path ? bytes : contents);
    }
    before_ = ImageOf(disk);
    return OpenDiskStore(Options(disk));
  }

  // Every session is at a state that was once committed under its version, or says that it is
  // damaged, and then the report said so.
  void ExpectTruth(OpenedDiskStore& opened, bool newest) {
    for (const auto& [id, versions] : states_) {
      const auto session = opened.store->GetSession("t", id);
      if (!session.ok() && !newest) continue;
      ASSERT_TRUE(session.ok()) << session.status();
      if (newest) {
        EXPECT_EQ(session->version, versions.rbegin()->first);
      }
      const auto read = opened.store->ReadSnapshot("t", id, "");
      if (!newest && GetStoreError(read.status()) == StoreError::kNoHead) continue;
      if (!newest && GetStoreError(read.status()) == StoreError::kCorruptChunk) {
        EXPECT_FALSE(opened.report.notes.empty());
        continue;
      }
      ASSERT_TRUE(read.ok()) << read.status();
      ASSERT_EQ(versions.count(session->version), 1u);
      EXPECT_TRUE(SameState(MakeTestSnapshot(versions.at(session->version)), *read));
    }
  }

  Image image_, before_;
  States states_;
  std::string log_;
  std::vector<std::string> chunks_;
};

std::string Flipped(std::string bytes, size_t at) {
  bytes[at] = static_cast<char>(bytes[at] ^ (1 << (at % 8)));
  return bytes;
}

bool IsRefusal(const absl::Status& status) {
  const StoreError error = GetStoreError(status);
  return error == StoreError::kCorruptIndex || error == StoreError::kUnsupportedVersion;
}

TEST_F(DiskCorruption, TheImageItselfIsSound) {
  SimulatedDisk disk;
  auto opened = OpenWith(disk, "", "");
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_TRUE(opened->report.clean);
  EXPECT_TRUE(opened->report.notes.empty());
  ExpectTruth(*opened, /*newest=*/true);
  EXPECT_EQ(opened->store->CheckIntegrity(), absl::OkStatus());
}

TEST_F(DiskCorruption, DamagedCheckpointIsRefusedAndLeftAlone) {
  const std::string path = std::string(kRoot) + "/checkpoint";
  const std::string bytes = image_[path];
  for (size_t at = 0; at < bytes.size(); at += at < 64 ? 1 : 13) {
    for (const std::string& bad : {Flipped(bytes, at), bytes.substr(0, at)}) {
      SimulatedDisk disk;
      const auto opened = OpenWith(disk, path, bad);
      ASSERT_TRUE(IsRefusal(opened.status())) << at << ": " << opened.status();
      EXPECT_EQ(ImageOf(disk), before_) << "a refusal changes nothing";
    }
  }
  SimulatedDisk disk;
  OpenWith(disk, path, bytes)->store.reset();
  disk.Delete(path);
  EXPECT_TRUE(IsRefusal(OpenDiskStore(Options(disk)).status())) << "a missing one as well";
}

TEST_F(DiskCorruption, FlippedBitsOfTheLogAreNoticed) {
  const std::string bytes = image_[log_];
  constexpr size_t kCloseMark = 32 + 4;  // the last frame
  int refused = 0, cut = 0;
  for (size_t at = 0; at < bytes.size(); at += at < 120 || at + 80 > bytes.size() ? 1 : 7) {
    SCOPED_TRACE(Cat("offset ", at));
    SimulatedDisk disk;
    auto opened = OpenWith(disk, log_, Flipped(bytes, at));
    if (at + kCloseMark >= bytes.size()) {
      // Only the mark of the clean close is gone, as after a crash while closing.
      ASSERT_TRUE(opened.ok()) << opened.status();
      EXPECT_FALSE(opened->report.clean);
      EXPECT_EQ(opened->report.cut_bytes, kCloseMark);
      ExpectTruth(*opened, /*newest=*/true);
      ++cut;
    } else {
      ASSERT_TRUE(IsRefusal(opened.status())) << opened.status();
      EXPECT_EQ(ImageOf(disk), before_);
      ++refused;
    }
  }
  EXPECT_GT(refused, 200);
  EXPECT_EQ(cut, 36);
}

TEST_F(DiskCorruption, TruncatedLogsAreReported) {
  const std::string bytes = image_[log_];
  for (size_t size = 0; size < bytes.size();
       size += size < 120 || size + 80 > bytes.size() ? 1 : 5) {
    SCOPED_TRACE(Cat("size ", size));
    SimulatedDisk disk;
    auto opened = OpenWith(disk, log_, bytes.substr(0, size));
    if (!opened.ok()) {
      EXPECT_TRUE(IsRefusal(opened.status())) << opened.status();
      EXPECT_LT(size, 48u) << "only the header is never torn";
      continue;
    }
    EXPECT_FALSE(opened->report.clean);
    ExpectTruth(*opened, /*newest=*/false);
    ASSERT_FALSE(HasFailure());
  }
}

TEST_F(DiskCorruption, DamagedChunksAreNeverLoadedAndHeal) {
  std::vector<std::string> wanted;
  {
    SimulatedDisk disk;
    auto opened = OpenWith(disk, "", "");
    const auto head = opened->store->GetSnapshot("t", "s0", "");
    ASSERT_TRUE(head.ok());
    for (const SnapshotPart& part : head->manifest.parts) {
      for (const ChunkRef& ref : part.chunks) wanted.push_back(HexDigest(ref.digest));
    }
  }
  int checked = 0;
  for (const std::string& path : chunks_) {
    const std::string bytes = image_[path];
    const std::string name = path.substr(path.rfind('/') + 1);
    const bool needed = std::find(wanted.begin(), wanted.end(), name) != wanted.end();
    for (size_t at = 0; at < bytes.size(); at += 1 + bytes.size() / 5) {
      for (const bool truncate : {false, true}) {
        SCOPED_TRACE(Cat(name, " at ", at, truncate ? " cut" : " flipped"));
        SimulatedDisk disk;
        auto opened = OpenWith(disk, path, truncate ? bytes.substr(0, at) : Flipped(bytes, at));
        ASSERT_TRUE(opened.ok()) << opened.status();
        EXPECT_EQ(opened->report.notes.size(), truncate ? 1u : 0u);
        const auto read = opened->store->ReadSnapshot("t", "s0", "");
        ++checked;
        if (!needed) {
          EXPECT_TRUE(read.ok()) << read.status();
          continue;
        }
        EXPECT_EQ(GetStoreError(read.status()), StoreError::kCorruptChunk) << read.status();
        StringSink sink;
        EXPECT_FALSE(opened->store->ExportSnapshot("t", "s0", "", sink).ok());
        // Committing the same state again writes the chunk again.
        const auto session = opened->store->GetSession("t", "s0");
        const uint64_t seed = states_["s0"][session->version];
        ASSERT_TRUE(
            opened->store->PutAndCommit("t", "s0", session->version, MakeTestSnapshot(seed), {})
                .ok());
        const auto healed = opened->store->ReadSnapshot("t", "s0", "");
        ASSERT_TRUE(healed.ok()) << healed.status();
        EXPECT_TRUE(SameState(MakeTestSnapshot(seed), *healed));
        EXPECT_EQ(opened->store->CheckIntegrity(), absl::OkStatus());
      }
    }
  }
  EXPECT_GT(checked, 200);
}

TEST_F(DiskCorruption, StrayFilesAreSwept) {
  SimulatedDisk disk;
  ASSERT_TRUE(OpenWith(disk, "", "").ok());
  const std::string orphan(64, 'a');
  for (const std::string dir : {"/disk/store/chunks/aa", "/disk/store/chunks/aa/aa"}) {
    ASSERT_TRUE(disk.CreateDir(dir).ok());
  }
  disk.Overwrite(Cat(kRoot, "/chunks/aa/aa/", orphan), "nobody's");
  disk.Overwrite(Cat(kRoot, "/chunks/aa/aa/README"), "not ours");
  disk.Overwrite(Cat(kRoot, "/tmp/7"), "half a chunk");
  disk.Overwrite(Cat(kRoot, "/log.99"), "of a compaction that did not finish");
  auto opened = OpenDiskStore(Options(disk));
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(opened->report.orphan_chunks, 1u);
  EXPECT_EQ(opened->report.temporary_files, 2u);
  EXPECT_EQ(opened->store->CheckIntegrity(), absl::OkStatus());
  const std::vector<std::string> files = disk.AllFiles();
  EXPECT_EQ(std::count(files.begin(), files.end(), Cat(kRoot, "/chunks/aa/aa/README")), 1);
}

}  // namespace
}  // namespace reprise::state_store
