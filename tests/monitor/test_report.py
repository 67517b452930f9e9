"""Reports: as text, in the terminal, as a picture, and as a page in a real browser."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from rich.console import Console
from small_training import network, train_step
from torch import nn
from workloads import SICK

import gradkern
from gradkern.monitor import Report
from gradkern.monitor.history import RunHistory
from gradkern.monitor.plot_data import recent_range
from gradkern.monitor.terminal import LiveLine

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@pytest.fixture(scope="module")
def sick() -> gradkern.Monitor:
    """Ten sigmoid layers, 30 steps."""
    training = next(t for t in SICK if t.name == "10 sigmoid")
    return training.run(0, 30)[0]


def test_text_has_the_verdict_first_then_evidence_cause_remedies_layers(
    sick: gradkern.Monitor,
) -> None:
    lines = str(sick.report()).splitlines()
    assert lines[0].startswith("VANISHING 0 - ")
    text = "\n".join(lines)
    places = [
        text.index(word)
        for word in ("\n  evidence", "\n  cause", "remedy 1", "remedy 2", "step 30")
    ]
    assert places == sorted(places)
    assert "torch.nn.init.kaiming_normal_" in text
    rows = [line for line in lines if re.match(r" +\d+ +\d\.\de", line)]
    assert len(rows) == 11
    assert rows[-1].count("#") > rows[0].count("#")


def test_terminal_has_a_bar_for_each_layer(sick: gradkern.Monitor) -> None:
    console = Console(record=True, width=140, file=io.StringIO(), color_system=None)
    console.print(sick.report())
    text = console.export_text()
    assert "VANISHING" in text.splitlines()[1]
    assert text.count("\u2501") + text.count("-") > 11 * 10
    for word in ("evidence", "cause", "remedy 1", "at step 1"):
        assert word in text


def test_exact_updates_show_what_they_cost() -> None:
    model = network(width=64)
    sampled, exact = gradkern.Monitor(model), gradkern.Monitor(model, updates="exact")
    for monitor in (sampled, exact):
        monitor.step(1.0)
    assert "exact updates hold 0.0" in str(exact.report())
    assert "exact updates" not in str(sampled.report())
    assert exact.memory()["samples"] == exact.memory()["parameters"]
    assert sampled.memory()["samples"] <= 0.005 * exact.memory()["parameters"]


def test_report_before_any_step() -> None:
    with pytest.raises(RuntimeError, match="nothing has been measured"):
        gradkern.Monitor(network()).report()


def test_plot_draws_all_panels(sick: gradkern.Monitor, tmp_path: Path) -> None:
    figure = sick.plot(tmp_path / "plots.png")
    titles = [axes.get_title() for axes in figure.axes]
    for expected in (
        "against depth",
        "layer by step",
        "update / weight",
        "total gradient",
        "loss",
        "death",
    ):
        assert any(expected in title for title in titles)
    assert imread(tmp_path / "plots.png").shape[1] > 1000
    first = figure.axes[0].lines[0].get_ydata()
    assert first[0] < -8, "log10 of the first layer's norm"


def test_axes_do_not_follow_early_outliers() -> None:
    low, high = recent_range(np.r_[1e6, np.linspace(1, 2, 99)])
    assert 0.8 < low < 1.6
    assert high < 2.2
    assert recent_range(np.full(4, np.nan)) == (0.0, 1.0)
    assert recent_range(np.zeros(9), including=-3.0)[0] < -3


def test_live_line() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    stream = io.StringIO()
    line = LiveLine(Console(file=stream, force_terminal=True, width=120))
    monitor = gradkern.Monitor(model, optimizer, log=line)
    for seed in range(3):
        train_step(model, optimizer, monitor, seed=seed)
    monitor.close()
    shown = stream.getvalue()
    assert re.search(r"step 1  loss \d.*\|g\| .*lr 0\.1", shown)
    assert monitor.status().startswith("step 3: HEALTHY, loss")
    assert "HEALTHY" in shown
    elsewhere = io.StringIO()
    quiet = LiveLine(Console(file=elsewhere))
    quiet({"kind": "step", "step": 1, "loss": 1, "learning_rate": 1,
           "total_norm_before_clipping": 2, "total_norm_after_clipping": 1})  # fmt: skip
    quiet.close()
    assert elsewhere.getvalue() == "step 1  loss 1  |g| 2 -> 1  lr 1  HEALTHY\n"


# The page, in a browser.


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def opened_page(browser: Any, path: Path) -> tuple[Any, list[str]]:
    """The page, offline, and what the console complains of or the page asks the network for."""
    context = browser.new_context(offline=True, viewport={"width": 1300, "height": 1000})
    page = context.new_page()
    complaints: list[str] = []
    page.on(
        "console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request",
        lambda r: (
            None if r.url.startswith(("file:", "data:", "blob:")) else complaints.append(r.url)
        ),
    )
    page.goto(path.as_uri())
    page.wait_for_selector("#bars .main-svg", timeout=20_000)
    return page, complaints


def test_page_opens_offline_and_draws_all_plots(
    sick: gradkern.Monitor, tmp_path: Path, browser: Any
) -> None:
    path = sick.report().html(tmp_path / "report.html")
    page, complaints = opened_page(browser, path)
    assert complaints == []
    assert page.inner_text("#verdict").startswith("VANISHING 0 - ")
    assert "cause: sigmoid" in page.inner_text("#verdict")
    assert len(page.query_selector_all("#depth .scatterlayer path.js-line")) == 2
    assert len(page.query_selector_all("#depth .scatterlayer .points path")) == 22
    assert page.query_selector("#heat image, #heat canvas") is not None
    assert len(page.query_selector_all("#updates .scatterlayer path.js-line")) == 11
    assert len(page.query_selector_all("#norms .scatterlayer path.js-line")) == 3
    assert len(page.query_selector_all("#bars .bars path")) >= 10
    assert "kaiming_normal_" in page.inner_text("body")
    assert len(page.query_selector_all("meter")) == 11


def test_page_of_an_exploded_training_with_hostile_names(tmp_path: Path, browser: Any) -> None:
    name = "</script><script>throw 1</script>"
    history = RunHistory(20)
    history.add(
        {"kind": "run", "begins": True, "parameters": [name, "b"], "layers": [name, "b"],
         "matrices": [True, True], "outputs": [name], "output_kinds": ["ReLU"]}
    )  # fmt: skip
    for step in range(1, 30):
        norm = np.inf if step > 20 else 10.0**step
        history.add(
            {"kind": "step", "step": step, "loss": norm, "learning_rate": 1.0,
             "total_norm_before_clipping": norm, "total_norm_after_clipping": norm,
             "gradient_norm": np.array([norm, np.nan]), "weight_rms": np.ones(2),
             "update_ratio": np.zeros(2), "output_mean": np.ones(1), "output_std": np.ones(1),
             "saturated": np.array([np.nan]), "dead": np.array([0.5])}
        )  # fmt: skip
    path = Report(history, name).html(tmp_path / "report.html")
    page, complaints = opened_page(browser, path)
    assert complaints == []
    assert name in page.inner_text("table")


def test_page_of_a_thousand_layers_and_ten_thousand_steps(tmp_path: Path, browser: Any) -> None:
    layers = [f"blocks.{i}.linear" for i in range(1000)]
    history = RunHistory(400)
    history.add(
        {"kind": "run", "begins": True, "parameters": layers, "layers": layers,
         "matrices": [True] * 1000, "outputs": layers[:500], "output_kinds": ["ReLU"] * 500}
    )  # fmt: skip
    noise = np.random.default_rng(0)
    depth = 10.0 ** -np.linspace(8, 0, 1000)
    for step in range(1, 10_001):
        jitter = 1 + 0.1 * noise.random(1000)
        history.add(
            {"kind": "step", "step": step, "loss": 3 / step**0.3, "learning_rate": 1e-3,
             "total_norm_before_clipping": 1 + jitter[0], "total_norm_after_clipping": 1.0,
             "gradient_norm": depth * jitter, "weight_rms": jitter, "update_ratio": 1e-3 * jitter,
             "output_mean": jitter[:500], "output_std": jitter[:500],
             "saturated": jitter[:500] / 4, "dead": jitter[:500] / 8}
        )  # fmt: skip
    path = Report(history).html(tmp_path / "large.html")
    assert path.stat().st_size < 16 << 20
    page, complaints = opened_page(browser, path)
    assert complaints == []
    # Usable: a zoom is redrawn within two seconds.
    milliseconds = page.evaluate(
        """async () => {
            const start = performance.now();
            await Plotly.relayout("heat", {"xaxis.range": [2000, 4000]});
            return performance.now() - start;
        }"""
    )
    assert milliseconds < 2000
    assert page.evaluate("document.getElementById('heat').data[0].z.length") == 1000
    assert nn is not None
