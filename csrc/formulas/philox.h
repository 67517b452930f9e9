// Philox4x32-10: random numbers that are a function of a counter and a key, so that nothing depends
// on who computes them (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3",
// 2011).
#pragma once

#include <cstdint>

#include "formulas/qualifiers.h"

namespace gradkern::formulas {

struct Philox4x32 {
  uint32_t word[4];

  // The counter's upper half is 0.
  GRADKERN_FORMULA Philox4x32(uint64_t counter, uint64_t key)
      : word{static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), 0, 0} {
    uint32_t low = static_cast<uint32_t>(key), high = static_cast<uint32_t>(key >> 32);
    for (int round = 0; round < 10; round++) {
      const uint64_t first = uint64_t(0xD2511F53) * word[0];
      const uint64_t third = uint64_t(0xCD9E8D57) * word[2];
      word[0] = static_cast<uint32_t>(third >> 32) ^ word[1] ^ low;
      word[1] = static_cast<uint32_t>(third);
      word[2] = static_cast<uint32_t>(first >> 32) ^ word[3] ^ high;
      word[3] = static_cast<uint32_t>(first);
      low += 0x9E3779B9;
      high += 0xBB67AE85;
    }
  }
};

}  // namespace gradkern::formulas
