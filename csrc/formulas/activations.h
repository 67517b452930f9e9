// The activations: each a formula for its value and its derivative.
//
// An activation is a type with
//   at<V>(x, p)                   value and derivative at x, for the parameters p. What a caller
//                                 does not use, the compiler drops: there is no third formula for
//                                 the value alone.
//   derivative_of_output<V>(y, p) the derivative, from the value (where kSavesOutput)
//   inverse<V>(y, p)              x, from the value (what batch normalisation can do without its
//                                 input for)
//   saturated<V>(at, p)           whether the unit hardly learns there: a fraction of the largest
//                                 |derivative|, or what the field takes for it
//   kCost                         what an element costs, where it is more than arithmetic
// and what the table (activation_table.h) shows of it: kName, kModule (its class), kSummary,
// kExpression, kSource, kSaturation, kParameters.
//
// Each is exact where it is small: no 1 - tanh^2 that cancels, no exponential that overflows. At
// infinities they give the limit. Value and derivative are NaN for NaN.
#pragma once

#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include "formulas/dual.h"
#include "formulas/log1p.h"
#include "formulas/normal_distribution.h"
#include "formulas/scalar.h"

namespace gradkern::formulas {

inline constexpr int kMaxActivationParameters = 2;

struct ActivationParameter {
  const char* name = nullptr;
  double standard = 0;  // the default value
};

template <class V>
struct Parameters {
  V value[kMaxActivationParameters];
};

template <class V>
struct Activated {
  V value, derivative;
};

// What an element costs, for those who can choose (csrc/cpu/activation_tables.h).
enum class ActivationCost {
  kArithmetic,
  kExponential,  // or a logarithm as well
  kLong,         // and the arithmetic that keeps tails exact
};

// What most activations have in common; the others say otherwise.
struct Activation {
  static constexpr ActivationParameter kParameters[kMaxActivationParameters] = {};
  static constexpr bool kSavesOutput = false;  // for backward, in place of the input
  static constexpr bool kSmooth = true;        // has a second derivative worth the name
  static constexpr ActivationCost kCost = ActivationCost::kArithmetic;

  // Throws for parameters without a meaning.
  static void validate(const double*) {}
};

// Saturated: |derivative| below a twentieth of its largest.
template <class V>
GRADKERN_FORMULA auto below_a_twentieth_of(double steepest, const Activated<V>& at) {
  return absolute(at.derivative) < constant<V>(0.05 * steepest);
}

// s(x) = 1 / (1 + exp(-x)) and 1 - s(x), both exact where they are small.
template <class V>
struct Logistic {
  V value, complement;

  GRADKERN_FORMULA explicit Logistic(V x) : Logistic(x < constant<V>(0), exp(-absolute(x))) {}

  // Of the magnitude's exponential, e = exp(-|x|).
  template <class Condition>
  GRADKERN_FORMULA Logistic(const Condition& negative, V e)
      : value(constant<V>(1) / (constant<V>(1) + e)), complement(e * value) {
    const V larger_one = value, smaller_one = complement;
    value = select(negative, smaller_one, larger_one);
    complement = select(negative, larger_one, smaller_one);
  }
};

// The same, and factor * s(x) that underflows only where the product does.
template <class V>
class ScaledLogistic {
 public:
  GRADKERN_FORMULA explicit ScaledLogistic(V x) : ScaledLogistic(x, split_exp(-absolute(x))) {}
  // At x + correction, for a correction that is tiny beside 1.
  GRADKERN_FORMULA ScaledLogistic(V x, V correction)
      : ScaledLogistic(x, corrected(x, correction, split_exp(-absolute(x)))) {}

  GRADKERN_FORMULA V complement() const {
    return select(x_ < constant<V>(0), of_magnitude_, exponential_ * of_magnitude_);
  }
  GRADKERN_FORMULA V times(V factor) const {
    const V product = factor * of_magnitude_;
    return select(x_ < constant<V>(0), decay_.times(product), product);
  }

 private:
  GRADKERN_FORMULA ScaledLogistic(V x, const SplitExp<V>& decay)
      : x_(x),
        decay_(decay),
        exponential_(decay.value * decay.scale),
        of_magnitude_(constant<V>(1) / (constant<V>(1) + exponential_)) {}

