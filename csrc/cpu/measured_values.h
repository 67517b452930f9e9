// Statistics of values in the pass that writes them: of a block that is still in the first-level
// cache.
//
// Compiled once per instruction set, like pack.h.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>

#include "cpu/add_elements.h"
#include "cpu/map_vectors.h"
#include "cpu/merge_lanes.h"
#include "cpu/runs.h"
#include "cpu/vector.h"
#include "formulas/activation_statistics.h"
#include "formulas/activations.h"
#include "formulas/statistics.h"

namespace gradkern::cpu::GRADKERN_ISA {

// What is summed of derivatives.
struct DerivativeSums {
  double saturated = 0, magnitudes = 0;

  void add(const DerivativeSums& other) {
    saturated += other.saturated;
    magnitudes += other.magnitudes;
  }
};

// The same, a register at a time.
template <class V>
class DerivativeLanes {
 public:
  using Scalar = typename V::value_type;

  // Of a register's elements the first `count` count, or all. `saturated` gets 1 or 0 for each.
  template <class Condition>
  GRADKERN_INLINE void add(const Condition& is_saturated, V derivative, int64_t count,
                           Scalar* saturated) {
    // Without a branch: with one GCC 12 keeps the lanes in memory, where each sum waits for a
    // store.
    const Scalar* counts = kCounts.data() + (count < V::kSize ? V::kSize - count : 0);
    const V zero(Scalar(0)), one(V::Batch::load_unaligned(counts));
    const V one_or_zero = select(is_saturated, one, zero);
    const V magnitude = select(one > zero, absolute(derivative), zero);
    one_or_zero.value.store_unaligned(saturated);
    saturated_ = saturated_ + one_or_zero;
    if constexpr (sizeof(Scalar) == sizeof(double)) {
      low_ = low_ + magnitude.value;
    } else {
      low_ = low_ + widen_low(magnitude.value);
      high_ = high_ + widen_high(magnitude.value);
    }
  }

  DerivativeSums sums() const {
    return {static_cast<double>(xsimd::reduce_add(saturated_.value)),
            xsimd::reduce_add(low_) + xsimd::reduce_add(high_)};
  }

 private:
  static constexpr auto kCounts = [] {
    std::array<Scalar, 2 * V::kSize> ones_then_zeros{};
    for (int i = 0; i < V::kSize; i++) ones_then_zeros[i] = 1;
    return ones_then_zeros;
  }();

  V saturated_ = V(Scalar(0));
  DoubleBatch low_ = DoubleBatch(0.0), high_ = DoubleBatch(0.0);
};

// Elements that are written at once, before they are measured.
inline constexpr int64_t kMeasuredBlock = 1024;

// How far apart runs lie in a block's array of what is saturated.
constexpr int64_t saturated_pitch(int64_t size) { return (size + kLanes - 1) / kLanes * kLanes; }

// Writes the formula's values of argument(i, x), for the vectors x of the inputs from element i of
// their run on.
template <class Formula, class T, int kIn, class Argument>
GRADKERN_INLINE DerivativeSums write_values(const Runs& runs, std::array<const T*, kIn> in, T* out,
                                            const formulas::Parameters<VectorOf<T>>& p,
                                            typename VectorOf<T>::value_type* saturated,
                                            Argument argument) {
  DerivativeLanes<VectorOf<T>> lanes;
  for (int64_t r = 0; r < runs.count; r++) {
    // Inlined early: the lanes would live in memory otherwise, and each addition wait for a store.
    const auto write = [&](int64_t i, const auto& x, auto& y) __attribute__((always_inline)) {
      const auto at = Formula::at(argument(i, x), p);
      y[0] = at.value;
      lanes.add(Formula::saturated(at, p), at.derivative, runs.size - i, saturated + i);
    };
    map_indexed_vectors<T, kIn, 1>(in, {out}, runs.size, write);
    for (const T*& pointer : in) pointer += runs.stride;
    out += runs.stride;
    saturated += saturated_pitch(runs.size);
  }
  return lanes.sums();
}

inline bool is_finite(float x) { return std::isfinite(x); }
inline bool is_finite(double x) { return std::isfinite(x); }
inline bool is_finite(BFloat16 x) { return (x.bits & 0x7f80) != 0x7f80; }
inline bool is_finite(Float16 x) { return (x.bits & 0x7c00) != 0x7c00; }

// evaluate(offset, runs, saturated) writes the values of runs that begin at element `offset` of
// `out`, and gives their derivatives' sums. kFiniteOnly: the values are there, and those that are
// not finite are counted and kept out of all the rest; without, there must be none.
template <class T, bool kFiniteOnly, class Evaluate>
class MeasuredValues {
 public:
  using Scalar = typename VectorOf<T>::value_type;
  using Statistics = formulas::ActivationStatistics;

  MeasuredValues(const Evaluate& evaluate, const T* out) : evaluate_(evaluate), out_(out) {}

