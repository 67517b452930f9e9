// The table of activations: one row for each. A row generates the schemas, kernels, NumPy names,
// public functions, documentation, tests and benchmarks of its activation.
#pragma once

#include <array>

#include "formulas/activations.h"

namespace gradkern::formulas {

template <class... Formula>
struct FormulaList {
  static constexpr int kSize = sizeof...(Formula);

  // Calls visit(index, formula) for each.
  template <class Visit>
  static void each(Visit visit) {
    int index = 0;
    (visit(index++, Formula()), ...);
  }
};

using Activations = FormulaList<Sigmoid, Tanh, Relu, LeakyRelu, Elu, Selu, Celu, Gelu, GeluTanh,
                                Silu, Mish, Softplus, Softsign, Hardtanh, Relu6, Hardsigmoid,
                                Hardswish, Logsigmoid, SquaredRelu>;

// A row without its formula: what front doors and documentation show.
struct ActivationRow {
  const char* name;
  const char* module;
  const char* summary;
  const char* expression;
  const char* source;
  const char* saturation;
  ActivationParameter parameters[kMaxActivationParameters];
  int parameter_count;
  bool saves_output;
  bool smooth;
  ActivationCost cost;
  void (*validate)(const double* parameters);
};

inline const std::array<ActivationRow, Activations::kSize>& activation_rows() {
  static const auto rows = [] {
    std::array<ActivationRow, Activations::kSize> table{};
    Activations::each([&](int index, auto formula) {
      using Formula = decltype(formula);
      ActivationRow& row = table[index];
      row = {Formula::kName,
             Formula::kModule,
             Formula::kSummary,
             Formula::kExpression,
             Formula::kSource,
             Formula::kSaturation,
             {},
             0,
             Formula::kSavesOutput,
             Formula::kSmooth,
             Formula::kCost,
             Formula::validate};
      for (const ActivationParameter& parameter : Formula::kParameters) {
        if (parameter.name != nullptr) row.parameters[row.parameter_count++] = parameter;
      }
    });
    return table;
  }();
  return rows;
}

}  // namespace gradkern::formulas
