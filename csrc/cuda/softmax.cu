// The table's entry for softmax: which storage type's launcher.

#include "cuda/elements.cuh"
#include "cuda/launchers.h"
#include "cuda/platform.h"
#include "cuda/softmax_launchers.h"

namespace gradkern::cuda {

void launch_softmax(const Launch& launch, const SoftmaxCall& call) {
  set_device(launch.device);
  switch (call.dtype) {
    case DType::kFloat64:
      return SoftmaxLaunchers<double>::run(call, launch.stream);
    case DType::kBFloat16:
      return SoftmaxLaunchers<__nv_bfloat16>::run(call, launch.stream);
    case DType::kFloat16:
      return SoftmaxLaunchers<__half>::run(call, launch.stream);
    default:
      return SoftmaxLaunchers<float>::run(call, launch.stream);
  }
}

}  // namespace gradkern::cuda
