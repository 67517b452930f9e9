// The gated activations' inner loops. CMake compiles this file once for each instruction set, with
// its flags and with GRADKERN_ISA naming its namespace, and each storage type, GRADKERN_STORAGE.

#include "cpu/gated_kernels.h"

#include "cpu/map_vectors.h"

namespace gradkern::cpu::GRADKERN_ISA {
namespace {

template <class T, int kCount, class Pointer>
std::array<T*, kCount> typed(Pointer* const* pointers) {
  std::array<T*, kCount> result;
  for (int k = 0; k < kCount; k++) result[k] = static_cast<T*>(pointers[k]);
  return result;
}

// flatten: as in activation_kernels.cpp.
template <class Formula, GatedPass kPass, class T>
[[gnu::flatten]] void run(const void* const* in, void* const* out, int64_t n) {
  constexpr int kIn = inputs_of(kPass), kOut = outputs_of(kPass);
  map_vectors<T, kIn, kOut>(typed<const T, kIn>(in), typed<T, kOut>(out), n,
                            [](const auto& x, auto& y) {
                              if constexpr (kPass == GatedPass::kValue) {
                                y[0] = Formula::value(x[0], x[1]);
                              } else {
                                const auto gradients = Formula::backward(x[0], x[1], x[2]);
                                y[0] = gradients.gate;
                                y[1] = gradients.up;
                              }
                            });
}

}  // namespace

template <class T>
GatedKernels gated_kernels() {
  GatedKernels table{};
  formulas::GatedActivations::each([&](int index, auto formula) {
    using Formula = decltype(formula);
    auto& row = table.run[index];
    row[static_cast<int>(GatedPass::kValue)] = run<Formula, GatedPass::kValue, T>;
    row[static_cast<int>(GatedPass::kBackward)] = run<Formula, GatedPass::kBackward, T>;
  });
  return table;
}

template GatedKernels gated_kernels<GRADKERN_STORAGE>();

}  // namespace gradkern::cpu::GRADKERN_ISA
