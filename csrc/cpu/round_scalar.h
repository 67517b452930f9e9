// One float64 rounded to a storage type.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "backend.h"

namespace gradkern::cpu {

// Rounds a double to a float, then to nearest even at `dropped` bits below float32's mantissa: what
// torch does when it converts a float64 scalar to bfloat16 or float16.
inline uint16_t round_to_bfloat16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if (x != x) return 0x7fc0;
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline uint16_t round_to_float16(float x) {
  const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  const float magnitude = std::fabs(x);
  if (x != x) return sign | 0x7e00;
  if (magnitude >= 65520.0f) return sign | 0x7c00;
  if (magnitude < 0x1p-14f)
    return sign | static_cast<uint16_t>(std::nearbyint(magnitude * 0x1p24f));
  const uint32_t bits = std::bit_cast<uint32_t>(magnitude);
  return sign | static_cast<uint16_t>((bits - 0x38000000u + 0xfff + ((bits >> 13) & 1)) >> 13);
}

inline void round_scalar(double value, void* rounded, DType dtype) {
  const float single = static_cast<float>(value);
  switch (dtype) {
    case DType::kFloat32:
      *static_cast<float*>(rounded) = single;
      break;
    case DType::kFloat64:
      *static_cast<double*>(rounded) = value;
      break;
    case DType::kBFloat16:
      *static_cast<uint16_t*>(rounded) = round_to_bfloat16(single);
      break;
    case DType::kFloat16:
      *static_cast<uint16_t*>(rounded) = round_to_float16(single);
      break;
    default:
      break;  // A norm is never complex.
  }
}

}  // namespace gradkern::cpu
