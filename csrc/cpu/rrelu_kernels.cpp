// RReLU's inner loops. CMake compiles this file once for each instruction set, with its flags and
// with GRADKERN_ISA naming its namespace, and each storage type, GRADKERN_STORAGE.

#include "cpu/rrelu_kernels.h"

#include <algorithm>

#include "cpu/map_vectors.h"
#include "formulas/random_slope.h"

namespace gradkern::cpu::GRADKERN_ISA {
namespace {

// Elements whose slopes are made at once: they stay in the first-level cache.
constexpr int64_t kBlock = 512;

template <class T>
using ScalarOf = typename VectorOf<T>::value_type;

// The slopes of `count` elements, rounded up to whole counters. A plain loop over the counters, of
// which the compiler makes vectors.
template <class Scalar>
void make_slopes(uint64_t counter, int64_t count, uint64_t seed,
                 const formulas::RandomSlope<Scalar>& slope, Scalar* slopes) {
  constexpr int kAtOnce = formulas::kSlopesAtOnce;
  const int64_t counters = (count + kAtOnce - 1) / kAtOnce;
  for (int64_t j = 0; j < counters; j++) {
    const formulas::Philox4x32 random(counter + j, seed);
    for (int k = 0; k < kAtOnce; k++) slopes[j * kAtOnce + k] = slope.of(random.word[k]);
  }
}

// flatten: as in activation_kernels.cpp.
template <RreluPass kPass, class T>
[[gnu::flatten]] void rectify(const void* const* in, void* out, int64_t n,
                              const ScalarOf<T>* slopes) {
  using Vector = VectorOf<T>;
  constexpr int kIn = inputs_of(kPass);
  std::array<const T*, kIn> from;
  for (int k = 0; k < kIn; k++) from[k] = static_cast<const T*>(in[k]);
  map_indexed_vectors<T, kIn, 1>(from, {static_cast<T*>(out)}, n,
                                 [&](int64_t i, const auto& x, auto& y) {
                                   const Vector slope(Vector::Batch::load_unaligned(slopes + i));
                                   if constexpr (kPass == RreluPass::kValue) {
                                     y[0] = formulas::rectified(x[0], slope).value;
                                   } else {
                                     y[0] = x[0] * formulas::rectified(x[1], slope).derivative;
                                   }
                                 });
}

template <RreluPass kPass, class T>
void run(const void* const* in, void* out, int64_t begin, int64_t n, double lower, double upper,
         uint64_t seed) {
  const formulas::RandomSlope<ScalarOf<T>> slope(lower, upper);
  ScalarOf<T> slopes[kBlock + VectorOf<T>::kSize] = {};
  for (int64_t i = 0; i < n; i += kBlock) {
    const int64_t size = std::min(kBlock, n - i);
    make_slopes((begin + i) / formulas::kSlopesAtOnce, size, seed, slope, slopes);
    const void* from[2] = {};
    for (int k = 0; k < inputs_of(kPass); k++) from[k] = static_cast<const T*>(in[k]) + i;
    rectify<kPass, T>(from, static_cast<T*>(out) + i, size, slopes);
  }
}

}  // namespace

template <class T>
RreluKernels rrelu_kernels() {
  return {{run<RreluPass::kValue, T>, run<RreluPass::kBackward, T>}};
}

template RreluKernels rrelu_kernels<GRADKERN_STORAGE>();

}  // namespace gradkern::cpu::GRADKERN_ISA
