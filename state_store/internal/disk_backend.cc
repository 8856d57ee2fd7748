#include "state_store/internal/disk_backend.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "base/fault_point.h"
#include "base/status_macros.h"
#include "state_store/internal/cat.h"
#include "state_store/store_error.h"

namespace reprise::state_store {
namespace {

constexpr std::string_view kLogPrefix = "log.";

bool IsLowerHex(std::string_view text, size_t digits) {
  return text.size() == digits && text.find_first_not_of("0123456789abcdef") == text.npos;
}

// The chunk directories `names` under `parent`; what else lies there is not ours.
absl::StatusOr<std::vector<std::string>> FanOut(FileSystem& files, const std::string& parent) {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, files.ListDir(parent));
  std::vector<std::string> paths;
  for (const std::string& name : names) {
    if (IsLowerHex(name, 2)) paths.push_back(Cat(parent, "/", name));
  }
  return paths;
}

}  // namespace

std::string DiskBackend::ChunkPath(const Sha256Digest& digest) const {
  const std::string hex = HexDigest(digest);
  return Cat(directory_, "/chunks/", hex.substr(0, 2), "/", hex.substr(2, 2), "/", hex);
}

std::string DiskBackend::LogPath(uint64_t generation) const {
  return Cat(directory_, "/", kLogPrefix, generation);
}

std::string DiskBackend::TemporaryPath() { return Cat(directory_, "/tmp/", temporaries_++); }

absl::StatusOr<std::unique_ptr<DiskBackend>> DiskBackend::Open(FileSystem& files,
                                                               const std::string& directory,
                                                               uint64_t compact_log_bytes,
                                                               DirectoryContents* contents) {
  std::unique_ptr<DiskBackend> backend(new DiskBackend(files, directory, compact_log_bytes));
  RETURN_IF_ERROR(files.CreateDir(directory));
  ASSIGN_OR_RETURN(backend->lock_, files.Lock(Cat(directory, "/LOCK")));
  RETURN_IF_ERROR(files.CreateDir(Cat(directory, "/tmp")));
  RETURN_IF_ERROR(files.CreateDir(Cat(directory, "/chunks")));
  RETURN_IF_ERROR(backend->ReadContents(contents));
  return backend;
}

