// The CPU's entries of backend.h for activations with a parameter for each channel.
#pragma once

#include <cstddef>

#include "channelwise_call.h"

namespace gradkern::cpu {

size_t channelwise_workspace(const ChannelwiseCall& call);
void channelwise(const Launch& launch, const ChannelwiseCall& call);

}  // namespace gradkern::cpu
