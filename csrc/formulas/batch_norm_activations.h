// The activations that batch normalisation fuses: rows of BatchNormCall::activation.
#pragma once

#include "formulas/activation_table.h"

namespace gradkern::formulas {

struct Identity : Activation {
  static constexpr const char* kName = "identity";

  template <class V>
  GRADKERN_FORMULA static Activated<V> at(V x, const Parameters<V>&) {
    return {x, constant<V>(1)};
  }
};

using BatchNormActivations = FormulaList<Identity, Relu, LeakyRelu, Elu, Silu, Gelu>;

}  // namespace gradkern::formulas
