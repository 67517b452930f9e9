"""gradkern: fused kernels and measurements against vanishing and exploding gradients.

Clipping and norms: :func:`clip_grad_norm_`, :func:`clip_grads_with_norm_`, :func:`clip_grad_value_`
and :func:`get_total_norm` are drop-ins for :mod:`torch.nn.utils`;
:func:`clip_grad_norm_with_stats_`, :func:`clip_grad_norm_per_tensor_`, :func:`adaptive_clip_grad_`
and :func:`defer_clip_grad_norm_` go further. Measurements: :func:`tensor_stats`,
:func:`grad_norms`, :func:`param_norms`. What happens in a training, and what to do about it:
:class:`Monitor`. Activations and batch normalisation: :mod:`gradkern.functional`,
:mod:`gradkern.nn`. For NumPy arrays: :mod:`gradkern.numpy`.
"""

from gradkern import functional, init, nn
from gradkern._load import build_info
from gradkern.activations import ActivationStats
from gradkern.batch_norm_stats import BatchNormStats
from gradkern.clip import (
    adaptive_clip_grad_,
    clip_grad_norm_,
    clip_grad_norm_per_tensor_,
    clip_grad_norm_with_stats_,
    clip_grad_value_,
    clip_grads_with_norm_,
    get_total_norm,
)
from gradkern.deferred_clip import defer_clip_grad_norm_
from gradkern.monitor import Monitor, rule
from gradkern.stats import NormTable, TensorStats, grad_norms, param_norms, tensor_stats
from gradkern.torch_patch import patch_torch

__version__: str = build_info()["version"]

__all__ = [
    "ActivationStats",
    "BatchNormStats",
    "Monitor",
    "NormTable",
    "TensorStats",
    "adaptive_clip_grad_",
    "build_info",
    "clip_grad_norm_",
    "clip_grad_norm_per_tensor_",
    "clip_grad_norm_with_stats_",
    "clip_grad_value_",
    "clip_grads_with_norm_",
    "defer_clip_grad_norm_",
    "functional",
    "get_total_norm",
    "grad_norms",
    "init",
    "nn",
    "param_norms",
    "patch_torch",
    "rule",
    "tensor_stats",
]
