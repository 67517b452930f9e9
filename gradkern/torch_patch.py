"""gradkern's clipping in place of PyTorch's own, for programs that cannot be edited."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import ModuleType
from typing import Any

import torch.nn.utils
import torch.nn.utils.clip_grad

from gradkern.clip import (
    clip_grad_norm_,
    clip_grad_value_,
    clip_grads_with_norm_,
    get_total_norm,
)

__all__ = ["patch_torch"]

# torch.nn.utils.clip_grad has two of them with an underscore in front (torch 2.10 to 2.15), and
# torch.nn.utils imports these under the public names. A name that a module lacks is not added.
_REPLACEMENTS: dict[str, Callable[..., Any]] = {
    "clip_grad_norm_": clip_grad_norm_,
    "clip_grad_value_": clip_grad_value_,
    "clip_grads_with_norm_": clip_grads_with_norm_,
    "_clip_grads_with_norm_": clip_grads_with_norm_,
    "get_total_norm": get_total_norm,
    "_get_total_norm": get_total_norm,
}
_MODULES = (torch.nn.utils, torch.nn.utils.clip_grad)


class _TorchPatch:
    """Puts gradkern's clipping where PyTorch's is, so that other libraries use it unedited.

    ``with gradkern.patch_torch():`` does so for a block, ``gradkern.patch_torch.enable()`` and
    ``.disable()`` from one line to another. Accelerate, HF's Trainer and Lightning call
    ``torch.nn.utils.clip_grad_norm_`` by that name at each step, and so reach gradkern's.

    Replaced are ``clip_grad_norm_``, ``clip_grads_with_norm_``, ``clip_grad_value_`` and
    ``get_total_norm``, in ``torch.nn.utils`` and in ``torch.nn.utils.clip_grad``, which has the
    second and the last with an underscore in front; the deprecated ``clip_grad_norm`` follows them.
    Afterwards the very functions that were there before are back.

    Blocks nest, in each other and in ``enable()``: PyTorch's functions are back once the last block
    is left and ``enable()`` is not in force. ``enable()`` and ``disable()`` are a switch and do not
    count.

    The names are the process's, so every thread sees the patch, also one that did not ask for it;
    blocks that overlap in several threads end with the last. What was taken out of the module
    before (``from torch.nn.utils import clip_grad_norm_``) stays what it was. A function compiled
    by ``torch.compile`` notices, and is compiled again.

    Example:
        >>> with gradkern.patch_torch():
        ...     torch.nn.utils.clip_grad_norm_ is gradkern.clip_grad_norm_
        True
        >>> torch.nn.utils.clip_grad_norm_ is gradkern.clip_grad_norm_
        False
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._enabled = False
        self._open_blocks = 0
        self._originals: dict[tuple[ModuleType, str], Callable[..., Any]] = {}

    def __call__(self) -> AbstractContextManager[None]:
        """Patch for the length of a ``with`` block, or of a function that this decorates."""
        return self._block()

    def enable(self) -> None:
        """Patch until :meth:`disable` is called. A second call changes nothing."""
        with self._lock:
            self._enabled = True
            self._apply()

    def disable(self) -> None:
        """Undo :meth:`enable`, at once or when the last open ``with`` block is left.

        A second call changes nothing.
        """
        with self._lock:
            self._enabled = False
            self._apply()

    @property
    def active(self) -> bool:
        """Whether torch.nn.utils holds gradkern's functions now."""
        return bool(self._originals)

    @contextmanager
    def _block(self) -> Iterator[None]:
        with self._lock:
            self._open_blocks += 1
            self._apply()
        try:
            yield
        finally:
            with self._lock:
                self._open_blocks -= 1
                self._apply()

    def _apply(self) -> None:
        wanted = self._enabled or self._open_blocks > 0
        if wanted and not self._originals:
            self._replace()
        elif not wanted and self._originals:
            self._restore()

    def _replace(self) -> None:
        for module in _MODULES:
            for name, replacement in _REPLACEMENTS.items():
                if hasattr(module, name):
                    self._originals[module, name] = getattr(module, name)
                    setattr(module, name, replacement)

    def _restore(self) -> None:
        originals, self._originals = self._originals, {}
        for (module, name), original in originals.items():
            if getattr(module, name, None) is _REPLACEMENTS[name]:
                setattr(module, name, original)
            else:
                warnings.warn(
                    f"{module.__name__}.{name} was replaced by something else while gradkern's "
                    "patch was in force, and is left as it is.",
                    RuntimeWarning,
                    stacklevel=2,
                )


patch_torch = _TorchPatch()
