// Tensors as rows along their last dimension: a half of a wider tensor's rows needs no copy.
#pragma once

#include <cstdint>
#include <optional>

#include "torch_ops/boxed_tensors.h"

namespace gradkern {

// The distance from a row to the next, in elements, where the entries of each row lie side by side
// and the rows lie evenly spaced; else nothing.
std::optional<int64_t> row_stride(const TensorHandle& tensor);

struct Rows {
  void* data;
  int64_t stride;
};

// Of a tensor that has a row_stride.
Rows rows_of(const TensorHandle& tensor);

// An uninitialised contiguous tensor like this one, but for the size of its last dimension.
TensorHandle rows_like(const TensorHandle& tensor, int64_t columns);

TensorHandle contiguous_like(const TensorHandle& tensor);

// A tensor to read: as it lies if it consists of rows, else a copy.
class RowOperand {
 public:
  explicit RowOperand(const TensorHandle& tensor);

  Rows rows() const { return rows_of(staged_.get() != nullptr ? staged_ : original_); }

 protected:
  struct Uninitialised {};
  RowOperand(const TensorHandle& tensor, Uninitialised);

  const TensorHandle& original_;
  TensorHandle staged_;
};

// A tensor to write: commit() brings what was written where the tensor lies.
class WrittenRows : public RowOperand {
 public:
  explicit WrittenRows(const TensorHandle& tensor) : RowOperand(tensor, Uninitialised()) {}

  void commit() const;
};

}  // namespace gradkern
