// From a block to the piece of a tensor it works on.
#pragma once

#include "cuda/launch_plan.h"
#include "cuda/platform.h"

namespace gradkern::cuda {

// A block's piece: `size` elements from `data`, chunk `chunk` of `chunks` of a segment.
struct Piece {
  int tensor;  // in the table
  int32_t dtype;
  void* data;
  int64_t size;
  int64_t chunk;
  int64_t chunks;
  int64_t numel;  // of the whole tensor
};

// `first_unit`: the block of tensor 0 that the table's first block is.
__device__ __forceinline__ Piece find_piece(const TableEntry* table, int count, int64_t chunk_size,
                                            int64_t first_unit) {
  // The last entry whose first block is not behind this block.
  int low = 0;
  for (int high = count; high - low > 1;) {
    const int middle = (low + high) / 2;
    if (table[middle].first_block <= blockIdx.x) {
      low = middle;
    } else {
      high = middle;
    }
  }
  const TableEntry entry = table[low];
  Piece piece;
  piece.tensor = low;
  piece.dtype = entry.dtype;
  piece.numel = entry.numel;
  const int64_t unit = blockIdx.x - entry.first_block + (low == 0 ? first_unit : 0);
  if (entry.segment <= chunk_size) {
    piece.chunk = 0;
    piece.chunks = 1;
    piece.size = entry.segment;
  } else {
    piece.chunks = entry.segment / chunk_size + (entry.segment % chunk_size != 0);
    piece.chunk = unit;
    const int64_t left = entry.segment - unit * chunk_size;
    piece.size = left < chunk_size ? left : chunk_size;
  }
  const int64_t begin = piece.chunks > 1 ? unit * chunk_size : unit * entry.segment;
  piece.data =
      static_cast<char*>(entry.data) + begin * element_size(static_cast<DType>(entry.dtype));
  return piece;
}

}  // namespace gradkern::cuda
