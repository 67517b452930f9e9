// The inner loops of one instruction set. CMake compiles this file once for each, with its flags
// and with GRADKERN_ISA naming its namespace.

#include "cpu/kernels.h"

#include <limits>

#include "cpu/activation_kernels.h"
#include "cpu/add_elements.h"
#include "cpu/batch_norm_kernels.h"
#include "cpu/channelwise_kernels.h"
#include "cpu/convert.h"
#include "cpu/elementwise.h"
#include "cpu/gated_kernels.h"
#include "cpu/merge_lanes.h"
#include "cpu/pack.h"
#include "cpu/prefetch.h"
#include "cpu/rrelu_kernels.h"
#include "cpu/softmax_kernels.h"
#include "cpu/storage.h"
#include "formulas/clip_factor.h"
#include "formulas/clip_value.h"
#include "formulas/norms.h"
#include "formulas/statistics.h"

namespace gradkern::cpu::GRADKERN_ISA {
namespace {

using formulas::Partial;

// ---- storage types, in the order of DType ----------------------------------------------------

template <class T>
struct StorageOf {
  using type = T;
};

template <class Visit>
void each_storage(Visit visit) {
  visit(DType::kFloat32, StorageOf<float>());
  visit(DType::kFloat64, StorageOf<double>());
  visit(DType::kBFloat16, StorageOf<BFloat16>());
  visit(DType::kFloat16, StorageOf<Float16>());
  visit(DType::kComplex64Modulus, StorageOf<Complex<float>>());
  visit(DType::kComplex128Modulus, StorageOf<Complex<double>>());
}

// Whether elements have float64's range already (formulas::ScaledPowers does not scale them).
template <class T>
inline constexpr bool kIsDouble = std::is_same_v<T, double> || std::is_same_v<T, Complex<double>>;

// ---- reductions ------------------------------------------------------------------------------

template <class Formula, class T>
Partial<Formula::kFields> reduce_chunk(const T* data, int64_t n) {
  typename Formula::template Lanes<Pack<NarrowOf<T>>, Pack<double>> lanes;
  add_all(data, n, Formula::kPadding, lanes);
  return merge_lanes<Formula>(lanes, 0);
}

template <class Formula, class T>
void reduce(const void* data, int64_t n, double, double* partial) {
  write(reduce_chunk<Formula>(static_cast<const T*>(data), n), partial);
}

// A chunk of powers is read twice, the second time from cache: first for its scale.
template <class T>
void reduce_powers(const void* data, int64_t n, double order, double* partial) {
  using Formula = formulas::ScaledPowers;
  const T* elements = static_cast<const T*>(data);
  double scale = 1;
  if constexpr (!kIsDouble<T>) {
    const auto extreme = order < 0 ? reduce_chunk<formulas::SmallestMagnitude>(elements, n)
                                   : reduce_chunk<formulas::LargestMagnitude>(elements, n);
    scale = formulas::LargestMagnitude::norm(extreme, 0);
  }
  if (Formula::degenerate(scale)) {
    const bool nothing_to_sum = scale == Formula::padding(order);
    write(Partial<2>{{scale, nothing_to_sum ? 0.0 : 1.0}}, partial);
    return;
  }
  formulas::ScaledPowers::Lanes<Pack<NarrowOf<T>>, Pack<double>> lanes(scale, order);
  add_all(elements, n, Formula::padding(order), lanes);
  alignas(64) double sums[kLanes];
  lanes.sum.store(sums);
  for (int lane = 1; lane < kLanes; lane++) sums[0] += sums[lane];
  write(Partial<2>{{scale, sums[0]}}, partial);
}

template <class T>
void reduce_statistics(const void* data, int64_t n, double, double* partial) {
  using Formula = formulas::Statistics;
  const T* elements = static_cast<const T*>(data);
  Formula::Lanes<Pack<NarrowOf<T>>, Pack<double>> lanes;
  int padded = add_all(elements, n, Formula::kPadding, lanes);
  auto result = merge_lanes<Formula>(lanes, 0);
  if (!Formula::saw_only_finite(result)) {
    Formula::ExactLanes<Pack<NarrowOf<T>>, Pack<double>> exact;
    padded = add_all(elements, n, Formula::kPadding, exact);
    result = merge_lanes<Formula>(exact, 0);
  }
  result.value[Formula::kZeros] -= padded;
  write(result, partial);
}

// ---- elementwise, in place -------------------------------------------------------------------

template <class T>
void scale(void* data, int64_t n, double factor) {
  const formulas::Scaling<NarrowOf<T>> scaling(factor);
  T* elements = static_cast<T*>(data);
  if (scaling.second == 1) {
    map_in_place(elements, n, [&](const auto& x) { return scaling.in_one_step(x); });
  } else {
    map_in_place(elements, n, [&](const auto& x) { return scaling(x); });
  }
}

// In the storage's own precision, as native clamps: the bound is rounded to it first.
template <class T>
void clamp(void* data, int64_t n, double bound) {
  using Narrow = NarrowOf<T>;
  T rounded[kLanes];
  store(Pack<Narrow>(static_cast<Narrow>(bound)), rounded);
  const Pack<Narrow> bounds = load(static_cast<const T*>(rounded)).narrow;
  map_in_place(static_cast<T*>(data), n,
               [&](const auto& x) { return formulas::clip_to_bound(x, bounds); });
}

// ---- the machine's own bandwidth -------------------------------------------------------------

uint64_t read_all(const void* data, size_t bytes) {
  using Batch = xsimd::batch<uint64_t>;
  const auto* words = static_cast<const uint64_t*>(data);
  const size_t n = bytes / sizeof(uint64_t);
  constexpr size_t kStep = 8 * Batch::size;
  Batch sums[8];
  for (Batch& sum : sums) sum = Batch(uint64_t(0));
  size_t i = 0;
  for (; i + kStep <= n; i += kStep) {
    for (size_t k = 0; k < 8; k++) sums[k] ^= Batch::load_unaligned(words + i + k * Batch::size);
  }
  uint64_t result = 0;
  for (const Batch& sum : sums) {
    uint64_t lanes[Batch::size];
    sum.store_unaligned(lanes);
    for (uint64_t lane : lanes) result ^= lane;
  }
  for (; i < n; i++) result ^= words[i];
  return result;
}

// Calls make(storage) for each of the real types, in the order of DType.
template <class Table, class Make>
const Table* of_real_storages(Make make) {
  static const Table tables[kRealDTypes] = {make(StorageOf<float>()), make(StorageOf<double>()),
                                            make(StorageOf<BFloat16>()),
                                            make(StorageOf<Float16>())};
  return tables;
}

Kernels make_kernels(const char* isa) {
  Kernels table{};
  table.isa = isa;
  table.read_all = read_all;
  table.softmax = softmax_kernels();
  table.batch_norm = of_real_storages<BatchNormKernels>(
      [](auto storage) { return batch_norm_kernels<typename decltype(storage)::type>(); });
  table.gated = of_real_storages<GatedKernels>(
      [](auto storage) { return gated_kernels<typename decltype(storage)::type>(); });
  table.channelwise = of_real_storages<ChannelwiseKernels>(
      [](auto storage) { return channelwise_kernels<typename decltype(storage)::type>(); });
  table.rrelu = of_real_storages<RreluKernels>(
      [](auto storage) { return rrelu_kernels<typename decltype(storage)::type>(); });
  each_storage([&](DType dtype, auto storage) {
    using T = typename decltype(storage)::type;
    const int column = static_cast<int>(dtype);
    const auto set = [&](Reduction reduction, Kernels::Reduce function) {
      table.reduce[static_cast<int>(reduction)][column] = function;
    };
    set(Reduction::kNonzeroCount, reduce<formulas::NonzeroCount, T>);
    set(Reduction::kSumOfMagnitudes, reduce<formulas::SumOfMagnitudes, T>);
    set(Reduction::kSumOfSquares, reduce<formulas::SumOfSquares, T>);
    set(Reduction::kLargestMagnitude, reduce<formulas::LargestMagnitude, T>);
    set(Reduction::kSmallestMagnitude, reduce<formulas::SmallestMagnitude, T>);
    set(Reduction::kScaledPowers, reduce_powers<T>);
    set(Reduction::kStatistics, reduce_statistics<T>);
    if constexpr (!kIsComplex<T>) {
      table.scale[column] = scale<T>;
      table.clamp[column] = clamp<T>;
      fill_activations<T>(table, column);
    }
  });
  return table;
}

}  // namespace

// `name` is spelled by the dispatcher (isa.cpp), which owns the names users see.
Kernels build_kernels(const char* name) { return make_kernels(name); }

}  // namespace gradkern::cpu::GRADKERN_ISA
