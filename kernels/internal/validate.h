// Checks of params on the host. Every message reads "Op: tensor: expected ..., found ...".
#ifndef REPRISE_KERNELS_INTERNAL_VALIDATE_H_
#define REPRISE_KERNELS_INTERNAL_VALIDATE_H_

#include <cstdint>
#include <limits>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/kernels.h"

namespace reprise::kernels::internal {

// Rows of numbers in memory.
struct Rows2D {
  const void* data = nullptr;
  int64_t rows = 0;
  int64_t dim = 0;
  int64_t stride = 0;
  int64_t element_bytes = sizeof(float);

  bool Overlaps(const Rows2D& other) const {
    if (data == nullptr || other.data == nullptr || rows <= 0 || other.rows <= 0) return false;
    const auto a = reinterpret_cast<intptr_t>(data), b = reinterpret_cast<intptr_t>(other.data);
    if (End() <= b || other.End() <= a) return false;
    const intptr_t row_bytes = stride * element_bytes;
    if (row_bytes != other.stride * other.element_bytes) return true;
    // Equal strides: compare the columns that the two take of a row.
    const intptr_t shift = ((b - a) % row_bytes + row_bytes) % row_bytes;
    return shift < dim * element_bytes || shift + other.dim * other.element_bytes > row_bytes;
  }

 private:
  intptr_t End() const {
    return reinterpret_cast<intptr_t>(data) + ((rows - 1) * stride + dim) * element_bytes;
  }
};

// Collects the first failed check of one call. Example:
//   Validator v("RgLru");
//   v.AtLeast("width", p.width, 1).Pointer("u", p.u);
//   RETURN_IF_ERROR(v.status());
class Validator {
 public:
  explicit Validator(const char* op) : op_(op) {}

  Validator& Check(bool ok, std::string_view tensor, std::string_view expected,
                   std::string_view found) {
    if (!ok && status_.ok()) {
      status_ = absl::InvalidArgumentError(absl::StrCat(op_, ": ", std::string(tensor),
                                                        ": expected ", std::string(expected),
                                                        ", found ", std::string(found)));
    }
    return *this;
  }

  Validator& Range(std::string_view tensor, int64_t value, int64_t low, int64_t high) {
    if (value >= low && value <= high) return *this;
    return Check(false, tensor,
                 high == std::numeric_limits<int64_t>::max() ? absl::StrCat(">= ", low)
                                                             : absl::StrCat(low, "..", high),
                 absl::StrCat(value));
  }
  Validator& AtLeast(std::string_view tensor, int64_t value, int64_t low) {
    return Range(tensor, value, low, std::numeric_limits<int64_t>::max());
  }
  Validator& Pointer(std::string_view tensor, const void* pointer) {
    if (pointer != nullptr) return *this;
    return Check(false, tensor, "a tensor", "null");
  }
  // A negative, infinite or NaN number is refused, and zero unless allowed.
  Validator& Positive(std::string_view tensor, float value, bool zero_allowed = false) {
    const bool ok = (value > 0.0f || (zero_allowed && value == 0.0f)) &&
                    value <= std::numeric_limits<float>::max();
    if (ok) return *this;
    return Check(false, tensor, zero_allowed ? "a finite number >= 0" : "a finite number > 0",
                 absl::StrCat(value));
  }
  // `a` and `b` share no float. Rows of one buffer may lie side by side at the same stride.
  Validator& Disjoint(std::string_view tensor, const Rows2D& a, std::string_view other,
                      const Rows2D& b) {
    if (!a.Overlaps(b)) return *this;
    return Check(false, tensor, absl::StrCat("memory apart from ", std::string(other)),
                 "an overlap");
  }
  // On CUDA the contents lie on the device and were checked before they went there.
  Validator& Rows(const RaggedRows& rows, int num_slots, const Context& context) {
    if (context.device == Device::kCuda) {
      AtLeast("num_rows", rows.num_rows, 0)
          .AtLeast("num_seqs", rows.num_seqs, 0)
          .Pointer("seq_offsets", rows.seq_offsets);
      if (rows.num_rows == 0) return *this;
      return Pointer("slots", rows.slots)
          .Pointer("start_positions", rows.start_positions)
          .Pointer("row_seqs", rows.row_seqs)
          .Range("max_seq_rows", rows.max_seq_rows, 1, rows.num_rows);
    }
    if (status_.ok()) status_ = Prefixed(ValidateRaggedRows(rows, num_slots), op_);
    return *this;
  }
  // A tensor of which each device takes its own form.
  Validator& Either(std::string_view tensor, const void* cpu, const void* cuda,
                    const Context& context) {
    return context.device == Device::kCpu
               ? Pointer(tensor, cpu)
               : Pointer(absl::StrCat(std::string(tensor), "_bf16"), cuda);
  }

  bool ok() const { return status_.ok(); }
  const absl::Status& status() const { return status_; }

 private:
  const char* op_;
  absl::Status status_;
};

// OK where an implementation for the context's device exists in this build.
absl::Status ValidateContext(const char* op, const Context& context);

}  // namespace reprise::kernels::internal

#endif  // REPRISE_KERNELS_INTERNAL_VALIDATE_H_
