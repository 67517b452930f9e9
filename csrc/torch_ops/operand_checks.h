// What an elementwise operator asks of its tensors. `argument` names a tensor in messages.
#pragma once

#include <cstdint>
#include <vector>

#include "backend.h"
#include "torch_ops/boxed_tensors.h"

namespace gradkern {

// The storage type of a tensor; throws Delegate for one without kernels.
DType real_dtype_of(const TensorHandle& tensor, const char* argument);

// Throws std::invalid_argument unless the tensor has these sizes, those of the reference.
void require_shape(const TensorHandle& tensor, const char* argument,
                   const std::vector<int64_t>& sizes, const char* reference_argument);

// Throws std::invalid_argument unless the tensor has the reference's dtype and device.
void require_type_of(const TensorHandle& tensor, const char* argument,
                     const TensorHandle& reference, const char* reference_argument);

// Both.
void require_like(const TensorHandle& tensor, const char* argument, const TensorHandle& reference,
                  const char* reference_argument);

// For a tensor that is written: throws std::runtime_error if it overlaps itself.
void require_not_overlapping(const TensorHandle& tensor, const char* argument);

// For a tensor that is written: throws std::runtime_error if it shares memory with another one, but
// is not the same.
void require_same_or_apart(const TensorHandle& tensor, const char* argument,
                           const TensorHandle& other, const char* other_argument);

// The same, if it may not be the other one either.
void require_apart(const TensorHandle& tensor, const char* argument, const TensorHandle& other,
                   const char* other_argument);

}  // namespace gradkern
