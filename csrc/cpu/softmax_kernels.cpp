// Softmax's inner loops. CMake compiles this file once for each instruction set, with its flags and
// with GRADKERN_ISA naming its namespace.
//
// A row is read once from memory: for its largest entry, then, from the caches, for the sum of its
// terms, which stay in scratch memory until the sum is known.

#include "cpu/softmax_kernels.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <type_traits>

#include "cpu/elementary.h"
#include "cpu/elementwise.h"
#include "formulas/softmax.h"

namespace gradkern::cpu::GRADKERN_ISA {
namespace {

using formulas::SoftmaxPartial;
using formulas::SoftmaxRow;

template <class T>
using ValueOf = Pack<NarrowOf<T>>;

// 16 bits of result forgive what x - largest loses in float32.
template <class T>
inline constexpr bool kExact = std::is_same_v<T, NarrowOf<T>>;

// The sum of terms is kept in float64: exactly enough of float32 ones, with its errors of float64
// ones.
template <class T>
using LaneSums = typename formulas::SumOf<NarrowOf<T>, Pack<double>>::type;

template <class T, int kIn>
using Inputs = std::array<const T*, kIn>;

template <class T, int kIn>
Inputs<T, kIn> typed(const void* const* pointers) {
  Inputs<T, kIn> result;
  for (int k = 0; k < kIn; k++) result[k] = static_cast<const T*>(pointers[k]);
  return result;
}

constexpr int64_t whole_packs(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

// ---- a few elements --------------------------------------------------------------------------

// An entry that adds nothing: -infinity to exponentials, 0 to sums of gradients.
template <class T>
T padding(bool exponentiates) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    return {static_cast<uint16_t>(exponentiates ? 0xff80 : 0)};
  } else if constexpr (std::is_same_v<T, Float16>) {
    return {static_cast<uint16_t>(exponentiates ? 0xfc00 : 0)};
  } else {
    return exponentiates ? -std::numeric_limits<T>::infinity() : T(0);
  }
}

template <class T>
inline auto load_some(const T* from, int64_t count, T pad) {
  T padded[kLanes];
  for (T& element : padded) element = pad;
  std::memcpy(padded, from, count * sizeof(T));
  return load(static_cast<const T*>(padded));
}

template <class T>
inline void store_some(const ValueOf<T>& x, T* to, int64_t count) {
  T padded[kLanes];
  store(x, padded);
  std::memcpy(to, padded, count * sizeof(T));
}

// Calls visit(i, elements of each input) for sixteen elements at a time, the last ones padded.
template <class Formula, class T, class Visit>
inline void each_pack(const Inputs<T, Formula::kInputs>& in, int64_t n, Visit visit) {
  using Elements = decltype(load(in[0]));
  const Prefetch prefetch;
  std::array<Elements, Formula::kInputs> x;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int k = 0; k < Formula::kInputs; k++) {
      prefetch.after(in[k] + i);
      x[k] = load(in[k] + i);
    }
    visit(i, x);
  }
  if (i == n) return;
  for (int k = 0; k < Formula::kInputs; k++) {
    x[k] = load_some(in[k] + i, n - i, padding<T>(Formula::kExponentiates));
  }
  visit(i, x);
}

// ---- sixteen lanes to one ----------------------------------------------------------------------

template <class S>
inline S largest_lane(const Pack<S>& x) {
  alignas(64) S lanes[kLanes];
  x.store(lanes);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; i++) lanes[i] = formulas::larger(lanes[i], lanes[i + half]);
  }
  return lanes[0];
}

// Halves are merged until one lane is left.
template <class Sum>
inline Sum merged_lanes(Sum (&lanes)[kLanes]) {
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; i++) lanes[i].merge(lanes[i + half]);
  }
  return lanes[0];
}
inline formulas::CompensatedSum<double> total_of(const formulas::PlainSum<Pack<double>>& sums) {
  alignas(64) formulas::PlainSum<double> lanes[kLanes];
  sums.sum.store(&lanes[0].sum);
  return merged_lanes(lanes).compensated();
}
inline formulas::CompensatedSum<double> total_of(
    const formulas::CompensatedSum<Pack<double>>& sums) {
  alignas(64) double values[kLanes], errors[kLanes];
  sums.sum.store(values);
  sums.error.store(errors);
  formulas::CompensatedSum<double> lanes[kLanes];
  for (int i = 0; i < kLanes; i++) lanes[i] = {values[i], errors[i]};
  return merged_lanes(lanes);
}

// ---- rows --------------------------------------------------------------------------------------

