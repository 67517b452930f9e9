"""Activations and batch normalisation as modules: drop-ins for those of :mod:`torch.nn`.

Each is a subclass of torch's module of the same name, where there is one: the same arguments,
``state_dict`` and representation, and whatever looks for torch's class finds ours. Two functions
convert models.
"""

from gradkern.nn.activation_modules import *  # noqa: F403
from gradkern.nn.activation_modules import __all__ as _table_modules
from gradkern.nn.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from gradkern.nn.convert import convert_activations
from gradkern.nn.fuse_batch_norm import BatchNormFusion, fuse_batch_norm
from gradkern.nn.gated import GEGLU, ReGLU, SwiGLU
from gradkern.nn.gelu import GELU
from gradkern.nn.prelu import PReLU
from gradkern.nn.rrelu import RReLU
from gradkern.nn.softmax import LogSoftmax, Softmax, Softmin
from gradkern.nn.sync_batch_norm import SyncBatchNorm

__all__ = [
    *_table_modules,
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchNormFusion",
    "GEGLU",
    "GELU",
    "LogSoftmax",
    "PReLU",
    "RReLU",
    "ReGLU",
    "Softmax",
    "Softmin",
    "SwiGLU",
    "SyncBatchNorm",
    "convert_activations",
    "fuse_batch_norm",
]
