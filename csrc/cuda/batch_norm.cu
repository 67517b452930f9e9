// The table's entries for batch normalisation: the workspace, how many blocks, and which storage
// type's launcher.

#include <algorithm>

#include "cuda/batch_norm_launchers.h"
#include "cuda/batch_norm_plan.h"
#include "cuda/batch_norm_slice.cuh"
#include "cuda/launchers.h"

namespace gradkern::cuda {

size_t batch_norm_workspace_bytes(const BatchNormCall& call) {
  return BatchNormWorkspace(call, BatchNormPlan(call, launch_limits())).bytes;
}

void launch_batch_norm(const Launch& launch, const BatchNormCall& call) {
  set_device(launch.device);
  const BatchNormPlan plan(call, launch_limits());
  const BatchNormWorkspace layout(call, plan);
  BatchNormParameters p{};
  p.call = call;
  p.tiles = plan.tiles;
  p.chunks = plan.chunks;
  p.chunk = plan.chunk;
  p.across = plan.across;
  if (layout.bytes > 0) {
    char* workspace = static_cast<char*>(launch.workspace);
    p.partials = reinterpret_cast<double*>(workspace + layout.partials);
    p.counters = reinterpret_cast<unsigned*>(workspace + layout.counters);
    fill_zero(p.counters, layout.bytes - layout.counters, launch.stream);
  }
  const int64_t blocks = std::min(plan.units(), launch_limits().blocks);
  const auto run = [&](auto launchers) { launchers.run(p, plan.held, blocks, launch.stream); };
  switch (call.dtype) {
    case DType::kFloat64:
      return run(BatchNormLaunchers<double>());
    case DType::kBFloat16:
      return run(BatchNormLaunchers<__nv_bfloat16>());
    case DType::kFloat16:
      return run(BatchNormLaunchers<__half>());
    default:
      return run(BatchNormLaunchers<float>());
  }
}

}  // namespace gradkern::cuda
