"""One plot of value and derivative for each activation of the gallery."""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gradkern.activations import Activation


def draw(row: Activation, path: Path) -> None:
    """Draws value and derivative over [-8, 8], as the kernels compute them."""
    x = torch.linspace(-8, 8, 1601, dtype=torch.float64)
    value, derivative = row.with_derivative(x, *row.defaults())
    figure = Figure(figsize=(5, 2.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.axhline(0, color="0.8", linewidth=0.8)
    axes.axvline(0, color="0.8", linewidth=0.8)
    axes.plot(x, value, label=row.name, color="tab:blue", linewidth=2)
    axes.plot(x, derivative, label="derivative", color="tab:orange", linewidth=1.5)
    curves = torch.stack((value, derivative))
    # As far up as ReLU6 goes.
    axes.set_ylim(max(-3.0, float(curves.min()) - 0.3), min(6.6, float(curves.max()) + 0.3))
    axes.set_xlabel("x")
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80, metadata={"Software": None})