  static GRADKERN_FORMULA SplitExp<V> corrected(V x, V correction, const SplitExp<V>& e) {
    const V of_magnitude = select(x < constant<V>(0), correction, -correction);
    return {multiply_add(e.value, of_magnitude, e.value), e.scale};
  }

  V x_;
  SplitExp<V> decay_;  // exp(-|x|)
  V exponential_;      // the same, rounded
  V of_magnitude_;     // s(|x|)
};

// A constant that neither float nor double holds: the nearest number, and what it lacks.
template <class V>
struct SplitConstant {
  V high, low;

  GRADKERN_FORMULA SplitConstant(double number, double rest)
      : high(constant<V>(number)),
        low(constant<V>((number - static_cast<double>(static_cast<scalar_of<V>>(number))) + rest)) {
  }
};

// x, but finite where a factor that decays like exp(-|x|) is 0 already: infinity times 0 is the
// limit 0 then.
template <class V>
GRADKERN_FORMULA V within_decay(V x) {
  const V bound = constant<V>(1000);
  return select(x > bound, bound, select(x < -bound, -bound, x));
}
// The same from below only.
template <class V>
GRADKERN_FORMULA V above_decay(V x) {
  const V bound = constant<V>(-1000);
  return select(x < bound, bound, x);
}

// 1 for x in the open interval, 0 outside of it, NaN for NaN.
template <class V>
GRADKERN_FORMULA V indicator(V x, V low, V high) {
  const V zero = constant<V>(0);
  const V inside = select(x < high, select(x > low, constant<V>(1), zero), zero);
  return select(x == x, inside, x);
}

struct Sigmoid : Activation {
  static constexpr const char* kName = "sigmoid";
  static constexpr const char* kModule = "Sigmoid";
  static constexpr const char* kSummary = "The logistic function.";
  static constexpr const char* kExpression = "1 / (1 + exp(-x))";
  static constexpr const char* kSource = "Verhulst, 1845";
  static constexpr const char* kSaturation = "y below 0.05 or above 0.95";
  static constexpr bool kSavesOutput = true;
  static constexpr ActivationCost kCost = ActivationCost::kExponential;

  template <class V>
  GRADKERN_FORMULA static Activated<V> at(V x, const Parameters<V>&) {
    const Logistic<V> logistic(x);
    return {logistic.value, logistic.value * logistic.complement};
  }
  template <class V>
  GRADKERN_FORMULA static V derivative_of_output(V y, const Parameters<V>&) {
    return y * (constant<V>(1) - y);
  }
  template <class V>
  GRADKERN_FORMULA static auto saturated(const Activated<V>& at, const Parameters<V>&) {
    return absolute(at.value - constant<V>(0.5)) > constant<V>(0.45);
  }
};

struct Tanh : Activation {
  static constexpr const char* kName = "tanh";
  static constexpr const char* kModule = "Tanh";
  static constexpr const char* kSummary = "The hyperbolic tangent.";
  static constexpr const char* kExpression = "tanh(x)";
  static constexpr const char* kSource = "LeCun, Bottou, Orr, Mueller, Efficient BackProp, 1998";
  static constexpr const char* kSaturation = "|y| above 0.97";
  static constexpr bool kSavesOutput = true;
  static constexpr ActivationCost kCost = ActivationCost::kExponential;

  template <class V>
  GRADKERN_FORMULA static Activated<V> at(V x, const Parameters<V>&) {
    // 1 - tanh(x)^2 = 4 s(2x) s(-2x)
    const Logistic<V> logistic(x + x);
    return {tanh(x), constant<V>(4) * logistic.value * logistic.complement};
  }
  template <class V>
  GRADKERN_FORMULA static V derivative_of_output(V y, const Parameters<V>&) {
    return (constant<V>(1) - y) * (constant<V>(1) + y);
  }
  template <class V>
  GRADKERN_FORMULA static auto saturated(const Activated<V>& at, const Parameters<V>&) {
    return absolute(at.value) > constant<V>(0.97);
  }
};

struct Relu : Activation {
  static constexpr const char* kName = "relu";
  static constexpr const char* kModule = "ReLU";
  static constexpr const char* kSummary = "The rectified linear unit.";
  static constexpr const char* kExpression = "max(x, 0)";
  static constexpr const char* kSource = "Nair, Hinton, 2010";
  static constexpr const char* kSaturation = "y' below 0.05: x <= 0";
  static constexpr bool kSavesOutput = true;
  static constexpr bool kSmooth = false;

