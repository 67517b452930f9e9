// The activations that batch normalisation fuses: rows of BatchNormCall::activation.
#pragma once

#include "formulas/activation_table.h"
#include "formulas/batch_norm.h"

namespace gradkern::formulas {

struct Identity : Activation {
  static constexpr const char* kName = "identity";

  template <class V>
  GRADKERN_FORMULA static Activated<V> at(V x, const Parameters<V>&) {
    return {x, constant<V>(1)};
  }
  // Never.
  template <class V>
  GRADKERN_FORMULA static auto saturated(const Activated<V>& at, const Parameters<V>&) {
    return below_a_twentieth_of(1, at);
  }
  template <class V>
  GRADKERN_FORMULA static V inverse(V y, const Parameters<V>&) {
    return y;
  }
};

using BatchNormActivations = FormulaList<Identity, Relu, LeakyRelu, Elu, Silu, Gelu>;

// Rows of the gradients' passes alone: the output takes the input's place, and the normalised value
// is what the activation and the affine part are undone to. After Rota Bulo, Porzi, Kontschieder
// 2018, "In-place activated BatchNorm", https://arxiv.org/abs/1712.02616.
template <class Formula>
struct OfOutput : Formula {};

template <class Formula>
inline constexpr bool kIsOfOutput = false;
template <class Formula>
inline constexpr bool kIsOfOutput<OfOutput<Formula>> = true;

// Whether there are gradients for the storage: a 16-bit output says too little of the input.
template <class Formula, class T>
inline constexpr bool kHasGradients = !kIsOfOutput<Formula> || sizeof(T) >= sizeof(float);

template <class... Of, class... More>
FormulaList<Of..., More...> joined(FormulaList<Of...>, FormulaList<More...>);

using BatchNormGradients = decltype(joined(
    BatchNormActivations(), FormulaList<OfOutput<Identity>, OfOutput<LeakyRelu>, OfOutput<Elu>>()));

inline constexpr bool is_of_output(int32_t activation) {
  return activation >= BatchNormActivations::kSize;
}

// What an element's gradient follows from.
template <class V>
struct AtElement {
  V xhat, derivative;
};

template <class Formula>
struct GradientElement {
  // Where nothing is added, the residual is anything.
  template <class V>
  GRADKERN_FORMULA static AtElement<V> at(const Normalisation<V>& channel, const Parameters<V>& p,
                                          V x, bool adds, V residual) {
    const V xhat = channel.xhat(x);
    V z = channel.z(xhat);
    if (adds) z = z + residual;
    return {xhat, Formula::at(z, p).derivative};
  }
};

template <class Formula>
struct GradientElement<OfOutput<Formula>> {
  template <class V>
  GRADKERN_FORMULA static AtElement<V> at(const Normalisation<V>& undone, const Parameters<V>& p,
                                          V y, bool, V) {
    const V z = Formula::inverse(y, p);
    if constexpr (Formula::kSavesOutput) {
      return {undone.xhat(z), Formula::derivative_of_output(y, p)};
    } else {
      return {undone.xhat(z), Formula::at(z, p).derivative};
    }
  }
};

}  // namespace gradkern::formulas