// The sums of a row or of a part of one. `terms`, if kKeep, takes the terms, in whole packs.
template <class Formula, class T, bool kKeep>
SoftmaxPartial sums_of(const Inputs<T, Formula::kInputs>& in, int64_t n, NarrowOf<T>* terms) {
  using Value = ValueOf<T>;
  LaneSums<T> sums = LaneSums<T>::zero();
  if constexpr (Formula::kExponentiates) {
    // Four maxima, so that none has to wait for the one before.
    constexpr double kNothing = -std::numeric_limits<double>::infinity();
    Value extremes[4];
    for (Value& extreme : extremes) extreme = formulas::constant<Value>(kNothing);
    const Prefetch prefetch;
    int64_t i = 0;
    for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
      for (int k = 0; k < 4; k++) {
        prefetch.after(in[0] + i + k * kLanes);
        extremes[k] = larger(load(in[0] + i + k * kLanes).narrow, extremes[k]);
      }
    }
    each_pack<Formula, T>({in[0] + i}, n - i, [&](int64_t, const auto& x) {
      extremes[0] = larger(x[0].narrow, extremes[0]);
    });
    const auto largest =
        largest_lane(larger(larger(extremes[0], extremes[1]), larger(extremes[2], extremes[3])));
    const Value subtracted(formulas::subtrahend(largest));
    each_pack<Formula, T>(in, n, [&](int64_t at, const auto& x) {
      const Value term = formulas::softmax_term<kExact<T>>(x[0].narrow, subtracted);
      if constexpr (kKeep) term.store(terms + at);
      sums.add(widen(term));
    });
    return {static_cast<double>(largest), total_of(sums)};
  } else {
    each_pack<Formula, T>(in, n, [&](int64_t, const auto& x) {
      std::array<Pack<double>, Formula::kInputs> wide;
      for (int k = 0; k < Formula::kInputs; k++) wide[k] = x[k].wide;
      sums.add(Formula::summand(wide.data()));
    });
    return {0, total_of(sums)};
  }
}

template <class V, class S>
inline SoftmaxRow<V> spread(const SoftmaxRow<S>& row) {
  return {V(row.largest), V(row.high), V(row.rest)};
}

// The results of a row of which the sums are known.
template <class Formula, class T>
void write_results(const Inputs<T, Formula::kInputs>& in, T* out, int64_t n,
                   const SoftmaxPartial& partial) {
  using Value = ValueOf<T>;
  const auto row = spread<Value>(Formula::template row<NarrowOf<T>>(partial));
  map_elements<T, Formula::kInputs, 1>(in, {out}, n, [&](const auto& x, auto& y) {
    y[0] = Formula::template result<kExact<T>>(x.data(), row);
  });
}

// The results from the terms.
template <class T>
void write_results(const NarrowOf<T>* terms, T* out, int64_t n, const SoftmaxPartial& partial) {
  using Value = ValueOf<T>;
  const auto row = spread<Value>(formulas::Softmax::row<NarrowOf<T>>(partial));
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    store(formulas::Softmax::of_term(Value::load(terms + i), row), out + i);
  }
  if (i == n) return;
  const Value last = load_some(terms + i, n - i, NarrowOf<T>(0)).narrow;
  store_some(formulas::Softmax::of_term(last, row), out + i, n - i);
}

// The entry functions are flattened: GCC 12 else passes packs through memory, which took 1.2 to 2
// times as long.

template <class Formula, class T>
[[gnu::flatten]] void rows(const void* const* in, void* out, int64_t rows, int64_t size,
                           void* scratch) {
  constexpr bool kKeep = std::is_same_v<Formula, formulas::Softmax>;
  auto from = typed<T, Formula::kInputs>(in);
  T* to = static_cast<T*>(out);
  NarrowOf<T>* terms = static_cast<NarrowOf<T>*>(scratch);
  for (int64_t r = 0; r < rows; r++) {
    const SoftmaxPartial partial = sums_of<Formula, T, kKeep>(from, size, terms);
    if constexpr (kKeep) {
      write_results(terms, to, size, partial);
    } else {
      write_results<Formula>(from, to, size, partial);
    }
    for (const T*& input : from) input += size;
    to += size;
  }
}

template <class Formula, class T>
[[gnu::flatten]] void measure(const void* const* in, int64_t n, SoftmaxPartial* partial) {
  *partial = sums_of<Formula, T, false>(typed<T, Formula::kInputs>(in), n, nullptr);
}

