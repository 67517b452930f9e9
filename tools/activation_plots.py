"""One plot of value and derivative for each activation of the gallery."""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gradkern.activations import Activation


def draw(row: Activation, path: Path) -> None:
    """Draws value and derivative over [-6, 6], as the kernels compute them."""
    x = torch.linspace(-6, 6, 1201, dtype=torch.float64)
    value, derivative = row.with_derivative(x, *row.defaults())
    figure = Figure(figsize=(5, 2.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.axhline(0, color="0.8", linewidth=0.8)
    axes.axvline(0, color="0.8", linewidth=0.8)
    axes.plot(x, value, label=row.name, color="tab:blue", linewidth=2)
    axes.plot(x, derivative, label="derivative", color="tab:orange", linewidth=1.5)
    axes.set_ylim(max(-3.0, float(value.min()) - 0.3), min(4.0, float(value.max()) + 0.3))
    axes.set_xlabel("x")
    axes.legend(loc="upper left", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80, metadata={"Software": None})
