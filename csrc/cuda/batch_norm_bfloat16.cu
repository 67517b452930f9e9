// Batch normalisation of bfloat16: a file of its own, so that the storage types compile in
// parallel.

#include "cuda/batch_norm_launch.cuh"

namespace gradkern::cuda {

template struct BatchNormLaunchers<__nv_bfloat16>;

}  // namespace gradkern::cuda
