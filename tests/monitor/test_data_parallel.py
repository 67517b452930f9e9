"""The monitor under DistributedDataParallel, on two processes with gloo."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_training import gradients, loss_of, network, total_norm

_RANK = """
import json, os, sys
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
sys.path.insert(0, {folder!r})
from small_training import loss_of, network
import gradkern

rank = int(sys.argv[1])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method="file://{store}", rank=rank, world_size=2)
model = DistributedDataParallel(network())
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
told = []
monitor = gradkern.Monitor(model, optimizer, on_alert=told.append, rules={{"loss_stall": False}})
loss = loss_of(model, seed=rank)
loss.backward()
monitor.clip_grad_norm_(0.01)
optimizer.step()
monitor.step(loss)
optimizer.zero_grad()
loss = loss_of(model, seed=rank) * float("nan")  # on every rank an alert, which one reports
loss.backward()
optimizer.step()
monitor.step(loss)
first = monitor.last
monitor.close()
print(json.dumps(dict(
    names=first.gradients.names, norms=list(first.gradients.norm), loss=first.loss,
    before=first.total_norm_before, after=first.total_norm_after,
    outputs=list(first.activations.stats.mean), alerts=len(monitor.alerts), told=len(told),
)))
dist.barrier()
dist.destroy_process_group()
# Not by the interpreter's end: a thread of gloo's that is still there would abort the process.
sys.stdout.flush()
os._exit(0)
"""


def test_two_processes(tmp_path: Path) -> None:
    script = _RANK.format(folder=str(Path(__file__).parent), store=tmp_path / "store")
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(rank)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    results = []
    for process in ranks:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        results.append(json.loads(out.splitlines()[-1]))

    model = network()
    for rank in range(2):
        (loss_of(model, seed=rank) / 2).backward()
    expected = gradients(model)
    for rank, result in enumerate(results):
        assert result["names"] == [n for n, _ in model.named_parameters()]
        assert result["norms"] == pytest.approx([float(g.norm()) for g in expected], rel=1e-5)
        assert result["before"] == pytest.approx(total_norm(expected), rel=1e-5)
        assert result["after"] == pytest.approx(0.01, rel=1e-3)
        assert result["loss"] == pytest.approx(float(loss_of(network(), seed=rank).detach()))
        assert result["alerts"] > 0
        assert (result["told"] > 0) == (rank == 0), "only rank 0 handles alerts"
    assert results[0]["outputs"] != results[1]["outputs"]
    assert torch.get_num_threads() >= 1
