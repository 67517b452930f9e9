// The GPU's table of functions (backend.h), and the one symbol that the library exports.

#include "cuda/launchers.h"
#include "cuda/platform.h"

extern "C" __attribute__((visibility("default"))) const gradkern::Backend* gradkern_backend() {
  using namespace gradkern::cuda;
  static const gradkern::Backend table{gradkern::kBackendVersion,
                                       kBackendName,
                                       unavailable,
                                       workspace_bytes,
                                       launch_norms,
                                       launch_statistics,
                                       launch_clip,
                                       launch_clamp,
                                       launch_activation,
                                       activation_workspace_bytes,
                                       launch_activation_statistics,
                                       launch_softmax,
                                       batch_norm_workspace_bytes,
                                       launch_batch_norm,
                                       launch_gated,
                                       channelwise_workspace_bytes,
                                       launch_channelwise,
                                       launch_rrelu};
  return &table;
}
