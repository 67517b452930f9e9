#include "engine/stack_arena.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

namespace simt {
namespace {

// Virtual sizes: only pages that are touched cost memory. The guard is generous so that a function
// with a large frame cannot step over it, and a multiple of every page size (aarch64 has 64 KiB).
constexpr std::size_t kGuardBytes = 64 << 10;
constexpr std::size_t kStackBytes = 192 << 10;
constexpr std::size_t kStride = kGuardBytes + kStackBytes;

// Stacks start at different cache lines. Were they all to start at the same offset of a page, a
// switch would find the few cache sets that hold it taken by other stacks.
constexpr std::size_t kCacheLine = 64;
constexpr std::size_t kColours = 64;

}  // namespace

void StackArena::reserve(std::size_t count) {
  if (count <= stacks_.size()) return;
  const std::size_t missing = count - stacks_.size();
  stacks_.reserve(count);
  void* const memory = mmap(nullptr, missing * kStride, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  for (std::size_t i = 0; i < missing; ++i) {
    char* const guard = static_cast<char*>(memory) + i * kStride;
    if (mprotect(guard, kGuardBytes, PROT_NONE) != 0) {
      munmap(guard, (missing - i) * kStride);
      throw std::bad_alloc();
    }
    const std::size_t colour = stacks_.size() % kColours;
    stacks_.push_back(Stack{guard + kGuardBytes, kStackBytes - colour * kCacheLine});
  }
}

bool StackArena::in_guard(const Stack& stack, const void* address) {
  const auto distance =
      reinterpret_cast<std::uintptr_t>(stack.bottom) - reinterpret_cast<std::uintptr_t>(address);
  return distance - 1 < kGuardBytes;
}

}  // namespace simt
