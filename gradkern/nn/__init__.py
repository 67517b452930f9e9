"""The activations as modules: drop-ins for those of :mod:`torch.nn`, and a converter of models.

Each is a subclass of torch's module of the same name, where there is one: the same arguments,
``state_dict`` and representation, and whatever looks for torch's class finds ours.
"""

from gradkern.nn.activation_modules import *  # noqa: F403
from gradkern.nn.activation_modules import __all__ as _table_modules
from gradkern.nn.convert import convert_activations
from gradkern.nn.gated import GEGLU, ReGLU, SwiGLU
from gradkern.nn.gelu import GELU
from gradkern.nn.prelu import PReLU
from gradkern.nn.rrelu import RReLU
from gradkern.nn.softmax import LogSoftmax, Softmax, Softmin

__all__ = [
    *_table_modules,
    "GEGLU",
    "GELU",
    "LogSoftmax",
    "PReLU",
    "RReLU",
    "ReGLU",
    "Softmax",
    "Softmin",
    "SwiGLU",
    "convert_activations",
]
