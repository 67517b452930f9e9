"""Two trainings of one model that take the same steps: one is watched, the other is not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

import gradkern


class CharacterModel(nn.Module):
    """A causal transformer over characters, of pre-norm blocks."""

    def __init__(self, width: int, depth: int, length: int, characters: int = 128) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, width)
        self.position = nn.Parameter(torch.randn(length, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, characters)

    def forward(self, text: Tensor) -> Tensor:
        values = self.embedding(text) + self.position
        for block in self.blocks:
            values = block(values)
        logits: Tensor = self.head(self.norm(values))
        return logits.transpose(1, 2)


class Block(nn.Module):
    """Attention of heads of width 64, and a GELU layer of four times the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(width // 64, 1)
        self.first_norm = nn.LayerNorm(width)
        self.attention = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.second_norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 4 * width)
        self.gelu = nn.GELU()
        self.narrow = nn.Linear(4 * width, width)

    def forward(self, values: Tensor) -> Tensor:
        parts = self.attention(self.first_norm(values)).chunk(3, dim=-1)
        query, key, value = (p.unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in parts)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        values = values + self.projection(mixed.transpose(1, 2).flatten(2))
        output: Tensor = values + self.narrow(self.gelu(self.widen(self.second_norm(values))))
        return output


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, and a skip connection (He et al. 2015)."""

    def __init__(self, channels: int, following: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, following, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(following)
        self.first_relu = nn.ReLU()
        self.second = nn.Conv2d(following, following, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(following)
        self.second_relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != following:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, following, 1, stride, bias=False), nn.BatchNorm2d(following)
            )

    def forward(self, values: Tensor) -> Tensor:
        inner = self.first_relu(self.first_norm(self.first(values)))
        output: Tensor = self.second_relu(
            self.second_norm(self.second(inner)) + self.shortcut(values)
        )
        return output


def resnet18(width: int) -> nn.Sequential:
    """ResNet-18 as it is used for 32x32 images."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, width, 3, 1, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]
    channels = width
    for stage in range(4):
        for index in range(2):
            following = width << stage
            stride = 2 if stage and not index else 1
            layers.append(ResidualBlock(channels, following, stride))
            channels = following
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def fused_resnet18(width: int) -> nn.Module:
    """The same with batch norm, addition and ReLU fused: gradkern's modules measure themselves."""
    images = torch.randn(2, 3, 32, 32)
    return gradkern.nn.fuse_batch_norm(resnet18(width), (images,)).model


class TwoTrainings:
    """A model, its data and its optimizer, and copies of it that something watches."""

    def __init__(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> None:
        self.plain = model
        self.inputs, self.targets = inputs, targets
        self.optimizers = {model: self._optimizer(model)}
        self._last = model

    def watched_copy(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        """A copy of the unwatched training as it is now, with no hooks on it yet."""
        model = copy.deepcopy(self.plain)
        optimizer = self._optimizer(model)
        optimizer.load_state_dict(copy.deepcopy(self.optimizers[self.plain].state_dict()))
        self.optimizers = {self.plain: self.optimizers[self.plain], model: optimizer}
        return model, optimizer

    @staticmethod
    def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)

    def backward(self, model: nn.Module) -> Tensor:
        """The first half of a step; returns the loss."""
        self._last = model
        self.optimizers[model].zero_grad()
        loss = functional.cross_entropy(model(self.inputs), self.targets)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def plain_step(self) -> Tensor:
        """A step as it is taken without watching, clipped."""
        loss = self.backward(self.plain)
        torch.nn.utils.clip_grad_norm_(self.plain.parameters(), 1.0)
        self.optimizers[self.plain].step()
        return loss

    def restore(self) -> None:
        """Nothing is put back: both sides go on with their training."""

    def sample(self) -> Tensor:
        """Some weights of the model that was stepped last."""
        return torch.cat([p.detach().flatten()[:16].double() for p in self._last.parameters()])


@dataclass(frozen=True)
class TrainingWorkload:
    """A named training to be."""

    name: str
    model: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]
    targets: Callable[[], Tensor]
    device: torch.device
    tensors: int
    elements: int
    dtype: torch.dtype = torch.float32

    def make(self) -> TwoTrainings:
        torch.manual_seed(2013)
        model = self.model().to(self.device)
        return TwoTrainings(model, self.inputs().to(self.device), self.targets().to(self.device))


def character_training(device: torch.device, quick: bool) -> TrainingWorkload:
    """6 layers of width 384 (10.8M parameters), 16 pieces of 128 characters."""
    width, depth, length, rows = (32, 2, 16, 2) if quick else (384, 6, 128, 16)
    return _workload(
        "character model, 10.8M",
        partial(CharacterModel, width, depth, length),
        partial(torch.randint, 128, (rows, length)),
        partial(torch.randint, 128, (rows, length)),
        device,
    )


def image_training(device: torch.device, quick: bool) -> TrainingWorkload:
    """ResNet-18 (11.2M parameters), 64 images of 32x32."""
    return _image_training("ResNet-18, 11.2M", resnet18, device, quick)


def fused_image_training(device: torch.device, quick: bool) -> TrainingWorkload:
    """The same of gradkern's modules."""
    return _image_training("ResNet-18, fused", fused_resnet18, device, quick)


def _image_training(
    name: str, model: Callable[[int], nn.Module], device: torch.device, quick: bool
) -> TrainingWorkload:
    width, rows = (4, 4) if quick else (64, 64)
    return _workload(
        name,
        partial(model, width),
        partial(torch.randn, rows, 3, 32, 32),
        partial(torch.randint, 10, (rows,)),
        device,
    )


def _workload(
    name: str,
    model: Callable[[], nn.Module],
    inputs: Callable[[], Tensor],
    targets: Callable[[], Tensor],
    device: torch.device,
) -> TrainingWorkload:
    with torch.device("meta"):
        parameters = list(model().parameters())
    return TrainingWorkload(
        name,
        model,
        inputs,
        targets,
        device,
        tensors=len(parameters),
        elements=sum(p.numel() for p in parameters),
    )
