#include "torch_ops/dense_tensors.h"

#include <algorithm>
#include <array>
#include <optional>

#include "torch_ops/fresh_tensors.h"
#include "torch_ops/layout.h"
#include "torch_ops/storage.h"

namespace gradkern {
namespace {

const char* integer_name(int32_t dtype) {
  static const struct {
    int32_t number;
    const char* name;
  } known[] = {
      {aoti_torch_dtype_uint8(), "torch.uint8"}, {aoti_torch_dtype_int8(), "torch.int8"},
      {aoti_torch_dtype_int16(), "torch.int16"}, {aoti_torch_dtype_int32(), "torch.int32"},
      {aoti_torch_dtype_int64(), "torch.int64"}, {aoti_torch_dtype_bool(), "torch.bool"},
  };
  for (const auto& k : known) {
    if (k.number == dtype) return k.name;
  }
  return nullptr;
}

std::string name_of(const char* argument, int64_t index) {
  return std::string(argument) + "[" + std::to_string(index) + "]";
}

}  // namespace

Delegate::Delegate(const std::string& why) : std::runtime_error("gradkern delegates: " + why) {}

DenseTensors::DenseTensors(const TensorList& tensors, const char* argument, Access access,
                           ComplexAs complex_as, SegmentBy segment_by) {
  if (tensors.empty()) {
    throw std::invalid_argument(std::string(argument) + " is an empty list; it must hold a tensor");
  }
  device_ = device_of(tensors[0]);
  spans_.reserve(tensors.size());
  if (access == Access::kWrite) extents_.reserve(tensors.size());
  for (size_t i = 0; i < tensors.size(); i++) {
    add(tensors[i], static_cast<int64_t>(i), argument, access, complex_as, segment_by);
  }
}

void DenseTensors::add(const TensorHandle& tensor, int64_t index, const char* argument,
                       Access access, ComplexAs complex_as, SegmentBy segment_by) {
  const int32_t number = tensor.dtype();
  const std::optional<Storage> storage = storage_of(number);
  if (!storage) {
    if (const char* name = integer_name(number)) {
      throw std::runtime_error(name_of(argument, index) + " has dtype " + name +
                               "; it must be floating point or complex");
    }
    throw Delegate(name_of(argument, index) + " has a dtype without kernels");
  }
  if (device_of(tensor) != device_) {
    throw Delegate(name_of(argument, index) + " is on another device than " + name_of(argument, 0));
  }
  has_complex_ |= storage->complex;
  promoted_ = index == 0 ? storage->dtype : promote(promoted_, storage->dtype);

  const int64_t numel = tensor.numel();
  Layout layout{true, true, false, numel};
  if (!tensor.is_contiguous()) layout = layout_of(tensor);
  void* data = tensor.data();
  if (access == Access::kWrite) {
    if (layout.overlaps) {
      throw std::runtime_error(name_of(argument, index) +
                               " overlaps itself in memory (an expanded tensor?); it is to be "
                               "written in place, so each element must have its own memory");
    }
    const char* begin = static_cast<const char*>(data);
    const int64_t bytes = layout.extent * element_size(storage->dtype) * (storage->complex ? 2 : 1);
    extents_.push_back({begin, begin + bytes});
  }
  if (!layout.dense || (segment_by == SegmentBy::kUnit && !layout.unit_is_outer)) {
    staged_.push_back({index, tensor.get(), empty(device_, number, tensor.dim(), tensor.sizes())});
    refresh(staged_.back());
    data = staged_.back().copy.data();
  }

  TensorSpan span{data, numel, numel, storage->dtype};
  if (storage->complex && complex_as == ComplexAs::kPairs) {
    span.numel *= 2;
  } else if (storage->complex) {
    span.dtype =
        storage->dtype == DType::kFloat32 ? DType::kComplex64Modulus : DType::kComplex128Modulus;
  }
  if (segment_by == SegmentBy::kUnit && numel > 0 && tensor.dim() > 1) {
    span.segment = span.numel / tensor.sizes()[0];
  } else {
    span.segment = span.numel;
  }
  spans_.push_back(span);
}

int64_t DenseTensors::segments() const {
  int64_t count = 0;
  for (const TensorSpan& span : spans_) count += span.segments();
  return count;
}

bool DenseTensors::has_empty() const {
  return std::any_of(spans_.begin(), spans_.end(),
                     [](const TensorSpan& span) { return span.numel == 0; });
}

const DenseTensors::Staged* DenseTensors::find_staged(int64_t index) const {
  for (const Staged& staged : staged_) {
    if (staged.index == index) return &staged;
  }
  return nullptr;
}

void DenseTensors::refresh(const Staged& staged) {
  check(aoti_torch_copy_(staged.copy.get(), staged.original, 0));
}

void DenseTensors::write_back(const Staged& staged) {
  check(aoti_torch_copy_(staged.original, staged.copy.get(), 0));
}

}  // namespace gradkern
