"""Other libraries' gradient clipping on CUDA, where they are installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module

import torch

Clip = Callable[[Sequence[torch.Tensor], float], torch.Tensor]


def apex_clip() -> Clip:
    """Apex's fused clip_grad_norm_.

    Raises:
        ImportError: Apex is missing, or was installed without its kernels (its function would
            then silently be native's).
    """
    import_module("amp_C")
    clip: Clip = import_module("apex.contrib.clip_grad").clip_grad_norm_
    return clip


def transformer_engine_clip() -> Clip:
    """Clipping with TransformerEngine's multi-tensor kernels, as Megatron-LM composes them.

    The coefficient stays on the device where TransformerEngine has `multi_tensor_scale_tensor`;
    older ones need it on the host.

    Raises:
        ImportError: TransformerEngine is missing.
    """
    kernels = import_module("transformer_engine.pytorch.optimizers")
    apply = kernels.multi_tensor_applier
    scale_by_tensor = getattr(kernels, "multi_tensor_scale_tensor", None)

    def clip(parameters: Sequence[torch.Tensor], max_norm: float) -> torch.Tensor:
        gradients = [p.grad for p in parameters if p.grad is not None]
        flag = torch.zeros(1, dtype=torch.int32, device=gradients[0].device)
        norm: torch.Tensor = apply(kernels.multi_tensor_l2norm, flag, [gradients], False)[0]
        coefficient = (max_norm / (norm + 1e-6)).clamp_(max=1.0)
        if scale_by_tensor is not None:
            apply(scale_by_tensor, flag, [gradients, gradients], coefficient)
        elif (on_host := coefficient.item()) < 1.0:
            apply(kernels.multi_tensor_scale, flag, [gradients, gradients], on_host)
        return norm.squeeze()

    return clip


PEERS: dict[str, Callable[[], Clip]] = {
    "Apex": apex_clip,
    "TransformerEngine": transformer_engine_clip,
}


def importable_peers() -> dict[str, Clip]:
    """The peers that import here, by name."""
    found = {}
    for name, load in PEERS.items():
        try:
            found[name] = load()
        except ImportError:
            continue
    return found
