// Softmax: a warp for each short row, a block for each longer one, a block for a tile of columns.
// Bytes moved: each input read once where a row fits the threads' registers, else twice; each
// output written once; sixteen bytes at a time where rows are aligned.
//
// Which thread has which element depends on the index alone, so the bits depend neither on
// alignment nor on the number of blocks.
#pragma once

#include <limits>
#include <type_traits>

#include "cuda/elements.cuh"
#include "cuda/group_merge.cuh"
#include "cuda/platform.h"
#include "formulas/softmax.h"
#include "softmax_call.h"

namespace gradkern::cuda {

struct SoftmaxParameters {
  const void* in[2];
  void* out;
  int64_t outer, size, inner;
  int32_t across;  // threads of a block side by side in a tile of columns: a power of two
};

// Vectors of each input that a thread holds: 32 registers of one input, or 16 of each of two.
template <class Formula>
inline constexpr int kHeldVectors = 8 / Formula::kInputs;

// 16 bits of result forgive what x - largest loses in float32.
template <class T>
inline constexpr bool kExact = std::is_same_v<T, NarrowOf<T>>;

template <class T>
using SumOf = typename formulas::SumOf<NarrowOf<T>, double>::type;

template <class V>
__device__ __forceinline__ V nothing() {
  return -std::numeric_limits<V>::infinity();
}

// An entry that adds nothing.
template <class Formula, class T>
__device__ __forceinline__ T padding() {
  T pad;
  round_to(Formula::kExponentiates ? nothing<float>() : 0.0f, pad);
  return pad;
}

template <class Formula, class T>
__device__ __forceinline__ Operands<T, Formula::kInputs, 1> operands_at(const SoftmaxParameters& p,
                                                                        int64_t element) {
  Operands<T, Formula::kInputs, 1> operands;
#pragma unroll
  for (int k = 0; k < Formula::kInputs; k++) {
    operands.in[k] = static_cast<const T*>(p.in[k]) + element;
  }
  operands.out[0] = static_cast<T*>(p.out) + element;
  return operands;
}

// Vectors of the inputs, from an element of the operands on.
template <class Formula, class T>
struct Vectors {
  static constexpr int kIn = Formula::kInputs;
  Vector<T> of[kIn];

  __device__ __forceinline__ void load(const Operands<T, kIn, 1>& operands, int64_t offset,
                                       int64_t count, bool aligned) {
#pragma unroll
    for (int k = 0; k < kIn; k++) {
      of[k] = load_some(operands.in[k] + offset, count, aligned, padding<Formula, T>());
    }
  }

  template <class V>
  __device__ __forceinline__ void element(int index, V (&x)[kIn]) const {
#pragma unroll
    for (int k = 0; k < kIn; k++) x[k] = static_cast<V>(narrow(of[k].element[index]));
  }

  __device__ __forceinline__ void write_result(const Operands<T, kIn, 1>& operands, int64_t offset,
                                               int64_t count, bool aligned,
                                               const formulas::SoftmaxRow<NarrowOf<T>>* rows,
                                               int row_step) const {
    Vector<T> y;
#pragma unroll
    for (int e = 0; e < Vector<T>::kSize; e++) {
      NarrowOf<T> x[kIn];
      element(e, x);
      round_to(Formula::template result<kExact<T>>(x, rows[e * row_step]), y.element[e]);
    }
    store_some(operands.out[0] + offset, count, aligned, y);
  }
};

// The sums of what one thread reads of a row.
template <class Formula, class T>
struct RunningSums {
  using Narrow = NarrowOf<T>;

  Narrow largest;
  SumOf<T> sum;

  static __device__ __forceinline__ RunningSums none() {
    return {Formula::kExponentiates ? nothing<Narrow>() : Narrow(0), SumOf<T>::zero()};
  }

  __device__ __forceinline__ void add(const Narrow (&x)[Formula::kInputs]) {
    if constexpr (Formula::kExponentiates) {
      raise(x[0]);
      add_term(x[0]);
    } else {
      double wide[Formula::kInputs];
#pragma unroll
      for (int k = 0; k < Formula::kInputs; k++) wide[k] = static_cast<double>(x[k]);
      sum.add(Formula::summand(wide));
    }
  }

