// From a dtype to the storage type of elements, for launchers.
#pragma once

#include "backend.h"
#include "cuda/elements.cuh"

namespace gradkern::cuda {

// Calls visit(StorageOf<T>()).
template <class Visit>
void for_real_storage(DType dtype, Visit visit) {
  switch (dtype) {
    case DType::kFloat64:
      return visit(StorageOf<double>());
    case DType::kBFloat16:
      return visit(StorageOf<__nv_bfloat16>());
    case DType::kFloat16:
      return visit(StorageOf<__half>());
    default:
      return visit(StorageOf<float>());
  }
}

}  // namespace gradkern::cuda
