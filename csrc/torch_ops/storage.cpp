#include "torch_ops/storage.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

namespace gradkern {

// torch's dtype numbers are functions of its shim; they are constant while a process lives.
std::optional<Storage> storage_of(int32_t dtype) {
  static const struct {
    int32_t number;
    Storage storage;
  } known[] = {
      {aoti_torch_dtype_float32(), {DType::kFloat32, false}},
      {aoti_torch_dtype_bfloat16(), {DType::kBFloat16, false}},
      {aoti_torch_dtype_float16(), {DType::kFloat16, false}},
      {aoti_torch_dtype_float64(), {DType::kFloat64, false}},
      {aoti_torch_dtype_complex64(), {DType::kFloat32, true}},
      {aoti_torch_dtype_complex128(), {DType::kFloat64, true}},
  };
  for (const auto& k : known) {
    if (k.number == dtype) return k.storage;
  }
  return std::nullopt;
}

int32_t torch_dtype(DType dtype) {
  switch (dtype) {
    case DType::kFloat64:
      return aoti_torch_dtype_float64();
    case DType::kBFloat16:
      return aoti_torch_dtype_bfloat16();
    case DType::kFloat16:
      return aoti_torch_dtype_float16();
    default:
      return aoti_torch_dtype_float32();
  }
}

}  // namespace gradkern