  // Writes and measures runs that begin at element `offset`.
  void add(int64_t offset, const Runs& runs) {
    each_block(offset, runs, [](int64_t, const Runs&, const DerivativeSums&) {});
  }
  // The same, and adds to active[i] how many of the runs' elements i are not saturated.
  void add_counting_each(int64_t offset, const Runs& runs, double* active) {
    each_block(offset, runs, [&](int64_t first, const Runs& block, const DerivativeSums&) {
      for (int64_t r = 0; r < block.count; r++) {
        const Scalar* saturated = saturated_ + r * saturated_pitch(block.size);
        double* of_first = active + first;
        for (int64_t i = 0; i < block.size; i++) of_first[i] += 1 - double{saturated[i]};
      }
    });
  }
  // The same, and adds to *active how many are not saturated.
  void add_counting_all(int64_t offset, const Runs& runs, double* active) {
    each_block(offset, runs, [&](int64_t, const Runs& block, const DerivativeSums& sums) {
      *active += static_cast<double>(block.count * block.size) - sums.saturated;
    });
  }

  formulas::Partial<Statistics::kFields> result() const {
    using Of = formulas::Statistics;
    const auto values = merge_lanes<Of>(lanes_, 0);
    formulas::Partial<Statistics::kFields> merged;
    merged.value[Statistics::kSum] = values.value[Of::kSum];
    merged.value[Statistics::kSumSquares] = values.value[Of::kSumSquares];
    merged.value[Statistics::kAbsMax] = values.value[Of::kAbsMax];
    merged.value[Statistics::kZeros] = values.value[Of::kZeros] - static_cast<double>(padding_);
    merged.value[Statistics::kNonfinite] = values.value[Of::kNans] + values.value[Of::kInfs];
    merged.value[Statistics::kSaturated] = sums_.saturated;
    merged.value[Statistics::kSumAbsDerivative] = sums_.magnitudes;
    return merged;
  }

 private:
  using Values = Pack<Scalar>;
  using Lanes =
      std::conditional_t<kFiniteOnly, formulas::Statistics::ExactLanes<Values, Pack<double>>,
                         formulas::Statistics::Lanes<Values, Pack<double>>>;

  // Calls after(first, block, sums) for blocks of whole runs, or of a run's elements from `first`
  // on.
  template <class After>
  void each_block(int64_t offset, const Runs& runs, After after) {
    if (runs.size == 0) return;
    if (runs.size > kMeasuredBlock) {
      for (int64_t r = 0; r < runs.count; r++) {
        for (int64_t i = 0; i < runs.size; i += kMeasuredBlock) {
          const Runs block = Runs::one(std::min(kMeasuredBlock, runs.size - i));
          after(i, block, measure(offset + r * runs.stride + i, block));
        }
      }
      return;
    }
    const int64_t at_once = kMeasuredBlock / saturated_pitch(runs.size);
    for (int64_t r = 0; r < runs.count; r += at_once) {
      const Runs block{std::min(at_once, runs.count - r), runs.stride, runs.size};
      after(0, block, measure(offset + r * runs.stride, block));
    }
  }

  DerivativeSums measure(int64_t offset, const Runs& block) {
    const DerivativeSums sums =
        kFiniteOnly ? of_finite(offset, block) : evaluate_(offset, block, saturated_);
    sums_.add(sums);
    // What is stored is what is measured: a value rounded to 16 bits is read back. The lanes are a
    // copy, which stays in registers.
    Lanes lanes = lanes_;
    const T* run = out_ + offset;
    const bool dense = block.stride == block.size;
    const int64_t size = dense ? block.count * block.size : block.size;
    for (int64_t r = 0; r < (dense ? 1 : block.count); r++, run += block.stride) {
      padding_ += add_all<false>(run, size, formulas::Statistics::kPadding, lanes);
    }
    lanes_ = lanes;
    return sums;
  }

  // Of the stretches of finite values.
  DerivativeSums of_finite(int64_t offset, const Runs& block) {
    DerivativeSums sums;
    for (int64_t r = 0; r < block.count; r++) {
      const T* run = out_ + offset + r * block.stride;
      for (int64_t i = 0; i < block.size;) {
        int64_t behind = i;
        while (behind < block.size && is_finite(run[behind])) behind++;
        if (behind > i) {
          sums.add(evaluate_(offset + r * block.stride + i, Runs::one(behind - i), saturated_));
        }
        i = behind + 1;
      }
    }
    return sums;
  }

  const Evaluate& evaluate_;
  const T* out_;
  Lanes lanes_;
  DerivativeSums sums_;
  int64_t padding_ = 0;
  Scalar saturated_[kMeasuredBlock];
};

// Writes values and their statistics: `visit(measured, counts)` calls the measured values' add
// functions for all of them, those that count only if it `counts`. It is called once more where a
// value is not finite.
template <class T, class Evaluate, class Visit>
inline void measure_values(const Evaluate& evaluate, const T* out, double* partial, Visit visit) {
  MeasuredValues<T, false, Evaluate> all(evaluate, out);
  visit(all, true);
  const auto result = all.result();
  if (formulas::ActivationStatistics::saw_only_finite(result)) return write(result, partial);
  MeasuredValues<T, true, Evaluate> finite(evaluate, out);
  visit(finite, false);
  write(finite.result(), partial);
}

}  // namespace gradkern::cpu::GRADKERN_ISA