absl::Status DiskBackend::ReadContents(DirectoryContents* contents) {
  ASSIGN_OR_RETURN(contents->chunks, ListChunks());
  ASSIGN_OR_RETURN(const std::vector<std::string> temporaries,
                   files_.ListDir(Cat(directory_, "/tmp")));
  for (const std::string& name : temporaries) {
    contents->leftovers.push_back(Cat(directory_, "/tmp/", name));
  }
  std::vector<uint64_t> generations;
  ASSIGN_OR_RETURN(const std::vector<std::string> names, files_.ListDir(directory_));
  for (const std::string& name : names) {
    uint64_t generation;
    if (name.rfind(kLogPrefix, 0) == 0 &&
        absl::SimpleAtoi(name.substr(kLogPrefix.size()), &generation)) {
      generations.push_back(generation);
      contents->last_generation = std::max(contents->last_generation, generation);
    }
  }

  const std::string checkpoint_path = Cat(directory_, "/checkpoint");
  absl::StatusOr<std::string> checkpoint = files_.ReadFile(checkpoint_path, UINT64_MAX);
  if (absl::IsNotFound(checkpoint.status())) {
    // The first checkpoint of a directory precedes every record and every chunk.
    for (const uint64_t generation : generations) {
      ASSIGN_OR_RETURN(const uint64_t size, files_.FileSize(LogPath(generation)));
      if (size > kLogHeaderBytes || !contents->chunks.empty()) {
        return MakeStoreError(StoreError::kCorruptIndex, Cat(checkpoint_path, " is missing"));
      }
      contents->leftovers.push_back(LogPath(generation));
    }
    if (!contents->chunks.empty()) {
      return MakeStoreError(StoreError::kCorruptIndex, Cat(checkpoint_path, " is missing"));
    }
    contents->fresh = true;
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(checkpoint.status());
  contents->checkpoint_bytes = *std::move(checkpoint);
  ASSIGN_OR_RETURN(contents->checkpoint, DecodeCheckpoint(contents->checkpoint_bytes));
  const uint64_t current = contents->checkpoint.generation;
  for (const uint64_t generation : generations) {
    if (generation != current) contents->leftovers.push_back(LogPath(generation));
  }
  absl::StatusOr<std::string> log = files_.ReadFile(LogPath(current), UINT64_MAX);
  if (absl::IsNotFound(log.status())) {
    return MakeStoreError(StoreError::kCorruptIndex, Cat(LogPath(current), " is missing"));
  }
  RETURN_IF_ERROR(log.status());
  contents->log_bytes = *std::move(log);
  ASSIGN_OR_RETURN(contents->log, ScanLog(contents->log_bytes));
  if (contents->log.header.generation != current ||
      contents->log.header.first_sequence != contents->checkpoint.sequence + 1) {
    return MakeStoreError(StoreError::kCorruptIndex,
                          Cat(LogPath(current), " does not go on from the checkpoint"));
  }
  return absl::OkStatus();
}

absl::Status DiskBackend::Resume(const DirectoryContents& contents,
                                 const std::vector<Sha256Digest>& unsynced) {
  const uint64_t generation = contents.checkpoint.generation;
  ASSIGN_OR_RETURN(std::shared_ptr<WritableFile> log,
                   files_.OpenForAppend(LogPath(generation), /*truncate=*/false));
  if (contents.log.valid_bytes < contents.log_bytes.size()) {
    RETURN_IF_ERROR(log->Truncate(contents.log.valid_bytes));
    RETURN_IF_ERROR(log->Sync());
  }
  for (const Sha256Digest& digest : unsynced) RETURN_IF_ERROR(PrepareDirs(digest));
  absl::MutexLock lock(&mu_);
  log_ = std::move(log);
  log_bytes_ = contents.log.valid_bytes;
  checkpoint_bytes_ = contents.checkpoint_bytes.size();
  generation_ = generation;
  last_generation_ = contents.last_generation;
  salt_ = contents.log.header.salt;
  appended_ = contents.checkpoint.sequence + contents.log.frames.size();
  durable_ = contents.checkpoint.sequence;
  chunks_durable_ = contents.checkpoint.sequence;
  for (const Sha256Digest& digest : unsynced) unsynced_.push_back({ChunkPath(digest)});
  return absl::OkStatus();
}

absl::Status DiskBackend::PrepareDirs(const Sha256Digest& digest) {
  const std::string hex = HexDigest(digest);
  const std::string root = Cat(directory_, "/chunks");
  const std::string middle = Cat(root, "/", hex.substr(0, 2));
  const std::string leaf = Cat(middle, "/", hex.substr(2, 2));
  bool known;
  {
    absl::MutexLock lock(&mu_);
    known = known_dirs_.contains(leaf);
  }
  if (!known) {
    RETURN_IF_ERROR(files_.CreateDir(middle));
    RETURN_IF_ERROR(files_.CreateDir(leaf));
  }
  absl::MutexLock lock(&mu_);
  // The first use in this process syncs the way down too: a process before may have made it and
  // died before syncing.
  if (known_dirs_.insert(leaf).second) unsynced_dirs_.insert({directory_, root, middle});
  unsynced_dirs_.insert(leaf);
  return absl::OkStatus();
}

absl::Status DiskBackend::WriteWhole(const std::string& path, std::string_view bytes, bool sync) {
  const std::string temporary = TemporaryPath();
  const absl::Status status = [&]() -> absl::Status {
    {
      ASSIGN_OR_RETURN(const auto file, files_.OpenForAppend(temporary, /*truncate=*/true));
      RETURN_IF_ERROR(file->Append(bytes));
      if (sync) RETURN_IF_ERROR(file->Sync());
    }
    REPRISE_FAULT_POINT("disk.chunk.written");
    return files_.Rename(temporary, path);
  }();
  if (!status.ok()) files_.Remove(temporary).IgnoreError();
  return status;
}

absl::Status DiskBackend::PutChunk(const Sha256Digest& digest, std::string_view stored) {
  const std::string path = ChunkPath(digest);
  RETURN_IF_ERROR(PrepareDirs(digest));
  RETURN_IF_ERROR(WriteWhole(path, stored, /*sync=*/false));
  REPRISE_FAULT_POINT("disk.chunk.renamed");
  absl::MutexLock lock(&mu_);
  unsynced_.push_back({path});
  // Again, for a sync may have passed between.
  unsynced_dirs_.insert(path.substr(0, path.rfind('/')));
  return absl::OkStatus();
}

absl::StatusOr<std::string> DiskBackend::GetChunk(const ChunkRef& ref) {
  // One byte more than it should have, so that a longer file is noticed.
  absl::StatusOr<std::string> bytes =
      files_.ReadFile(ChunkPath(ref.digest), uint64_t{ref.stored_length} + 1);
  if (absl::IsNotFound(bytes.status())) {
    return MakeStoreError(StoreError::kCorruptChunk,
                          Cat("chunk ", HexDigest(ref.digest), " is missing"));
  }
  return bytes;
}

absl::Status DiskBackend::RemoveChunk(const Sha256Digest& digest) {
  REPRISE_FAULT_POINT("disk.chunk.removing");
  const absl::Status status = files_.Remove(ChunkPath(digest));
  REPRISE_FAULT_POINT("disk.chunk.removed");
  return absl::IsNotFound(status) ? absl::OkStatus() : status;
}

absl::StatusOr<std::vector<StoredChunk>> DiskBackend::ListChunks() {
  std::vector<StoredChunk> chunks;
  ASSIGN_OR_RETURN(const auto middles, FanOut(files_, Cat(directory_, "/chunks")));
  for (const std::string& middle : middles) {
    ASSIGN_OR_RETURN(const auto leaves, FanOut(files_, middle));
    for (const std::string& leaf : leaves) {
      ASSIGN_OR_RETURN(const auto names, files_.ListDir(leaf));
      for (const std::string& name : names) {
        if (!IsLowerHex(name, 64)) continue;
        StoredChunk chunk;
        const std::string bytes = absl::HexStringToBytes(name);
        std::copy(bytes.begin(), bytes.end(), chunk.digest.begin());
        absl::StatusOr<uint64_t> size = files_.FileSize(Cat(leaf, "/", name));
        if (absl::IsNotFound(size.status())) continue;  // removed since it was listed
        RETURN_IF_ERROR(size.status());
        chunk.length = *size;
        chunks.push_back(chunk);
      }
    }
  }
  return chunks;
}

absl::Status DiskBackend::SyncChunk(const Unsynced& chunk) {
  if (!chunk.suspect) return files_.SyncFile(chunk.path);
  ASSIGN_OR_RETURN(const std::string bytes, files_.ReadFile(chunk.path, UINT64_MAX));
  return WriteWhole(chunk.path, bytes, /*sync=*/true);
}

absl::Status DiskBackend::SyncChunks() {
  std::vector<Unsynced> chunks;
  std::set<std::string> dirs;
  {
    absl::MutexLock lock(&mu_);
    chunks.swap(unsynced_);
    dirs.swap(unsynced_dirs_);
  }
  absl::Status status;
  std::vector<Unsynced> failed;
  for (Unsynced& chunk : chunks) {
    const absl::Status synced = SyncChunk(chunk);
    if (synced.ok() && chunk.suspect) dirs.insert(chunk.path.substr(0, chunk.path.rfind('/')));
    if (synced.ok() || absl::IsNotFound(synced)) continue;  // not found: collected meanwhile
    status.Update(synced);
    failed.push_back({std::move(chunk.path), /*suspect=*/true});
  }
  std::set<std::string> failed_dirs;
  for (const std::string& dir : dirs) {
    const absl::Status synced = files_.SyncDir(dir);
    if (synced.ok()) continue;
    status.Update(synced);
    failed_dirs.insert(dir);
  }
  absl::MutexLock lock(&mu_);
  unsynced_.insert(unsynced_.end(), failed.begin(), failed.end());
  unsynced_dirs_.insert(failed_dirs.begin(), failed_dirs.end());
  return status;
}

absl::Status DiskBackend::Append(std::string_view record, bool sync) {
  if (sync) {
    absl::MutexLock lock(&sync_mu_);
    RETURN_IF_ERROR(SyncChunks());
    REPRISE_FAULT_POINT("disk.log.chunks_synced");
  }
  std::shared_ptr<WritableFile> log;
  uint64_t sequence, size;
  std::string frame;
  {
    absl::MutexLock lock(&mu_);
    if (broken_) return MakeStoreError(StoreError::kIoError, "log: its end is in doubt");
    if (record.size() > UINT32_MAX) {
      return MakeStoreError(StoreError::kInvalidArgument, "log: record is too long");
    }
    log = log_;
    sequence = appended_ + 1;
    size = log_bytes_;
    frame = EncodeFrame(salt_, sequence, sync ? sequence : chunks_durable_, record);
  }
  const absl::Status appended = log->Append(frame);
  if (!appended.ok()) {
    // A part of a frame is harmless at the end, but not before the next one.
    const bool cut = log->Truncate(size).ok();
    absl::MutexLock lock(&mu_);
    broken_ = !cut;
    return appended;
  }
  REPRISE_FAULT_POINT("disk.log.appended");
  if (sync) {
    if (const absl::Status synced = log->Sync(); !synced.ok()) {
      // The frame may or may not be on the device, and later syncs may lie about it. A new
      // checkpoint and a new log leave it behind.
      log->Truncate(size).IgnoreError();
      absl::MutexLock lock(&mu_);
      broken_ = true;
      return synced;
    }
    REPRISE_FAULT_POINT("disk.log.synced");
  }
  absl::MutexLock lock(&mu_);
  log_bytes_ += frame.size();
  appended_ = sequence;
  if (sync) durable_ = chunks_durable_ = sequence;
  return absl::OkStatus();
}

absl::Status DiskBackend::Flush() {
  absl::MutexLock sync_lock(&sync_mu_);
  std::shared_ptr<WritableFile> log;
  uint64_t sequence;
  {
    absl::MutexLock lock(&mu_);
    if (broken_) return MakeStoreError(StoreError::kIoError, "log: its end is in doubt");
    if (durable_ == appended_ && unsynced_.empty()) return absl::OkStatus();
    log = log_;
    sequence = appended_;
  }
  RETURN_IF_ERROR(SyncChunks());
  REPRISE_FAULT_POINT("disk.flush.chunks_synced");
  const absl::Status synced = log->Sync();
  absl::MutexLock lock(&mu_);
  if (log != log_) return absl::OkStatus();  // compacted meanwhile, which made all of it durable
  if (!synced.ok()) {
    broken_ = true;
    return synced;
  }
  durable_ = std::max(durable_, sequence);
  chunks_durable_ = std::max(chunks_durable_, sequence);
  return absl::OkStatus();
}

Compaction DiskBackend::compaction() {
  absl::MutexLock lock(&mu_);
  if (broken_) return Compaction::kRequired;
  // Not before the log is as long as the checkpoint, so that the cost per record stays bounded.
  return log_bytes_ >= std::max(compact_log_bytes_, checkpoint_bytes_) ? Compaction::kUseful
                                                                       : Compaction::kNone;
}

absl::Status DiskBackend::Compact(const std::vector<std::string>& records) {
  {
    absl::MutexLock lock(&sync_mu_);
    RETURN_IF_ERROR(SyncChunks());
  }
  LogHeader header;
  std::random_device device;
  header.salt = uint64_t{device()} << 32 | device();
  uint64_t old_generation;
  {
    absl::MutexLock lock(&mu_);
    old_generation = generation_;
    header.generation = ++last_generation_;
    header.first_sequence = appended_ + 1;
  }
  const std::string log_path = LogPath(header.generation);
  const std::string checkpoint =
      EncodeCheckpoint(header.generation, header.first_sequence - 1, records);
  std::shared_ptr<WritableFile> log;
  const absl::Status prepared = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(log, files_.OpenForAppend(log_path, /*truncate=*/true));
    RETURN_IF_ERROR(log->Append(EncodeLogHeader(header)));
    RETURN_IF_ERROR(log->Sync());
    return files_.SyncDir(directory_);
  }();
  if (!prepared.ok()) {
    files_.Remove(log_path).IgnoreError();
    return prepared;
  }
  REPRISE_FAULT_POINT("disk.compact.log_made");
  if (const absl::Status written =
          WriteWhole(Cat(directory_, "/checkpoint"), checkpoint, /*sync=*/true);
      !written.ok()) {
    // A rename that failed may have happened: the old log must not grow any more, and the new one
    // stays where the checkpoint may expect it.
    absl::MutexLock lock(&mu_);
    broken_ = true;
    return written;
  }
  REPRISE_FAULT_POINT("disk.compact.renamed");
  const absl::Status synced = files_.SyncDir(directory_);
  REPRISE_FAULT_POINT("disk.compact.synced");
  {
    absl::MutexLock lock(&mu_);
    log_ = std::move(log);
    log_bytes_ = kLogHeaderBytes;
    checkpoint_bytes_ = checkpoint.size();
    generation_ = header.generation;
    salt_ = header.salt;
    broken_ = !synced.ok();  // after a crash the old pair may be back
    if (synced.ok()) durable_ = chunks_durable_ = appended_;
  }
  if (synced.ok() && old_generation != 0) files_.Remove(LogPath(old_generation)).IgnoreError();
  return synced;
}

uint64_t DiskBackend::appended() {
  absl::MutexLock lock(&mu_);
  return appended_;
}

uint64_t DiskBackend::durable() {
  absl::MutexLock lock(&mu_);
  return durable_;
}

}  // namespace reprise::state_store
