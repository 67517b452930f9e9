// Norms and statistics: one block for each chunk, the last block of a tensor merges its chunks, the
// last of all tensors makes the total norm. Bytes moved: each element once.
//
// Every merge runs in an order given by indices, and partial results have places of their own, so
// the bits do not depend on which block comes last.
#pragma once

#include <type_traits>

#include "cuda/block_merge.cuh"
#include "cuda/elements.cuh"
#include "cuda/last_block.cuh"
#include "cuda/launch_plan.h"
#include "cuda/partials.cuh"
#include "cuda/platform.h"
#include "cuda/table.cuh"
#include "formulas/norms.h"
#include "formulas/statistics.h"

namespace gradkern::cuda {

struct ReduceParameters {
  TableEntry table[kTableCapacity];
  int32_t tensors;       // in this launch
  bool by_segment;       // one result for each block, no merging of chunks
  DType rounded_dtype;   // of total_rounded
  int64_t first_tensor;  // of this launch in the whole list
  int64_t first_unit;
  int64_t first_block;
  int64_t chunk;
  int64_t all_tensors;
  double order;
  TableEntry* published;  // the table of the whole list, for a clip that follows
  double* partials;
  unsigned* counters;   // all zero before the first launch; null if by_segment
  double* norms;        // or null
  double* statistics;   // or null
  double* total;        // or null
  void* total_rounded;  // or null
};
static_assert(sizeof(ReduceParameters) <= 32764, "kernel parameters");

// ---- one chunk, by one block; the result is in thread 0
// -------------------------------------------

template <class Formula, class T>
__device__ __forceinline__ formulas::Partial<Formula::kFields> reduce_elements(const T* data,
                                                                               int64_t n) {
  typename Formula::template Lanes<NarrowOf<T>, double> lanes;
  each_element(data, n, [&](T x) {
    const auto value = narrow(x);
    lanes.add(value, static_cast<double>(value));
  });
  return block_merge<Formula>(formulas::partial_of<Formula>(lanes), 0);
}

template <class Formula>
struct ReduceChunk {
  template <class T>
  __device__ static formulas::Partial<Formula::kFields> run(const T* data, int64_t n, double) {
    return reduce_elements<Formula>(data, n);
  }
};

// Read twice, the second time from cache: first for the scale.
template <>
struct ReduceChunk<formulas::ScaledPowers> {
  struct Scale;
  template <class T>
  __device__ static formulas::Partial<2> run(const T* data, int64_t n, double order) {
    using Formula = formulas::ScaledPowers;
    double scale = 1;
    // float64 elements are not scaled (formulas::ScaledPowers).
    if constexpr (!std::is_same_v<T, double> && !std::is_same_v<T, Complex<double>>) {
      const auto extreme = order < 0 ? reduce_elements<formulas::SmallestMagnitude>(data, n)
                                     : reduce_elements<formulas::LargestMagnitude>(data, n);
      scale = broadcast<Scale>(formulas::LargestMagnitude::norm(extreme, 0));
    }
    if (Formula::degenerate(scale)) {
      return {{scale, scale == Formula::padding(order) ? 0.0 : 1.0}};
    }
    Formula::Lanes<NarrowOf<T>, double> lanes(scale, order);
    each_element(data, n, [&](T x) {
      const auto value = narrow(x);
      lanes.add(value, static_cast<double>(value));
    });
    const auto sum =
        block_merge<formulas::SumOfMagnitudes>(formulas::Partial<1>{{lanes.sum}}, order);
    return {{scale, sum.value[0]}};
  }
};

// Read again only if an element is not finite.
template <>
struct ReduceChunk<formulas::Statistics> {
  struct Finite;
  template <class T>
  __device__ static formulas::Partial<formulas::Statistics::kFields> run(const T* data, int64_t n,
                                                                         double) {
    using Formula = formulas::Statistics;
    const auto partial = reduce_elements<Formula>(data, n);
    if (broadcast<Finite>(Formula::saw_only_finite(partial))) return partial;
    Formula::ExactLanes<NarrowOf<T>, double> lanes;
    each_element(data, n, [&](T x) {
      const auto value = narrow(x);
      lanes.add(value, static_cast<double>(value));
    });
    return block_merge<Formula>(formulas::partial_of<Formula>(lanes), 0);
  }
};

// ---- results
// --------------------------------------------------------------------------------------

template <class Formula>
__device__ __forceinline__ double norm_of(const formulas::Partial<Formula::kFields>& partial,
                                          int64_t, double order) {
  return Formula::norm(partial, order);
}
template <>
__device__ __forceinline__ double norm_of<formulas::Statistics>(
    const formulas::Partial<formulas::Statistics::kFields>& partial, int64_t numel, double order) {
  return formulas::Statistics::norm(partial, static_cast<double>(numel), order);
}

template <class Formula>
__device__ __forceinline__ void write_result(const ReduceParameters& p, int64_t index,
                                             int64_t numel,
                                             const formulas::Partial<Formula::kFields>& partial) {
  if (p.norms != nullptr) p.norms[index] = norm_of<Formula>(partial, numel, p.order);
  if constexpr (std::is_same_v<Formula, formulas::Statistics>) {
    double* row = p.statistics + index * kStatisticCount;
    row[kCount] = static_cast<double>(numel);
    for (int f = 0; f < Formula::kFields; f++) row[kCount + 1 + f] = partial.value[f];
  }
}

template <class Formula>
__device__ void write_total_of(const ReduceParameters& p) {
  const auto partial = block_merge<Formula>(
      formulas::norms_of_norms<Formula>([&](int64_t i) { return __ldcg(p.norms + i); }, threadIdx.x,
                                        kThreads, p.all_tensors, p.order),
      p.order);
  if (threadIdx.x != 0) return;
  const double total = Formula::norm(partial, p.order);
  *p.total = total;
  if (p.total_rounded == nullptr) return;
  switch (p.rounded_dtype) {
    case DType::kFloat64:
      return round_to(total, *static_cast<double*>(p.total_rounded));
    case DType::kBFloat16:
      return round_to(total, *static_cast<__nv_bfloat16*>(p.total_rounded));
    case DType::kFloat16:
      return round_to(total, *static_cast<__half*>(p.total_rounded));
    default:
      return round_to(total, *static_cast<float*>(p.total_rounded));
  }
}

// The norm of the norms is a reduction of the same order.
template <class Formula>
__device__ __forceinline__ void write_total(const ReduceParameters& p) {
  if constexpr (std::is_same_v<Formula, formulas::Statistics>) {
    if (p.order == 2) return write_total_of<formulas::SumOfSquares>(p);
    if (p.order == 0) return write_total_of<formulas::NonzeroCount>(p);
    return write_total_of<formulas::LargestMagnitude>(p);
  } else {
    return write_total_of<Formula>(p);
  }
}

struct LastOfTensor;
struct LastOfAll;

// Order 2 and the statistics take a complex tensor as pairs of reals.
template <class Formula>
inline constexpr bool kSeesModuli = !std::is_same_v<Formula, formulas::SumOfSquares> &&
                                    !std::is_same_v<Formula, formulas::Statistics>;

// Occupancy: 4 blocks on an SM, 2 for ScaledPowers (pow). Four have 64 KiB of loads in flight.
template <class Formula>
__global__ void __launch_bounds__(kThreads)
    reduce_kernel(const __grid_constant__ KernelParameter<ReduceParameters> p) {
  using Partial = formulas::Partial<Formula::kFields>;
  const Piece piece = find_piece(p.table, p.tensors, p.chunk, p.first_unit);

  Partial partial;
  const auto reduce = [&](auto storage) {
    using T = typename decltype(storage)::type;
    partial = ReduceChunk<Formula>::run(static_cast<const T*>(piece.data), piece.size, p.order);
  };
  if constexpr (kSeesModuli<Formula>) {
    visit_storage(piece.dtype, reduce);
  } else {
    visit_real_storage(piece.dtype, reduce);
  }

  const int64_t block = p.first_block + blockIdx.x;
  if (p.by_segment) {
    if (threadIdx.x == 0) write_result<Formula>(p, block, piece.numel, partial);
    return;
  }

  const int64_t tensor = p.first_tensor + piece.tensor;
  if (piece.chunk == 0 && threadIdx.x == 0) {
    // Whoever clips after this reduction finds all tensors in one table.
    TableEntry entry = p.table[piece.tensor];
    entry.first_block = static_cast<uint32_t>(block);
    p.published[tensor] = entry;
  }
  if (piece.chunks > 1) {
    if (threadIdx.x == 0) write_partial(p.partials, block, partial);
    if (!is_last_block<LastOfTensor>(p.counters + tensor, piece.chunks)) return;
    const double* of_tensor = p.partials + (block - piece.chunk) * Formula::kFields;
    partial = merge_partials<Formula>(of_tensor, piece.chunks, p.order);
  }
  if (threadIdx.x == 0) write_result<Formula>(p, tensor, piece.numel, partial);
  if (p.total == nullptr) return;
  if (is_last_block<LastOfAll>(p.counters + p.all_tensors, p.all_tensors)) {
    write_total<Formula>(p);
  }
}

}  // namespace gradkern::cuda
