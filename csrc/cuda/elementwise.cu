// Launches the kernels that change gradients in place.

#include <memory>

#include "cuda/elementwise.cuh"
#include "cuda/launchers.h"

namespace gradkern::cuda {
namespace {

// Calls run(parameters, blocks) for every launch with the tables in the parameters.
template <class Run>
void each_launch(const LaunchPlan& plan, TensorSpans tensors, Run run) {
  const auto parameters = std::make_unique<ElementwiseParameters<InParameters>>();
  static_assert(sizeof(*parameters) + sizeof(Clip) <= 32764, "kernel parameters");
  for (const PlannedLaunch& part : plan.launches()) {
    plan.fill(part, tensors, parameters->tensors.table);
    parameters->count = part.tensors;
    parameters->first_tensor = part.first_tensor;
    parameters->first_unit = part.first_unit;
    parameters->first_block = part.first_block;
    parameters->chunk = plan.chunk();
    parameters->by_segment = plan.by_segment();
    run(*parameters, part.blocks);
  }
}

}  // namespace

size_t workspace_bytes(TensorSpans tensors) {
  const LaunchPlan plan(tensors, launch_limits());
  return WorkspaceLayout(tensors.size, plan.by_segment() ? 0 : plan.blocks(), kMaxFields).bytes;
}

void launch_clip(const Launch& launch, TensorSpans tensors, const Clip& clip,
                 bool after_reduction) {
  const LaunchPlan plan(tensors, launch_limits());
  set_device(launch.device);
  if (after_reduction && !plan.by_segment() && plan.blocks() <= launch_limits().blocks) {
    const WorkspaceLayout layout(tensors.size, plan.blocks(), kMaxFields);
    ElementwiseParameters<InWorkspace> parameters{};
    parameters.tensors.table = reinterpret_cast<const TableEntry*>(
        static_cast<const char*>(launch.workspace) + layout.table);
    parameters.count = static_cast<int32_t>(tensors.size);
    parameters.chunk = plan.chunk();
    cuda::launch(clip_kernel<InWorkspace>, plan.blocks(), kThreads, launch.stream, parameters,
                 clip);
    return;
  }
  each_launch(plan, tensors, [&](const auto& parameters, int64_t blocks) {
    cuda::launch(clip_kernel<InParameters>, blocks, kThreads, launch.stream, parameters, clip);
  });
}

void launch_clamp(const Launch& launch, TensorSpans tensors, double bound) {
  const LaunchPlan plan(tensors, launch_limits());
  set_device(launch.device);
  each_launch(plan, tensors, [&](const auto& parameters, int64_t blocks) {
    cuda::launch(clamp_kernel<InParameters>, blocks, kThreads, launch.stream, parameters, bound);
  });
}

}  // namespace gradkern::cuda
