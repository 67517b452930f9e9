import enum
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

version: str
torch_built: str
cuda_built: bool
cuda_architectures: str
statistics: tuple[str, ...]
activations: tuple[dict[str, Any], ...]
batch_norm_activations: tuple[str, ...]
batch_norm_activations_of_output: dict[str, int]
activation_statistics: tuple[str, ...]
gated_activations: tuple[tuple[str, str], ...]
channelwise_activations: tuple[tuple[str, str, str], ...]

class ActivationPass(enum.Enum):
    VALUE = ...
    DERIVATIVE = ...
    VALUE_AND_DERIVATIVE = ...

class SoftmaxPass(enum.Enum):
    SOFTMAX = ...
    LOG_SOFTMAX = ...

def cpu_isa() -> str: ...
def runnable_isas() -> list[str]: ...
def load_backend(name: str, path: str) -> str: ...
def serve_cpu_with(name: str) -> None: ...
def tensor_stats(arrays: list[npt.NDArray[Any]]) -> npt.NDArray[np.float64]: ...
def total_norm(arrays: list[npt.NDArray[Any]], norm_type: float) -> float: ...
def clip_with_total_norm(
    arrays: list[npt.NDArray[Any]], total_norm: float, max_norm: float
) -> None: ...
def clip_by_value(arrays: list[npt.NDArray[Any]], clip_value: float) -> None: ...
def activation(
    row: int,
    activation_pass: ActivationPass,
    input: npt.NDArray[Any],
    outputs: list[npt.NDArray[Any]],
    parameters: list[float],
) -> None: ...
def read_gradients_through(exchange: object, types: tuple[type, ...]) -> None: ...
def clip_grad_norm(
    parameters: list[Any],
    max_norm: float,
    norm_type: float,
    say_written: Callable[[list[torch.Tensor]], None],
) -> tuple[float, int] | None: ...
def gated(
    activation: int, gate: npt.NDArray[Any], up: npt.NDArray[Any], output: npt.NDArray[Any]
) -> None: ...
def channelwise(
    activation: int,
    input: npt.NDArray[Any],
    weight: npt.NDArray[Any],
    output: npt.NDArray[Any],
    channels: int,
    inner: int,
) -> None: ...
def rrelu(
    input: npt.NDArray[Any], output: npt.NDArray[Any], lower: float, upper: float, seed: int
) -> None: ...
def softmax(
    softmax_pass: SoftmaxPass,
    input: npt.NDArray[Any],
    output: npt.NDArray[Any],
    size: int,
    inner: int,
) -> None: ...
def batch_norm_forward(
    x: npt.NDArray[Any],
    weight: npt.NDArray[Any] | None,
    bias: npt.NDArray[Any] | None,
    residual: npt.NDArray[Any] | None,
    channels: int,
    inner: int,
    eps: float,
    activation: int,
    parameter: float,
    y: npt.NDArray[Any],
    mean: npt.NDArray[np.float64],
    invstd: npt.NDArray[np.float64],
) -> None: ...
def batch_norm_backward(
    grad_output: npt.NDArray[Any],
    x: npt.NDArray[Any],
    weight: npt.NDArray[Any] | None,
    bias: npt.NDArray[Any] | None,
    residual: npt.NDArray[Any] | None,
    channels: int,
    inner: int,
    activation: int,
    parameter: float,
    mean: npt.NDArray[np.float64],
    invstd: npt.NDArray[np.float64],
    dx: npt.NDArray[Any],
    dresidual: npt.NDArray[Any] | None,
    dweight: npt.NDArray[np.float64],
    dbias: npt.NDArray[np.float64],
) -> None: ...
def read_all(pointer: int, nbytes: int) -> int: ...
