// The activations' inner loops of one instruction set, compiled once per instruction set and
// storage type.
#pragma once

#include "cpu/kernels.h"
#include "cpu/storage.h"

namespace gradkern::cpu::GRADKERN_ISA {

// Enters the kernels of storage type T into the table.
template <class T>
void fill_activations(Kernels& table, int dtype);

}  // namespace gradkern::cpu::GRADKERN_ISA
