// Gated activations: act(gate) * up (Shazeer, "GLU Variants Improve Transformer", 2020,
// arXiv:2002.05202), for activations of the table.
#pragma once

#include "formulas/activation_table.h"

namespace gradkern::formulas {

// What the gate becomes of one activation's formula. Named, it is an entry of the list below.
template <class Formula>
struct Gated {
  using Activation = Formula;

  template <class V>
  GRADKERN_FORMULA static V value(V gate, V up) {
    return Formula::at(gate, Parameters<V>()).value * up;
  }

  template <class V>
  struct Gradients {
    V gate, up;
  };
  template <class V>
  GRADKERN_FORMULA static Gradients<V> backward(V grad, V gate, V up) {
    const auto at = Formula::at(gate, Parameters<V>());
    return {grad * up * at.derivative, grad * at.value};
  }
};

struct Swiglu : Gated<Silu> {
  static constexpr const char* kName = "swiglu";
};
struct Geglu : Gated<Gelu> {
  static constexpr const char* kName = "geglu";
};
struct GegluTanh : Gated<GeluTanh> {
  static constexpr const char* kName = "geglu_tanh";
};
struct Reglu : Gated<Relu> {
  static constexpr const char* kName = "reglu";
};

using GatedActivations = FormulaList<Swiglu, Geglu, GegluTanh, Reglu>;

}  // namespace gradkern::formulas
