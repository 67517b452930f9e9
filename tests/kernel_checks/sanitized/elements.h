// Elements of every storage type as doubles.
#pragma once

#include <cstdint>

#include "backend.h"

namespace gradkern::checks {

// Of float32 for a complex64 modulus, ...: what a complex tensor is a pair of.
DType component_of(DType dtype);
bool is_complex(DType dtype);

// Component i (element i, if the dtype is real).
double read_component(DType dtype, const void* data, int64_t i);
void write_component(DType dtype, void* data, int64_t i, double value);

// Element i: of a complex dtype the modulus.
double read_element(DType dtype, const void* data, int64_t i);

// The value nearest to x that the dtype holds.
double rounded_to(DType dtype, double x);

}  // namespace gradkern::checks