template <class Formula, class T>
[[gnu::flatten]] void finish(const void* const* in, void* out, int64_t n,
                             const SoftmaxPartial& partial) {
  write_results<Formula>(typed<T, Formula::kInputs>(in), static_cast<T*>(out), n, partial);
}

// ---- columns -----------------------------------------------------------------------------------

// Sums of a tile's columns, in memory.
template <class Sums>
class ColumnSums;
template <>
class ColumnSums<formulas::PlainSum<Pack<double>>> {
 public:
  void clear(int64_t columns) { std::fill_n(sum_, columns, 0.0); }
  void add(int64_t column, const Pack<double>& x) {
    (Pack<double>::load(sum_ + column) + x).store(sum_ + column);
  }
  formulas::CompensatedSum<double> total(int64_t column) const { return {sum_[column], 0}; }

 private:
  alignas(64) double sum_[kTileColumns];
};
template <>
class ColumnSums<formulas::CompensatedSum<Pack<double>>> {
 public:
  void clear(int64_t columns) {
    std::fill_n(sum_, columns, 0.0);
    std::fill_n(error_, columns, 0.0);
  }
  void add(int64_t column, const Pack<double>& x) {
    formulas::CompensatedSum<Pack<double>> sum{Pack<double>::load(sum_ + column),
                                               Pack<double>::load(error_ + column)};
    sum.add(x);
    sum.sum.store(sum_ + column);
    sum.error.store(error_ + column);
  }
  formulas::CompensatedSum<double> total(int64_t column) const {
    return {sum_[column], error_[column]};
  }

 private:
  alignas(64) double sum_[kTileColumns], error_[kTileColumns];
};

template <class Formula, class T>
class ColumnsKernel {
 public:
  static constexpr int kIn = Formula::kInputs;
  using Narrow = NarrowOf<T>;
  using Value = ValueOf<T>;

  ColumnsKernel(const Inputs<T, kIn>& in, T* out, const ColumnTile& tile, Narrow* scratch)
      : in_(in), out_(out), tile_(tile), width_(whole_packs(tile.columns)), scratch_(scratch) {}

  void run() {
    sums_.clear(width_);
    bool kept = false;
    if constexpr (Formula::kExponentiates) {
      kept = exponentiate();
    } else {
      for (int64_t i = 0; i < tile_.size; i++) {
        each_pack<Formula, T>(at(i), tile_.columns, [&](int64_t j, const auto& x) {
          std::array<Pack<double>, kIn> wide;
          for (int k = 0; k < kIn; k++) wide[k] = x[k].wide;
          sums_.add(j, Formula::summand(wide.data()));
        });
      }
      for (int64_t j = 0; j < width_; j++) set(j, {0, sums_.total(j)});
    }
    for (int64_t i = 0; i < tile_.size; i++) {
      if (kept) {
        write_kept(i);
      } else {
        write_recomputed(i);
      }
    }
  }

 private:
  Inputs<T, kIn> at(int64_t i) const {
    Inputs<T, kIn> from;
    for (int k = 0; k < kIn; k++) from[k] = in_[k] + i * tile_.stride;
    return from;
  }

  void set(int64_t column, const SoftmaxPartial& partial) {
    const SoftmaxRow<Narrow> row = Formula::template row<Narrow>(partial);
    largest_[column] = row.largest;
    high_[column] = row.high;
    rest_[column] = row.rest;
  }
  SoftmaxRow<Value> row_at(int64_t column) const {
    return {Value::load(largest_ + column), Value::load(high_ + column),
            Value::load(rest_ + column)};
  }

  // The entries of rows [first, first + rows), and the largest of each column.
  void stage(int64_t first, int64_t rows) {
    std::fill_n(largest_, width_, -std::numeric_limits<Narrow>::infinity());
    for (int64_t i = 0; i < rows; i++) {
      Narrow* to = scratch_ + i * width_;
      each_pack<Formula, T>(at(first + i), tile_.columns, [&](int64_t j, const auto& x) {
        x[0].narrow.store(to + j);
        larger(x[0].narrow, Value::load(largest_ + j)).store(largest_ + j);
      });
    }
  }

  // Replaces the staged entries by their terms, which are summed up.
  template <bool kKeep>
  void sum_terms(int64_t rows) {
    for (int64_t i = 0; i < rows; i++) {
      Narrow* terms = scratch_ + i * width_;
      for (int64_t j = 0; j < width_; j += kLanes) {
        const Value term = formulas::softmax_term<kExact<T>>(
            Value::load(terms + j), formulas::subtrahend(Value::load(largest_ + j)));
        if constexpr (kKeep) term.store(terms + j);
        sums_.add(j, widen(term));
      }
    }
  }