  template <class V>
  GRADKERN_FORMULA static Activated<V> at(V x, const Parameters<V>& p) {
    const V zero = constant<V>(0);
    return {select(x < zero, zero, x), derivative_of_output(x, p)};
  }
  template <class V>
  GRADKERN_FORMULA static V derivative_of_output(V y, const Parameters<V>&) {
    const V zero = constant<V>(0);
    return select(y > zero, constant<V>(1), select(y == y, zero, y));
  }
  template <class V>
  GRADKERN_FORMULA static auto saturated(const Activated<V>& at, const Parameters<V>&) {
    return below_a_twentieth_of(1, at);
  }
};

struct LeakyRelu : Activation {
  static constexpr const char* kName = "leaky_relu";
  static constexpr const char* kModule = "LeakyReLU";
  static constexpr const char* kSummary = "ReLU with a slope for negative inputs.";
  static constexpr const char* kExpression = "x if x > 0 else negative_slope * x";
  static constexpr const char* kSource = "Maas, Hannun, Ng, 2013";
  static constexpr const char* kSaturation = "|y'| below 0.05: x <= 0, for a slope below 0.05";
  static constexpr ActivationParameter kParameters[kMaxActivationParameters] = {
      {"negative_slope", 0.01}};
  static constexpr bool kSmooth = false;

  template <class V>
  GRADKERN_FORMULA static Activated<V> at(V x, const Parameters<V>& p) {
    const auto positive = x > constant<V>(0);
    const V slope = select(x == x, p.value[0], x);
    return {select(positive, x, x * p.value[0]), select(positive, constant<V>(1), slope)};
  }
  template <class V>
  GRADKERN_FORMULA static V inverse(V y, const Parameters<V>& p) {
    return select(y > constant<V>(0), y, y / p.value[0]);
  }
  template <class V>
  GRADKERN_FORMULA static auto saturated(const Activated<V>& at, const Parameters<V>&) {
    return below_a_twentieth_of(1, at);
  }
};

// x, but finite: what is 0 or linear beyond the bound is so already, and a second derivative would
// meet infinity times 0.
template <class V>
GRADKERN_FORMULA V within_range(V x) {
  const V bound = constant<V>(1e30);
  return select(x > bound, bound, select(x < -bound, -bound, x));
}

// scale * x above 0, height * (exp(x) - 1) below.
template <class V>
GRADKERN_FORMULA Activated<V> exponential_linear(V x, V scale, V height) {
  const auto positive = x > constant<V>(0);
  const V argument = within_range(x);
  return {select(positive, scale * x, height * expm1(argument)),
          select(positive, scale, height * exp(argument))};
}

struct Elu : Activation {
  static constexpr const char* kName = "elu";
  static constexpr const char* kModule = "ELU";
  static constexpr const char* kSummary = "The exponential linear unit.";
  static constexpr const char* kExpression = "x if x > 0 else alpha * (exp(x) - 1)";
  static constexpr const char* kSource = "Clevert, Unterthiner, Hochreiter, 2016";
  static constexpr const char* kSaturation = "|y'| below 0.05: x below -3, for alpha 1";
  static constexpr ActivationParameter kParameters[kMaxActivationParameters] = {{"alpha", 1.0}};
  static constexpr bool kSavesOutput = true;
  static constexpr ActivationCost kCost = ActivationCost::kExponential;

