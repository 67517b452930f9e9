"""`gradkern demo`, quick: the networks have their full depth, only the training is short."""

from __future__ import annotations

import io
import math
import multiprocessing
import re
from dataclasses import fields, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.image import imread
from rich.console import Console
from torch import nn
from torch.nn import functional
from typer.testing import CliRunner

from gradkern.cli import create_app
from gradkern.demo import digits, plot, terminal
from gradkern.demo.networks import DeepStack, LayeredNetwork, RowReader
from gradkern.demo.profile import Profile, measure
from gradkern.demo.section import Result
from gradkern.demo.show import show
from gradkern.demo.side_by_side import train_all
from gradkern.demo.training import Run, Workload

CHANCE = 0.1


def run_demo(*options: str) -> str:
    """Standard output of a quick demo."""
    result = CliRunner().invoke(create_app(), ["demo", "--quick", *options])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def results() -> list[Result]:
    """Of a quick demo, which leaves random state and threads as they were."""
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    shown = show(quick=True, console=Console(file=io.StringIO()))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    return shown


@pytest.fixture(scope="module")
def runs(results: list[Result]) -> dict[str, Run]:
    return {run.workload.name: run for result in results for run in result.runs}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "demo.png"


@pytest.fixture(scope="module")
def printed(drawn: Path) -> str:
    return run_demo("--output", str(drawn))


# What the command prints and writes.


def test_prints_every_layer_with_its_numbers(printed: str) -> None:
    number = r"(\d\.\de[+-]\d\d|0\.0)"
    row = rf"\W*{number}\W+{number}\W+{number}\W+\d+%"
    for i in range(1, 31):
        shown = len(re.findall(rf"\bhidden {i}\b{row}", printed))
        assert shown == (2 if i <= 10 else 1), f"hidden {i}: the first ten are in two networks"
    assert len(re.findall(rf"\boutput\b{row}", printed)) == 2
    for i in range(1, 9):
        assert len(re.findall(rf"\brow {i}\b{row}", printed)) == 1


def test_prints_the_monitors_verdict_then_every_remedy_with_what_it_did(printed: str) -> None:
    summary = printed.index("What happened")
    for section, (verdict, cause, remedies) in {
        "Vanishing": (
            "VANISHING",
            "sigmoid",
            (
                "ReLU, He init",
                "batch norm",
                "skip connections",
                "residual network",
                "SELU, LeCun init",
            ),
        ),
        "Diverging": ("EXPLODING", "learning rate", ("learning rate 0.05", "batch norm, lr 1")),
        "Exploding": ("EXPLODING", "recurrence", ("recurrent, clipped", "recurrent weights I")),
    }.items():
        text = printed[printed.index(f" {section} ") : summary]
        places = [
            text.index("The monitor's verdict:"),
            text.index(f"{verdict} "),
            text.index(f"cause: {cause}"),
            text.index("remedy 1"),
            *(text.index(name, text.index("Each remedy applied")) for name in remedies),
        ]
        assert places == sorted(places), section


def test_compares_activations_with_fitting_initialisations(printed: str) -> None:
    table = printed[printed.index("30 layers with other activations") :]
    number = r"\d\.\de[+-]\d\d"
    for name in ("tanh", "ReLU", "leaky ReLU", "RReLU", "PReLU", "ELU", "SELU"):
        row = re.search(rf"^\W*{name} +(He|LeCun|Glorot) +({number}) .*$", table, re.MULTILINE)
        assert row, f"no row of {name}"
        assert float(row[2]) > 1e-6
        assert "VANISHING" not in row[0]
    sigmoid = re.search(rf"^\W*sigmoid +Glorot +({number}) .* VANISHING", table, re.MULTILINE)
    assert sigmoid
    assert float(sigmoid[1]) < 1e-12


def test_names_the_report_that_it_wrote(printed: str, drawn: Path) -> None:
    page = drawn.with_suffix(".html")
    assert printed.rstrip().endswith(str(page))
    text = page.read_text()
    assert "VANISHING" in text
    assert "Plotly.newPlot" in text


def test_draws_an_image(printed: str, drawn: Path) -> None:
    assert str(drawn) in printed
    pixels = imread(drawn)
    height, width, _ = pixels.shape
    assert height > 800
    assert width > 1200
    colours = {tuple(colour) for colour in (pixels[::3, ::3, :3] * 255).astype(int).reshape(-1, 3)}
    for line in ("#0072B2", "#009E73", "#D55E00", "#AA4499"):
        assert tuple(bytes.fromhex(line[1:])) in colours, f"no {line}: a network is not drawn"