  // Sums up against x, if it is larger, from here on.
  __device__ __forceinline__ void raise(Narrow x) {
    if (!(x > largest)) return;
    sum.scale(formulas::factor_against(largest, x));
    largest = x;
  }

  __device__ __forceinline__ void add_term(Narrow x) {
    sum.add(
        static_cast<double>(formulas::softmax_term<kExact<T>>(x, formulas::subtrahend(largest))));
  }

  __device__ __forceinline__ void merge(RunningSums other) {
    raise(other.largest);
    other.raise(largest);
    sum.merge(other.sum);
  }

  __device__ formulas::SoftmaxPartial partial() const {
    return {static_cast<double>(largest), sum.compensated()};
  }
};

struct LargestOfGroup;
struct SumOfGroup;

// The largest entry, and then the sum, of the threads that share a row.
template <class Formula, class T, int kGroup>
__device__ __forceinline__ void share_largest(RunningSums<Formula, T>& sums) {
  using Narrow = NarrowOf<T>;
  sums.raise(group_merge<kGroup, LargestOfGroup>(
      sums.largest, [](Narrow a, Narrow b) { return formulas::larger(a, b); }));
}
template <class Formula, class T, int kGroup>
__device__ __forceinline__ void share_sum(RunningSums<Formula, T>& sums) {
  sums.sum = group_merge<kGroup, SumOfGroup>(sums.sum, [](SumOf<T> a, const SumOf<T>& b) {
    a.merge(b);
    return a;
  });
}

// Rows that the group's registers hold.
// Occupancy: 2 blocks on an SM.
template <class Formula, class T, int kGroup>
__global__ void __launch_bounds__(kThreads, 2)
    softmax_held_rows_kernel(const __grid_constant__ KernelParameter<SoftmaxParameters> p) {
  using Narrow = NarrowOf<T>;
  constexpr int kIn = Formula::kInputs, kSize = Vector<T>::kSize, kHeld = kHeldVectors<Formula>;
  constexpr int64_t kGroups = kThreads / kGroup;
  const int64_t begin = static_cast<int64_t>(threadIdx.x % kGroup) * kSize;
  for (int64_t row = blockIdx.x * kGroups + threadIdx.x / kGroup; row < p.outer;
       row += gridDim.x * kGroups) {
    const auto operands = operands_at<Formula, T>(p, row * p.size);
    const bool aligned = operands.are_aligned();
    Vectors<Formula, T> held[kHeld];
    // Rounds in which no thread of the group has an element are skipped.
    const auto each_round = [&](auto visit) {
#pragma unroll
      for (int v = 0; v < kHeld; v++) {
        if (v * kGroup * kSize < p.size) visit(v, begin + v * kGroup * kSize);
      }
    };
    const auto each_held = [&](auto visit) {
      each_round([&](int v, int64_t) {
#pragma unroll
        for (int e = 0; e < kSize; e++) {
          Narrow x[kIn];
          held[v].element(e, x);
          visit(x);
        }
      });
    };
    each_round(
        [&](int v, int64_t offset) { held[v].load(operands, offset, p.size - offset, aligned); });
    auto sums = RunningSums<Formula, T>::none();
    if constexpr (Formula::kExponentiates) {
      each_held(
          [&](const Narrow(&x)[kIn]) { sums.largest = formulas::larger(x[0], sums.largest); });
      share_largest<Formula, T, kGroup>(sums);
      each_held([&](const Narrow(&x)[kIn]) { sums.add_term(x[0]); });
    } else {
      each_held([&](const Narrow(&x)[kIn]) { sums.add(x); });
    }
    share_sum<Formula, T, kGroup>(sums);
    const formulas::SoftmaxRow<Narrow> of_row = Formula::template row<Narrow>(sums.partial());
    each_round([&](int v, int64_t offset) {
      held[v].write_result(operands, offset, p.size - offset, aligned, &of_row, 0);
    });
  }
}

// Longer rows, read twice.
// Occupancy: 2 blocks on an SM.
template <class Formula, class T>
__global__ void __launch_bounds__(kThreads, 2)
    softmax_long_rows_kernel(const __grid_constant__ KernelParameter<SoftmaxParameters> p) {
  using Narrow = NarrowOf<T>;
  constexpr int kIn = Formula::kInputs, kSize = Vector<T>::kSize;
  const int64_t begin = static_cast<int64_t>(threadIdx.x) * kSize;
  for (int64_t row = blockIdx.x; row < p.outer; row += gridDim.x) {
    const auto operands = operands_at<Formula, T>(p, row * p.size);
    const bool aligned = operands.are_aligned();
    Vectors<Formula, T> v;
    auto sums = RunningSums<Formula, T>::none();
#pragma unroll 1
    for (int64_t i = begin; i < p.size; i += kThreads * kSize) {
      v.load(operands, i, p.size - i, aligned);
#pragma unroll
      for (int e = 0; e < kSize; e++) {
        Narrow x[kIn];
        v.element(e, x);
        sums.add(x);
      }
    }
    if constexpr (Formula::kExponentiates) share_largest<Formula, T, kThreads>(sums);
    share_sum<Formula, T, kThreads>(sums);
    const formulas::SoftmaxRow<Narrow> of_row = Formula::template row<Narrow>(sums.partial());
#pragma unroll 1
    for (int64_t i = begin; i < p.size; i += kThreads * kSize) {
      v.load(operands, i, p.size - i, aligned);
      v.write_result(operands, i, p.size - i, aligned, &of_row, 0);
    }
  }
}

struct ColumnSums;

// Tiles of columns: `across` threads have a vector of columns each, the others of the block share
// them. Read twice.
// Occupancy: 2 blocks on an SM.
template <class Formula, class T>
__global__ void __launch_bounds__(kThreads, 2)
    softmax_columns_kernel(const __grid_constant__ KernelParameter<SoftmaxParameters> p) {
  using Narrow = NarrowOf<T>;
  using Sums = RunningSums<Formula, T>;
  constexpr int kIn = Formula::kInputs, kSize = Vector<T>::kSize;
  Sums(&shared)[kThreads * kSize] = shared_array<ColumnSums, Sums, kThreads * kSize>();
  const int column = threadIdx.x % p.across, down = threadIdx.x / p.across;
  const int height = kThreads / p.across;
  const int64_t width = p.across * kSize, tiles = (p.inner + width - 1) / width;
  for (int64_t unit = blockIdx.x; unit < p.outer * tiles; unit += gridDim.x) {
    const int64_t first = unit % tiles * width + column * kSize;
    const int64_t count = p.inner - first;  // 0 or less: a thread behind the last column
    const auto operands = operands_at<Formula, T>(p, unit / tiles * p.size * p.inner + first);
    const bool aligned = operands.are_aligned() && p.inner % kSize == 0;
    Vectors<Formula, T> v;
    Sums sums[kSize];
#pragma unroll
    for (Sums& of_column : sums) of_column = Sums::none();
#pragma unroll 1
    for (int64_t i = down; i < p.size; i += height) {
      v.load(operands, i * p.inner, count, aligned);
#pragma unroll
      for (int e = 0; e < kSize; e++) {
        Narrow x[kIn];
        v.element(e, x);
        sums[e].add(x);
      }
    }
    Sums* mine = shared + threadIdx.x * kSize;
    __syncthreads();  // The unit before may still be reading.
#pragma unroll
    for (int e = 0; e < kSize; e++) mine[e] = sums[e];
    for (int half = height / 2; half > 0; half /= 2) {
      __syncthreads();
      if (down >= half) continue;
#pragma unroll
      for (int e = 0; e < kSize; e++) mine[e].merge(mine[half * p.across * kSize + e]);
    }
    __syncthreads();
    formulas::SoftmaxRow<Narrow> rows[kSize];
#pragma unroll
    for (int e = 0; e < kSize; e++) {
      rows[e] = Formula::template row<Narrow>(shared[column * kSize + e].partial());
    }
#pragma unroll 1
    for (int64_t i = down; i < p.size; i += height) {
      v.load(operands, i * p.inner, count, aligned);
      v.write_result(operands, i * p.inner, count, aligned, rows, 1);
    }
  }
}

}  // namespace gradkern::cuda
