// Stacks for fibers, kept from launch to launch.
#pragma once

#include <cstddef>
#include <vector>

#pragma GCC visibility push(hidden)

namespace simt {

struct Stack {
  char* bottom = nullptr;
  std::size_t size = 0;

  char* top() const { return bottom + size; }
};

class StackArena {
 public:
  // Makes stacks 0..count-1 available; throws std::bad_alloc.
  void reserve(std::size_t count);

  const Stack& operator[](std::size_t i) const { return stacks_[i]; }

  // Whether `address` lies in the unreadable pages below `stack`.
  static bool in_guard(const Stack& stack, const void* address);

 private:
  std::vector<Stack> stacks_;
};

}  // namespace simt

#pragma GCC visibility pop
