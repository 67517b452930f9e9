// New tensors, uninitialised, for results and copies.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "torch_ops/backends.h"
#include "torch_ops/boxed_tensors.h"

namespace gradkern {

// dtype is torch's number for it.
TensorHandle empty_strided(Device device, int32_t dtype, int64_t dim, const int64_t* sizes,
                           const int64_t* strides);

// Row-major.
TensorHandle empty(Device device, int32_t dtype, int64_t dim, const int64_t* sizes);
inline TensorHandle empty(Device device, int32_t dtype, std::initializer_list<int64_t> sizes) {
  return empty(device, dtype, static_cast<int64_t>(sizes.size()), sizes.begin());
}

// torch's own empty_like: it alone knows the memory order of a result for a tensor with gaps.
TensorHandle empty_like(const TensorHandle& tensor);

}  // namespace gradkern