  template <class V>
  GRADKERN_FORMULA static Activated<V> at(V x, const Parameters<V>& p) {
    return exponential_linear(x, constant<V>(1), p.value[0]);
  }
  template <class V>
  GRADKERN_FORMULA static V derivative_of_output(V y, const Parameters<V>& p) {
    return select(y > constant<V>(0), constant<V>(1), y + p.value[0]);
  }
  // The value -alpha, of every x below some, is taken for the one beside it: what has no derivative
  // left then has a finite x.
  template <class V>
  GRADKERN_FORMULA static V inverse(V y, const Parameters<V>& p) {
    const V lowest = constant<V>(std::numeric_limits<scalar_of<V>>::epsilon() / 2 - 1);
    const V relative = y / p.value[0];
    const V bounded = select(relative < lowest, lowest, relative);
    return select(y > constant<V>(0), y,
                  log1p(select(y > constant<V>(0), constant<V>(0), bounded)));
  }
  template <class V>
  GRADKERN_FORMULA static auto saturated(const Activated<V>& at, const Parameters<V>&) {
    return below_a_twentieth_of(1, at);
  }
};

struct Selu : Activation {
  static constexpr const char* kName = "selu";
  static constexpr const char* kModule = "SELU";
  static constexpr const char* kSummary = "The scaled exponential linear unit.";
  static constexpr const char* kExpression = "1.0507 * (x if x > 0 else 1.6733 * (exp(x) - 1))";
  static constexpr const char* kSource = "Klambauer, Unterthiner, Mayr, Hochreiter, 2017";
  static constexpr const char* kSaturation = "y' below 0.088, a twentieth of 1.758: x below -3";
  static constexpr bool kSavesOutput = true;
  static constexpr double kAlpha = 1.6732632423543772848170429916717;
  static constexpr double kScale = 1.0507009873554804934193349852946;
  static constexpr ActivationCost kCost = ActivationCost::kExponential;

  template <class V>
  GRADKERN_FORMULA static Activated<V> at(V x, const Parameters<V>&) {
    return exponential_linear(x, constant<V>(kScale), constant<V>(kAlpha * kScale));
  }
  template <class V>
  GRADKERN_FORMULA static V derivative_of_output(V y, const Parameters<V>&) {
    // Where it saturates, y + scale alpha is as small as the rounding of the constant.
    const SplitConstant<V> height(kAlpha * kScale, 2.361981243051158e-16);
    return select(y > constant<V>(0), constant<V>(kScale), (y + height.high) + height.low);
  }
  template <class V>
  GRADKERN_FORMULA static auto saturated(const Activated<V>& at, const Parameters<V>&) {
    return below_a_twentieth_of(kAlpha * kScale, at);
  }
};

struct Celu : Activation {
  static constexpr const char* kName = "celu";
  static constexpr const char* kModule = "CELU";
  static constexpr const char* kSummary = "ELU with a continuous derivative for every alpha.";
  static constexpr const char* kExpression = "x if x > 0 else alpha * (exp(x / alpha) - 1)";
  static constexpr const char* kSource = "Barron, 2017";
  static constexpr const char* kSaturation = "y' below 0.05: x below -3 alpha";
  static constexpr ActivationParameter kParameters[kMaxActivationParameters] = {{"alpha", 1.0}};
  static constexpr bool kSavesOutput = true;
  static constexpr ActivationCost kCost = ActivationCost::kExponential;

  static void validate(const double* p) {
    if (p[0] == 0) throw std::runtime_error("alpha is 0; celu divides by it");
  }
  template <class V>
  GRADKERN_FORMULA static Activated<V> at(V x, const Parameters<V>& p) {
    const V alpha = p.value[0], zero = constant<V>(0);
    constexpr bool kIsFloat = std::is_same_v<scalar_of<V>, float>;
    // Below the bound the exponential is 0.
    const V bound = constant<V>(-1000);
    const V quotient = x / alpha;
    const auto below = quotient < bound;
    const V argument = select(below, bound, quotient);
    // What the quotient lacks weighs in the exponential as much as the quotient is large; next to
    // overflow infinity times it would be no limit.
    const V product = argument * alpha;
    const V lacking = ((x - product) - product_error(argument, alpha, product)) / alpha;
    const V growth = exp(argument);
    const V largest = constant<V>(kIsFloat ? 3.4e38 : 1.79e308);
    const V correction = select(growth > largest, zero, growth * select(below, zero, lacking));
    // Next to 0 the value is x, which the quotient may be too small to hold.
    const V tiny = constant<V>(kIsFloat ? 1e-10 : 1e-20);
    const V value = select(absolute(quotient) < tiny, x, alpha * (expm1(argument) + correction));
    const auto positive = x > zero;
    return {select(positive, x, value), select(positive, constant<V>(1), growth + correction)};
  }
  template <class V>
  GRADKERN_FORMULA static V derivative_of_output(V y, const Parameters<V>& p) {
    return select(y > constant<V>(0), constant<V>(1), (y + p.value[0]) / p.value[0]);
  }
  template <class V>
  GRADKERN_FORMULA static auto saturated(const Activated<V>& at, const Parameters<V>&) {
    return below_a_twentieth_of(1, at);
  }
};

struct Gelu : Activation {
  static constexpr const char* kName = "gelu";
  static constexpr const char* kModule = "GELU";
  static constexpr const char* kSummary = "The Gaussian error linear unit.";
  static constexpr const char* kExpression = "x * P(X <= x), X normally distributed";
  static constexpr const char* kSource = "Hendrycks, Gimpel, 2016";
  static constexpr const char* kSaturation = "|y'| below 0.056, a twentieth of 1.129";
  static constexpr ActivationCost kCost = ActivationCost::kLong;

