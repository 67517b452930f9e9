// From sixteen lanes to one partial result.
//
// Compiled once per instruction set, like pack.h.
#pragma once

#include "cpu/pack.h"
#include "formulas/norms.h"

namespace gradkern::cpu::GRADKERN_ISA {

using formulas::Partial;

// Merges the sixteen lanes in their order.
template <class Formula, class Lanes>
inline Partial<Formula::kFields> merge_lanes(const Lanes& lanes, double order) {
  Partial<Formula::kFields> lane_partials[kLanes];
  int field = 0;
  lanes.each_field([&](const auto& of_lanes) {
    double values[kLanes];
    store_lanes(of_lanes, values);
    for (int lane = 0; lane < kLanes; lane++) lane_partials[lane].value[field] = values[lane];
    field++;
  });
  for (int lane = 1; lane < kLanes; lane++) {
    Formula::merge(lane_partials[0], lane_partials[lane], order);
  }
  return lane_partials[0];
}

template <int kFields>
inline void write(const Partial<kFields>& partial, double* to) {
  for (int field = 0; field < kFields; field++) to[field] = partial.value[field];
}

}  // namespace gradkern::cpu::GRADKERN_ISA
