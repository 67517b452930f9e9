// Activations of 16-bit storage by table: each of the 65,536 inputs that there are has an entry,
// which the activation's own kernel has computed. The bits are those of the computation.
//
// Inputs of a network lie in few binades: of normally distributed bfloat16 ones 99.9% fall on 3,000
// entries, which stay in the first-level cache.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "backend.h"

namespace gradkern::cpu {

// What a pass gives for each input: its outputs, or the factor by which it multiplies a gradient.
struct ActivationTable {
  std::vector<uint16_t> out[2];
  std::vector<float> factor;
};

// Of a call of 16-bit storage. Null where computing is as fast, and until so many elements have
// been asked for that a table is worth being made.
std::shared_ptr<const ActivationTable> activation_table_for(const ActivationCall& call);

// The call's elements [begin, end) by its table.
void look_up(const ActivationTable& table, const ActivationCall& call, int64_t begin, int64_t end);

}  // namespace gradkern::cpu
