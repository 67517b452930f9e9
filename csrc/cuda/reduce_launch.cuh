// Launches a reduction over a list of tensors.
#pragma once

#include <memory>

#include "cuda/launch_plan.h"
#include "cuda/launchers.h"
#include "cuda/platform.h"
#include "cuda/reduce.cuh"

namespace gradkern::cuda {

template <class Formula>
void launch_reduction(const Launch& launch, TensorSpans tensors, double order, double* norms,
                      double* statistics, const TotalNorm* total) {
  static_assert(Formula::kFields <= kMaxFields);
  const LaunchPlan plan(tensors, launch_limits());
  const WorkspaceLayout layout(tensors.size, plan.by_segment() ? 0 : plan.blocks(), kMaxFields);
  char* workspace = static_cast<char*>(launch.workspace);

  set_device(launch.device);
  const auto parameters = std::make_unique<ReduceParameters>();
  parameters->by_segment = plan.by_segment();
  parameters->chunk = plan.chunk();
  parameters->all_tensors = tensors.size;
  parameters->order = order;
  parameters->published = reinterpret_cast<TableEntry*>(workspace + layout.table);
  parameters->partials = reinterpret_cast<double*>(workspace + layout.partials);
  parameters->counters = reinterpret_cast<unsigned*>(workspace + layout.counters);
  parameters->norms = norms;
  parameters->statistics = statistics;
  parameters->total = total != nullptr ? total->value : nullptr;
  parameters->total_rounded = total != nullptr ? total->rounded : nullptr;
  parameters->rounded_dtype = total != nullptr ? total->dtype : DType::kFloat64;
  if (!plan.by_segment()) {
    fill_zero(parameters->counters, layout.bytes - layout.counters, launch.stream);
  }
  for (const PlannedLaunch& part : plan.launches()) {
    plan.fill(part, tensors, parameters->table);
    parameters->tensors = part.tensors;
    parameters->first_tensor = part.first_tensor;
    parameters->first_unit = part.first_unit;
    parameters->first_block = part.first_block;
    cuda::launch(reduce_kernel<Formula>, part.blocks, kThreads, launch.stream, *parameters);
  }
}

}  // namespace gradkern::cuda
