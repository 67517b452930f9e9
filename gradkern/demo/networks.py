"""The networks. Each can say which gradients to look at, in the order of its depth."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from gradkern.demo.digits import CLASSES, PIXELS, ROWS
from gradkern.nn import BatchNorm1d, BatchNorm2d

WIDTH = 64


class LayeredNetwork(nn.Module, ABC):
    """A network whose layers lie one behind the other."""

    depth: int
    """How many layers (or time steps) alike the gradient has to travel through."""

    @abstractmethod
    def layers(self) -> dict[str, Tensor]:
        """Names, from the input to the loss, to tensors whose ``.grad`` is that layer's gradient.

        The first ``depth`` of them are the layers alike; others may follow. Call it after backward.
        """


class DeepStack(LayeredNetwork):
    """Linear layers of width 64, each followed by the same activation, and an output layer."""

    def __init__(
        self,
        depth: int,
        activation: Callable[[], nn.Module],
        initialise: Callable[[Tensor], object] | None = None,
        batch_norm: bool = False,
        skip: bool = False,
    ) -> None:
        """`initialise` fills a hidden weight (the bias: 0); None keeps PyTorch's default.

        Batch norms come before the activations; skip connections around each layer.
        """
        super().__init__()
        self.depth = depth
        self.hidden = nn.ModuleList(
            nn.Linear(PIXELS if i == 0 else WIDTH, WIDTH) for i in range(depth)
        )
        self.norms = nn.ModuleList(BatchNorm1d(WIDTH) for _ in range(depth if batch_norm else 0))
        self.skip = skip
        self.activation = activation()
        self.output = nn.Linear(WIDTH, CLASSES)
        if initialise is not None:
            for layer in self.hidden:
                initialise(layer.get_parameter("weight"))
                nn.init.zeros_(layer.get_parameter("bias"))

    def forward(self, images: Tensor) -> Tensor:
        values = images
        for i, layer in enumerate(self.hidden):
            inner = layer(values)
            if len(self.norms):
                inner = self.norms[i](inner)
            inner = self.activation(inner)
            values = values + inner if self.skip else inner
        logits: Tensor = self.output(values)
        return logits

    def layers(self) -> dict[str, Tensor]:
        """The weights of each layer."""
        named = {
            f"hidden {i}": layer.get_parameter("weight") for i, layer in enumerate(self.hidden, 1)
        }
        return named | {"output": self.output.weight}


class ResidualBlock(nn.Module):
    """Two convolutions with batch norms, and the input added before the last activation.

    Each normalisation takes what follows it (the addition, the ReLU) into its own pass.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.first_norm = BatchNorm2d(channels, activation="relu")
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second_norm = BatchNorm2d(channels, activation="relu")

    def forward(self, values: Tensor) -> Tensor:
        inner = self.first_norm(self.first(values))
        output: Tensor = self.second_norm(self.second(inner), residual=values)
        return output


class ResidualNetwork(LayeredNetwork):
    """A small residual network of convolutions on the images (He, Zhang, Ren, Sun 2016)."""

    def __init__(self, blocks: int, channels: int) -> None:
        super().__init__()
        self.depth = 2 * blocks
        self.stem = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        self.stem_norm = BatchNorm2d(channels, activation="relu")
        self.blocks = nn.ModuleList(ResidualBlock(channels) for _ in range(blocks))
        self.output = nn.Linear(channels, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        values = self.stem_norm(self.stem(images.reshape(len(images), 1, ROWS, -1)))
        for block in self.blocks:
            values = block(values)
        logits: Tensor = self.output(values.mean((2, 3)))
        return logits

    def layers(self) -> dict[str, Tensor]:
        """The weights of each convolution but the first."""
        weights = [
            layer.get_parameter("weight")
            for block in self.blocks
            for layer in (block.get_submodule("first"), block.get_submodule("second"))
        ]
        named = {f"convolution {i}": weight for i, weight in enumerate(weights, 1)}
        return named | {"output": self.output.weight}


class RowReader(LayeredNetwork):
    """A recurrent network that reads an image row by row: the depth is time, one step per row.

    ReLU units that start with `gain` times the identity as their recurrent weights (gain 1: Le,
    Jaitly and Hinton 2015, "A Simple Way to Initialize Recurrent Networks of Rectified Linear
    Units").
    """

    depth = ROWS

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.read = nn.Linear(PIXELS // ROWS, WIDTH)
        self.recall = nn.Linear(WIDTH, WIDTH, bias=False)
        self.output = nn.Linear(WIDTH, CLASSES)
        for layer in (self.read, self.output):
            nn.init.normal_(layer.weight, std=0.1)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.recall.weight.copy_(gain * torch.eye(WIDTH))
        self._states: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        rows = self.read(images.reshape(len(images), ROWS, -1)).unbind(1)
        state = images.new_zeros(len(images), WIDTH)
        self._states = []
        for row in rows:
            state = torch.relu(row + self.recall(state))
            if state.requires_grad:
                state.retain_grad()
            self._states.append(state)
        logits: Tensor = self.output(state)
        return logits

    def layers(self) -> dict[str, Tensor]:
        """The state after each row: its gradient is what the loss sends back to that moment."""
        return {f"row {i}": state for i, state in enumerate(self._states, 1)}
