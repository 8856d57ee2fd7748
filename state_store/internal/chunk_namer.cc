#include "state_store/internal/chunk_namer.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include "state_store/chunking.h"

namespace reprise::state_store {
namespace {

// Below this a thread costs more than it saves.
constexpr size_t kBytesPerThread = 1 << 20;
constexpr size_t kMaxThreads = 4;

size_t ThreadsFor(const std::vector<std::string_view>& chunks) {
  size_t bytes = 0;
  for (const std::string_view chunk : chunks) bytes += chunk.size();
  // One processor is left to the caller, who sends.
  const size_t processors = std::max(1u, std::thread::hardware_concurrency());
  return std::min({bytes / kBytesPerThread, processors - 1, kMaxThreads});
}

}  // namespace

ChunkNamer::ChunkNamer(std::string_view tenant, std::vector<std::string_view> chunks)
    : tenant_(tenant),
      chunks_(std::move(chunks)),
      names_(chunks_.size()),
      done_(std::make_unique<std::atomic<int>[]>(chunks_.size())) {
  try {
    for (size_t i = ThreadsFor(chunks_); i > 0; --i) {
      threads_.emplace_back([this] {
        while (NameOne()) {
        }
      });
    }
  } catch (const std::system_error&) {
    // Without more threads it only takes longer.
  }
}

ChunkNamer::~ChunkNamer() {
  next_ = chunks_.size();
  for (std::thread& thread : threads_) thread.join();
}

bool ChunkNamer::NameOne() {
  const size_t i = next_.fetch_add(1);
  if (i >= chunks_.size()) return false;
  names_[i].digest = ChunkDigest(tenant_, chunks_[i]);
  names_[i].checksum = Checksum64(chunks_[i]);
  done_[i].store(1, std::memory_order_release);
  done_[i].notify_one();
  return true;
}

const ChunkName& ChunkNamer::At(size_t index) {
  while (done_[index].load(std::memory_order_acquire) == 0) {
    if (!NameOne()) done_[index].wait(0, std::memory_order_acquire);
  }
  return names_[index];
}

}  // namespace reprise::state_store
