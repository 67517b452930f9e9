// In-place scaling by a clip factor, and clamping, of reals (complex tensors come as pairs). Bytes
// moved: each element read once and written once; nothing at all where the factor is 1.
#pragma once

#include "backend.h"
#include "cuda/block_merge.cuh"
#include "cuda/elements.cuh"
#include "cuda/launch_plan.h"
#include "cuda/platform.h"
#include "cuda/table.cuh"
#include "formulas/clip_factor.h"
#include "formulas/clip_value.h"

namespace gradkern::cuda {

// The tensors of a launch: a table in the kernel's own parameters, or one that a reduction left in
// the workspace, which serves any number of tensors.
struct InParameters {
  TableEntry table[kTableCapacity];
  __device__ const TableEntry* entries() const { return table; }
};
struct InWorkspace {
  const TableEntry* table;
  __device__ const TableEntry* entries() const { return table; }
};

template <class Tensors>
struct ElementwiseParameters {
  Tensors tensors;
  int32_t count;
  int64_t first_tensor;
  int64_t first_unit;
  int64_t first_block;
  int64_t chunk;
  bool by_segment;
};

__device__ __forceinline__ double clip_factor(const Clip& clip, int64_t index) {
  switch (clip.rule) {
    case ClipRule::kTotalNorm:
      return formulas::total_norm_factor(__ldcg(clip.norm), clip.max_norm);
    case ClipRule::kEachNorm:
      return formulas::each_norm_factor(__ldcg(clip.norm + index), clip.max_norm);
    case ClipRule::kWeightNorm:
      return formulas::weight_norm_factor(
          __ldcg(clip.norm + index), __ldcg(clip.weight_norm + index), clip.max_norm, clip.eps);
  }
  return 1;
}

struct Factor;

// Occupancy: 4 blocks on an SM, which have 64 KiB of loads in flight.
template <class Tensors>
__global__ void __launch_bounds__(kThreads)
    clip_kernel(const __grid_constant__ KernelParameter<ElementwiseParameters<Tensors>> p,
                const Clip clip) {
  double factor = 1;
  Piece piece;
  if (clip.rule == ClipRule::kTotalNorm) {
    // One thread divides; where there is nothing to clip the block has read 8 bytes and is done.
    if (threadIdx.x == 0) factor = clip_factor(clip, 0);
    factor = broadcast<Factor>(factor);
    if (factor == 1) return;
    piece = find_piece(p.tensors.entries(), p.count, p.chunk, p.first_unit);
  } else {
    piece = find_piece(p.tensors.entries(), p.count, p.chunk, p.first_unit);
    const int64_t index = p.by_segment ? p.first_block + blockIdx.x : p.first_tensor + piece.tensor;
    if (threadIdx.x == 0) factor = clip_factor(clip, index);
    factor = broadcast<Factor>(factor);
    if (factor == 1) return;
  }
  visit_real_storage(piece.dtype, [&](auto storage) {
    using T = typename decltype(storage)::type;
    const formulas::Scaling<NarrowOf<T>> scaling(factor);
    map_elements(static_cast<T*>(piece.data), piece.size, [&](T x) {
      T scaled;
      round_to(scaling(narrow(x)), scaled);
      return scaled;
    });
  });
}

// Occupancy: 4 blocks on an SM.
template <class Tensors>
__global__ void __launch_bounds__(kThreads)
    clamp_kernel(const __grid_constant__ KernelParameter<ElementwiseParameters<Tensors>> p,
                 const double bound) {
  const Piece piece = find_piece(p.tensors.entries(), p.count, p.chunk, p.first_unit);
  visit_real_storage(piece.dtype, [&](auto storage) {
    using T = typename decltype(storage)::type;
    // In the storage's own precision, as native clamps: the bound is rounded to it first.
    T rounded;
    round_to(bound, rounded);
    const NarrowOf<T> limit = narrow(rounded);
    map_elements(static_cast<T*>(piece.data), piece.size, [&](T x) {
      T clamped;
      round_to(formulas::clip_to_bound(narrow(x), limit), clamped);
      return clamped;
    });
  });
}

}  // namespace gradkern::cuda
