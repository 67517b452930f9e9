"""Native PyTorch's own clipping functions, as they were when gradkern was imported.

gradkern hands over to them what is not its own to handle. `gradkern.patch_torch` replaces the names
in `torch.nn.utils`, so the originals are kept here: those that call none of the replaced names
themselves.
"""

from torch.nn.utils.clip_grad import _clip_grads_with_norm_ as clip_grads_with_norm_
from torch.nn.utils.clip_grad import _get_total_norm as get_total_norm
from torch.nn.utils.clip_grad import clip_grad_value_

__all__ = ["clip_grad_value_", "clip_grads_with_norm_", "get_total_norm"]
