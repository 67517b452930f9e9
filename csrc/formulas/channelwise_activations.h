// Activations of an element and a parameter of its channel: a bias before an activation of the
// table; the learned slope of PReLU.
#pragma once

#include "formulas/activation_table.h"

namespace gradkern::formulas {

// Such an activation is a type with
//   at<V>(x, w)   the value and both derivatives
//   kIsSum        whether it is a function of x + w: the derivatives are the same
// and its names: kName, kWeight (its parameter), Activation (the row of the table it is made of).

// Which elements share a parameter.
enum class ChannelDim {
  kLast,
  kSecondOrAll,  // or a single parameter serves all
};

template <class V>
struct ChannelwiseAt {
  V value, derivative;
  V of_weight;  // the derivative in the direction of the parameter
};

// act(x + bias). Named, it is an entry of the list below.
template <class Formula>
struct Biased {
  using Activation = Formula;
  static constexpr const char* kWeight = "bias";
  static constexpr bool kIsSum = true;
  static constexpr ChannelDim kChannelDim = ChannelDim::kLast;

  template <class V>
  GRADKERN_FORMULA static ChannelwiseAt<V> at(V x, V bias) {
    const auto at = Formula::at(x + bias, Parameters<V>());
    return {at.value, at.derivative, at.derivative};
  }
};

struct BiasGelu : Biased<Gelu> {
  static constexpr const char* kName = "bias_gelu";
};
struct BiasGeluTanh : Biased<GeluTanh> {
  static constexpr const char* kName = "bias_gelu_tanh";
};
struct BiasSilu : Biased<Silu> {
  static constexpr const char* kName = "bias_silu";
};

// He, Zhang, Ren, Sun, "Delving deep into rectifiers", 2015.
struct Prelu {
  using Activation = LeakyRelu;
  static constexpr const char* kName = "prelu";
  static constexpr const char* kWeight = "weight";
  static constexpr bool kIsSum = false;
  static constexpr ChannelDim kChannelDim = ChannelDim::kSecondOrAll;

  template <class V>
  GRADKERN_FORMULA static ChannelwiseAt<V> at(V x, V slope) {
    const V zero = constant<V>(0);
    const auto at = LeakyRelu::at(x, Parameters<V>{{slope, zero}});
    return {at.value, at.derivative, select(x > zero, zero, x)};
  }
};

using ChannelwiseActivations = FormulaList<BiasGelu, BiasGeluTanh, BiasSilu, Prelu>;

}  // namespace gradkern::formulas
