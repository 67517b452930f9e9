// The activations' inner loops. CMake compiles this file once for each instruction set, with its
// flags and with GRADKERN_ISA naming its namespace, and each storage type, GRADKERN_STORAGE.

#include "cpu/activation_kernels.h"

#include <algorithm>
#include <type_traits>

#include "cpu/map_vectors.h"
#include "cpu/measured_values.h"

namespace gradkern::cpu::GRADKERN_ISA {
namespace {

using formulas::Dual;
using formulas::Parameters;

template <class T>
using ScalarOf = typename VectorOf<T>::value_type;

template <class V>
Parameters<V> parameters_of(const double* values) {
  Parameters<V> p{{formulas::constant<V>(values[0]), formulas::constant<V>(values[1])}};
  return p;
}

template <class T, int kCount>
std::array<T*, kCount> typed(void* const* pointers) {
  std::array<T*, kCount> result;
  for (int k = 0; k < kCount; k++) result[k] = static_cast<T*>(pointers[k]);
  return result;
}
template <class T, int kCount>
std::array<const T*, kCount> typed(const void* const* pointers) {
  std::array<const T*, kCount> result;
  for (int k = 0; k < kCount; k++) result[k] = static_cast<const T*>(pointers[k]);
  return result;
}

// flatten: everything in it is inlined, whatever the compiler thinks of the size. Values that pass
// through memory between calls cost up to four times the arithmetic.
template <class Formula, ActivationPass kPass, class T>
[[gnu::flatten]] void activate(const void* const* in, void* const* out, int64_t n,
                               const double* parameters) {
  using Value = VectorOf<T>;
  constexpr int kIn = inputs_of(kPass), kOut = outputs_of(kPass);
  const auto p = parameters_of<Value>(parameters);
  map_vectors<T, kIn, kOut>(typed<T, kIn>(in), typed<T, kOut>(out), n, [&](const auto& x, auto& y) {
    if constexpr (kPass == ActivationPass::kValue) {
      y[0] = Formula::at(x[0], p).value;
    } else if constexpr (kPass == ActivationPass::kDerivative) {
      y[0] = Formula::at(x[0], p).derivative;
    } else if constexpr (kPass == ActivationPass::kValueAndDerivative) {
      const auto at = Formula::at(x[0], p);
      y[0] = at.value;
      y[1] = at.derivative;
    } else if constexpr (kPass == ActivationPass::kBackward) {
      y[0] = x[0] * Formula::at(x[1], p).derivative;
    } else if constexpr (kPass == ActivationPass::kBackwardOfOutput) {
      y[0] = x[0] * Formula::derivative_of_output(x[1], p);
    } else {
      const Dual<Value> moving(x[1], formulas::constant<Value>(1));
      const auto constants = parameters_of<Dual<Value>>(parameters);
      if constexpr (kPass == ActivationPass::kSecond) {
        y[0] = x[0] * Formula::at(moving, constants).derivative.slope;
      } else {
        y[0] = x[0] * Formula::derivative_of_output(moving, constants).slope;
      }
    }
  });
}

// The elements [begin, begin + n) by their channels: visit(offset, runs, channel, step) for runs of
// one channel (step 0) or of consecutive ones (step 1).
template <class Visit>
void each_run(const Channels& channels, int64_t begin, int64_t n, Visit visit) {
  if (channels.inner == 1) {
    for (int64_t i = 0; i < n;) {
      const int64_t channel = (begin + i) % channels.count;
      const int64_t rows = channel == 0 ? (n - i) / channels.count : 0;
      const Runs runs = rows > 0 ? Runs{rows, channels.count, channels.count}
                                 : Runs::one(std::min(channels.count - channel, n - i));
      visit(i, runs, channel, 1);
      i += runs.count * runs.size;
    }
    return;
  }
  for (int64_t i = 0; i < n;) {
    const int64_t at = begin + i;
    const int64_t size = std::min(channels.inner - at % channels.inner, n - i);
    visit(i, Runs::one(size), at / channels.inner % channels.count, 0);
    i += size;
  }
}

template <class T>
using Evaluate = DerivativeSums (*)(const Runs& runs, const T* in, T* out, const double* parameters,
                                    ScalarOf<T>* saturated);

template <class Formula, class T>
[[gnu::flatten]] DerivativeSums evaluate(const Runs& runs, const T* in, T* out,
                                         const double* parameters, ScalarOf<T>* saturated) {
  return write_values<Formula, T, 1>(runs, {in}, out, parameters_of<VectorOf<T>>(parameters),
                                     saturated, [](int64_t, const auto& x) { return x[0]; });
}

// The same code for all formulas.
template <class T>
void measure_chunk(Evaluate<T> evaluate, const void* in, void* out, int64_t begin, int64_t n,
                   const double* parameters, const Channels& channels, double* partial,
                   double* active) {
  const T* x = static_cast<const T*>(in);
  T* y = static_cast<T*>(out);
  const auto evaluate_runs = [&](int64_t offset, const Runs& runs, ScalarOf<T>* saturated) {
    return evaluate(runs, x + offset, y + offset, parameters, saturated);
  };
  measure_values<T>(evaluate_runs, y, partial, [&](auto& measured, bool counts) {
    if (!counts || channels.count == 0) return measured.add(0, Runs::one(n));
    each_run(channels, begin, n, [&](int64_t offset, const Runs& runs, int64_t channel, int step) {
      if (step == 1) {
        measured.add_counting_each(offset, runs, active + channel);
      } else {
        measured.add_counting_all(offset, runs, active + channel);
      }
    });
  });
}

template <class Formula, class T>
void activate_and_measure(const void* in, void* out, int64_t begin, int64_t n,
                          const double* parameters, const Channels& channels, double* partial,
                          double* active) {
  measure_chunk<T>(evaluate<Formula, T>, in, out, begin, n, parameters, channels, partial, active);
}

template <class T>
void multiply(const void* data, const float* factors, void* out, int64_t n) {
  using V = VectorOf<T>;
  map_indexed_vectors<T, 1, 1>({static_cast<const T*>(data)}, {static_cast<T*>(out)}, n,
                               [&](int64_t i, const auto& x, auto& y) {
                                 float padded[V::kSize] = {};
                                 const bool whole = i + V::kSize <= n;
                                 if (!whole)
                                   std::memcpy(padded, factors + i, (n - i) * sizeof(float));
                                 y[0] = x[0] *
                                        V(V::Batch::load_unaligned(whole ? factors + i : padded));
                               });
}

template <class Formula, ActivationPass kPass>
inline constexpr bool kHasPass =
    (kPass != ActivationPass::kBackwardOfOutput && kPass != ActivationPass::kSecondOfOutput) ||
    Formula::kSavesOutput;

template <class Formula, class T, int... kPass>
void fill_passes(Kernels::Activate (&row)[kActivationPassCount][kDTypeCount], int dtype,
                 std::integer_sequence<int, kPass...>) {
  const auto fill = [&](auto constant) {
    constexpr auto pass = static_cast<ActivationPass>(decltype(constant)::value);
    if constexpr (kHasPass<Formula, pass>) {
      row[decltype(constant)::value][dtype] = activate<Formula, pass, T>;
    }
  };
  (fill(std::integral_constant<int, kPass>()), ...);
}

}  // namespace

template <class T>
void fill_activations(Kernels& table, int dtype) {
  if constexpr (sizeof(T) == sizeof(uint16_t)) table.multiply[dtype] = multiply<T>;
  formulas::Activations::each([&](int index, auto formula) {
    using Formula = decltype(formula);
    fill_passes<Formula, T>(table.activate[index], dtype,
                            std::make_integer_sequence<int, kActivationPassCount>());
    table.activate_and_measure[index][dtype] = activate_and_measure<Formula, T>;
  });
}

template void fill_activations<GRADKERN_STORAGE>(Kernels&, int);

}  // namespace gradkern::cpu::GRADKERN_ISA
