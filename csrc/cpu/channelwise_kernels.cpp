// The inner loops of activations with a parameter for each channel. CMake compiles this file once
// for each instruction set, with its flags and with GRADKERN_ISA naming its namespace, and each
// storage type, GRADKERN_STORAGE.

#include "cpu/channelwise_kernels.h"

#include <algorithm>

#include "cpu/map_vectors.h"

namespace gradkern::cpu::GRADKERN_ISA {
namespace {

using Layout = ChannelwiseKernels::Layout;

// A vector of one stored number.
template <class T>
VectorOf<T> broadcast(const T* number) {
  T copies[VectorOf<T>::kSize];
  std::fill_n(copies, VectorOf<T>::kSize, *number);
  return load_vector<T>(copies);
}

inline void add(DoubleBatch x, double* to) {
  (DoubleBatch::load_unaligned(to) + x).store_unaligned(to);
}
inline void add(Vector<double> x, double* to) { add(x.value, to); }
inline void add(Vector<float> x, double* to) {
  add(widen_low(x.value), to);
  add(widen_high(x.value), to + Vector<double>::kSize);
}
// Of two float32 the product is exact in float64.
inline void add_product(Vector<double> a, Vector<double> b, double* to) {
  add(a.value * b.value, to);
}
inline void add_product(Vector<float> a, Vector<float> b, double* to) {
  add(widen_low(a.value) * widen_low(b.value), to);
  add(widen_high(a.value) * widen_high(b.value), to + Vector<double>::kSize);
}

// flatten: as in activation_kernels.cpp.
template <class Formula, Layout kLayout, class T>
[[gnu::flatten]] void value(const void* x, const void* weight, void* y, const ChannelRuns& runs) {
  const T *from = static_cast<const T*>(x), *weights = static_cast<const T*>(weight);
  T* to = static_cast<T*>(y);
  const auto shared = broadcast(weights);
  for (int64_t run = 0; run < runs.count; run++, from += runs.stride, to += runs.stride) {
    if constexpr (kLayout == Layout::kColumns) {
      map_run<T, 2, 1>({from, weights}, {to}, runs.size,
                       [](const auto& v, auto& r) { r[0] = Formula::at(v[0], v[1]).value; });
    } else {
      map_run<T, 1, 1>({from}, {to}, runs.size,
                       [&](const auto& v, auto& r) { r[0] = Formula::at(v[0], shared).value; });
    }
  }
}

template <class Formula, Layout kLayout, class T>
[[gnu::flatten]] void backward(const void* g, const void* x, const void* weight, void* grad_input,
                               double* sums, const ChannelRuns& runs) {
  const T *grad = static_cast<const T*>(g), *from = static_cast<const T*>(x);
  const T* weights = static_cast<const T*>(weight);
  T* to = static_cast<T*>(grad_input);
  const auto shared = broadcast(weights);
  const auto step = [](const auto& gradient, const auto& at, auto& result, double* sum) {
    result = gradient * at.derivative;
    if constexpr (Formula::kIsSum) {
      add(result, sum);
    } else {
      add_product(gradient, at.of_weight, sum);
    }
  };
  for (int64_t run = 0; run < runs.count; run++) {
    if constexpr (kLayout == Layout::kColumns) {
      map_indexed_vectors<T, 3, 1>({grad, from, weights}, {to}, runs.size,
                                   [&](int64_t i, const auto& v, auto& r) {
                                     step(v[0], Formula::at(v[1], v[2]), r[0], sums + i);
                                   });
    } else {
      map_indexed_vectors<T, 2, 1>(
          {grad, from}, {to}, runs.size, [&](int64_t i, const auto& v, auto& r) {
            step(v[0], Formula::at(v[1], shared), r[0], sums + i % kSumLanes);
          });
    }
    grad += runs.stride;
    from += runs.stride;
    to += runs.stride;
  }
}

}  // namespace

template <class T>
ChannelwiseKernels channelwise_kernels() {
  ChannelwiseKernels table{};
  formulas::ChannelwiseActivations::each([&](int index, auto formula) {
    using Formula = decltype(formula);
    table.value[index][Layout::kColumns] = value<Formula, Layout::kColumns, T>;
    table.value[index][Layout::kPlanes] = value<Formula, Layout::kPlanes, T>;
    table.backward[index][Layout::kColumns] = backward<Formula, Layout::kColumns, T>;
    table.backward[index][Layout::kPlanes] = backward<Formula, Layout::kPlanes, T>;
  });
  return table;
}

template ChannelwiseKernels channelwise_kernels<GRADKERN_STORAGE>();

}  // namespace gradkern::cpu::GRADKERN_ISA
