"""Batch normalisation of the emulated backend's table, and what its results must be."""

from __future__ import annotations

import ctypes
import dataclasses
import enum
from collections.abc import Callable

import torch
from simt import emulator
from torch import Tensor
from torch.nn import functional

DTYPE_NUMBERS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}

# In the order of csrc/formulas/batch_norm_activations.h.
ACTIVATIONS: list[Callable[[Tensor], Tensor]] = [
    lambda z: z * 1,
    functional.relu,
    lambda z: functional.leaky_relu(z, 0.1),
    lambda z: functional.elu(z, 0.1),
    functional.silu,
    functional.gelu,
]
PARAMETERS = (0.1, 0.0)
EPS = 1e-5
MOMENTUM = 0.25


class Pass(enum.IntEnum):
    """csrc/batch_norm_call.h's."""

    MOMENTS = 0
    FORWARD = 1
    NORMALISE = 2
    SUMS = 3
    BACKWARD = 4
    INPUT_GRADIENT = 5


class Call(ctypes.Structure):
    """BatchNormCall."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("kind", "dtype")),
        *((name, ctypes.c_int64) for name in ("outer", "channels", "inner")),
        ("eps", ctypes.c_double),
        ("activation", ctypes.c_int32),
        ("parameters", ctypes.c_double * 2),
        ("parameter_dtype", ctypes.c_int32),
        *((name, ctypes.c_void_p) for name in ("weight", "bias")),
        ("running_dtype", ctypes.c_int32),
        *((name, ctypes.c_void_p) for name in ("running_mean", "running_var")),
        ("momentum", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("mean", "invstd", "sum_squared_deviations")),
        *((name, ctypes.c_void_p) for name in ("sum_dz", "sum_dz_xhat")),
        ("count", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("x", "residual", "grad_output")),
        *((name, ctypes.c_void_p) for name in ("y", "grad_input", "grad_residual")),
        ("output_statistics", ctypes.c_void_p),
    ]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Element (o * channels + c) * inner + i belongs to channel c."""

    outer: int
    channels: int
    inner: int

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.outer, self.channels, self.inner


@dataclasses.dataclass
class Problem:
    """What a call reads, and the options that it has.

    Args:
        affine: whether there are a weight and a bias.
        with_residual: whether something is added after the normalisation.
        aligned: whether tensors begin at 16-byte boundaries.
    """

    sizes: Sizes
    dtype: torch.dtype
    activation: int = 0
    affine: bool = True
    with_residual: bool = False
    aligned: bool = True
    seed: int = 0
    mean: float = 0.5
    std: float = 2.0

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        channels = self.sizes.channels
        self.x = self.placed(normal(*self.sizes.shape) * self.std + self.mean)
        self.grad = self.placed(normal(*self.sizes.shape))
        self.residual = self.placed(normal(*self.sizes.shape)) if self.with_residual else None
        self.weight = (normal(channels) + 1).float() if self.affine else None
        self.bias = normal(channels).float() if self.affine else None
        self.running_mean, self.running_var = (
            normal(channels).float(),
            normal(channels).abs().float(),
        )

    def placed(self, values: Tensor) -> Tensor:
        """In the problem's dtype, before a page that can't be touched."""
        return emulator.guarded_tensor(values.to(self.dtype), aligned=self.aligned)

    def empty(self) -> Tensor:
        return self.placed(torch.full(self.sizes.shape, torch.nan))

    def numbers(self) -> Tensor:
        """One for each channel."""
        return emulator.guarded_tensor(torch.full((self.sizes.channels,), torch.nan).double())


def run(problem: Problem, kind: Pass, **operands: Tensor | float | None) -> None:
    """Calls the table; `operands` are the call's further fields."""
    call = Call()
    call.kind, call.dtype = kind, DTYPE_NUMBERS[problem.dtype]
    call.outer, call.channels, call.inner = problem.sizes.shape
    call.eps, call.momentum = EPS, MOMENTUM
    call.activation, call.parameters = problem.activation, PARAMETERS
    fields = {"weight": problem.weight, "bias": problem.bias, "residual": problem.residual}
    for name, value in {**fields, "x": problem.x, **operands}.items():
        setattr(call, name, value.data_ptr() if isinstance(value, Tensor) else value)
    functions = emulator.load().functions
    functions.simt_batch_norm.restype = ctypes.c_char_p
    functions.simt_batch_norm_call_size.restype = ctypes.c_size_t
    assert functions.simt_batch_norm_call_size() == ctypes.sizeof(Call)
    error = functions.simt_batch_norm(ctypes.byref(call))
    assert error is None, error.decode()
    for tensor in operands.values():
        assert not isinstance(tensor, Tensor) or emulator.padding_is_intact(tensor)


@dataclasses.dataclass
class Results:
    """Of every pass."""

    mean: Tensor
    invstd: Tensor
    squares: Tensor
    y: Tensor
    sum_dz: Tensor
    sum_dz_xhat: Tensor
    dx: Tensor
    dr: Tensor
    running_mean: Tensor
    running_var: Tensor
    dx_of_constants: Tensor  # where the statistics do not depend on x

    def tensors(self) -> list[Tensor]:
        return [getattr(self, field.name) for field in dataclasses.fields(self)]


