// Between torch's dtypes and the storage types of backend.h.
#pragma once

#include <cstdint>
#include <optional>

#include "backend.h"

namespace gradkern {

struct Storage {
  DType dtype;
  bool complex;
};

// Nothing for a dtype without kernels.
std::optional<Storage> storage_of(int32_t torch_dtype);

// torch's number for a real dtype.
int32_t torch_dtype(DType dtype);

}  // namespace gradkern
