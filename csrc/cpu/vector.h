// One SIMD register as a value of the formulas.
//
// Elementwise results need no lanes that are the same everywhere, as reductions do (pack.h): a
// register at a time keeps the code of long formulas small. Compiled once per instruction set, like
// pack.h.
#pragma once

#include "cpu/convert.h"
#include "cpu/elementary.h"

namespace gradkern::cpu::GRADKERN_ISA {

template <class T>
struct Vector {
  using value_type = T;
  using Batch = xsimd::batch<T>;
  static constexpr int kSize = static_cast<int>(Batch::size);

  Batch value;

  Vector() = default;
  explicit Vector(T number) : value(number) {}
  explicit Vector(Batch batch) : value(batch) {}
};

template <class T>
struct VectorMask {
  typename Vector<T>::Batch::batch_bool_type value;
};

template <class T>
inline Vector<T> operator+(Vector<T> a, Vector<T> b) {
  return Vector<T>(a.value + b.value);
}
template <class T>
inline Vector<T> operator-(Vector<T> a, Vector<T> b) {
  return Vector<T>(a.value - b.value);
}
template <class T>
inline Vector<T> operator-(Vector<T> a) {
  return Vector<T>(-a.value);
}
template <class T>
inline Vector<T> operator*(Vector<T> a, Vector<T> b) {
  return Vector<T>(a.value * b.value);
}
template <class T>
inline Vector<T> operator/(Vector<T> a, Vector<T> b) {
  return Vector<T>(a.value / b.value);
}
template <class T>
inline VectorMask<T> operator==(Vector<T> a, Vector<T> b) {
  return {a.value == b.value};
}
template <class T>
inline VectorMask<T> operator!=(Vector<T> a, Vector<T> b) {
  return {a.value != b.value};
}
template <class T>
inline VectorMask<T> operator<(Vector<T> a, Vector<T> b) {
  return {a.value < b.value};
}
template <class T>
inline VectorMask<T> operator>(Vector<T> a, Vector<T> b) {
  return {a.value > b.value};
}
template <class T>
inline Vector<T> select(VectorMask<T> condition, Vector<T> if_true, Vector<T> if_false) {
  return Vector<T>(xsimd::select(condition.value, if_true.value, if_false.value));
}
template <class T>
inline Vector<T> absolute(Vector<T> x) {
  return Vector<T>(xsimd::abs(x.value));
}
template <class T>
inline Vector<T> exp(Vector<T> x) {
  return Vector<T>(exp_of_batch<T>(x.value));
}
template <class T>
inline formulas::SplitExp<Vector<T>> split_exp(Vector<T> x) {
  const auto e = split_exp_of_batch<T>(x.value);
  return {Vector<T>(e.value), Vector<T>(e.scale)};
}
template <class T>
inline formulas::SplitExp<Vector<T>> split_gauss(Vector<T> a) {
  const auto e = split_gauss_of_batch<T>(a.value);
  return {Vector<T>(e.value), Vector<T>(e.scale)};
}
template <class T>
inline Vector<T> expm1(Vector<T> x) {
  return Vector<T>(xsimd::expm1(x.value));
}
template <class T>
inline Vector<T> log1p(Vector<T> x) {
  return Vector<T>(xsimd::log1p(x.value));
}
template <class T>
inline Vector<T> tanh(Vector<T> x) {
  return Vector<T>(xsimd::tanh(x.value));
}
template <class T>
inline Vector<T> multiply_add(Vector<T> a, Vector<T> b, Vector<T> c) {
  return Vector<T>(xsimd::fma(a.value, b.value, c.value));
}
template <class T>
inline Vector<T> product_error(Vector<T> a, Vector<T> b, Vector<T> product) {
  return Vector<T>(product_error_of_batch<T>(a.value, b.value, product.value));
}
template <class T>
inline Vector<T> fused_multiply_add(Vector<T> a, Vector<T> b, Vector<T> c) {
  return Vector<T>(fused_multiply_add_of_batch<T>(a.value, b.value, c.value));
}

// ---- storage -----------------------------------------------------------------------------------

template <class T>
struct ComputedIn {
  using type = float;
};
template <>
struct ComputedIn<double> {
  using type = double;
};
// The vector in which elements of storage type T are computed.
template <class T>
using VectorOf = Vector<typename ComputedIn<T>::type>;

template <class T>
inline VectorOf<T> load_vector(const T* from) {
  if constexpr (std::is_same_v<T, float> || std::is_same_v<T, double>) {
    return VectorOf<T>(VectorOf<T>::Batch::load_unaligned(from));
  } else {
    return VectorOf<T>(load_float(from));
  }
}
template <class T>
inline void store_vector(VectorOf<T> x, T* to) {
  if constexpr (std::is_same_v<T, float> || std::is_same_v<T, double>) {
    x.value.store_unaligned(to);
  } else {
    store_float(x.value, to);
  }
}

}  // namespace gradkern::cpu::GRADKERN_ISA
