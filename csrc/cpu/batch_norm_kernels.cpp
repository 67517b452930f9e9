// Batch normalisation's inner loops. CMake compiles this file once for each instruction set, with
// its flags and with GRADKERN_ISA naming its namespace, and each storage type, GRADKERN_STORAGE.

#include "cpu/batch_norm_kernels.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "cpu/map_vectors.h"
#include "cpu/measured_values.h"
#include "cpu/pack.h"
#include "cpu/prefetch.h"
#include "cpu/storage.h"

namespace gradkern::cpu::GRADKERN_ISA {
namespace {

using formulas::AtElement;
using formulas::GradientElement;
using formulas::InputGradient;
using formulas::Moments;
using formulas::Normalisation;
using formulas::Parameters;
using Layout = BatchNormKernels::Layout;

template <class T>
using ScalarOf = typename VectorOf<T>::value_type;

// ---- reductions: sixteen lanes, whatever the registers hold
// ---------------------------------------

// Adds a register's elements, of which they are part k of sixteen, to float64 lanes.
inline void add_part(Pack<double>& sum, int k, const Vector<double>& x) {
  sum.part[k] = sum.part[k] + x.value;
}
inline void add_part(Pack<double>& sum, int k, const Vector<float>& x) {
  sum.part[2 * k] = sum.part[2 * k] + widen_low(x.value);
  sum.part[2 * k + 1] = sum.part[2 * k + 1] + widen_high(x.value);
}
// The same of products.
inline void add_product(Pack<double>& sum, int k, const Vector<double>& a,
                        const Vector<double>& b) {
  sum.part[k] = sum.part[k] + a.value * b.value;
}
inline void add_product(Pack<double>& sum, int k, const Vector<float>& a, const Vector<float>& b) {
  sum.part[2 * k] = sum.part[2 * k] + widen_low(a.value) * widen_low(b.value);
  sum.part[2 * k + 1] = sum.part[2 * k + 1] + widen_high(a.value) * widen_high(b.value);
}
// And of x - shift and its square, the difference in float64.
inline void add_deviation(Pack<double>& sum, Pack<double>& squares, int part, DoubleBatch x,
                          DoubleBatch shift) {
  const DoubleBatch deviation = x - shift;
  sum.part[part] = sum.part[part] + deviation;
  squares.part[part] = squares.part[part] + deviation * deviation;
}
inline void add_deviations(Pack<double>& sum, Pack<double>& squares, int k, const Vector<double>& x,
                           const Pack<double>& shift) {
  add_deviation(sum, squares, k, x.value, shift.part[k]);
}
inline void add_deviations(Pack<double>& sum, Pack<double>& squares, int k, const Vector<float>& x,
                           const Pack<double>& shift) {
  add_deviation(sum, squares, 2 * k, widen_low(x.value), shift.part[2 * k]);
  add_deviation(sum, squares, 2 * k + 1, widen_high(x.value), shift.part[2 * k + 1]);
}

inline double total(const Pack<double>& sum) {
  alignas(64) double lanes[kLanes];
  sum.store(lanes);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

template <class T>
inline double as_double(const T* element) {
  T padded[VectorOf<T>::kSize] = {};
  padded[0] = *element;
  ScalarOf<T> values[VectorOf<T>::kSize];
  load_vector<T>(padded).value.store_unaligned(values);
  return values[0];
}

// Calls visit(pointers, is_new) for sixteen elements of each input at a time. is_new is null, or
// says which of the last ones count: they begin before those of the visit before, or end in
// padding.
template <class T, int kIn, class Visit>
inline void each_sixteen(const std::array<const T*, kIn>& in, int64_t n, Visit visit) {
  using S = ScalarOf<T>;
  static constexpr S kNew[3 * kLanes] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                                         1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
  T padded[kIn][kLanes];
  std::array<const T*, kIn> from = in;
  if (n < kLanes) {
    for (int k = 0; k < kIn; k++) {
      std::fill_n(padded[k], kLanes, T{});
      std::memcpy(padded[k], in[k], n * sizeof(T));
      from[k] = padded[k];
    }
    return visit(from, kNew + 2 * kLanes - n);
  }
  const Prefetch prefetch(n * sizeof(T));
  for (int64_t i = 0; i < n; i += kLanes) {
    const int64_t at = std::min(i, n - kLanes);
    for (int k = 0; k < kIn; k++) {
      from[k] = in[k] + at;
      prefetch.after(from[k]);
    }
    visit(from, at == i ? nullptr : kNew + kLanes - (i - at));
  }
}

// What counts of a part of sixteen elements; the rest is replaced.
template <class S>
inline const S* part_of(const S* is_new, int64_t part) {
  return is_new == nullptr ? nullptr : is_new + part;
}
template <class V>
inline V counted(V x, const typename V::value_type* is_new, V replacement) {
  if (is_new == nullptr) return x;
  const V number(V::Batch::load_unaligned(is_new));
  return select(number > V(0), x, replacement);
}

// Rows of columns that are added between two visits of their sums in memory.
constexpr int64_t kRowsAtOnce = 4;

template <class T>
[[gnu::flatten]] void plane_moments(const Runs& runs, const void* data, Moments* moments) {
  constexpr int kSize = VectorOf<T>::kSize;
  const T* x = static_cast<const T*>(data);
  // An element that stands for all: exact, and near the mean if the deviations are small.
  const double shift = as_double(x);
  const VectorOf<T> first(static_cast<ScalarOf<T>>(shift));
  const Pack<double> shifts(shift);
  Pack<double> sum(0), squares(0);
  for (int64_t r = 0; r < runs.count; r++) {
    each_sixteen<T, 1>({x + r * runs.stride}, runs.size, [&](const auto& from, const auto* is_new) {
      for (int k = 0; k < kLanes / kSize; k++) {
        const VectorOf<T> values = load_vector<T>(from[0] + k * kSize);
        add_deviations(sum, squares, k, counted(values, part_of(is_new, k * kSize), first), shifts);
      }
    });
  }
  const double count = static_cast<double>(runs.count * runs.size);
  *moments = Moments::of_shifted(count, shift, total(sum), total(squares));
}

template <class T>
[[gnu::flatten]] void column_moments(const Runs& runs, const void* data, Moments* moments) {
  constexpr int kSize = VectorOf<T>::kSize;
  const T* x = static_cast<const T*>(data);
  alignas(64) double shift[kBatchNormColumns], sum[kBatchNormColumns] = {},
                                               squares[kBatchNormColumns] = {};
  for (int64_t j = 0; j < runs.size; j++) shift[j] = as_double(x + j);
  std::fill(shift + runs.size, shift + kBatchNormColumns, 0.0);
  const Prefetch prefetch(runs.count * runs.stride * sizeof(T));
  T padded[kLanes] = {};
  for (int64_t r = 0; r < runs.count; r += kRowsAtOnce) {
    const int64_t rows = std::min(kRowsAtOnce, runs.count - r);
    // Columns behind the last one are added up too, and mean nothing.
    for (int64_t j = 0; j < runs.size; j += kLanes) {
      const Pack<double> shifts = Pack<double>::load(shift + j);
      Pack<double> sums = Pack<double>::load(sum + j), of_squares = Pack<double>::load(squares + j);
      for (int64_t row = r; row < r + rows; row++) {
        const T* at = x + row * runs.stride + j;
        prefetch.rows_after(at, kRowsAtOnce, runs.stride);
        if (j + kLanes > runs.size) {
          std::memcpy(padded, at, (runs.size - j) * sizeof(T));
          at = padded;
        }
        for (int k = 0; k < kLanes / kSize; k++) {
          add_deviations(sums, of_squares, k, load_vector<T>(at + k * kSize), shifts);
        }
      }
      sums.store(sum + j);
      of_squares.store(squares + j);
    }
  }
  const double count = static_cast<double>(runs.count);
  for (int64_t j = 0; j < runs.size; j++) {
    moments[j] = Moments::of_shifted(count, shift[j], sum[j], squares[j]);
  }
}

// ---- a channel's constants
// ------------------------------------------------------------------------

template <class T, Layout kLayout>
class ConstantsOf {
 public:
  using V = VectorOf<T>;

  explicit ConstantsOf(const BatchNormConstants& constants)
      : data_(static_cast<const ScalarOf<T>*>(constants.data)), stride_(constants.field_stride) {}

  // Of the vector that begins at element j of a run.
  Normalisation<V> normalisation(int64_t j) const {
    Normalisation<V> n;
    n.mean_high = at(kMeanHigh, j);
    n.mean_low = at(kMeanLow, j);
    n.invstd = at(kInvstd, j);
    n.weight = at(kWeight, j);
    n.bias = at(kBias, j);
    return n;
  }
  InputGradient<V> gradient(int64_t j) const {
    InputGradient<V> g;
    g.scale = at(kScale, j);
    g.mean_dz = at(kMeanDz, j);
    g.mean_dz_xhat = at(kMeanDzXhat, j);
    return g;
  }

 private:
  V at(int field, int64_t j) const {
    const ScalarOf<T>* of_field = data_ + field * stride_;
    if constexpr (kLayout == Layout::kPlanes) {
      return V(*of_field);
    } else {
      return V(V::Batch::load_unaligned(of_field + j));
    }
  }

  const ScalarOf<T>* data_;
  int64_t stride_;
};

template <class V>
Parameters<V> parameters_of(const double* values) {
  return {{formulas::constant<V>(values[0]), formulas::constant<V>(values[1])}};
}

// ---- the passes
// -----------------------------------------------------------------------------------

template <class T>
const T* typed(const void* data) {
  return static_cast<const T*>(data);
}

// Calls map(constants, x, y) for the vectors of all runs; constants are those of prepare(j), the
// vector's first element in its run. A plane's are read once.
template <Layout kLayout, class T, int kIn, int kOut, class Prepare, class Map>
inline void map_runs(const Runs& runs, const std::array<const T*, kIn>& in,
                     const std::array<T*, kOut>& out, Prepare prepare, Map map) {
  if constexpr (kLayout == Layout::kColumns) {
    map_rows<T, kIn, kOut>(in, out, runs.count, runs.stride, runs.size, prepare, map);
  } else {
    const auto of_plane = prepare(0);
    std::array<const T*, kIn> from = in;
    std::array<T*, kOut> to = out;
    for (int64_t r = 0; r < runs.count; r++) {
      map_run<T, kIn, kOut>(from, to, runs.size,
                            [&](const auto& x, auto& y) { map(of_plane, x, y); });
      for (const T*& pointer : from) pointer += runs.stride;
      for (T*& pointer : to) pointer += runs.stride;
    }
  }
}

template <class Formula, class T, Layout kLayout>
[[gnu::flatten]] void normalise(const Runs& runs, const BatchNormConstants& all,
                                const double* parameters, const BatchNormElements& elements) {
  using V = VectorOf<T>;
  const auto p = parameters_of<V>(parameters);
  const ConstantsOf<T, kLayout> constants(all);
  const T* x = typed<T>(elements.x);
  const bool adds = elements.residual != nullptr;
  const T* residual = adds ? typed<T>(elements.residual) : x;
  map_runs<kLayout, T, 2, 1>(
      runs, {x, residual}, {static_cast<T*>(elements.y)},
      [&](int64_t j) { return constants.normalisation(j); },
      [&](const Normalisation<V>& channel, const auto& in, auto& out) {
        V z = channel.z(channel.xhat(in[0]));
        if (adds) z = z + in[1];
        out[0] = Formula::at(z, p).value;
      });
}

// Of runs that begin at element j of those that the constants are for.
template <class T>
using Evaluate = DerivativeSums (*)(const Runs& runs, int64_t j, const BatchNormConstants& all,
                                    const double* parameters, const T* x, const T* residual, T* y,
                                    ScalarOf<T>* saturated);

template <class Formula, class T, Layout kLayout>
[[gnu::flatten]] DerivativeSums evaluate(const Runs& runs, int64_t j, const BatchNormConstants& all,
                                         const double* parameters, const T* x, const T* residual,
                                         T* y, ScalarOf<T>* saturated) {
  using V = VectorOf<T>;
  const ConstantsOf<T, kLayout> constants(all);
  const Normalisation<V> of_plane = constants.normalisation(0);
  const bool adds = residual != nullptr;
  const auto argument = [&](const Normalisation<V>& channel, const auto& in) {
    const V z = channel.z(channel.xhat(in[0]));
    return adds ? z + in[1] : z;
  };
  return write_values<Formula, T, 2>(runs, {x, adds ? residual : x}, y,
                                     parameters_of<V>(parameters), saturated,
                                     [&](int64_t i, const auto& in) {
                                       if constexpr (kLayout == Layout::kPlanes) {
                                         return argument(of_plane, in);
                                       } else {
                                         return argument(constants.normalisation(j + i), in);
                                       }
                                     });
}

// The same code for all activations.
template <class T, Layout kLayout>
void measure_chunk(Evaluate<T> evaluate, const Runs& all_runs, const BatchNormConstants& constants,
                   const double* parameters, const BatchNormElements& elements, double* partial,
                   double* active) {
  const T *x = typed<T>(elements.x), *residual = typed<T>(elements.residual);
  T* y = static_cast<T*>(elements.y);
  const auto evaluate_runs = [&](int64_t offset, const Runs& runs, ScalarOf<T>* saturated) {
    return evaluate(runs, offset % all_runs.stride, constants, parameters, x + offset,
                    residual == nullptr ? nullptr : residual + offset, y + offset, saturated);
  };
  measure_values<T>(evaluate_runs, y, partial, [&](auto& measured, bool counts) {
    if (!counts) {
      measured.add(0, all_runs);
    } else if constexpr (kLayout == Layout::kColumns) {
      measured.add_counting_each(0, all_runs, active);
    } else {
      measured.add_counting_all(0, all_runs, active);
    }
  });
}

template <class Formula, class T, Layout kLayout>
void normalise_and_measure(const Runs& runs, const BatchNormConstants& constants,
                           const double* parameters, const BatchNormElements& elements,
                           double* partial, double* active) {
  measure_chunk<T, kLayout>(evaluate<Formula, T, kLayout>, runs, constants, parameters, elements,
                            partial, active);
}

template <class V>
struct GradientConstants {
  Normalisation<V> channel;
  InputGradient<V> gradient;
};

template <class Formula, class T, Layout kLayout, int kOut>
inline void write_gradients(const Runs& runs, const BatchNormConstants& all,
                            const double* parameters, const BatchNormElements& elements,
                            const std::array<T*, kOut>& to) {
  using V = VectorOf<T>;
  const auto p = parameters_of<V>(parameters);
  const ConstantsOf<T, kLayout> constants(all);
  const T *x = typed<T>(elements.x), *g = typed<T>(elements.grad_output);
  const bool adds = elements.residual != nullptr;
  const T* residual = adds ? typed<T>(elements.residual) : x;
  map_runs<kLayout, T, 3, kOut>(
      runs, {x, residual, g}, to,
      [&](int64_t j) {
        return GradientConstants<V>{constants.normalisation(j), constants.gradient(j)};
      },
      [&](const GradientConstants<V>& of, const auto& in, auto& out) {
        const AtElement<V> at = GradientElement<Formula>::at(of.channel, p, in[0], adds, in[1]);
        const V dz = in[2] * at.derivative;
        out[0] = of.gradient.dx(dz, at.xhat);
        if constexpr (kOut == 2) out[1] = dz;
      });
}

template <class Formula, class T, Layout kLayout>
[[gnu::flatten]] void input_gradient(const Runs& runs, const BatchNormConstants& constants,
                                     const double* parameters, const BatchNormElements& elements) {
  T* dx = static_cast<T*>(elements.grad_input);
  T* dr = static_cast<T*>(elements.grad_residual);
  if (dr == nullptr) {
    write_gradients<Formula, T, kLayout, 1>(runs, constants, parameters, elements, {dx});
  } else {
    write_gradients<Formula, T, kLayout, 2>(runs, constants, parameters, elements, {dx, dr});
  }
}

template <class Formula, class T, Layout kLayout>
[[gnu::flatten]] void sums(const Runs& runs, const BatchNormConstants& all,
                           const double* parameters, const BatchNormElements& elements,
                           double* sum_dz, double* sum_dz_xhat) {
  using V = VectorOf<T>;
  constexpr int kSize = V::kSize;
  const auto p = parameters_of<V>(parameters);
  const ConstantsOf<T, kLayout> constants(all);
  const T *x = typed<T>(elements.x), *g = typed<T>(elements.grad_output);
  const bool adds = elements.residual != nullptr;
  const T* residual = adds ? typed<T>(elements.residual) : x;
  // Adds part k of sixteen elements, of the channel(s) that `channel` says.
  const auto add = [&](const Normalisation<V>& channel, const std::array<const T*, 3>& from, int k,
                       const ScalarOf<T>* is_new, Pack<double>& dz_lanes,
                       Pack<double>& dz_xhat_lanes) {
    const int64_t part = k * kSize;
    const V grad = counted(load_vector<T>(from[2] + part), part_of(is_new, part), V(0));
    const AtElement<V> at = GradientElement<Formula>::at(channel, p, load_vector<T>(from[0] + part),
                                                         adds, load_vector<T>(from[1] + part));
    const V dz = grad * at.derivative;
    add_part(dz_lanes, k, dz);
    add_product(dz_xhat_lanes, k, dz, at.xhat);
  };
  if constexpr (kLayout == Layout::kPlanes) {
    const Normalisation<V> of_plane = constants.normalisation(0);
    Pack<double> dz_lanes(0), dz_xhat_lanes(0);
    for (int64_t r = 0; r < runs.count; r++) {
      const int64_t at = r * runs.stride;
      each_sixteen<T, 3>({x + at, residual + at, g + at}, runs.size,
                         [&](const auto& from, const auto* is_new) {
                           for (int k = 0; k < kLanes / kSize; k++) {
                             add(of_plane, from, k, is_new, dz_lanes, dz_xhat_lanes);
                           }
                         });
    }
    *sum_dz = total(dz_lanes);
    *sum_dz_xhat = total(dz_xhat_lanes);
  } else {
    // Columns behind the last one are added up too, and mean nothing.
    alignas(64) double of_dz[kBatchNormColumns] = {}, of_dz_xhat[kBatchNormColumns] = {};
    const Prefetch prefetch(runs.count * runs.stride * sizeof(T));
    T padded[3][kLanes] = {};
    for (int64_t r = 0; r < runs.count; r += kRowsAtOnce) {
      const int64_t rows = std::min(kRowsAtOnce, runs.count - r);
      for (int64_t j = 0; j < runs.size; j += kLanes) {
        Pack<double> dz_lanes = Pack<double>::load(of_dz + j);
        Pack<double> dz_xhat_lanes = Pack<double>::load(of_dz_xhat + j);
        Normalisation<V> channels[kLanes / kSize];
        for (int k = 0; k < kLanes / kSize; k++) {
          channels[k] = constants.normalisation(j + k * kSize);
        }
        for (int64_t row = r; row < r + rows; row++) {
          const int64_t at = row * runs.stride + j;
          std::array<const T*, 3> from{x + at, residual + at, g + at};
          for (const T* row_of : from) prefetch.rows_after(row_of, kRowsAtOnce, runs.stride);
          if (j + kLanes > runs.size) {
            for (int k = 0; k < 3; k++) {
              std::memcpy(padded[k], from[k], (runs.size - j) * sizeof(T));
              from[k] = padded[k];
            }
          }
          for (int k = 0; k < kLanes / kSize; k++) {
            add(channels[k], from, k, nullptr, dz_lanes, dz_xhat_lanes);
          }
        }
        dz_lanes.store(of_dz + j);
        dz_xhat_lanes.store(of_dz_xhat + j);
      }
    }
    std::copy_n(of_dz, runs.size, sum_dz);
    std::copy_n(of_dz_xhat, runs.size, sum_dz_xhat);
  }
}

template <class T, Layout kLayout>
void fill(BatchNormKernels& table) {
  formulas::BatchNormActivations::each([&](int index, auto formula) {
    using Formula = decltype(formula);
    table.normalise[index][kLayout] = normalise<Formula, T, kLayout>;
    table.normalise_and_measure[index][kLayout] = normalise_and_measure<Formula, T, kLayout>;
  });
  formulas::BatchNormGradients::each([&](int index, auto formula) {
    using Formula = decltype(formula);
    if constexpr (formulas::kHasGradients<Formula, T>) {
      table.sums[index][kLayout] = sums<Formula, T, kLayout>;
      table.input_gradient[index][kLayout] = input_gradient<Formula, T, kLayout>;
    }
  });
}

}  // namespace

template <class T>
BatchNormKernels batch_norm_kernels() {
  BatchNormKernels table{};
  table.moments[Layout::kPlanes] = plane_moments<T>;
  table.moments[Layout::kColumns] = column_moments<T>;
  fill<T, Layout::kPlanes>(table);
  fill<T, Layout::kColumns>(table);
  return table;
}

template BatchNormKernels batch_norm_kernels<GRADKERN_STORAGE>();

}  // namespace gradkern::cpu::GRADKERN_ISA
