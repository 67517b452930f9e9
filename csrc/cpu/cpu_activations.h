// The CPU's entries of backend.h for activations.
#pragma once

#include "backend.h"

namespace gradkern::cpu {

void activation(const Launch& launch, const ActivationCall& call);
size_t activation_workspace(int64_t numel);
void activation_statistics(const Launch& launch, const ActivationCall& call,
                           const Channels& channels, double* statistics);

}  // namespace gradkern::cpu
