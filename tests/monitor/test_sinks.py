"""Where a training's events go, and what comes back from there."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_training import network, train_step
from torch import nn

import gradkern
from gradkern.monitor import Report, sinks
from gradkern.monitor.history import RunHistory


def train(monitor_options: dict[str, Any], steps: int = 6) -> gradkern.Monitor:
    model = network(nn.Tanh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options = {"on_alert": None, "updates": "exact"} | monitor_options
    with gradkern.Monitor(model, optimizer, **options) as monitor:
        for seed in range(steps):
            train_step(model, optimizer, monitor, max_norm=0.5, seed=seed)
    return monitor


def test_jsonl_has_every_step_and_ends_with_the_verdict(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    monitor = train({"log": path})
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert [e["kind"] for e in events] == ["run", *["step"] * 6, "verdict"]
    run, last = events[0], events[-2]
    assert monitor.last is not None
    assert run["parameters"] == list(monitor.last.gradients.names)
    assert run["outputs"] == ["1", "3", "5"]
    assert last["step"] == 6
    np.testing.assert_allclose(last["gradient_norm"], monitor.last.gradients.norm, rtol=1e-4)
    assert last["total_norm_before_clipping"] >= last["total_norm_after_clipping"]
    assert events[-1]["verdict"] == "HEALTHY"


def test_jsonl_is_strict_json_also_with_what_json_lacks(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    model = network()
    monitor = gradkern.Monitor(model, log=path, on_alert=None)
    monitor.step(float("nan"))
    monitor.close()

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    lines = path.read_text().splitlines()
    events = [json.loads(line, parse_constant=refuse) for line in lines]
    step = next(e for e in events if e["kind"] == "step")
    assert step["loss"] == "nan"
    assert set(step["gradient_norm"]) == {"nan"}
    assert Report.of_log(path).history.points[0].loss != 0


def test_a_log_can_be_read_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = gradkern.Monitor(model, optimizer, log=path)
    for seed in range(4):
        train_step(model, optimizer, monitor, seed=seed)
    report = Report.of_log(path)
    assert report.history.last_step["step"] == 3, "the fourth is judged a step later"
    assert "step 3" in str(report)
    with path.open("a") as file:
        file.write('{"kind": "step", "lo')
    assert Report.of_log(path).history.last_step["step"] == 3
    monitor.close()


_FOREVER = """
import sys; sys.path.insert(0, {folder!r})
import torch; torch.set_num_threads(1)
from small_training import network, train_step
import gradkern
model = network()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
monitor = gradkern.Monitor(model, optimizer, log={path!r}, on_alert=None)
print("ready", flush=True)
while True:
    train_step(model, optimizer, monitor)
    print(monitor._step, flush=True)
