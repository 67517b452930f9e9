"""The handwritten digits that come with scikit-learn: 1797 images of 8x8 pixels, no download."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

PIXELS = 64
ROWS = 8
CLASSES = 10


@dataclass(frozen=True)
class Digits:
    """Images as float32 [n, 64], every pixel standardised; labels as int64 [n]."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    def batches(self, size: int, order: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of the training set in random order, without the ragged last batch."""
        shuffled = torch.randperm(len(self.train_images), generator=order)
        for indices in torch.split(shuffled, size)[: self.batches_per_epoch(size)]:
            yield self.train_images[indices], self.train_labels[indices]

    def batches_per_epoch(self, size: int) -> int:
        return len(self.train_images) // size


def load(seed: int) -> Digits:
    """Splits the digits 80:20, every class in proportion, and standardises the pixels."""
    # Here: it takes as long to import as half of torch, and the processes that train do without.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler

    images, labels = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        images, labels, test_size=0.2, random_state=seed, stratify=labels
    )
    scaler = StandardScaler().fit(train_x)  # on the training set only: the test set stays unseen
    return Digits(
        train_images=torch.tensor(scaler.transform(train_x), dtype=torch.float32),
        train_labels=torch.tensor(train_y),
        test_images=torch.tensor(scaler.transform(test_x), dtype=torch.float32),
        test_labels=torch.tensor(test_y),
    )
