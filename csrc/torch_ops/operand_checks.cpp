#include "torch_ops/operand_checks.h"

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>

#include "torch_ops/dense_tensors.h"
#include "torch_ops/layout.h"
#include "torch_ops/storage.h"

namespace gradkern {
namespace {

std::string shape_text(const std::vector<int64_t>& sizes) {
  std::string text = "(";
  for (size_t d = 0; d < sizes.size(); d++) text += (d > 0 ? ", " : "") + std::to_string(sizes[d]);
  return text + (sizes.size() == 1 ? ",)" : ")");  // as Python writes a tuple
}

std::vector<int64_t> sizes_of(const TensorHandle& tensor) {
  return {tensor.sizes(), tensor.sizes() + tensor.dim()};
}

// A tensor's memory.
struct Memory {
  const char *begin, *end;

  explicit Memory(const TensorHandle& tensor)
      : begin(static_cast<const char*>(tensor.data())), end(begin) {
    const int64_t bytes = element_size(real_dtype_of(tensor, "a tensor"));
    if (tensor.numel() > 0) end += layout_of(tensor).extent * bytes;
  }

  bool overlaps(const Memory& other) const { return begin < other.end && other.begin < end; }
};

}  // namespace

DType real_dtype_of(const TensorHandle& tensor, const char* argument) {
  const std::optional<Storage> storage = storage_of(tensor.dtype());
  if (!storage || storage->complex) {
    throw Delegate(std::string(argument) +
                   " has a dtype without kernels; it must be float32, "
                   "float64, bfloat16 or float16");
  }
  return storage->dtype;
}

void require_shape(const TensorHandle& tensor, const char* argument,
                   const std::vector<int64_t>& sizes, const char* reference_argument) {
  if (sizes_of(tensor) == sizes) return;
  throw std::invalid_argument(std::string(argument) + " has shape " + shape_text(sizes_of(tensor)) +
                              "; it must have " + shape_text(sizes) + " like " +
                              reference_argument);
}

void require_type_of(const TensorHandle& tensor, const char* argument,
                     const TensorHandle& reference, const char* reference_argument) {
  if (tensor.dtype() == reference.dtype() && tensor.device_type() == reference.device_type() &&
      tensor.device_index() == reference.device_index()) {
    return;
  }
  throw std::invalid_argument(std::string(argument) + " must have the dtype and device of " +
                              reference_argument);
}

void require_like(const TensorHandle& tensor, const char* argument, const TensorHandle& reference,
                  const char* reference_argument) {
  require_shape(tensor, argument, sizes_of(reference), reference_argument);
  require_type_of(tensor, argument, reference, reference_argument);
}

void require_not_overlapping(const TensorHandle& tensor, const char* argument) {
  if (tensor.is_contiguous() || !layout_of(tensor).overlaps) return;
  throw std::runtime_error(std::string(argument) +
                           " overlaps itself in memory (an expanded tensor?); it is to be written, "
                           "so each element must have its own memory");
}

void require_same_or_apart(const TensorHandle& tensor, const char* argument,
                           const TensorHandle& other, const char* other_argument) {
  const Memory memory(tensor), of_other(other);
  if (!memory.overlaps(of_other)) return;
  if (memory.begin == of_other.begin &&
      std::equal(tensor.strides(), tensor.strides() + tensor.dim(), other.strides())) {
    return;
  }
  throw std::runtime_error(std::string(argument) + " shares a part of its memory with " +
                           other_argument + "; it must be the same tensor or another one");
}

void require_apart(const TensorHandle& tensor, const char* argument, const TensorHandle& other,
                   const char* other_argument) {
  if (!Memory(tensor).overlaps(Memory(other))) return;
  throw std::runtime_error(std::string(argument) + " shares memory with " + other_argument +
                           "; each must have its own");
}

}  // namespace gradkern