  template <class V>
  GRADKERN_FORMULA static Activated<V> at(V x, const Parameters<V>&) {
    // With a = |x|: x P(X <= x) = max(x, 0) - a Q(a), and the derivative is d = Q(a) - a density(a)
    // below 0, 1 - d above: the Gaussian, which may be tiny, is a factor of what is tiny.
    const V bound = constant<V>(NormalTailPolynomial<scalar_of<V>>::kBound);
    const V magnitude = absolute(x);
    const V a = select(magnitude > bound, bound, magnitude);
    const NormalTail<V> tail(a);
    const auto negative = x < constant<V>(0);
    const V density = constant<V>(0.39894228040143267794);
    const V d = tail.gauss.times(fused_multiply_add(-a, density, tail.ratio));
    return {multiply_add(-tail.weighted_ratio * tail.gauss.value, tail.gauss.scale,
                         select(negative, constant<V>(-0.0), x)),
            select(negative, d, constant<V>(1) - d)};
  }
  template <class V>
  GRADKERN_FORMULA static auto saturated(const Activated<V>& at, const Parameters<V>&) {
    return below_a_twentieth_of(1.1289, at);  // at x = sqrt(2)
  }
};

struct GeluTanh : Activation {
  static constexpr const char* kName = "gelu_tanh";
  static constexpr const char* kModule = "GELUTanh";
  static constexpr const char* kSummary = "GELU, its tanh approximation.";
  static constexpr const char* kExpression =
      "x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))";
  static constexpr const char* kSource = "Hendrycks, Gimpel, 2016";
  static constexpr const char* kSaturation = "|y'| below 0.056, a twentieth of 1.129";
  static constexpr ActivationCost kCost = ActivationCost::kLong;

  template <class V>
  GRADKERN_FORMULA static Activated<V> at(V x, const Parameters<V>&) {
    // (1 + tanh(u)) / 2 is the logistic function of z = 2u, which is exact in the tail. There a
    // rounding of z is z times as large in the result: each rounding's error is kept (`..._rest`).
    const SplitConstant<V> twice_root(1.5957691216057308, -9.96930880911092e-17);  // 2 sqrt(2/pi)
    const SplitConstant<V> cubic(0.044715, 2.1960211427085595e-18);
    const V one = constant<V>(1);
    const V bounded = within_decay(x);
    const V square = bounded * bounded;
    const V square_rest = product_error(bounded, bounded, square);
    const V bend = cubic.high * square;
    const V bend_rest =
        product_error(cubic.high, square, bend) + cubic.high * square_rest + cubic.low * square;
    const V sum = one + bend;
    const V added = sum - one;
    const V sum_rest = (one - (sum - added)) + (bend - added) + bend_rest;
    const V linear = twice_root.high * bounded;
    const V linear_rest =
        product_error(twice_root.high, bounded, linear) + twice_root.low * bounded;
    const V z = linear * sum;
    const V z_rest = product_error(linear, sum, z) + linear * sum_rest + linear_rest * sum;
    const ScaledLogistic<V> logistic(z, z_rest);
    // x dz/dx = linear (1 + 3 bend)
    const V three = constant<V>(3);
    const V stretch = multiply_add(three, bend, one) + three * bend_rest;
    const V moved = linear * stretch;
    const V moved_rest = product_error(linear, stretch, moved) + linear_rest * stretch;
    const V steepness =
        fused_multiply_add(moved, logistic.complement(), one) + moved_rest * logistic.complement();
    return {logistic.times(above_decay(x)), logistic.times(steepness)};
  }
  template <class V>
  GRADKERN_FORMULA static auto saturated(const Activated<V>& at, const Parameters<V>&) {
    return below_a_twentieth_of(1.1289, at);
  }
};

struct Silu : Activation {
  static constexpr const char* kName = "silu";
  static constexpr const char* kModule = "SiLU";
  static constexpr const char* kSummary = "The sigmoid-weighted linear unit, or swish.";
  static constexpr const char* kExpression = "x / (1 + exp(-x))";
  static constexpr const char* kSource = "Elfwing, Uchibe, Doya, 2017";
  static constexpr const char* kSaturation = "|y'| below 0.055, a twentieth of 1.0998";
  static constexpr ActivationCost kCost = ActivationCost::kLong;

