"""`gradkern doctor` and `gradkern report`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_training import network
from torch import nn
from typer.testing import CliRunner

from gradkern.cli import create_app
from gradkern.monitor import doctor
from gradkern.monitor.report import Report

_SICK = """
import torch
from torch import nn

def make_training():
    layers = [m for _ in range(12) for m in (nn.Linear(16, 16), nn.Sigmoid())]
    model = nn.Sequential(*layers, nn.Linear(16, 4))
    batches = [(torch.randn(8, 16), torch.randint(4, (8,))) for _ in range(10)]
    return model, nn.functional.cross_entropy, batches

def make_with_optimizer():
    model, loss, batches = make_training()
    return model, loss, iter(batches), torch.optim.SGD(model.parameters(), lr=0.5)

def make_nothing():
    return 3

def make_wrong():
    return 1, 2, 3
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "patient.py").write_text(_SICK)
    return tmp_path


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(create_app(), list(arguments))
    return result.exit_code, result.output


def test_doctor_says_what_is_wrong_and_report_shows_it_again(here: Path) -> None:
    code, out = invoke(
        "doctor",
        "patient:make_training",
        "--steps",
        "210",
        "--log",
        "run.jsonl",
        "--html",
        "a.html",
    )
    assert code == 1, out
    assert "VANISHING 0 - " in out
    assert "cause: sigmoid" in out.replace("\n", " ")
    assert "remedy 1" in out
    assert (here / "a.html").stat().st_size > 1 << 20
    code, again = invoke("report", "run.jsonl", "--html", "b.html", "--plot", "c.png")
    assert code == 0, again
    assert "VANISHING 0 - " in again
    assert "remedy 1" in again
    assert (here / "b.html").stat().st_size > 1 << 20
    assert (here / "c.png").stat().st_size > 10_000


def test_doctor_takes_an_optimizer_and_batches_that_end(here: Path) -> None:
    code, out = invoke("doctor", "patient:make_with_optimizer", "--max-norm", "1")
    assert code == 0, out
    assert "step 10: loss" in out
    assert "learning rate 0.5" in out


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("patient", "must be module:function"),
        ("no_such_module:make", "No module named"),
        ("patient:make_other", "has no attribute"),
        ("patient:make_nothing", "returned a int; it must return (model, loss, batches)"),
        ("patient:make_wrong", "model is a int; it must be"),
    ],
)
def test_doctor_says_what_it_cannot_run(here: Path, target: str, complaint: str) -> None:
    code, out = invoke("doctor", target)
    assert code == 2
    assert complaint in " ".join(out.replace("\u2502", " ").split())


def test_report_says_what_it_cannot_read(here: Path) -> None:
    for name in ("missing.jsonl", "patient.py"):
        code, out = invoke("report", name)
        assert code == 2
        assert name in out


def test_examine_needs_a_batch() -> None:
    model = network()
    training = doctor.Training(
        model, nn.functional.cross_entropy, [], torch.optim.SGD(model.parameters(), lr=0.1)
    )
    with pytest.raises(ValueError, match="no batch"):
        doctor.examine(training, 3)
    assert Report.__doc__
