#include "elements.h"

#include <cmath>

#include "simt.h"

namespace gradkern::checks {
namespace {

// Calls visit with a pointer of the component's type.
template <class Void, class Visit>
auto visit_components(DType dtype, Void* data, Visit visit) {
  const auto as = [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    return visit(static_cast<std::conditional_t<std::is_const_v<Void>, const T*, T*>>(data));
  };
  switch (component_of(dtype)) {
    case DType::kFloat64:
      return as(static_cast<double*>(nullptr));
    case DType::kBFloat16:
      return as(static_cast<__nv_bfloat16*>(nullptr));
    case DType::kFloat16:
      return as(static_cast<__half*>(nullptr));
    default:
      return as(static_cast<float*>(nullptr));
  }
}

double widened(float x) { return x; }
double widened(double x) { return x; }
double widened(__nv_bfloat16 x) { return __bfloat162float(x); }
double widened(__half x) { return __half2float(x); }

// The 16-bit types round from float32, as torch does.
void narrow(double x, float& to) { to = static_cast<float>(x); }
void narrow(double x, double& to) { to = x; }
void narrow(double x, __nv_bfloat16& to) { to = __float2bfloat16_rn(static_cast<float>(x)); }
void narrow(double x, __half& to) { to = __float2half_rn(static_cast<float>(x)); }

}  // namespace

DType component_of(DType dtype) {
  switch (dtype) {
    case DType::kComplex64Modulus:
      return DType::kFloat32;
    case DType::kComplex128Modulus:
      return DType::kFloat64;
    default:
      return dtype;
  }
}

bool is_complex(DType dtype) { return component_of(dtype) != dtype; }

double read_component(DType dtype, const void* data, int64_t i) {
  return visit_components(dtype, data, [&](auto* typed) { return widened(typed[i]); });
}

void write_component(DType dtype, void* data, int64_t i, double value) {
  visit_components(dtype, data, [&](auto* typed) { narrow(value, typed[i]); });
}

double read_element(DType dtype, const void* data, int64_t i) {
  if (!is_complex(dtype)) return read_component(dtype, data, i);
  return std::hypot(read_component(dtype, data, 2 * i), read_component(dtype, data, 2 * i + 1));
}

double rounded_to(DType dtype, double x) {
  double storage;  // large and aligned enough for any
  write_component(dtype, &storage, 0, x);
  return read_component(dtype, &storage, 0);
}

}  // namespace gradkern::checks
