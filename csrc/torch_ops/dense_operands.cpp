#include "torch_ops/dense_operands.h"

#include <torch/csrc/stable/c/shim.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "torch_ops/fresh_tensors.h"
#include "torch_ops/layout.h"
#include "torch_ops/operand_checks.h"

namespace gradkern {
namespace {

bool is_dense(const TensorHandle& tensor) {
  return tensor.is_contiguous() || layout_of(tensor).dense;
}

TensorHandle like(const TensorHandle& tensor) {
  return empty_strided(device_of(tensor), tensor.dtype(), tensor.dim(), tensor.sizes(),
                       tensor.strides());
}

}  // namespace

ReferenceOperand::ReferenceOperand(const TensorHandle& tensor, const char* argument)
    : original_(tensor),
      argument_(argument),
      dense_(&original_),
      numel_(tensor.numel()),
      device_(device_of(tensor)) {
  dtype_ = real_dtype_of(tensor, argument);
  if (is_dense(tensor)) return;
  copy_ = empty_like(tensor);
  check(aoti_torch_copy_(copy_.get(), tensor.get(), 0));
  dense_ = &copy_;
}

Channels ReferenceOperand::channels(int64_t dimension, const char* argument) const {
  const int64_t dim = this->dim();
  const int64_t d = dimension < 0 ? dimension + dim : dimension;
  if (d < 0 || d >= dim) {
    throw std::out_of_range(std::string(argument) + " is " + std::to_string(dimension) +
                            "; it must be in [" + std::to_string(-dim) + ", " +
                            std::to_string(dim - 1) + "] for a " + std::to_string(dim) +
                            "-dimensional " + argument_);
  }
  const int64_t count = sizes()[d];
  // The stride of a dimension of one index says nothing.
  return {count, count == 1 ? std::max<int64_t>(numel_, 1) : strides()[d]};
}

TensorHandle ReferenceOperand::result() const { return like(*dense_); }

void ReferenceOperand::require_writable() const { require_not_overlapping(original_, argument_); }

void ReferenceOperand::commit() const {
  if (dense_ == &copy_) check(aoti_torch_copy_(original_.get(), copy_.get(), 0));
}

Operand::Operand(const TensorHandle& tensor, const char* argument,
                 const ReferenceOperand& reference, Access access)
    : original_(tensor) {
  const int64_t dim = reference.dim();
  require_like(tensor, argument, reference.original(), reference.argument());
  const bool same_order = std::equal(tensor.strides(), tensor.strides() + dim, reference.strides());
  if (access == Access::kWrite) {
    require_not_overlapping(tensor, argument);
    const int64_t size = element_size(reference.dtype());
    const char* begin = static_cast<const char*>(tensor.data());
    const char* end = begin + (tensor.numel() == 0 ? 0 : layout_of(tensor).extent * size);
    const char* read_begin = static_cast<const char*>(reference.data());
    const char* read_end = read_begin + reference.numel() * size;
    const bool same_memory = begin == read_begin && same_order;
    if (!same_memory && begin < read_end && read_begin < end) {
      throw std::runtime_error(std::string(argument) + " shares a part of its memory with " +
                               reference.argument() +
                               "; it must be the same tensor or another one");
    }
  }
  if (same_order) return;
  staged_ =
      empty_strided(device_of(tensor), tensor.dtype(), dim, reference.sizes(), reference.strides());
  if (access == Access::kRead) check(aoti_torch_copy_(staged_.get(), tensor.get(), 0));
}

void Operand::commit() const {
  if (staged_.get() != nullptr) check(aoti_torch_copy_(original_.get(), staged_.get(), 0));
}

}  // namespace gradkern
