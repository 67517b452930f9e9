// The table's entries for activations with a parameter for each channel: the workspace, how many
// blocks, and which kernel.

#include <algorithm>

#include "cuda/channel_plan.h"
#include "cuda/channelwise.cuh"
#include "cuda/launchers.h"
#include "cuda/storage_types.cuh"

namespace gradkern::cuda {
namespace {

// A single parameter is one for all: one plane.
ChannelSizes sizes_of(const ChannelwiseCall& call) {
  if (call.channels == 1) return {1, 1, call.outer * call.inner};
  return {call.outer, call.channels, call.inner};
}

template <class Formula, class T, bool kColumns>
void run(const ChannelwiseParameters& p, int64_t blocks, void* stream) {
  switch (p.call.pass) {
    case ChannelwisePass::kValue:
      return cuda::launch(channelwise_kernel<Formula, T, kColumns>, blocks, kThreads, stream, p);
    case ChannelwisePass::kBackward:
      return cuda::launch(channelwise_backward_kernel<Formula, T, kColumns>, blocks, kThreads,
                          stream, p);
  }
}

}  // namespace

size_t channelwise_workspace_bytes(const ChannelwiseCall& call) {
  if (call.pass == ChannelwisePass::kValue) return 0;
  const ChannelSizes sizes = sizes_of(call);
  return ChannelWorkspace(sizes, ChannelPlan(sizes, call.dtype, launch_limits()), 1).bytes;
}

void launch_channelwise(const Launch& launch, const ChannelwiseCall& call) {
  set_device(launch.device);
  const ChannelSizes sizes = sizes_of(call);
  const ChannelPlan plan(sizes, call.dtype, launch_limits());
  const ChannelwiseParameters p{call, call.pass == ChannelwisePass::kValue
                                          ? channel_grid(sizes, plan)
                                          : channel_grid(sizes, plan, 1, launch)};
  const int64_t blocks = std::min(plan.units(), launch_limits().blocks);
  for_real_storage(call.dtype, [&](auto storage) {
    using T = typename decltype(storage)::type;
    formulas::ChannelwiseActivations::each([&](int index, auto formula) {
      using Formula = decltype(formula);
      if (index != call.activation) return;
      if (sizes.inner == 1) {
        run<Formula, T, true>(p, blocks, launch.stream);
      } else {
        run<Formula, T, false>(p, blocks, launch.stream);
      }
    });
  });
}

}  // namespace gradkern::cuda
