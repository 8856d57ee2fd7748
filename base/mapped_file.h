// A whole file mapped read-only.
#ifndef REPRISE_BASE_MAPPED_FILE_H_
#define REPRISE_BASE_MAPPED_FILE_H_

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace reprise {

// Owns the mapping; views into `bytes()` live as long as it does. Move-only.
// The file must not be truncated while it is mapped.
class MappedFile {
 public:
  // NOT_FOUND, PERMISSION_DENIED or INTERNAL with the path in the message; an
  // empty file gives empty bytes.
  static absl::StatusOr<MappedFile> Open(const std::string& path);

  MappedFile() = default;
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::string_view bytes() const { return {static_cast<const char*>(data_), size_}; }
  const std::string& path() const { return path_; }

 private:
  void Unmap();

  void* data_ = nullptr;
  size_t size_ = 0;
  std::string path_;
};

}  // namespace reprise

#endif  // REPRISE_BASE_MAPPED_FILE_H_
