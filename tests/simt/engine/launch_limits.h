// What a GPU accepts as a launch: the limits that hold for every compute capability from 7.5 on.
#pragma once

#include <vector_types.h>

#include <cstddef>

#pragma GCC visibility push(hidden)

namespace simt {

// Static and dynamic together. More is possible on some GPUs, but only where the kernel opts in,
// and not by static arrays.
inline constexpr std::size_t kSharedMemoryLimit = 48 << 10;

// Throws simt::Error that names what is wrong.
void check_launch(dim3 grid, dim3 block, std::size_t dynamic_shared_bytes);

}  // namespace simt

#pragma GCC visibility pop
