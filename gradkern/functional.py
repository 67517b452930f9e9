"""Fused activations and batch normalisation: the functions of :mod:`torch.nn.functional`.

Every activation ``f`` of the table comes as ``f(x)``, differentiable (twice, and under
``torch.compile``, ``torch.func`` and forward AD), ``f(x, inplace=True)`` and ``f(x, out=...)``; as
``f_with_derivative(x)``, both in one pass; and as ``f_with_stats(x)``, with
:class:`gradkern.ActivationStats` from the same pass. Softmax, its logarithm and softmin, along a
dimension, are functions only. The gated activations of large models (``swiglu``, ...) take a gate
and what it gates; ``bias_gelu`` and ``bias_silu`` a bias, ``prelu`` learned slopes. Batch
normalisation takes the addition of a residual and an activation into its own pass.
"""

from __future__ import annotations

from torch import Tensor

from gradkern.activation_functions import *  # noqa: F403
from gradkern.activation_functions import __all__ as _table_functions
from gradkern.activation_functions import gelu as _gelu
from gradkern.activation_functions import gelu_tanh
from gradkern.batch_norm_functions import batch_norm, batch_norm_backward, batch_norm_forward
from gradkern.channelwise_functions import bias_gelu, bias_silu, prelu
from gradkern.gated_functions import geglu, reglu, swiglu
from gradkern.rrelu_functions import rrelu
from gradkern.softmax_functions import log_softmax, softmax, softmin

__all__ = [
    *_table_functions,
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_forward",
    "bias_gelu",
    "bias_silu",
    "geglu",
    "log_softmax",
    "prelu",
    "reglu",
    "rrelu",
    "softmax",
    "softmin",
    "swiglu",
]


def gelu(  # type: ignore[no-redef]
    input: Tensor,
    *,
    approximate: str = "none",
    inplace: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """The Gaussian error linear unit, or its tanh approximation.

    Args:
        input: float32, float64, bfloat16 or float16, any shape and layout.
        approximate: "none" (``x * P(X <= x)``) or "tanh" (:func:`gelu_tanh`).
        inplace: write over ``input`` and return it. Where a gradient is wanted backward keeps a
            copy of the input: in-place saves no memory then.
        out: a tensor that receives the result; not where a gradient is wanted.

    Returns:
        A tensor like ``input``.

    Raises:
        RuntimeError: ``approximate`` is something else; or as for :func:`silu`.
        TypeError: ``input`` is not a tensor.

    Source:
        Hendrycks, Gimpel, 2016.

    Example:
        >>> gradkern.functional.gelu(torch.tensor([-1.0, 2.0]), approximate="tanh")
        tensor([-0.1588,  1.9546])
    """
    if approximate == "none":
        return _gelu(input, inplace, out=out)
    if approximate == "tanh":
        return gelu_tanh(input, inplace, out=out)
    # Native's exception type and words.
    raise RuntimeError("approximate argument must be either none or tanh.")
