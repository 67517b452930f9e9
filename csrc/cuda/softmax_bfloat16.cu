// Softmax of bfloat16: a file of its own, so that the storage types compile in parallel.

#include "cuda/softmax_launch.cuh"

namespace gradkern::cuda {

template struct SoftmaxLaunchers<__nv_bfloat16>;

}  // namespace gradkern::cuda