  template <class V>
  GRADKERN_FORMULA static Activated<V> at(V x, const Parameters<V>&) {
    const ScaledLogistic<V> logistic(x);
    return {
        logistic.times(above_decay(x)),
        logistic.times(fused_multiply_add(within_decay(x), logistic.complement(), constant<V>(1)))};
  }
  template <class V>
  GRADKERN_FORMULA static auto saturated(const Activated<V>& at, const Parameters<V>&) {
    return below_a_twentieth_of(1.0998, at);  // at x = 2.3994
  }
};

struct Mish : Activation {
  static constexpr const char* kName = "mish";
  static constexpr const char* kModule = "Mish";
  static constexpr const char* kSummary = "A self-regularised non-monotonic unit.";
  static constexpr const char* kExpression = "x * tanh(log(1 + exp(x)))";
  static constexpr const char* kSource = "Misra, 2019";
  static constexpr const char* kSaturation = "|y'| below 0.054, a twentieth of 1.0885";
  static constexpr ActivationCost kCost = ActivationCost::kLong;

  template <class V>
  GRADKERN_FORMULA static Activated<V> at(V x, const Parameters<V>&) {
    // With n = exp(x) and d = n^2 + 2n + 2: tanh(log(1 + n)) = n (n + 2) / d, and the derivative is
    // n (n^3 + 4n^2 + (4x + 6) n + 4x + 4) / d^2. Beyond the bound both are 1, and n^3 would
    // overflow.
    const V bound = constant<V>(std::is_same_v<scalar_of<V>, float> ? 20 : 40);
    const V two = constant<V>(2), four = constant<V>(4);
    const auto beyond = x > bound;
    const SplitExp<V> exponential = split_exp(select(beyond, bound, x));
    const V n = exponential.times(constant<V>(1));
    const V d = multiply_add(n, n, n + n) + two;
    const V bounded = within_decay(x);
    const V linear = multiply_add(n + four, n, multiply_add(four, bounded, constant<V>(6)));
    const V cubic = multiply_add(linear, n, multiply_add(four, bounded, four));
    return {select(beyond, x, exponential.times(above_decay(x) * ((n + two) / d))),
            select(beyond, constant<V>(1), exponential.times(cubic / (d * d)))};
  }
  template <class V>
  GRADKERN_FORMULA static auto saturated(const Activated<V>& at, const Parameters<V>&) {
    return below_a_twentieth_of(1.0885, at);  // at x = 1.4906
  }
};

struct Softplus : Activation {
  static constexpr const char* kName = "softplus";
  static constexpr const char* kModule = "Softplus";
  static constexpr const char* kSummary = "A smooth ReLU; linear where beta * x > threshold.";
  static constexpr const char* kExpression = "log(1 + exp(beta * x)) / beta";
  static constexpr const char* kSource = "Dugas, Bengio, Belisle, Nadeau, Garcia, 2001";
  static constexpr const char* kSaturation = "y' below 0.05: beta * x below -2.94";
  static constexpr ActivationParameter kParameters[kMaxActivationParameters] = {
      {"beta", 1.0}, {"threshold", 20.0}};
  static constexpr ActivationCost kCost = ActivationCost::kLong;

