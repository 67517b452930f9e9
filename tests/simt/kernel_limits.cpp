// Lets tests lower the limits by which the CUDA backend cuts tensors into launches, so that a
// tensor of a few thousand elements has many chunks and a few tensors fill several launches.

#include "cuda/launch_plan.h"

extern "C" __attribute__((visibility("default"))) void simt_limit_launches(int64_t chunk,
                                                                           int32_t tensors,
                                                                           int64_t blocks) {
  gradkern::cuda::launch_limits() = {chunk, tensors, blocks};
}

extern "C" __attribute__((visibility("default"))) void simt_restore_launch_limits() {
  gradkern::cuda::launch_limits() = gradkern::cuda::LaunchLimits();
}
