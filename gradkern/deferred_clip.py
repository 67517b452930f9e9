"""Gradient clipping whose multiplication is left to the optimizer's fused step."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler, OptState
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import TensorWeakRef

from gradkern import ops
from gradkern.clip import gradients_of, unrounded_total_norm

__all__ = ["defer_clip_grad_norm_"]

_PENDING = "_gradkern_deferred_clip"


class _DeferredClip:
    """A divisor on its way to one optimizer's next step, with the two hooks that look after it.

    It lives in the optimizer's ``__dict__`` from the deferral to the end of that step.
    """

    def __init__(
        self, optimizer: Optimizer, divisor: Tensor, own_scale: Any, scaler_composes: bool
    ) -> None:
        self.divisor = divisor
        self.own_scale = own_scale
        self.scaler_composes = scaler_composes
        self.found_inf = vars(optimizer).get("found_inf")
        self.parameter, gradient = next(_own_gradients(optimizer))
        # Weak, so that zero_grad() still frees the memory.
        self.gradient: TensorWeakRef | None = TensorWeakRef(gradient)
        self.handles: list[RemovableHandle] = [
            optimizer.register_step_pre_hook(self.before_step),
            optimizer.register_step_post_hook(self.after_step),
        ]
        setattr(optimizer, _PENDING, self)
        optimizer.grad_scale = divisor  # type: ignore[attr-defined]

    def __getstate__(self) -> dict[str, Any]:
        # torch's optimizers leave attributes and hooks behind when they are pickled or copied, so a
        # copy has nothing pending. A subclass that takes its whole __dict__ along takes this along,
        # and must not fail on the weak reference.
        return {**vars(self), "gradient": None}

    def before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Refuse a step that the divisor does not belong to."""
        mistake = self._mistake(optimizer, args, kwargs)
        if mistake is None:
            return
        if self._scaler_steps(optimizer):
            # GradScaler.step() does not clean up after a step that raises.
            for name in ("grad_scale", "found_inf"):
                vars(optimizer).pop(name, None)
        self.withdraw(optimizer)
        raise RuntimeError(f"{mistake} Nothing was stepped, and the deferred clip is dropped.")

    def after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Leave the optimizer as it was found."""
        if self._scaler_steps(optimizer):
            # GradScaler.step() deletes `grad_scale` next, and would fail if it were gone.
            self._unhook(optimizer)
        else:
            self.withdraw(optimizer)

    def withdraw(self, optimizer: Optimizer) -> None:
        """Remove the hooks, and give `grad_scale` back where it is still ours."""
        self._unhook(optimizer)
        if vars(optimizer).get("grad_scale") is self.divisor:
            if self.own_scale is None:
                del optimizer.grad_scale  # type: ignore[attr-defined]
            else:
                optimizer.grad_scale = self.own_scale  # type: ignore[attr-defined]

    def _unhook(self, optimizer: Optimizer) -> None:
        for handle in self.handles:
            handle.remove()
        vars(optimizer).pop(_PENDING, None)

    def _scaler_steps(self, optimizer: Optimizer) -> bool:
        # GradScaler.step() sets `found_inf` before the step, and deletes it and `grad_scale` after.
        return vars(optimizer).get("found_inf") is not self.found_inf

    def _mistake(self, optimizer: Optimizer, args: Any, kwargs: Any) -> str | None:
        name = type(optimizer).__name__
        if kwargs.get("closure", args[1] if len(args) > 1 else None) is not None:
            return (
                f"{name}.step got a closure, which computes new gradients, after "
                "defer_clip_grad_norm_ had measured the old ones; it must be called inside the "
                "closure, after backward()."
            )
        if self.gradient is not None and self.gradient() is not self.parameter.grad:
            return (
                f"The gradients of {name} were replaced after defer_clip_grad_norm_ had measured "
                "them; it must be called last before step()."
            )
        if not self._scaler_steps(optimizer):
            if self.scaler_composes:
                return (
                    f"The gradients of {name} still carry the scale of the `scaler` that was "
                    "given to defer_clip_grad_norm_; the step must be scaler.step(optimizer)."
                )
        elif vars(optimizer).get("grad_scale") is not self.divisor and not self.scaler_composes:
            return (
                f"GradScaler.step divides the gradients of {name} by a scale that "
                "defer_clip_grad_norm_ did not know of; it must be given the argument `scaler`, "
                "or be called after scaler.unscale_(optimizer)."
            )
        return None


def pending_clip(optimizer: Optimizer) -> Tensor | None:
    """What an optimizer's next step will divide its gradients by, to clip them.

    Returns:
        The divisor (1 / coefficient, 0-dim); None where no clip is pending. A scale that the
        optimizer had of its own is not in it.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(1))
        >>> pending_clip(torch.optim.SGD([weight], lr=1.0, fused=True)) is None
        True
    """
    pending = vars(optimizer).get(_PENDING)
    if pending is None:
        return None
    divisor: Tensor = pending.divisor
    return divisor if pending.own_scale is None else divisor / pending.own_scale


def defer_clip_grad_norm_(
    optimizer: Optimizer,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    *,
    parameters: Iterable[Tensor] | Tensor | None = None,
    scaler: GradScaler | None = None,
) -> Tensor:
    r"""Clip the gradients to a total norm, in the optimizer's next fused step.

    :func:`gradkern.clip_grad_norm_` reads the gradients once for their norm, then reads and
    writes them once more to scale them. This function only reads them. The coefficient

    .. math:: c = \min(\text{max\_norm} / (\text{total\_norm} + 10^{-6}),\ 1)

    goes to the optimizer as ``optimizer.grad_scale``, the divisor ``1 / c`` (float32, 0-dim, on the
    device), which a fused step applies to each gradient as it reads it. Call it where
    ``clip_grad_norm_`` would stand, last before ``step()``. The step removes the divisor; a step
    without a new call is a normal step. Calling again before the step replaces the first call.
    The host waits for the device only where ``error_if_nonfinite=True``.

    The fused step **writes the clipped (and unscaled) gradients back to** ``.grad``, as if they had
    been clipped before, so after ``step()`` they are the same. Before it they are not clipped yet:
    gradients that are looked at or changed in between are the unclipped ones.

    Args:
        optimizer: one whose fused step takes ``grad_scale``: ``torch.optim.Adam``, ``AdamW``,
            ``SGD`` or ``Adagrad`` (this one from torch 2.12 on), made with ``fused=True``; or any
            other that sets ``_step_supports_amp_scaling`` and reads ``self.grad_scale``. Pass the
            optimizer itself, not a wrapper around it.
        max_norm: largest total norm to keep; a number, or what ``float()`` takes.
        norm_type: order p of the norm, as in ``clip_grad_norm_``; ``inf`` for the largest entry.
        error_if_nonfinite: whether a NaN or infinite total raises (and synchronises). Otherwise
            ``step()`` does what it would after ``clip_grad_norm_``: with a NaN total all gradients
            become NaN, with an infinite one the infinite entries NaN and the others 0.
        parameters: more parameters for the norm to span, for a model with two optimizers (each of
            which gets its own call, all of them before the first ``step()``). The optimizer's own
            are always included, and each counts once. Their gradients must be scaled as the
            optimizer's are.
        scaler: the ``torch.amp.GradScaler`` in use, whose ``step(optimizer)`` must then make the
            step. Before ``scaler.unscale_(optimizer)`` the norm is divided by the scale, on the
            device, and ``scaler.step`` multiplies scale and divisor, so unscaling needs no pass
            of its own. After ``unscale_``, or with a disabled scaler, the argument changes nothing.
            Gradients with an infinity or NaN skip the step as ever.

    Returns:
        The total norm before clipping, without the scaler's scale, 0-dim: on the first gradient's
        device, in the gradients' (promoted, real) dtype. ``tensor(0.)`` where there are no
        gradients; nothing is deferred then.

    Raises:
        TypeError: ``optimizer`` does not take ``grad_scale``, or a parameter group of it is not
            fused; ``parameters`` or ``scaler`` are of a wrong type.
        RuntimeError: the total is not finite and ``error_if_nonfinite=True``; or ``scaler`` has
            stepped the optimizer already. Later, ``step()`` raises it, and drops the divisor, where
            the gradients are not those that were measured: replaced, or computed by the
            closure it was given (defer inside the closure instead), or scaled otherwise.
        AssertionError: ``scaler`` has scaled nothing yet (as ``scaler.unscale_`` does).

    A ``grad_scale`` that the optimizer had before is kept as one more scale: it divides the norm,
    multiplies the divisor, and is back in its place after the step. Copies of the optimizer
    (``copy.deepcopy``, pickle) have nothing pending, and ``state_dict()`` never shows it.

    Precision: norm and coefficient are float64, and the divisor is rounded once to float32, so a
    float64 gradient is clipped to a relative 6e-8 here. A coefficient below 2.9e-39 (with a scaler,
    2.9e-39 times its scale) overflows the divisor, and the finite gradients become 0.

    Whether the gradients are those that were measured is judged by the identity of the first one:
    changing them in place between this call and the step is not noticed. Sharded gradients
    (DTensor, as from ``fully_shard``) work; the total is a DTensor then, as native's is.

    Source:
        The coefficient is that of :func:`torch.nn.utils.clip_grad_norm_`; the divisor takes the way
        that torch's automatic mixed precision made for the loss scale.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> optimizer = torch.optim.SGD([weight], lr=1.0, fused=True)
        >>> weight.grad = torch.tensor([30.0, 40.0])
        >>> gradkern.defer_clip_grad_norm_(optimizer, max_norm=5.0)
        tensor(50.)
        >>> optimizer.step()
        >>> weight.data
        tensor([-3., -4.])
    """
    _check_takes_grad_scale(optimizer)
    max_norm, norm_type = float(max_norm), float(norm_type)
    pending: _DeferredClip | None = vars(optimizer).get(_PENDING)
    own_scale = getattr(optimizer, "grad_scale", None) if pending is None else pending.own_scale
    scaler_scale = _scale_on_gradients(optimizer, scaler)
    gradients = gradients_of(_widened(optimizer, parameters))

    with torch.no_grad():
        if not gradients:
            total_norm = torch.tensor(0.0)
        else:
            total_norm = unrounded_total_norm(gradients, norm_type)
            for scale in (scaler_scale, own_scale):
                if scale is not None and norm_type != 0:  # order 0 counts, whatever the scale
                    total_norm = total_norm / _like(total_norm, scale)
            if error_if_nonfinite and not torch.isfinite(total_norm):
                raise RuntimeError(
                    f"The total norm of order {norm_type} for gradients from `parameters` is "
                    "non-finite, so it cannot be clipped. To disable this error and scale the "
                    "gradients by the non-finite norm anyway, set `error_if_nonfinite=False`"
                )

        if pending is not None:
            pending.withdraw(optimizer)
        if any(_own_gradients(optimizer)):
            divisor = (max_norm / (total_norm + 1e-6)).clamp(max=1.0).reciprocal()
            if own_scale is not None:
                divisor = divisor * _like(divisor, own_scale)
            # GradScaler.step() multiplies its scale and the divisor, so they share a device.
            device = divisor.device if scaler_scale is None else scaler_scale.device
            divisor = divisor.to(torch.float32).to(device, non_blocking=True)
            _DeferredClip(optimizer, divisor, own_scale, scaler_scale is not None)

        return total_norm.to(ops.norm_dtype(gradients)) if gradients else total_norm


def _check_takes_grad_scale(optimizer: Optimizer) -> None:
    """Raise TypeError unless the next step of `optimizer` divides its gradients by `grad_scale`."""
    name = type(optimizer).__name__
    what = (
        "must be an optimizer whose fused step takes `grad_scale` (`_step_supports_amp_scaling`): "
        "torch.optim.Adam, AdamW, SGD or (from torch 2.12 on) Adagrad, made with fused=True"
    )
    if not getattr(optimizer, "_step_supports_amp_scaling", False):
        if isinstance(getattr(optimizer, "optimizer", None), Optimizer):
            what += "; if it wraps one, pass `optimizer.optimizer`"
        elif any(group.get("fused") for group in getattr(optimizer, "param_groups", ())):
            what += "; torch drops the mark from copied and unpickled optimizers: make a new one "
            what += "and load_state_dict into it"
        raise TypeError(f"optimizer is a {name}, which takes no deferred clip; it {what}")
    # GradScaler's older contract is to hand itself to step(), instead of setting attributes.
    if (
        not isinstance(optimizer, Optimizer)
        or "grad_scaler" in inspect.signature(optimizer.step).parameters
    ):
        raise TypeError(
            f"optimizer is a {name}, whose step does not read `self.grad_scale`; it {what}"
        )
    for index, group in enumerate(optimizer.param_groups):
        if not group.get("fused", True):
            raise TypeError(
                f"optimizer is a {name} whose param_groups[{index}] has fused={group['fused']}; "
                "it must be True in every group, because only a fused step takes `grad_scale`"
            )


def _scale_on_gradients(optimizer: Optimizer, scaler: GradScaler | None) -> Tensor | None:
    """The scale that the optimizer's gradients still carry: None once they are unscaled."""
    if scaler is None:
        return None
    if not isinstance(scaler, GradScaler):
        raise TypeError(
            f"scaler is a {type(scaler).__name__}; it must be a torch.amp.GradScaler or None"
        )
    if not scaler.is_enabled():
        return None
    scale, _ = scaler._check_scale_growth_tracker("defer_clip_grad_norm_")
    # get(), because indexing this defaultdict would leave an entry behind.
    state = scaler._per_optimizer_states.get(id(optimizer), {"stage": OptState.READY})
    if state["stage"] is OptState.STEPPED:
        raise RuntimeError(
            "defer_clip_grad_norm_() is being called after step(); it must be called before "
            "scaler.step(optimizer)"
        )
    return scale if state["stage"] is OptState.READY else None


def _parameters_of(optimizer: Optimizer) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]


def _own_gradients(optimizer: Optimizer) -> Iterator[tuple[Tensor, Tensor]]:
    for parameter in _parameters_of(optimizer):
        if parameter.grad is not None:
            yield parameter, parameter.grad


def _widened(optimizer: Optimizer, parameters: Iterable[Tensor] | Tensor | None) -> list[Tensor]:
    """`parameters`, then those of the optimizer that are not among them; each one once."""
    if parameters is None:
        parameters = ()
    elif isinstance(parameters, Tensor):
        parameters = (parameters,)
    elif not isinstance(parameters, Iterable):
        raise TypeError(
            f"parameters is a {type(parameters).__name__}; it must be an iterable of tensors, a "
            "tensor or None"
        )
    widened = {id(tensor): tensor for tensor in chain(parameters, _parameters_of(optimizer))}
    for tensor in widened.values():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"parameters has a {type(tensor).__name__} in it; it must hold tensors")
    return list(widened.values())


def _like(total_norm: Tensor, scale: Any) -> Tensor:
    """A scale as a tensor that can be combined with the total, without waiting for its device."""
    wide = torch.as_tensor(scale).to(total_norm.dtype)
    return wide.to(total_norm.device, non_blocking=True)
