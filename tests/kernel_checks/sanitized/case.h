// What a case of the sanitizer executables is: a function that calls the backend's table and
// throws Mismatch where a result is wrong. The sanitizer, and the engine that runs the kernels,
// report the rest.
//
// A case needs no registration: kernels.py names it, and case_table.py generates the table.
#pragma once

#include <cstdint>
#include <random>
#include <stdexcept>

#include "backend.h"

namespace gradkern::checks {

using Random = std::mt19937_64;

struct Setting {
  const Backend& backend;
  DType dtype;
  Random& random;
};

struct Case {
  const char* name;
  void (*run)(const Setting& setting);
  uint32_t dtypes;  // bit i: DType i
};

// Generated from kernels.py.
extern const Case kCases[];
extern const int kCaseCount;

class Mismatch : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace gradkern::checks
