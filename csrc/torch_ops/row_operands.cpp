#include "torch_ops/row_operands.h"

#include <vector>

#include "torch_ops/fresh_tensors.h"

namespace gradkern {

std::optional<int64_t> row_stride(const TensorHandle& tensor) {
  const int64_t dim = tensor.dim();
  const int64_t *sizes = tensor.sizes(), *strides = tensor.strides();
  if (dim == 0) return 1;
  const int64_t columns = sizes[dim - 1];
  if (columns > 1 && strides[dim - 1] != 1) return std::nullopt;
  int64_t stride = columns, expected = -1;
  for (int64_t d = dim - 2; d >= 0; d--) {
    if (sizes[d] == 1) continue;
    if (expected < 0) {
      // A stride of 0 is an expanded tensor's: its rows are one.
      stride = strides[d];
    } else if (strides[d] != expected) {
      return std::nullopt;
    }
    expected = strides[d] * sizes[d];
  }
  return stride;
}

Rows rows_of(const TensorHandle& tensor) { return {tensor.data(), row_stride(tensor).value()}; }

RowOperand::RowOperand(const TensorHandle& tensor, Uninitialised) : original_(tensor) {
  if (!row_stride(tensor)) staged_ = contiguous_like(tensor);
}

RowOperand::RowOperand(const TensorHandle& tensor) : RowOperand(tensor, Uninitialised()) {
  if (staged_.get() != nullptr) check(aoti_torch_copy_(staged_.get(), tensor.get(), 0));
}

void WrittenRows::commit() const {
  if (staged_.get() != nullptr) check(aoti_torch_copy_(original_.get(), staged_.get(), 0));
}

TensorHandle rows_like(const TensorHandle& tensor, int64_t columns) {
  const int64_t dim = tensor.dim();
  std::vector<int64_t> sizes(tensor.sizes(), tensor.sizes() + dim);
  if (dim > 0) sizes[dim - 1] = columns;
  return empty(device_of(tensor), tensor.dtype(), dim, sizes.data());
}

TensorHandle contiguous_like(const TensorHandle& tensor) {
  return rows_like(tensor, tensor.dim() == 0 ? 1 : tensor.sizes()[tensor.dim() - 1]);
}

}  // namespace gradkern
