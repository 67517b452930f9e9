"""Trainings that are sick, each in its own way, and trainings that are healthy.

Data: scikit-learn's digits (8x8 pixels), the adding task (Hochreiter and Schmidhuber 1997), and
the text of Python's own help topics, so that nothing is downloaded.
"""

from __future__ import annotations

import pydoc_data.topics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

import gradkern

WIDTH = 64
Batches = Iterator[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Training:
    """A training that can start.

    Attributes:
        name: for tests and tables.
        verdict: the one to expect.
        cause: the one to expect; empty for any.
        model, batches: made after seeding; `loss` takes the model's output and the targets.
        optimizer: takes parameters.
        steps: a full training.
        quick_steps: enough for the verdict.
        max_norm: to clip to; None: no clipping.
    """

    name: str
    verdict: str
    cause: str
    model: Callable[[], nn.Module]
    batches: Callable[[int], Batches]
    loss: Callable[[Tensor, Tensor], Tensor]
    optimizer: Callable[[Any], torch.optim.Optimizer]
    steps: int = 660
    quick_steps: int = 40
    max_norm: float | None = None

    def run(
        self, seed: int, steps: int | None = None, **options: Any
    ) -> tuple[gradkern.Monitor, nn.Module]:
        """Trains, and returns the closed monitor and the model."""
        torch.manual_seed(seed)
        model = self.model()
        optimizer = self.optimizer(model.parameters())
        batches = self.batches(seed)
        options = {"on_alert": None} | options
        with gradkern.Monitor(model, optimizer, **options) as monitor:
            for _ in range(steps or self.steps):
                inputs, targets = next(batches)
                loss = self.loss(model(inputs), targets)
                optimizer.zero_grad()
                loss.backward()
                if self.max_norm is not None:
                    monitor.clip_grad_norm_(self.max_norm)
                optimizer.step()
                monitor.step(loss)
        return monitor, model


# Data.


@cache
def _digits() -> tuple[Tensor, Tensor]:
    images, labels = load_digits(return_X_y=True)
    inputs = torch.tensor(images, dtype=torch.float32)
    inputs = (inputs - inputs.mean(0)) / inputs.std(0).clamp(min=1e-6)
    return inputs, torch.tensor(labels)


def digits(seed: int, size: int = 64, ragged: int = 0, images: bool = False) -> Batches:
    """Batches of digits without end; every epoch's last one has `ragged` rows, if not 0."""
    inputs, labels = _digits()
    inputs, labels = inputs[:1437], labels[:1437]
    if images:
        inputs = inputs.reshape(-1, 1, 8, 8)
    order = torch.Generator().manual_seed(seed)
    while True:
        shuffled = torch.randperm(len(labels), generator=order)
        full = len(labels) // size * size
        parts = list(torch.split(shuffled[:full], size))
        if ragged:
            parts.append(shuffled[full : full + ragged])
        for part in parts:
            yield inputs[part], labels[part]


def adding(seed: int, length: int = 50, size: int = 64) -> Batches:
    """Sequences of numbers, two of them marked; the target is the sum of the two."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        numbers = torch.rand(size, length, generator=generator)
        marks = torch.zeros(size, length)
        half = length // 2
        first = torch.randint(half, (size, 1), generator=generator)
        second = half + torch.randint(length - half, (size, 1), generator=generator)
        marks.scatter_(1, first, 1.0)
        marks.scatter_(1, second, 1.0)
        yield torch.stack([numbers, marks], -1), (numbers * marks).sum(1, keepdim=True)


@cache
def _text() -> Tensor:
    text = "".join(pydoc_data.topics.topics.values())
    return torch.tensor([min(ord(c), 127) for c in text[:200_000]])


def characters(seed: int, length: int = 32, size: int = 16) -> Batches:
    """Pieces of text, and the same one character on."""
    text = _text()
    generator = torch.Generator().manual_seed(seed)
    while True:
        starts = torch.randint(len(text) - length - 1, (size, 1), generator=generator)
        pieces = text[starts + torch.arange(length + 1)]
        yield pieces[:, :-1], pieces[:, 1:]


def next_character(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


# Networks.


def he(weight: Tensor) -> None:
    nn.init.kaiming_normal_(weight, nonlinearity="relu")


def deep(
    depth: int,
    activation: Callable[[], nn.Module],
    initialise: Callable[[Tensor], object] | None = None,
    batch_norm: bool = False,
    bias: float | None = None,
) -> nn.Sequential:
    """Linear layers of width 64, each with an activation of its own."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        linear = nn.Linear(WIDTH, WIDTH)
        if initialise is not None:
            initialise(linear.weight)
            nn.init.zeros_(linear.bias)
        if bias is not None:
            nn.init.constant_(linear.bias, bias)
        layers += [linear, *([nn.BatchNorm1d(WIDTH)] if batch_norm else []), activation()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, 10))


