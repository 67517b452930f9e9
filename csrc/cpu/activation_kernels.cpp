// The activations' inner loops. CMake compiles this file once for each instruction set, with its
// flags and with GRADKERN_ISA naming its namespace, and each storage type, GRADKERN_STORAGE.

#include "cpu/activation_kernels.h"

#include <algorithm>
#include <type_traits>

#include "cpu/elementary.h"
#include "cpu/elementwise.h"
#include "cpu/merge_lanes.h"
#include "formulas/activation_statistics.h"

namespace gradkern::cpu::GRADKERN_ISA {
namespace {

using formulas::Dual;
using formulas::Parameters;

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

// flatten: everything in it is inlined, whatever the compiler thinks of the size. Packs that pass
// through memory between calls cost up to four times the arithmetic.
template <class Formula, ActivationPass kPass, class T>
[[gnu::flatten]] void activate(const void* const* in, void* const* out, int64_t n,
                               const double* parameters) {
  using Value = Pack<NarrowOf<T>>;
  constexpr int kIn = inputs_of(kPass), kOut = outputs_of(kPass);
  const auto p = parameters_of<Value>(parameters);
  map_elements<T, kIn, kOut>(
      typed<T, kIn>(in), typed<T, kOut>(out), n, [&](const auto& x, auto& y) {
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

inline Pack<double> widen(const Pack<double>& x) { return x; }
inline Pack<double> widen(const Pack<float>& x) {
  Pack<double> wide;
  for (int i = 0; i < Pack<float>::kParts; i++) {
    wide.part[2 * i] = widen_low(x.part[i]);
    wide.part[2 * i + 1] = widen_high(x.part[i]);
  }
  return wide;
}

// The channels of the elements [begin, begin + n), run by run: visit(offset, size, channel, step)
// for elements of one channel (step 0) or of consecutive ones (step 1).
template <class Visit>
void each_run(const Channels& channels, int64_t begin, int64_t n, Visit visit) {
  if (channels.count == 0) return visit(int64_t(0), n, int64_t(0), 0);
  if (channels.inner == 1) {
    for (int64_t i = 0; i < n;) {
      const int64_t channel = (begin + i) % channels.count;
      const int64_t size = std::min(channels.count - channel, n - i);
      visit(i, size, channel, 1);
      i += size;
    }
    return;
  }
  for (int64_t i = 0; i < n;) {
    const int64_t at = begin + i;
    const int64_t size = std::min(channels.inner - at % channels.inner, n - i);
    visit(i, size, at / channels.inner % channels.count, 0);
    i += size;
  }
}

template <class Formula, class T>
class Measurement {
 public:
  using Scalar = NarrowOf<T>;
  using Value = Pack<Scalar>;
  using Statistics = formulas::ActivationStatistics;
  using Measured = Statistics::Measured<Value, Pack<double>>;

  Measurement(const T* in, T* out, const double* parameters)
      : in_(in), out_(out), p_(parameters_of<Value>(parameters)) {}

  // Writes n values from element `offset` on and calls add(measured), then active(k, pack) with 1
  // for each active element.
  template <class Add, class Active>
  void run(int64_t offset, int64_t n, Add add, Active active) {
    const T* in = in_ + offset;
    T* out = out_ + offset;
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
      const Measured x = measure(in + i, out + i);
      add(x);
      active(i, Value(1) - x.saturated);
    }
    const int rest = static_cast<int>(n - i);
    if (rest == 0) return;
    T padded_in[kLanes] = {}, padded_out[kLanes];
    std::memcpy(padded_in, in + i, rest * sizeof(T));
    Measured x = measure(padded_in, padded_out);
    std::memcpy(out + i, padded_out, rest * sizeof(T));
    Scalar inside[kLanes];
    double wide_inside[kLanes];
    for (int k = 0; k < kLanes; k++) wide_inside[k] = inside[k] = k < rest ? 1 : 0;
    const Value kept = Value::load(inside), zero(0);
    const auto keep = kept != zero;
    const auto wide_keep = Pack<double>::load(wide_inside) != Pack<double>(0);
    x = {select(keep, x.value, zero), select(keep, x.saturated, zero),
         select(wide_keep, x.wide_value, Pack<double>(0)),
         select(wide_keep, x.abs_derivative, Pack<double>(0))};
    add(x);
    active(i, kept - x.saturated);
    padding_ += kLanes - rest;
  }

  int64_t padding() const { return padding_; }

 private:
  // What is stored is what is measured: a value rounded to 16 bits is read back.
  Measured measure(const T* from, T* to) const {
    const auto at = Formula::at(load(from).narrow, p_);
    store(at.value, to);
    const auto stored = load(static_cast<const T*>(to));
    return {stored.narrow, select(Formula::saturated(at, p_), Value(1), Value(0)), stored.wide,
            widen(absolute(at.derivative))};
  }

  const T* in_;
  T* out_;
  const Parameters<Value> p_;
  int64_t padding_ = 0;
};

template <class Formula, class T>
[[gnu::flatten]] void activate_and_measure(const void* in, void* out, int64_t begin, int64_t n,
                                           const double* parameters, const Channels& channels,
                                           double* partial, double* active) {
  using M = Measurement<Formula, T>;
  using Statistics = formulas::ActivationStatistics;
  using Lanes = Statistics::Lanes<typename M::Value, Pack<double>>;
  M measurement(static_cast<const T*>(in), static_cast<T*>(out), parameters);
  Lanes lanes;
  each_run(channels, begin, n, [&](int64_t offset, int64_t size, int64_t channel, int step) {
    const auto add = [&](const auto& x) { lanes.add(x); };
    if (channels.count == 0) {
      measurement.run(offset, size, add, [](int64_t, const auto&) {});
    } else if (step == 1) {
      double* counters = active + channel;
      measurement.run(offset, size, add, [&](int64_t i, const auto& is_active) {
        const int64_t here = std::min<int64_t>(kLanes, size - i);
        double sums[kLanes] = {};
        std::memcpy(sums, counters + i, here * sizeof(double));
        (Pack<double>::load(sums) + widen(is_active)).store(sums);
        std::memcpy(counters + i, sums, here * sizeof(double));
      });
    } else {
      typename M::Value sum(0);
      measurement.run(offset, size, add,
                      [&](int64_t, const auto& is_active) { sum = sum + is_active; });
      typename M::Scalar sums[kLanes];
      sum.store(sums);
      for (auto lane : sums) active[channel] += lane;
    }
  });
  auto result = merge_lanes<Statistics>(lanes, 0);
  if (!Statistics::saw_only_finite(result)) {
    M again(static_cast<const T*>(in), static_cast<T*>(out), parameters);
    Lanes exact;
    again.run(0, n, [&](const auto& x) { exact.add_finite(x); }, [](int64_t, const auto&) {});
    result = merge_lanes<Statistics>(exact, 0);
    result.value[Statistics::kZeros] -= static_cast<double>(again.padding());
  } else {
    result.value[Statistics::kZeros] -= static_cast<double>(measurement.padding());
  }
  write(result, partial);
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
  formulas::Activations::each([&](int index, auto formula) {
    using Formula = decltype(formula);
    fill_passes<Formula, T>(table.activate[index], dtype,
                            std::make_integer_sequence<int, kActivationPassCount>());
    table.activate_and_measure[index][dtype] = activate_and_measure<Formula, T>;
  });
}

template void fill_activations<GRADKERN_STORAGE>(Kernels&, int);

}  // namespace gradkern::cpu::GRADKERN_ISA