  template <class V>
  GRADKERN_FORMULA static Activated<V> at(V x, const Parameters<V>& p) {
    const V beta = p.value[0], zero = constant<V>(0);
    const V bounded = within_range(x);
    const V argument = beta * bounded;
    // What the argument lacks, in the exponential, where it weighs as much as the argument is
    // large.
    const V rest = product_error(beta, bounded, argument);
    const auto negative = argument < zero;
    const SplitExp<V> decay = split_exp(-absolute(argument));
    const V e = decay.value;
    const V corrected = multiply_add(e, select(negative, rest, -rest), e);
    const auto linear = argument > p.value[1];
    // Where the exponential is scaled, its logarithm of 1 + e is e itself.
    const V log =
        select(negative, zero, argument) / beta + log1p_of_unit(corrected) / beta * decay.scale;
    return {select(linear, x, log),
            select(linear, constant<V>(1), Logistic<V>(negative, corrected * decay.scale).value)};
  }
  template <class V>
  GRADKERN_FORMULA static auto saturated(const Activated<V>& at, const Parameters<V>&) {
    return below_a_twentieth_of(1, at);
  }
};

struct Softsign : Activation {
  static constexpr const char* kName = "softsign";
  static constexpr const char* kModule = "Softsign";
  static constexpr const char* kSummary = "A sigmoid with polynomial tails.";
  static constexpr const char* kExpression = "x / (1 + |x|)";
  static constexpr const char* kSource = "Turian, Bergstra, Bengio, 2009";
  static constexpr const char* kSaturation = "y' below 0.05: |x| above 3.47";

  template <class V>
  GRADKERN_FORMULA static Activated<V> at(V x, const Parameters<V>&) {
    // Beyond 1e30 the value is 1 in every precision; at infinity x / (1 + |x|) would be NaN.
    const V bound = constant<V>(1e30);
    const V bounded = select(x > bound, bound, select(x < -bound, -bound, x));
    const V inverse = constant<V>(1) / (constant<V>(1) + absolute(x));
    return {bounded / (constant<V>(1) + absolute(bounded)), inverse * inverse};
  }
  template <class V>
  GRADKERN_FORMULA static auto saturated(const Activated<V>& at, const Parameters<V>&) {
    return below_a_twentieth_of(1, at);
  }
};

struct Hardtanh : Activation {
  static constexpr const char* kName = "hardtanh";
  static constexpr const char* kModule = "Hardtanh";
  static constexpr const char* kSummary = "The identity, clamped.";
  static constexpr const char* kExpression = "min(max(x, min_val), max_val)";
  static constexpr const char* kSource = "Collobert, 2004";
  static constexpr const char* kSaturation = "y' = 0: x outside of (min_val, max_val)";
  static constexpr ActivationParameter kParameters[kMaxActivationParameters] = {{"min_val", -1.0},
                                                                                {"max_val", 1.0}};
  static constexpr bool kSmooth = false;

  static void validate(const double* p) {
    if (p[0] > p[1]) {
      throw std::invalid_argument("min_val is " + std::to_string(p[0]) +
                                  "; it must not be above max_val, " + std::to_string(p[1]));
    }
  }

  template <class V>
  GRADKERN_FORMULA static Activated<V> at(V x, const Parameters<V>& p) {
    const V low = p.value[0], high = p.value[1];
    return {select(x > high, high, select(x < low, low, x)), indicator(x, low, high)};
  }
  template <class V>
  GRADKERN_FORMULA static auto saturated(const Activated<V>& at, const Parameters<V>&) {
    return below_a_twentieth_of(1, at);
  }
};

struct Relu6 : Activation {
  static constexpr const char* kName = "relu6";
  static constexpr const char* kModule = "ReLU6";
  static constexpr const char* kSummary = "ReLU, clamped at 6.";
  static constexpr const char* kExpression = "min(max(x, 0), 6)";
  static constexpr const char* kSource = "Howard et al., MobileNets, 2017";
  static constexpr const char* kSaturation = "y' = 0: x outside of (0, 6)";
  static constexpr bool kSmooth = false;

  template <class V>
  GRADKERN_FORMULA static Activated<V> at(V x, const Parameters<V>&) {
    return Hardtanh::at(x, Parameters<V>{{constant<V>(0), constant<V>(6)}});
  }
  template <class V>
  GRADKERN_FORMULA static auto saturated(const Activated<V>& at, const Parameters<V>&) {
    return below_a_twentieth_of(1, at);
  }
};

struct Hardsigmoid : Activation {
  static constexpr const char* kName = "hardsigmoid";
  static constexpr const char* kModule = "Hardsigmoid";
  static constexpr const char* kSummary = "A sigmoid of three straight lines.";
  static constexpr const char* kExpression = "min(max(x + 3, 0), 6) / 6";
  static constexpr const char* kSource = "Howard et al., MobileNetV3, 2019";
  static constexpr const char* kSaturation = "y' = 0: |x| >= 3";
  static constexpr bool kSmooth = false;

