// The table's entry for RReLU: how many blocks, and which kernel.

#include <algorithm>

#include "cuda/launch_plan.h"
#include "cuda/launchers.h"
#include "cuda/rrelu.cuh"
#include "cuda/storage_types.cuh"

namespace gradkern::cuda {

void launch_rrelu(const Launch& launch, const RreluCall& call) {
  set_device(launch.device);
  const RreluParameters p{call, elementwise_chunk(call.dtype)};
  const int64_t blocks = std::min(parts_of(call.numel, p.chunk), launch_limits().blocks);
  for_real_storage(call.dtype, [&](auto storage) {
    using T = typename decltype(storage)::type;
    const auto run = [&](auto kernel) { cuda::launch(kernel, blocks, kThreads, launch.stream, p); };
    switch (call.pass) {
      case RreluPass::kValue:
        return run(rrelu_kernel<RreluPass::kValue, T>);
      case RreluPass::kBackward:
        return run(rrelu_kernel<RreluPass::kBackward, T>);
    }
  });
}

}  // namespace gradkern::cuda
