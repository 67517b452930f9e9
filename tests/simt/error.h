// What a launch throws when the kernel does something that a GPU would not survive.
#pragma once

#include <vector_types.h>

#include <stdexcept>
#include <string>

#include "source_line.h"

namespace simt {

// `what()` says it all in words; the fields are for tests. A field that does not apply (an invalid
// launch has no thread yet) is `kNowhere`, or a line of 0.
class __attribute__((visibility("default"))) Error : public std::runtime_error {
 public:
  static constexpr int kNowhere = -1;

  explicit Error(const std::string& message) : std::runtime_error(message) {}
  Error(const std::string& message, uint3 block, int thread, SourceLine where)
      : std::runtime_error(message), block_(block), thread_(thread), where_(where) {}

  uint3 block() const { return block_; }
  int thread() const { return thread_; }  // linear within the block: x + dim.x * (y + dim.y * z)
  SourceLine where() const { return where_; }

 private:
  uint3 block_{0, 0, 0};
  int thread_ = kNowhere;
  SourceLine where_;
};

}  // namespace simt