  template <class V>
  GRADKERN_FORMULA static Activated<V> at(V x, const Parameters<V>&) {
    const V three = constant<V>(3), six = constant<V>(6), zero = constant<V>(0);
    const V raised = x + three;
    const V clamped = select(raised > six, six, select(raised < zero, zero, raised));
    const V sixth = constant<V>(1.0 / 6);
    return {clamped / six, indicator(x, -three, three) * sixth};
  }
  template <class V>
  GRADKERN_FORMULA static auto saturated(const Activated<V>& at, const Parameters<V>&) {
    return below_a_twentieth_of(1.0 / 6, at);
  }
};

struct Hardswish : Activation {
  static constexpr const char* kName = "hardswish";
  static constexpr const char* kModule = "Hardswish";
  static constexpr const char* kSummary = "x times hardsigmoid(x).";
  static constexpr const char* kExpression = "x * min(max(x + 3, 0), 6) / 6";
  static constexpr const char* kSource = "Howard et al., MobileNetV3, 2019";
  static constexpr const char* kSaturation = "|y'| below 0.075, a twentieth of 1.5";
  static constexpr bool kSmooth = false;

  template <class V>
  GRADKERN_FORMULA static Activated<V> at(V x, const Parameters<V>&) {
    const V three = constant<V>(3), zero = constant<V>(0), one = constant<V>(1);
    const V half = constant<V>(0.5);
    const auto high = x > three;
    // Within 3 in the middle: no infinity, which times 0 would be NaN.
    const V middle = select(high, three, select(x < -three, -three, x));
    const V slope =
        select(middle == -three, zero, select(middle == three, one, middle / three + half));
    return {select(high, x, middle * (middle + three) / constant<V>(6)), select(high, one, slope)};
  }
  template <class V>
  GRADKERN_FORMULA static auto saturated(const Activated<V>& at, const Parameters<V>&) {
    return below_a_twentieth_of(1.5, at);
  }
};

struct Logsigmoid : Activation {
  static constexpr const char* kName = "logsigmoid";
  static constexpr const char* kModule = "LogSigmoid";
  static constexpr const char* kSummary = "The logarithm of the logistic function.";
  static constexpr const char* kExpression = "-log(1 + exp(-x))";
  static constexpr const char* kSource = "the loss of logistic regression";
  static constexpr const char* kSaturation = "y' below 0.05: x above 2.94";
  static constexpr ActivationCost kCost = ActivationCost::kExponential;

  template <class V>
  GRADKERN_FORMULA static Activated<V> at(V x, const Parameters<V>&) {
    const V zero = constant<V>(0);
    const V negative_part = select(x > zero, zero, x);
    return {negative_part - log1p_of_unit(exp(-absolute(x))), Logistic<V>(x).complement};
  }
  template <class V>
  GRADKERN_FORMULA static auto saturated(const Activated<V>& at, const Parameters<V>&) {
    return below_a_twentieth_of(1, at);
  }
};

struct SquaredRelu : Activation {
  static constexpr const char* kName = "squared_relu";
  static constexpr const char* kModule = "SquaredReLU";
  static constexpr const char* kSummary = "The square of ReLU.";
  static constexpr const char* kExpression = "max(x, 0)^2";
  static constexpr const char* kSource = "So et al., Primer, 2021";
  static constexpr const char* kSaturation = "y' below 0.05: x below 0.025";

  template <class V>
  GRADKERN_FORMULA static Activated<V> at(V x, const Parameters<V>&) {
    const V zero = constant<V>(0);
    const V positive = select(x < zero, zero, x);
    return {positive * positive, positive + positive};
  }
  template <class V>
  GRADKERN_FORMULA static auto saturated(const Activated<V>& at, const Parameters<V>&) {
    return below_a_twentieth_of(1, at);  // it has no largest slope: that of ReLU
  }
};

}  // namespace gradkern::formulas
