// The activations' inner loops. CMake compiles this file once for each instruction set, with its
// flags and with GRADKERN_ISA naming its namespace, and each storage type, GRADKERN_STORAGE.

#include "cpu/activation_kernels.h"

#include <algorithm>
#include <type_traits>

#include "cpu/map_vectors.h"
#include "cpu/merge_lanes.h"
#include "formulas/activation_statistics.h"

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

// Elements that are evaluated at once, before they are measured: what is measured of them stays in
// the first-level cache.
constexpr int64_t kBlock = 512;

// Values of a block go to `out`; whether they are saturated (1 or 0) and |dy/dx| beside them.
template <class T>
using Evaluate = void (*)(const T* in, T* out, int64_t n, const double* parameters,
                          ScalarOf<T>* saturated, ScalarOf<T>* abs_derivative);

template <class Formula, class T>
[[gnu::flatten]] void evaluate(const T* in, T* out, int64_t n, const double* parameters,
                               ScalarOf<T>* saturated, ScalarOf<T>* abs_derivative) {
  using Vector = VectorOf<T>;
  const auto p = parameters_of<Vector>(parameters);
  const Vector one(ScalarOf<T>(1)), zero(ScalarOf<T>(0));
  map_vectors<T, 1, 1>({in}, {out}, n, [&](const auto& x, auto& y) {
    const auto at = Formula::at(x[0], p);
    y[0] = at.value;
    select(Formula::saturated(at, p), one, zero).value.store_unaligned(saturated);
    absolute(at.derivative).value.store_unaligned(abs_derivative);
    saturated += Vector::kSize;
    abs_derivative += Vector::kSize;
  });
}

// One chunk's values and statistics: the same code for all formulas of a storage type.
template <class T>
class Measurement {
 public:
  using Scalar = ScalarOf<T>;
  using Value = Pack<Scalar>;
  using Statistics = formulas::ActivationStatistics;
  using Measured = Statistics::Measured<Value, Pack<double>>;

  Measurement(Evaluate<T> evaluate, const T* in, T* out, const double* parameters)
      : evaluate_(evaluate), in_(in), out_(out), parameters_(parameters) {}

  // Writes n values from element `offset` on and calls add(measured), then active(i, pack) with 1
  // for each active element.
  template <class Add, class Active>
  void run(int64_t offset, int64_t n, Add add, Active active) {
    for (int64_t begin = 0; begin < n; begin += kBlock) {
      const int64_t size = std::min(kBlock, n - begin);
      const T* out = out_ + offset + begin;
      evaluate_(in_ + offset + begin, out_ + offset + begin, size, parameters_, saturated_,
                abs_derivative_);
      int64_t i = 0;
      for (; i + kLanes <= size; i += kLanes) {
        const Measured x = measured(out + i, i);
        add(x);
        active(begin + i, Value(1) - x.saturated);
      }
      if (i == size) continue;
      add_rest(out + i, i, static_cast<int>(size - i), add,
               [&](const Value& is_active) { active(begin + i, is_active); });
    }
  }

  int64_t padding() const { return padding_; }

 private:
  // What is stored is what is measured: a value rounded to 16 bits is read back.
  Measured measured(const T* stored, int64_t i) const {
    const auto value = load(stored);
    return {value.narrow, Value::load(saturated_ + i), value.wide,
            widen(Value::load(abs_derivative_ + i))};
  }

  // The last few, with padding that changes nothing but the number of zeros.
  template <class Add, class Active>
  void add_rest(const T* stored, int64_t i, int rest, Add add, Active active) {
    T padded[kLanes] = {};
    std::memcpy(padded, stored, rest * sizeof(T));
    std::fill(saturated_ + i + rest, saturated_ + i + kLanes, Scalar(0));
    std::fill(abs_derivative_ + i + rest, abs_derivative_ + i + kLanes, Scalar(0));
    Scalar inside[kLanes];
    for (int k = 0; k < kLanes; k++) inside[k] = k < rest ? 1 : 0;
    const auto value = load(static_cast<const T*>(padded));
    const Measured x{value.narrow, Value::load(saturated_ + i), value.wide,
                     widen(Value::load(abs_derivative_ + i))};
    add(x);
    active(Value::load(inside) - x.saturated);
    padding_ += kLanes - rest;
  }

  Evaluate<T> evaluate_;
  const T* in_;
  T* out_;
  const double* parameters_;
  int64_t padding_ = 0;
  Scalar saturated_[kBlock + kLanes];
  Scalar abs_derivative_[kBlock + kLanes];
};

template <class T>
void measure_chunk(Evaluate<T> evaluate, const void* in, void* out, int64_t begin, int64_t n,
                   const double* parameters, const Channels& channels, double* partial,
                   double* active) {
  using M = Measurement<T>;
  using Statistics = formulas::ActivationStatistics;
  using Lanes = Statistics::Lanes<typename M::Value, Pack<double>>;
  M measurement(evaluate, static_cast<const T*>(in), static_cast<T*>(out), parameters);
  Lanes lanes;
  const auto add = [&](const auto& x) { lanes.add(x); };
  each_run(channels, begin, n, [&](int64_t offset, int64_t size, int64_t channel, int step) {
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
  int64_t padding = measurement.padding();
  if (!Statistics::saw_only_finite(result)) {
    M again(evaluate, static_cast<const T*>(in), static_cast<T*>(out), parameters);
    Lanes exact;
    again.run(0, n, [&](const auto& x) { exact.add_finite(x); }, [](int64_t, const auto&) {});
    result = merge_lanes<Statistics>(exact, 0);
    padding = again.padding();
  }
  result.value[Statistics::kZeros] -= static_cast<double>(padding);
  write(result, partial);
}

template <class Formula, class T>
void activate_and_measure(const void* in, void* out, int64_t begin, int64_t n,
                          const double* parameters, const Channels& channels, double* partial,
                          double* active) {
  measure_chunk<T>(evaluate<Formula, T>, in, out, begin, n, parameters, channels, partial, active);
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
