// The table's entry for gated activations: how many blocks, and which kernel.

#include <algorithm>

#include "cuda/gated.cuh"
#include "cuda/launch_plan.h"
#include "cuda/launchers.h"
#include "cuda/storage_types.cuh"

namespace gradkern::cuda {
namespace {

template <class Formula, class T>
void run(const GatedParameters& p, int64_t blocks, void* stream) {
  switch (p.call.pass) {
    case GatedPass::kValue:
      return cuda::launch(gated_kernel<Formula, GatedPass::kValue, T>, blocks, kThreads, stream, p);
    case GatedPass::kBackward:
      return cuda::launch(gated_kernel<Formula, GatedPass::kBackward, T>, blocks, kThreads, stream,
                          p);
  }
}

}  // namespace

void launch_gated(const Launch& launch, const GatedCall& call) {
  set_device(launch.device);
  const int64_t size = 16 / element_size(call.dtype);
  GatedParameters p{call, parts_of(call.columns, size), 0};
  p.chunk = elementwise_chunk(call.dtype) / size;
  const int64_t all = call.rows * p.vectors;
  const int64_t blocks = std::min(parts_of(all, p.chunk), launch_limits().blocks);
  for_real_storage(call.dtype, [&](auto storage) {
    using T = typename decltype(storage)::type;
    formulas::GatedActivations::each([&](int index, auto formula) {
      if (index == call.activation) run<decltype(formula), T>(p, blocks, launch.stream);
    });
  });
}

}  // namespace gradkern::cuda
