// Softmax's inner loops of one instruction set.
//
// Each runs on one thread.
#pragma once

#include <cstdint>

#include "cpu/kernels.h"
#include "formulas/softmax.h"
#include "softmax_call.h"

namespace gradkern::cpu {

// Columns that lie side by side, of which each is a row of softmax: element i of column j is
// i * stride + j. At most kTileColumns of them; `block` entries of each are in the scratch memory
// together.
struct ColumnTile {
  int64_t columns, size, stride, block;
};
inline constexpr int64_t kTileColumns = 256;

// Scratch memory, 64-byte aligned. It holds the entries of a row, or of a block of a tile, in the
// type of the arithmetic, padded to whole packs.
inline constexpr int64_t kSoftmaxScratchBytes = int64_t(256) << 10;

struct SoftmaxKernels {
  // Rows one behind the other, each no longer than the scratch memory.
  void (*rows)(const void* const* in, void* out, int64_t rows, int64_t size, void* scratch);

  // A longer row, part by part: first the sums of each, then the results from those of the row.
  void (*measure)(const void* const* in, int64_t n, formulas::SoftmaxPartial* partial);
  void (*finish)(const void* const* in, void* out, int64_t n,
                 const formulas::SoftmaxPartial& partial);

  void (*columns)(const void* const* in, void* out, const ColumnTile& tile, void* scratch);
};

inline const SoftmaxKernels& softmax_kernels_of(SoftmaxPass pass, DType dtype) {
  return kernels().softmax[static_cast<int>(pass) * kRealDTypes + static_cast<int>(dtype)];
}

}  // namespace gradkern::cpu

#if defined(GRADKERN_ISA)
namespace gradkern::cpu::GRADKERN_ISA {

// The table of this instruction set: kSoftmaxPassCount rows of kRealDTypes.
const SoftmaxKernels* softmax_kernels();

}  // namespace gradkern::cpu::GRADKERN_ISA
#endif
