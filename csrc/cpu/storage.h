// Storage types of tensor elements on the CPU.
#pragma once

#include <cstdint>

namespace gradkern::cpu {

struct BFloat16 {
  uint16_t bits;
};

struct Float16 {
  uint16_t bits;
};

template <class T>
struct Complex {
  T real, imag;
};

}  // namespace gradkern::cpu
