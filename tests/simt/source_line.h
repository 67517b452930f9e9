// Where in a kernel's source something was called.
#pragma once

namespace simt {

// As a default argument, `SourceLine::current()` is the line of the call (std::source_location does
// the same, but kernels are C++17).
struct SourceLine {
  const char* file = nullptr;
  int line = 0;

  static constexpr SourceLine current(const char* file = __builtin_FILE(),
                                      int line = __builtin_LINE()) {
    return {file, line};
  }

  // One call is written in one place, but a template or an inline function puts the name of its
  // file into several objects: equal lines of equal base names would do, equal pointers would not.
  friend bool operator==(const SourceLine& a, const SourceLine& b) {
    return a.line == b.line && (a.file == b.file || __builtin_strcmp(a.file, b.file) == 0);
  }
  friend bool operator!=(const SourceLine& a, const SourceLine& b) { return !(a == b); }
};

}  // namespace simt
