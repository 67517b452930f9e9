"""Loads the compiled libraries and says what was loaded."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch

# gradkern._core links against libgradkern_ops.so, and that against torch's libraries, which
# `import torch` has put into the process; loading it registers the operators.
if importlib.util.find_spec("gradkern._core") is None:
    raise ImportError(
        "gradkern's compiled module is missing: the package was imported from a source tree in "
        "which it is not installed. Install it with `pip install --no-build-isolation -e .`"
    )
from gradkern import _core

# An editable install spreads the package over two folders: the libraries lie beside _core.
LIBRARY_DIRECTORY = Path(str(_core.__file__)).parent


def _load_cuda() -> str:
    """Loads the CUDA kernels where torch can use them; returns why not, or an empty string."""
    library = LIBRARY_DIRECTORY / "libgradkern_cuda.so"
    if not _core.cuda_built:
        return "gradkern was built without CUDA kernels"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build without CUDA"
    return _core.load_backend("cuda", str(library))


# An unusable GRADKERN_CPU_ISA raises here, at import, and not in the middle of a training.
_core.cpu_isa()
_CUDA_REASON = _load_cuda()


def build_info() -> dict[str, Any]:
    """What this installation of gradkern is made of and runs on.

    Returns:
        A dictionary that can be written as JSON:

        - ``version``: of gradkern; ``torch_built``, ``torch_running``: the torch it was compiled
          against, and the one in use;
        - ``cpu_isa``: the instruction set of the CPU kernels in use; ``cpu_isas``: all that this
          machine can run, slowest first (the environment variable ``GRADKERN_CPU_ISA`` forces one);
        - ``threads``: ``torch.get_num_threads()``, which the CPU kernels use;
        - ``cuda``: a dictionary with ``built``, ``architectures``, ``loaded`` and ``reason``, which
          says why the CUDA kernels are not loaded (empty where they are).

    Example:
        >>> import gradkern
        >>> sorted(gradkern.build_info())
        ['cpu_isa', 'cpu_isas', 'cuda', 'threads', 'torch_built', 'torch_running', 'version']
    """
    return {
        "version": _core.version,
        "torch_built": _core.torch_built,
        "torch_running": str(torch.__version__),
        "cpu_isa": _core.cpu_isa(),
        "cpu_isas": _core.runnable_isas(),
        "threads": torch.get_num_threads(),
        "cuda": {
            "built": _core.cuda_built,
            "architectures": _core.cuda_architectures.split(),
            "loaded": _core.cuda_built and not _CUDA_REASON,
            "reason": _CUDA_REASON,
        },
    }
