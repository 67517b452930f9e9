// The table's entry for softmax: which storage type's launcher.

#include "cuda/launchers.h"
#include "cuda/platform.h"
#include "cuda/softmax_launchers.h"
#include "cuda/storage_types.cuh"

namespace gradkern::cuda {

void launch_softmax(const Launch& launch, const SoftmaxCall& call) {
  set_device(launch.device);
  for_real_storage(call.dtype, [&](auto storage) {
    SoftmaxLaunchers<typename decltype(storage)::type>::run(call, launch.stream);
  });
}

}  // namespace gradkern::cuda