"""


def test_kill_9_loses_at_most_the_last_line(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    script = _FOREVER.format(folder=str(Path(__file__).parent), path=str(path))
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == "40":
            break
    os.kill(process.pid, signal.SIGKILL)
    printed = [int(n) for n in process.communicate()[0].split() if n.isdigit()]
    finished = max([40, *printed])
    lines = path.read_text().splitlines()
    for line in lines[:-1]:
        json.loads(line)
    logged = Report.of_log(path).history.last_step["step"]
    assert logged >= finished - 2, "one step is still to be judged, one line may be cut off"


def test_a_log_that_was_cut_off_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    train({"log": path}, steps=3)
    path.write_bytes(path.read_bytes()[:-40])
    train({"log": path}, steps=2)
    assert Report.of_log(path).history.last_step["step"] == 2
    broken = [line for line in path.read_text().splitlines() if not line.endswith("}")]
    assert len(broken) == 1


def test_csv(tmp_path: Path) -> None:
    monitor = train({"log": str(tmp_path / "run.csv")})
    with (tmp_path / "run.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == list("123456")
    assert monitor.last is not None
    assert float(rows[-1]["loss"]) == pytest.approx(monitor.last.loss)
    assert float(rows[-1]["gradient_norm/0.weight"]) == pytest.approx(
        monitor.last.gradients.norm[0]
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    train({"log": sinks.TensorBoardSink(tmp_path)})
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path))
    events.Reload()
    tags = events.Tags()
    assert "gradkern/loss" in tags["scalars"]
    assert "gradkern/gradient_norm/0.weight" in tags["scalars"]
    assert "gradkern/saturated/1" in tags["scalars"]
    assert [s.step for s in events.Scalars("gradkern/total_norm_before_clipping")] == [*range(1, 7)]
    assert any("verdict" in tag for tag in tags["tensors"])


@pytest.mark.filterwarnings("ignore")
def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with pytest.raises(RuntimeError, match=r"wandb\.init\(\) makes one"):
        sinks.WandbSink()
    run = wandb.init(mode="offline", dir=tmp_path, project="gradkern")
    logged: list[dict[str, float]] = []
    log = run.log
    monkeypatch.setattr(run, "log", lambda data: (logged.append(data), log(data)))
    train({"log": sinks.WandbSink(run)})
    assert len(logged) == 6
    assert logged[-1]["gradkern/step"] == 6
    assert "gradkern/update_ratio/0.weight" in logged[0]
    assert run.summary["gradkern/verdict"].startswith("HEALTHY")
    run.finish()
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_any_callable_and_several_at_once(tmp_path: Path) -> None:
    kinds: list[str] = []
    train({"log": [lambda e: kinds.append(e["kind"]), tmp_path / "run.jsonl"]}, steps=2)
    assert kinds == ["run", "step", "step", "verdict"]
    assert (tmp_path / "run.jsonl").exists()
    with pytest.raises(TypeError, match="log is a int; it must be a path"):
        gradkern.Monitor(network(), log=3)  # type: ignore[arg-type]


def test_names_are_told_again_when_they_change() -> None:
    events: list[dict[str, Any]] = []
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = gradkern.Monitor(model, optimizer, log=events.append, max_history=4)
    for seed in range(3):
        train_step(model, optimizer, monitor, seed=seed)
    model.append(nn.Linear(4, 4))
    train_step(model, optimizer, monitor)
    monitor.close()
    runs = [e for e in events if e["kind"] == "run"]
    assert [r["begins"] for r in runs] == [True, False]
    assert runs[1]["parameters"][-1] == "7.bias"
    assert str(monitor.report()).startswith("HEALTHY")


def test_what_is_not_a_log_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text("hello\n[1]\n")
    with pytest.raises(ValueError, match="no event in it"):
        Report.of_log(path)
    path.write_text('{"kind": "run", "begins": true}\n')
    with pytest.raises(ValueError, match="no step in it"):
        Report.of_log(path)


# A bounded history.


def step_event(step: int, layers: int, outputs: int = 2) -> dict[str, Any]:
    ones = np.ones(layers)
    return {
        "kind": "step",
        "step": step,
        "loss": 1 / step,
        "learning_rate": 0.1,
        "total_norm_before_clipping": 100.0 if step == 777 else 1.0,
        "total_norm_after_clipping": 1.0,
        "gradient_norm": ones * step,
        "weight_rms": ones,
        "update_ratio": ones,
        "output_mean": np.ones(outputs),
        "output_std": np.ones(outputs),
        "saturated": np.zeros(outputs),
        "dead": np.zeros(outputs),
    }


def test_history_covers_a_long_run_in_bounded_memory_and_keeps_its_spikes() -> None:
    history = RunHistory(50)
    history.add({"kind": "run", "begins": True, "parameters": list("abc"), "matrices": [True] * 3})
    sizes = []
    for step in range(1, 3001):
        history.add(step_event(step, 3))
        sizes.append(history.bytes)
    assert max(sizes[500:]) <= max(sizes[:500])
    steps = [row.step for row in history.shown_rows]
    assert steps[0] == 1
    assert steps[-1] == 3000
    assert len(steps) <= 51
    gaps = np.diff(steps[:-1])
    assert len(set(gaps.tolist())) == 1, "evenly"
    assert max(point.before for point in history.points) == 100.0
    assert len(history.points) <= 250
    assert history.first is not None
    assert history.first.step == 1


def test_state_dict_goes_on_where_it_was_taken(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = gradkern.Monitor(model, optimizer, log=path, on_alert=None)
    for seed in range(5):
        train_step(model, optimizer, monitor, seed=seed)
    torch.save(monitor.state_dict(), tmp_path / "monitor.pt")
    monitor.close()

    state = torch.load(tmp_path / "monitor.pt", weights_only=True)
    resumed = gradkern.Monitor(model, optimizer, log=path, on_alert=None)
    resumed.load_state_dict(state)
    for seed in range(5):
        train_step(model, optimizer, resumed, seed=seed)
    resumed.flush()
    assert resumed.last is not None
    assert resumed.last.step == 10
    assert resumed.judge.past.steps == 10
    assert len(resumed.judge.past.losses) == 10
    assert [row.step for row in resumed.history.shown_rows] == [*range(1, 11)]
    resumed.close()
    steps = [row.step for row in Report.of_log(path).history.shown_rows]
    assert steps == [*range(1, 11)], "the log is one run"
    assert time.time() > 0
