// One number of a storage type as float64.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "backend.h"

namespace gradkern::cpu {

inline double read_bfloat16(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

inline double read_float16(uint16_t bits) {
  const int exponent = (bits >> 10) & 0x1f, mantissa = bits & 0x3ff;
  double magnitude = std::ldexp(mantissa, -24);
  if (exponent == 0x1f) {
    magnitude = mantissa == 0 ? HUGE_VAL : std::nan("");
  } else if (exponent > 0) {
    magnitude = std::ldexp(mantissa + 0x400, exponent - 25);
  }
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

// Element i.
inline double read_scalar(const void* data, DType dtype, int64_t i) {
  switch (dtype) {
    case DType::kFloat32:
      return static_cast<const float*>(data)[i];
    case DType::kFloat64:
      return static_cast<const double*>(data)[i];
    case DType::kBFloat16:
      return read_bfloat16(static_cast<const uint16_t*>(data)[i]);
    case DType::kFloat16:
      return read_float16(static_cast<const uint16_t*>(data)[i]);
    default:
      return std::nan("");  // A parameter is never complex.
  }
}

inline void read_scalars(const void* data, DType dtype, int64_t n, double* values) {
  if (dtype == DType::kFloat32) {  // what parameters mostly are
    for (int64_t i = 0; i < n; i++) values[i] = static_cast<const float*>(data)[i];
    return;
  }
  for (int64_t i = 0; i < n; i++) values[i] = read_scalar(data, dtype, i);
}

}  // namespace gradkern::cpu
