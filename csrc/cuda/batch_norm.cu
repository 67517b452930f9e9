// The table's entries for batch normalisation: the workspace, how many blocks, and which storage
// type's launcher.

#include <algorithm>

#include "cuda/batch_norm.cuh"
#include "cuda/batch_norm_launchers.h"
#include "cuda/launchers.h"
#include "cuda/storage_types.cuh"

namespace gradkern::cuda {

size_t batch_norm_workspace_bytes(const BatchNormCall& call) {
  return BatchNormWorkspace(call, BatchNormPlan(call, launch_limits())).bytes;
}

void launch_batch_norm(const Launch& launch, const BatchNormCall& call) {
  set_device(launch.device);
  const BatchNormPlan plan(call, launch_limits());
  BatchNormParameters p{call, channel_grid(sizes_of(call), plan, kBatchNormFields, launch), nullptr,
                        nullptr};
  if (call.output_statistics != nullptr) {
    const BatchNormWorkspace layout(call, plan);
    char* workspace = static_cast<char*>(launch.workspace);
    p.output_partials = reinterpret_cast<double*>(workspace + layout.output_partials);
    p.output_counter = reinterpret_cast<unsigned*>(workspace + layout.output_counter);
    fill_zero(p.output_counter, sizeof(unsigned), launch.stream);
    fill_zero(call.output_statistics, (kActivationStatisticCount + call.channels) * sizeof(double),
              launch.stream);
  }
  const int64_t blocks = std::min(plan.units(), launch_limits().blocks);
  for_real_storage(call.dtype, [&](auto storage) {
    using Launchers = BatchNormLaunchers<typename decltype(storage)::type>;
    Launchers::run(p, plan.held, blocks, launch.stream);
  });
}

}  // namespace gradkern::cuda
