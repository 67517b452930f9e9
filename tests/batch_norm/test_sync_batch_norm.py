"""gradkern.nn.SyncBatchNorm on real processes, over gloo."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import gradkern

# Every process has another number of rows; the last of three has none.
COUNTS = {2: (3, 6), 3: (5, 4, 0)}

_RANK = """
import os, sys
import torch, torch.distributed as dist
import gradkern

rank = int(sys.argv[1])
counts = {counts}
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method="file://{store}", rank=rank, world_size=len(counts))
torch.manual_seed(0)
x = torch.randn(sum(counts), 4, 3, dtype=torch.float64) * 3 + 7
grad = torch.randn_like(x)
layer = torch.nn.Sequential(torch.nn.BatchNorm1d(4, dtype=torch.float64))
layer = gradkern.nn.SyncBatchNorm.convert_sync_batchnorm(layer)[0]
layer.activation = {activation!r}
with torch.no_grad():
    layer.weight.copy_(torch.arange(4) + 1.0)
found = []
layer.on_stats = lambda module, stats: found.append(stats.output.values)
layer.measures_output = True
first = sum(counts[:rank])
mine = x[first : first + counts[rank]].requires_grad_()
y = layer(mine)
y.backward(grad[first : first + counts[rank]])
torch.save(
    dict(y=y.detach(), dx=mine.grad, dw=layer.weight.grad, db=layer.bias.grad,
         mean=layer.running_mean, var=layer.running_var, output=found[0]),
    {folder!r} + f"/{{rank}}.pt",
)
dist.barrier()
dist.destroy_process_group()
# Not by the interpreter's end: a thread of gloo's that is still there would abort the process.
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.parametrize("activation", ["identity", "silu"])
@pytest.mark.parametrize("processes", [2, 3])
def test_as_one_process_on_the_joined_batch(
    processes: int, activation: str, tmp_path: Path
) -> None:
    program = _RANK.format(
        counts=COUNTS[processes],
        store=tmp_path / "store",
        folder=str(tmp_path),
        activation=activation,
    )
    running = [
        subprocess.Popen([sys.executable, "-c", program, str(rank)], stderr=subprocess.PIPE)
        for rank in range(processes)
    ]
    finished = [process.communicate(timeout=120) for process in running]
    for process, (_, errors) in zip(running, finished, strict=True):
        assert process.returncode == 0, errors.decode()
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(processes)]

    torch.manual_seed(0)
    x = (torch.randn(9, 4, 3, dtype=torch.float64) * 3 + 7).requires_grad_()
    grad = torch.randn_like(x)
    layer = nn.BatchNorm1d(4, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(4) + 1.0)
    y = layer(x)
    if activation != "identity":
        y = getattr(nn.functional, activation)(y)
    y.backward(grad)
    assert x.grad is not None
    torch.testing.assert_close(torch.cat([p["y"] for p in parts]), y.detach())
    torch.testing.assert_close(torch.cat([p["dx"] for p in parts]), x.grad)
    torch.testing.assert_close(sum(p["dw"] for p in parts), layer.weight.grad)
    torch.testing.assert_close(sum(p["db"] for p in parts), layer.bias.grad)
    for part in parts:
        torch.testing.assert_close(part["mean"], layer.running_mean)
        torch.testing.assert_close(part["var"], layer.running_var)
        # Of the process's own output: count, sum, sum of squares.
        own = [part["y"].numel(), part["y"].sum().item(), part["y"].square().sum().item()]
        assert part["output"][:3].tolist() == pytest.approx(own, rel=1e-12, abs=1e-12)


def test_alone_it_is_batch_normalisation() -> None:
    layer, plain = gradkern.nn.SyncBatchNorm(3), nn.BatchNorm2d(3)
    x = torch.randn(4, 3, 5, 5)
    torch.testing.assert_close(layer(x), plain(x))
    assert isinstance(layer, nn.SyncBatchNorm)


def test_conversion_keeps_parameters_and_activation() -> None:
    model = nn.Sequential(
        nn.BatchNorm1d(3), nn.Sequential(gradkern.nn.BatchNorm2d(2, activation="elu"))
    )
    weight = model[0].weight
    converted = gradkern.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert converted[0].weight is weight
    assert converted[1][0].activation == "elu"
    assert type(converted[0]) is type(converted[1][0]) is gradkern.nn.SyncBatchNorm
