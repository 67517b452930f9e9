"""Notices hooks that compiled code has swallowed."""

from __future__ import annotations

from torch import nn

from gradkern.monitor.activations import ActivationMeter
from gradkern.monitor.record import StepRecord


def require_hooks(meter: ActivationMeter, record: StepRecord) -> None:
    """Raises if outputs are missing from a step in which the model was trained, for compilation.

    Raises:
        RuntimeError: names the modules, and says what to do.
    """
    if not meter.expects_hooks or not record.gradients.measured.any():
        return
    # Each call of a module has a row of its own: "act#1", "act#2".
    seen = {name.partition("#")[0] for name in record.activations.names}
    # Hooks are called in evaluation, too, where nothing is measured.
    missing = [
        w.name for i, w in enumerate(meter.watched) if w.name not in seen and i not in meter.called
    ]
    if not missing:
        meter.expects_hooks = False
        return
    if len(missing) < len(meter.watched):
        # Some were merely not called, unless they are in a part that is compiled.
        missing = [name for name in missing if _is_compiled(meter.model, name)]
    if missing and meter.uses_compile:
        named = [name or type(meter.model).__name__ for name in missing[:3]]
        raise RuntimeError(
            f"the hooks of {len(missing)} module(s) ({', '.join(named)}"
            f"{', ...' if len(missing) > 3 else ''}) were not called: the model was compiled by "
            "torch.compile and run before the monitor was made. Make the monitor before the first "
            "call of the compiled model, or call torch.compiler.reset() after making it, so that "
            "the model is compiled with its hooks; or pass activations=None"
        )


def _is_compiled(model: nn.Module, name: str) -> bool:
    module: nn.Module | None = model
    for part in ["", *name.split(".")]:
        if part:
            module = getattr(module, part, None)
        if module is None:
            return False
        if getattr(module, "_compiled_call_impl", None) is not None or hasattr(module, "_orig_mod"):
            return True
    return False