def test_same_seed_same_output(printed: str, drawn: Path) -> None:
    assert run_demo("--output", str(drawn)) == printed


def test_another_seed_without_a_plot_prints_something_else_and_writes_nothing(
    printed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other = run_demo("--no-plot", "--seed", "1")
    assert other != printed
    assert "Plot" not in other
    assert not list(tmp_path.iterdir())


def test_prints_where_only_ascii_goes(results: list[Result]) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    console = Console(file=stream)
    for result in results:
        terminal.print_result(console, result)
    terminal.print_summary(console, results)
    stream.flush()


def test_draws_as_many_sections_as_there_are(results: list[Result]) -> None:
    one, three, five = map(plot.draw, (results[:1], results, [*results, *results[:2]]))
    panels = [len(figure.axes) for figure in (one, three, five)]
    assert panels == [1 + 1, 3 + 2, 5 + 2], "sections, the losses, and the norms if anything clips"
    assert one.get_figheight() == three.get_figheight() < five.get_figheight()
    five.draw_without_rendering()


# What the networks do.


def test_thirty_sigmoids_vanish_at_the_first_step(runs: dict[str, Run]) -> None:
    run = runs["30 sigmoid layers"]
    assert run.first.depth == 30
    assert 0 < run.first.first_to_last < 1e-15
    assert run.first.decades_per_layer == pytest.approx(-0.85, abs=0.05)
    assert run.accuracy < 2 * CHANCE
    assert run.verdict == "VANISHING"


def test_native_norms_lose_what_has_vanished(runs: dict[str, Run]) -> None:
    profile = runs["30 sigmoid layers"].first
    assert "hidden 1" in profile.native_lost
    assert profile.native_norms[0] == 0.0
    assert profile.norms[0] > 0
    assert profile.zero_fractions[0] < 0.1, "the gradient is not zero"
    assert "output" not in profile.native_lost


@pytest.mark.parametrize(
    "remedy", ["batch norm", "skip connections", "residual network", "SELU, LeCun init"]
)
def test_remedies_let_the_gradient_through(runs: dict[str, Run], remedy: str) -> None:
    assert runs[remedy].first.first_to_last > 1e6 * runs["30 sigmoid layers"].first.first_to_last
    assert runs[remedy].verdict != "VANISHING"


def test_a_smaller_learning_rate_is_healthy(runs: dict[str, Run]) -> None:
    run = runs["learning rate 0.05"]
    assert 0.1 < run.first.first_to_last < 10
    assert run.verdict == "HEALTHY"
    assert run.accuracy > runs["SGD, learning rate 1"].accuracy + 0.1


def test_without_clipping_the_recurrent_network_explodes(runs: dict[str, Run]) -> None:
    run = runs["recurrent, not clipped"]
    assert run.first.first_to_last > 50
    assert run.diverged
    assert run.accuracy < 2 * CHANCE
    assert run.largest_norm > 1e3 * run.norms_before[0]
    assert run.now.finite
    assert run.verdict == "EXPLODING"


def test_with_clipping_it_trains(runs: dict[str, Run]) -> None:
    run, free = runs["recurrent, clipped"], runs["recurrent, not clipped"]
    assert run.first == free.first, "the same network on the same batch"
    assert not run.diverged
    assert run.norms_before[0] == free.norms_before[0] > 50
    assert max(run.norms_after) <= 1.0 + 1e-5
    assert run.final_loss < run.losses[0] / 10
    assert run.accuracy > free.accuracy + 0.3


# Side by side, in processes.


def _workload(name: str, **options: Any) -> Workload:
    return Workload(
        name=name,
        recipe="",
        network=partial(DeepStack, **options),
        optimizer=partial(torch.optim.SGD, lr=0.1),
        epochs=1,
        quick_epochs=1,
    )


def _trained(workloads: list[Workload], processes: int) -> tuple[list[Run], list[int]]:
    progress: list[int] = []
    runs = train_all(
        workloads,
        digits.load(0),
        seed=0,
        quick=True,
        processes=processes,
        on_progress=progress.append,
    )
    return list(runs), progress


def test_processes_train_as_one_does() -> None:
    workloads = [
        _workload("shallow", depth=2, activation=nn.Tanh),
        # Its gradients overflow soon: the steps that it leaves out count as made.
        _workload(
            "diverging", depth=3, activation=nn.ReLU, initialise=partial(nn.init.normal_, std=1e9)
        ),
        _workload("deep", depth=4, activation=nn.ReLU),
    ]
    here, progress_here = _trained(workloads, processes=1)
    elsewhere, progress = _trained(workloads, processes=2)
    for run, other in zip(here, elsewhere, strict=True):
        for field in fields(Run):
            if field.name not in ("workload", "report"):
                values = getattr(run, field.name), getattr(other, field.name)
                assert repr(values[0]) == repr(values[1]), (run.workload.name, field.name)
        assert str(run.report) == str(other.report)
        assert run.workload.name == other.workload.name
    assert here[1].diverged
    total = len(workloads) * digits.load(0).batches_per_epoch(64)
    assert progress_here[-1] == progress[-1] == total
    assert progress == sorted(progress)


def test_what_a_training_raises_arrives_and_ends_the_others() -> None:
    workloads = [
        _workload("broken", depth=2, activation=partial(nn.Linear, 3, 3)),
        replace(_workload("long", depth=2, activation=nn.Tanh), quick_epochs=10_000),
    ]
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        _trained(workloads, processes=2)
    assert not multiprocessing.active_children()


# How it is measured.


@pytest.mark.parametrize(
    "network", [partial(DeepStack, 4, nn.Tanh), partial(RowReader, gain=1.0)], ids=["deep", "rows"]
)
def test_profile_holds_the_gradients_of_the_loss(network: partial[LayeredNetwork]) -> None:
    torch.manual_seed(0)
    net = network()
    images, labels = torch.randn(16, digits.PIXELS), torch.randint(digits.CLASSES, (16,))
    functional.cross_entropy(net(images), labels).backward()
    profile = measure(net).profile()
    gradients = [tensor.grad for tensor in net.layers().values()]
    assert all(g is not None for g in gradients)
    for norm, zeros, g in zip(profile.norms, profile.zero_fractions, gradients, strict=True):
        assert norm == pytest.approx(float(g.double().norm()), rel=1e-6)
        assert zeros == float((g == 0).double().mean())
    assert profile.depth <= len(profile.layers) == len(gradients)


def test_row_reader_states_are_chained() -> None:
    """The gradient of a row's state is that of the next row's, through relu and the weights."""
    torch.manual_seed(0)
    net = RowReader(gain=2.0)
    net(torch.randn(8, digits.PIXELS)).square().sum().backward()
    states = list(net.layers().values())
    for state, following in pairwise(states):
        assert state.grad is not None
        assert following.grad is not None
        backward = (following.grad * (following > 0)) @ net.recall.weight
        torch.testing.assert_close(state.grad, backward)


def _profile(norms: list[float], native: list[float] | None = None, depth: int = 0) -> Profile:
    count = len(norms)
    return Profile(
        layers=tuple(f"layer {i}" for i in range(count)),
        depth=depth or count,
        norms=tuple(norms),
        native_norms=tuple(native or norms),
        zero_fractions=(0.0,) * count,
    )


def test_slope_and_ratio_count_only_the_layers_alike() -> None:
    profile = _profile([1e-6, 1e-4, 1e-2, 7.0], depth=3)
    assert profile.decades_per_layer == pytest.approx(-2)
    assert profile.first_to_last == pytest.approx(1e-4)
    assert _profile([8.0, 4.0, 2.0]).decades_per_layer == pytest.approx(math.log10(2))


def test_native_lost_is_neither_zero_nor_infinite_itself() -> None:
    inf = math.inf
    profile = _profile([1e-26, 0.0, 1.0, inf, 1e20], native=[0.0, 0.0, 1.0, inf, inf])
    assert profile.native_lost == ("layer 0", "layer 4")


def test_digits_are_standardised_and_split() -> None:
    data = digits.load(0)
    assert len(data.train_images) + len(data.test_images) == 1797
    varying = data.train_images.std(0) > 0
    torch.testing.assert_close(data.train_images.mean(0), torch.zeros(64), atol=1e-5, rtol=0)
    spread = data.train_images[:, varying].std(0, correction=0)
    torch.testing.assert_close(spread, torch.ones_like(spread))
    batches = list(data.batches(64, torch.Generator().manual_seed(0)))
    assert [len(labels) for _, labels in batches] == [64] * data.batches_per_epoch(64)
