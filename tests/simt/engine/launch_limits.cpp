#include "engine/launch_limits.h"

#include <cstdint>
#include <string>

#include "error.h"

namespace simt {
namespace {

constexpr unsigned kMaxThreads = 1024;
constexpr dim3 kMaxBlock{1024, 1024, 64};
constexpr dim3 kMaxGrid{2147483647, 65535, 65535};

void check_extent(const char* what, unsigned extent, unsigned limit) {
  if (extent < 1 || extent > limit) {
    throw Error("invalid launch: " + std::string(what) + " was " + std::to_string(extent) +
                ", must be from 1 to " + std::to_string(limit));
  }
}

}  // namespace

void check_launch(dim3 grid, dim3 block, std::size_t dynamic_shared_bytes) {
  check_extent("gridDim.x", grid.x, kMaxGrid.x);
  check_extent("gridDim.y", grid.y, kMaxGrid.y);
  check_extent("gridDim.z", grid.z, kMaxGrid.z);
  check_extent("blockDim.x", block.x, kMaxBlock.x);
  check_extent("blockDim.y", block.y, kMaxBlock.y);
  check_extent("blockDim.z", block.z, kMaxBlock.z);
  const std::uint64_t threads = std::uint64_t{block.x} * block.y * block.z;
  if (threads > kMaxThreads) {
    throw Error("invalid launch: a block had " + std::to_string(threads) +
                " threads, must have at most " + std::to_string(kMaxThreads));
  }
  if (dynamic_shared_bytes > kSharedMemoryLimit) {
    throw Error("invalid launch: dynamic shared memory was " +
                std::to_string(dynamic_shared_bytes) + " bytes, must be at most " +
                std::to_string(kSharedMemoryLimit));
  }
}

}  // namespace simt
