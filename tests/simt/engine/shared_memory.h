// The shared memory of a block.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <vector>

#pragma GCC visibility push(hidden)

namespace simt {

class SharedMemory {
 public:
  // For a launch: no arrays, and `dynamic_bytes` of dynamic memory.
  void start_launch(std::size_t dynamic_bytes);

  // Fills all of it with 0xff: a read of what the block has not written gives NaN, or -1.
  void start_block();

  // The array for `key`, new and poisoned if the block asks for it for the first time.
  void* array(const void* key, std::size_t bytes, const char* name);
  void* dynamic() const { return dynamic_.data.get(); }

  // What all arrays take of the limit.
  std::size_t bytes() const;

  // The name of an array that was written beyond its end by the block, or null.
  const char* overrun() const;

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  struct Array {
    const void* key = nullptr;
    std::size_t bytes = 0;
    const char* name = "";
    std::unique_ptr<unsigned char, Free> data;
  };

  static Array allocate(const void* key, std::size_t bytes, const char* name);
  static void poison(const Array& array);
  static bool overrun(const Array& array);

  std::vector<Array> arrays_;
  Array dynamic_;
};

}  // namespace simt

#pragma GCC visibility pop