class LastState(nn.Module):
    """A recurrent module, and a linear layer on its last output."""

    def __init__(
        self,
        recurrent: Callable[[], nn.RNNBase],
        initialise: Callable[[Tensor], object] | None = None,
        outputs: int = 1,
    ) -> None:
        super().__init__()
        self.recurrent = recurrent()
        self.head = nn.Linear(self.recurrent.hidden_size, outputs)
        if initialise is not None:
            with torch.no_grad():
                initialise(self.recurrent.get_parameter("weight_hh_l0"))

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.head(self.recurrent(inputs)[0][:, -1])
        return output


def identity_rnn() -> LastState:
    """Le, Jaitly and Hinton 2015: ReLU, recurrent weights that begin as the identity."""
    model = LastState(
        partial(nn.RNN, 2, 2 * WIDTH, nonlinearity="relu", batch_first=True), nn.init.eye_
    )
    for name in ("bias_ih_l0", "bias_hh_l0"):
        nn.init.zeros_(model.recurrent.get_parameter(name))
    return model


class Residual(nn.Module):
    """A block with a skip connection."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = inputs + self.body(inputs)
        return output


def convolutional(batch_norm: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels, following in ((1, 16), (16, 16), (16, 32)):
        layers.append(nn.Conv2d(channels, following, 3, padding=1))
        layers += [nn.BatchNorm2d(following)] if batch_norm else []
        layers.append(nn.ReLU())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10))


class CharacterTransformer(nn.Module):
    """A causal transformer of two pre-norm blocks."""

    def __init__(self, width: int = 48, depth: int = 2, length: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(128, width)
        self.position = nn.Parameter(torch.randn(length, width) * 0.02)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, 4, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 128)

    def forward(self, text: Tensor) -> Tensor:
        values = self.embedding(text) + self.position
        mask = nn.Transformer.generate_square_subsequent_mask(text.shape[1])
        for block in self.blocks:
            values = block(values, src_mask=mask, is_causal=True)
        logits: Tensor = self.head(self.norm(values))
        return logits


class CharacterGRU(nn.Module):
    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(128, width)
        self.recurrent = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, 128)

    def forward(self, text: Tensor) -> Tensor:
        logits: Tensor = self.head(self.recurrent(self.embedding(text))[0])
        return logits


# Trainings.

adam = partial(torch.optim.Adam, lr=1e-3)
sgd = partial(torch.optim.SGD, lr=0.05)
_OnDigits = partial(Training, batches=digits, loss=functional.cross_entropy, optimizer=adam)


def _orthogonal_by_1_5(weight: Tensor) -> None:
    nn.init.orthogonal_(weight, gain=1.5)


SICK: tuple[Training, ...] = (
    _OnDigits("30 sigmoid", "VANISHING", "sigmoid", lambda: deep(30, nn.Sigmoid)),
    _OnDigits("10 sigmoid", "VANISHING", "sigmoid", lambda: deep(10, nn.Sigmoid)),
    _OnDigits("30 ReLU, default init", "VANISHING", "initial scale", lambda: deep(30, nn.ReLU)),
    _OnDigits(
        "30 tanh, N(0,1)", "EXPLODING", "initial scale", lambda: deep(30, nn.Tanh, nn.init.normal_)
    ),
    _OnDigits(
        "10 ReLU, SGD lr 1",
        "EXPLODING",
        "learning rate",
        lambda: deep(10, nn.ReLU, he),
        optimizer=partial(torch.optim.SGD, lr=1.0),
    ),
    _OnDigits(
        "30 ReLU, batch norm",
        "EXPLODING",
        "batch norm at depth",
        lambda: deep(30, nn.ReLU, he, batch_norm=True),
    ),
    _OnDigits("ReLU, bias -6", "DEAD UNITS", "", lambda: deep(3, nn.ReLU, he, bias=-6.0)),
    _OnDigits(
        "last batch of 3",
        "TINY BATCH",
        "",
        lambda: deep(4, nn.ReLU, he, batch_norm=True),
        batches=partial(digits, ragged=3),
    ),
    Training(
        "identity RNN, not clipped",
        "EXPLODING",
        "recurrence",
        identity_rnn,
        adding,
        functional.mse_loss,
        adam,
        steps=1500,
        quick_steps=360,
    ),
    Training(
        "tanh RNN, orthogonal x 1.5",
        "EXPLODING",
        "recurrence",
        lambda: LastState(partial(nn.RNN, 2, WIDTH, batch_first=True), _orthogonal_by_1_5),
        adding,
        functional.mse_loss,
        partial(torch.optim.SGD, lr=0.1),
        steps=60,
        quick_steps=60,
    ),
    Training(
        "tanh RNN",
        "VANISHING",
        "recurrence",
        lambda: LastState(partial(nn.RNN, 2, WIDTH, batch_first=True)),
        adding,
        functional.mse_loss,
        adam,
        steps=1500,
        quick_steps=320,
    ),
)


def _healthy() -> Iterator[Training]:
    momentum = partial(torch.optim.SGD, lr=0.02, momentum=0.9)
    adamw = partial(torch.optim.AdamW, lr=1e-3)
    on_digits = partial(_OnDigits, verdict="HEALTHY", cause="")
    yield on_digits(name="MLP, ReLU, Adam", model=lambda: deep(3, nn.ReLU, he))
    yield on_digits(name="MLP, ReLU, SGD", model=lambda: deep(3, nn.ReLU, he), optimizer=momentum)
    yield on_digits(name="MLP, tanh, Adam", model=lambda: deep(3, nn.Tanh))
    yield on_digits(
        name="MLP, default init, SGD", model=lambda: deep(2, nn.ReLU), optimizer=momentum
    )
    yield on_digits(name="10 ReLU, He, Adam", model=lambda: deep(10, nn.ReLU, he))
    yield on_digits(
        name="10 ReLU, batch norm, SGD",
        model=lambda: deep(10, nn.ReLU, he, batch_norm=True),
        optimizer=sgd,
    )
    images = partial(digits, images=True)
    yield on_digits(name="CNN, batch norm, Adam", model=convolutional, batches=images)
    yield on_digits(
        name="CNN, batch norm, SGD", model=convolutional, batches=images, optimizer=momentum
    )
    yield on_digits(name="CNN, plain, Adam", model=lambda: convolutional(False), batches=images)
    yield Training(
        "GRU, adding, Adam",
        "HEALTHY",
        "",
        lambda: LastState(partial(nn.GRU, 2, WIDTH, batch_first=True)),
        adding,
        functional.mse_loss,
        partial(torch.optim.Adam, lr=3e-3),
        steps=1500,
        max_norm=1.0,
    )
    yield Training(
        "identity RNN, clipped",
        "HEALTHY",
        "",
        identity_rnn,
        adding,
        functional.mse_loss,
        adam,
        steps=1500,
        max_norm=1.0,
    )
    yield Training(
        "GRU, characters, Adam",
        "HEALTHY",
        "",
        CharacterGRU,
        characters,
        next_character,
        partial(torch.optim.Adam, lr=3e-3),
        steps=400,
        max_norm=1.0,
    )
    for name, optimizer in (
        ("AdamW", adamw),
        ("SGD", partial(torch.optim.SGD, lr=0.1, momentum=0.9)),
    ):
        yield Training(
            f"transformer, characters, {name}",
            "HEALTHY",
            "",
            CharacterTransformer,
            characters,
            next_character,
            optimizer,
            steps=400,
            max_norm=1.0,
        )


HEALTHY: tuple[Training, ...] = tuple(_healthy())