  // Whether the scratch memory holds what the results follow from: terms or entries.
  bool exponentiate() {
    if (tile_.size <= tile_.block) {
      stage(0, tile_.size);
      sum_terms<std::is_same_v<Formula, formulas::Softmax>>(tile_.size);
      for (int64_t j = 0; j < width_; j++) {
        set(j, {static_cast<double>(largest_[j]), sums_.total(j)});
      }
      return true;
    }
    constexpr double kNothing = -std::numeric_limits<double>::infinity();
    SoftmaxPartial partials[kTileColumns];
    std::fill_n(partials, width_, SoftmaxPartial{kNothing, {0, 0}});
    for (int64_t first = 0; first < tile_.size; first += tile_.block) {
      const int64_t rows = std::min(tile_.block, tile_.size - first);
      stage(first, rows);
      sums_.clear(width_);
      sum_terms<false>(rows);
      for (int64_t j = 0; j < width_; j++) {
        merge(partials[j], {static_cast<double>(largest_[j]), sums_.total(j)});
      }
    }
    for (int64_t j = 0; j < width_; j++) set(j, partials[j]);
    return false;
  }

  // The last pack reads over the columns' end: the scratch memory and the fields have room for
  // that.
  void write_kept(int64_t i) const {
    const Narrow* kept = scratch_ + i * width_;
    T* to = out_ + i * tile_.stride;
    const auto result = [&](int64_t j) {
      const Value x = Value::load(kept + j);
      if constexpr (std::is_same_v<Formula, formulas::Softmax>) {
        return Formula::of_term(x, row_at(j));
      } else {
        return Formula::template result<kExact<T>>(&x, row_at(j));
      }
    };
    int64_t j = 0;
    for (; j + kLanes <= tile_.columns; j += kLanes) store(result(j), to + j);
    if (j < tile_.columns) store_some(result(j), to + j, tile_.columns - j);
  }

  void write_recomputed(int64_t i) const {
    T* to = out_ + i * tile_.stride;
    each_pack<Formula, T>(at(i), tile_.columns, [&](int64_t j, const auto& x) {
      std::array<Value, kIn> narrow;
      for (int k = 0; k < kIn; k++) narrow[k] = x[k].narrow;
      const Value y = Formula::template result<kExact<T>>(narrow.data(), row_at(j));
      const int64_t left = tile_.columns - j;
      if (left >= kLanes) {
        store(y, to + j);
      } else {
        store_some(y, to + j, left);
      }
    });
  }

  const Inputs<T, kIn> in_;
  T* const out_;
  const ColumnTile tile_;
  const int64_t width_;
  Narrow* const scratch_;
  ColumnSums<LaneSums<T>> sums_;
  // In whole packs: what lies behind the columns is read, and means nothing.
  alignas(64) Narrow largest_[kTileColumns] = {};
  alignas(64) Narrow high_[kTileColumns] = {};
  alignas(64) Narrow rest_[kTileColumns] = {};
};

template <class Formula, class T>
[[gnu::flatten]] void columns(const void* const* in, void* out, const ColumnTile& tile,
                              void* scratch) {
  ColumnsKernel<Formula, T>(typed<T, Formula::kInputs>(in), static_cast<T*>(out), tile,
                            static_cast<NarrowOf<T>*>(scratch))
      .run();
}

// ---- the table ---------------------------------------------------------------------------------

template <class Formula, class T>
constexpr SoftmaxKernels kernels_of() {
  return {rows<Formula, T>, measure<Formula, T>, finish<Formula, T>, columns<Formula, T>};
}

// The storage types are in the order of DType.
template <class Formula>
constexpr std::array<SoftmaxKernels, kRealDTypes> kernels_of_pass() {
  return {kernels_of<Formula, float>(), kernels_of<Formula, double>(),
          kernels_of<Formula, BFloat16>(), kernels_of<Formula, Float16>()};
}

// In the order of SoftmaxPass.
constexpr std::array<SoftmaxKernels, kRealDTypes> kTable[kSoftmaxPassCount] = {
    kernels_of_pass<formulas::Softmax>(), kernels_of_pass<formulas::LogSoftmax>(),
    kernels_of_pass<formulas::SoftmaxBackward>(), kernels_of_pass<formulas::LogSoftmaxBackward>()};

}  // namespace

const SoftmaxKernels* softmax_kernels() { return kTable[0].data(); }

}  // namespace gradkern::cpu::GRADKERN_ISA