def all_passes(problem: Problem) -> Results:
    """Runs each pass, and asserts that those which share a result agree."""
    p = problem
    r = Results(
        *(p.numbers() for _ in range(3)),
        p.empty(),
        *(p.numbers() for _ in range(2)),
        *(p.empty() for _ in range(2)),
        emulator.guarded_tensor(p.running_mean),
        emulator.guarded_tensor(p.running_var),
        p.empty(),
    )
    running = {"running_mean": r.running_mean, "running_var": r.running_var}
    run(p, Pass.FORWARD, mean=r.mean, invstd=r.invstd, y=r.y, **running)
    mean = p.numbers()
    run(p, Pass.MOMENTS, mean=mean, sum_squared_deviations=r.squares)
    torch.testing.assert_close(mean, r.mean, rtol=1e-12, atol=1e-12)

    statistics = {"mean": r.mean, "invstd": r.invstd}
    y = p.empty()
    run(p, Pass.NORMALISE, **statistics, y=y)
    assert torch.equal(y, r.y)
    sums = {"sum_dz": r.sum_dz, "sum_dz_xhat": r.sum_dz_xhat}
    gradients = {"grad_output": p.grad, "grad_input": r.dx, "grad_residual": r.dr}
    run(p, Pass.BACKWARD, **statistics, **sums, **gradients)
    partial = {"sum_dz": p.numbers(), "sum_dz_xhat": p.numbers()}
    run(p, Pass.SUMS, **statistics, **partial, grad_output=p.grad)
    for name, of_backward in sums.items():
        torch.testing.assert_close(partial[name], of_backward, rtol=1e-11, atol=1e-11)
    # In place, and without the gradient of the residual.
    in_place = p.placed(p.grad)
    count = float(p.sizes.outer * p.sizes.inner)
    run(
        p,
        Pass.INPUT_GRADIENT,
        **statistics,
        **sums,
        count=count,
        grad_output=in_place,
        grad_input=in_place,
    )
    assert torch.equal(in_place, r.dx)
    run(
        p,
        Pass.INPUT_GRADIENT,
        **statistics,
        count=0.0,
        grad_output=p.grad,
        grad_input=r.dx_of_constants,
    )
    return Results(*(tensor.clone() for tensor in r.tensors()))


def reference(problem: Problem) -> Results:
    """The same in float64, by the textbook."""
    p = problem
    x, grad = p.x.double(), p.grad.double()
    count = p.sizes.outer * p.sizes.inner

    def each(numbers: Tensor) -> Tensor:
        return numbers.view(-1, 1)

    mean = x.mean(dim=(0, 2))
    squares = ((x - each(mean)) ** 2).sum(dim=(0, 2))
    invstd = 1 / (squares / count + EPS).sqrt()
    weight = torch.ones_like(mean) if p.weight is None else p.weight.double()
    bias = torch.zeros_like(mean) if p.bias is None else p.bias.double()
    xhat = (x - each(mean)) * each(invstd)
    z = xhat * each(weight) + each(bias)
    if p.residual is not None:
        z = z + p.residual.double()
    z.requires_grad_()
    with torch.enable_grad():
        y = ACTIVATIONS[p.activation](z)
        (dz,) = torch.autograd.grad(y, z, grad)
    sum_dz, sum_dz_xhat = dz.sum(dim=(0, 2)), (dz * xhat).sum(dim=(0, 2))
    scale = each(weight * invstd)
    dx = scale * (dz - each(sum_dz) / count - xhat * each(sum_dz_xhat) / count)
    running_mean = (1 - MOMENTUM) * p.running_mean.double() + MOMENTUM * mean
    unbiased = squares / (count - 1)
    running_var = (1 - MOMENTUM) * p.running_var.double() + MOMENTUM * unbiased
    return Results(
        mean,
        invstd,
        squares,
        y.detach(),
        sum_dz,
        sum_dz_xhat,
        dx,
        dz,
        running_mean,
        running_var,
        scale * dz,
    )


_ELEMENTWISE = {
    torch.float32: 2e-6,
    torch.float64: 1e-13,
    torch.bfloat16: 2**-8,
    torch.float16: 2**-11,
}


def check(got: Results, problem: Problem) -> None:
    """Compares with the reference. An element may be off by its rounding, and by what float32
    arithmetic (float64 for float64) makes of the terms that it is a sum of."""
    want = reference(problem)
    count = problem.sizes.outer * problem.sizes.inner
    arithmetic = 1e-13 if problem.dtype == torch.float64 else 2e-6
    for name in ("mean", "invstd", "squares"):
        torch.testing.assert_close(
            getattr(got, name), getattr(want, name), rtol=1e-11, atol=1e-12, msg=name
        )
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(
            getattr(got, name).double(), getattr(want, name), rtol=1e-6, atol=1e-7, msg=name
        )
    for name in ("sum_dz", "sum_dz_xhat"):
        torch.testing.assert_close(
            getattr(got, name), getattr(want, name), rtol=1e-11, atol=arithmetic * count, msg=name
        )
    rounding = _ELEMENTWISE[problem.dtype]
    for name in ("y", "dx", "dr", "dx_of_constants"):
        expected = getattr(want, name)
        terms = 8 * float(expected.abs().max()) if expected.numel() else 0.0
        torch.testing.assert_close(
            getattr(got, name).double(),
            expected,
            rtol=rounding,
            atol=arithmetic * (1 + terms),
            msg=lambda text, name=name: f"{name}: {text}",
        )
