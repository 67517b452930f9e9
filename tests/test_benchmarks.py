"""The benchmarks' harness and reports, on tiny workloads. No timing is asserted."""

from __future__ import annotations

import gc
import itertools
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy
import pytest
import torch

import gradkern

ROOT = Path(__file__).resolve().parent.parent
# Last: the package under test must stay the installed one.
sys.path.append(str(ROOT))

pytest.importorskip("matplotlib", reason="the extra [bench] is not installed")
pytest.importorskip("typer", reason="the extra [bench] is not installed")

from typer.testing import CliRunner  # noqa: E402

from benchmarks import (  # noqa: E402
    activations,
    agreement,
    batch_norm,
    call_overhead,
    clip,
    gated,
    peers,
    softmax,
    torch_baselines,
    workloads,
)
from benchmarks.bandwidth import BandwidthMeter  # noqa: E402
from benchmarks.command_line import application, devices  # noqa: E402
from benchmarks.gradients import GradientSet, GradientWorkload, ShrinkingLimit  # noqa: E402
from benchmarks.measurement import Measurement, Run  # noqa: E402
from benchmarks.paired_timing import Budget, PairedTimes, time_pairs  # noqa: E402
from benchmarks.rows import Bar, Row, Sides, Traffic  # noqa: E402

CPU = torch.device("cpu")


def small_gradients(dtype: torch.dtype = torch.float32) -> GradientSet:
    return GradientSet(((7, 5), (3,), (4, 2, 2)), dtype, CPU, zero_fraction=0.0)


class TestWorkloads:
    def test_gpt2_small_is_complete(self) -> None:
        assert len(workloads.GPT2_SMALL) == 148
        assert workloads.element_count(workloads.GPT2_SMALL) == 124_439_808

    def test_resnet50_is_complete(self) -> None:
        assert len(workloads.RESNET50) == 161
        assert workloads.element_count(workloads.RESNET50) == 25_557_032

    def test_small_tensor_workloads(self) -> None:
        shapes = workloads.equal_shapes(2000, 256)
        assert len(shapes) == 2000
        assert workloads.element_count(shapes) == 512_000

    def test_shapes_grow_with_their_arguments(self) -> None:
        # GPT-2 medium's published size.
        assert workloads.element_count(workloads.gpt2_shapes(1024, 24)) == 354_823_168
        # torchvision's resnet101.
        resnet101 = workloads.resnet_bottleneck_shapes(blocks=(3, 4, 23, 3))
        assert workloads.element_count(resnet101) == 44_549_160

    def test_share_of_zeros(self) -> None:
        data = GradientSet(((400, 500),), torch.float32, CPU, zero_fraction=0.6)
        zeros = float((data.gradients[0] == 0).double().mean())
        assert zeros == pytest.approx(0.6, abs=0.01)

    def test_restore_brings_every_value_back(self) -> None:
        data = small_gradients()
        before = [gradient.clone() for gradient in data.gradients]
        torch._foreach_mul_(data.gradients, 0.25)
        assert not torch.equal(data.gradients[0], before[0])
        data.restore()
        assert all(map(torch.equal, data.gradients, before))


class TestPairedTiming:
    def test_ratios_are_taken_pair_by_pair(self) -> None:
        times = PairedTimes(ours=[1.0, 2.0, 4.0], theirs=[2.0, 2.0, 16.0])
        # The ratio of the two medians would be 1.
        assert times.speedup().median == 2.0
        assert times.time_ratio().median == 0.5
        assert times.speedup().lower == 1.5
        assert times.speedup().upper == 3.0

    def test_sides_take_turns_and_the_first_alternates(self) -> None:
        calls: list[str] = []

        def clock(call: Any) -> float:
            call()
            return 1.0

        times = time_pairs(
            lambda: calls.append("ours"),
            lambda: calls.append("theirs"),
            clock,
            Budget(seconds=0.0, min_pairs=4, max_pairs=4, warm_up_seconds=0.0),
            reset=lambda: calls.append("reset"),
            pairs_per_reset=2,
        )
        forth, back = ["ours", "theirs"], ["theirs", "ours"]
        warm_up = ["reset", *forth]
        assert calls == [*warm_up, "reset", *forth, *back, "reset", *forth, *back]
        assert len(times.ours) == len(times.theirs) == 4

    def test_each_time_goes_to_its_side(self) -> None:
        times = time_pairs(lambda: 1.0, lambda: 5.0, lambda call: call(), Budget(0, 4, 4, 0))
        assert times == PairedTimes([1.0] * 4, [5.0] * 4)

    @pytest.mark.parametrize(
        ("seconds_a_call", "pairs"),
        [(100.0, 3), (0.25, 6), (1e-9, 20)],
        ids=["slow", "until the time is up", "fast"],
    )
    def test_budget(self, seconds_a_call: float, pairs: int) -> None:
        budget = Budget(seconds=3.0, min_pairs=3, max_pairs=20, warm_up_seconds=0.0)
        times = time_pairs(lambda: None, lambda: None, lambda _: seconds_a_call, budget)
        assert len(times.ours) == pairs

    def test_garbage_collector_is_off_only_while_timing(self) -> None:
        states: list[bool] = []
        assert gc.isenabled()
        time_pairs(
            lambda: states.append(gc.isenabled()),
            lambda: states.append(gc.isenabled()),
            lambda call: call() or 0.0,
            Budget(0, 2, 2, 0),
        )
        assert states
        assert not any(states)
        assert gc.isenabled()


class TestShrinkingLimit:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_every_call_clips_and_stays_normal(self, dtype: torch.dtype) -> None:
        data = small_gradients(dtype)
        before = [gradient.clone() for gradient in data.gradients]
        start = float(torch.nn.utils.get_total_norm(data.gradients))
        limit = ShrinkingLimit(data, start)
        for _ in range(2):
            limit.reset()
            assert all(map(torch.equal, data.gradients, before))
            for _ in range(limit.USES):
                max_norm = limit.next()
                norm = torch.nn.utils.clip_grad_norm_(data.parameters, max_norm)
                assert max_norm / float(norm) == pytest.approx(0.5, rel=0.02)
        smallest = min(float(gradient.abs().min()) for gradient in data.gradients)
        assert smallest > 1e6 * torch.finfo(dtype).tiny

    def test_one_reset_for_all_its_uses(self) -> None:
        assert 2 * ShrinkingLimit.PAIRS_PER_RESET == ShrinkingLimit.USES


def measurement(
    bar: Bar | None, times: PairedTimes, elements: int, judge: bool = True
) -> Measurement:
    workload = GradientWorkload("one", ((elements,),), torch.float32, CPU)
    meter = BandwidthMeter(CPU, lambda call: 0.0, reads=[8.0, 10.0], copies=[5.0, 4.0])
    sides = Sides(lambda: None, lambda: None, Traffic())
    row: Row[GradientSet] = Row("operation", "native", workload, lambda data: sides, bar)
    return Measurement(row, times, Traffic(read=90), 0.0, meter, judge)


class TestJudgement:
    BEYOND_EVERY_CACHE = 1 << 40

    @pytest.mark.parametrize(
        ("bar", "verdict"),
        [
            (Bar("speedup", 2.0), "met"),
            (Bar("speedup", 2.1), "missed"),
            (Bar("time", 0.5), "met"),
            (Bar("time", 0.4), "missed"),
            (Bar("seconds", 10.0), "met"),
            (Bar("seconds", 9.9), "missed"),
            # 90 bytes in 10 s against 10 bytes/s, the best round.
            (Bar("share", 0.9), "met"),
            (Bar("share", 0.91), "missed"),
            (None, None),
        ],
    )
    def test_verdicts(self, bar: Bar | None, verdict: str | None) -> None:
        times = PairedTimes([10.0], [20.0])
        assert measurement(bar, times, self.BEYOND_EVERY_CACHE).verdict == verdict

    def test_of_alternative_bars_one_is_enough(self) -> None:
        def run(*speedups: float) -> Run:
            bars = (Bar("speedup", 2, alternative=True), Bar("speedup", 1, alternative=True))
            measured = [
                measurement(bar, PairedTimes([1.0], [value]), self.BEYOND_EVERY_CACHE)
                for bar, value in zip(bars, speedups, strict=True)
            ]
            return Run({}, measured, [], True)

        assert [len(run(1.5, 1.5).judged), len(run(1.5, 1.5).missed)] == [1, 0]
        assert [len(run(2.5, 0.5).judged), len(run(2.5, 0.5).missed)] == [1, 0]
        assert [len(run(1.5, 0.5).judged), len(run(1.5, 0.5).missed)] == [1, 1]

    def test_quick_runs_are_not_judged(self) -> None:
        times = PairedTimes([10.0], [20.0])
        judged = measurement(Bar("speedup", 1.0), times, self.BEYOND_EVERY_CACHE, judge=False)
        assert judged.verdict == "not judged"

    def test_no_share_of_bandwidth_in_cache(self) -> None:
        cached = measurement(Bar("share", 0.9), PairedTimes([10.0], [20.0]), elements=10)
        assert cached.bandwidth_share is None
        assert cached.verdict == "not judged"

    def test_writing_is_held_against_the_copy_bandwidth(self) -> None:
        traffic = Traffic(read=10, read_write=20)
        assert traffic.seconds_at(read_bandwidth=5.0, copy_bandwidth=4.0) == 7.0
        assert traffic.total == 30


class TestAgreement:
    def test_raises_where_results_differ(self) -> None:
        data = small_gradients()
        sides = Sides(lambda: torch.tensor(1.0), lambda: torch.tensor(1.1), Traffic())
        with pytest.raises(RuntimeError, match="row: both sides must do the same work"):
            agreement.check("row", sides, data, torch.float32)

    def test_raises_where_the_gradients_left_behind_differ(self) -> None:
        data = small_gradients()
        sides = Sides(
            lambda: data.gradients[1].mul_(0.5), lambda: None, Traffic(), reset=data.restore
        )
        with pytest.raises(RuntimeError, match="differ by"):
            agreement.check("row", sides, data, torch.float32)

    def test_results_of_different_shapes_raise(self) -> None:
        with pytest.raises(ValueError, match=r"ours has shape \(3,\), theirs \(\)"):
            agreement.largest_difference(torch.ones(3), torch.tensor(1.0))

    def test_not_a_number_is_a_difference(self) -> None:
        sides = Sides(lambda: torch.tensor(torch.nan), lambda: torch.tensor(1.0), Traffic())
        with pytest.raises(RuntimeError, match="differ by nan"):
            agreement.check("row", sides, small_gradients(), torch.float32)


class TestTorchBaselines:
    def test_seven_statistics(self) -> None:
        x = torch.tensor([0.5, -3.0, 0.0, 0.0, 2.0])
        (statistics,) = torch_baselines.seven_statistics([x])
        assert statistics.tolist() == [-0.5, 13.25, 3.0, 0.5, 2.0, 0.0, 0.0]
        broken = torch.tensor([torch.nan, torch.inf, -torch.inf, 1.0])
        (statistics,) = torch_baselines.seven_statistics([broken])
        assert statistics[4:].tolist() == [0.0, 1.0, 2.0]

    def test_adaptive_clip_limits_each_unit(self) -> None:
        data = small_gradients()
        directions = [gradient / gradient.norm() for gradient in data.gradients]
        torch_baselines.adaptive_clip(data.parameters, clip_factor=0.5)
        for parameter, gradient in zip(data.parameters, data.gradients, strict=True):
            rows = gradient.flatten(1) if gradient.ndim > 1 else gradient[None]
            weights = parameter.detach().flatten(1) if parameter.ndim > 1 else parameter[None]
            expected = 0.5 * weights.norm(dim=1).clamp(min=1e-3)
            torch.testing.assert_close(rows.norm(dim=1), expected.detach())
        cosine = (directions[1] * data.gradients[1]).sum() / data.gradients[1].norm()
        assert float(cosine) == pytest.approx(1.0)


class TestPeers:
    def test_missing_peers_have_no_rows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("amp_C", "apex", "transformer_engine"):
            monkeypatch.setitem(sys.modules, name, None)
        assert peers.importable_peers() == {}

    def test_apex_with_its_kernels(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module = ModuleType("apex.contrib.clip_grad")
        vars(module)["clip_grad_norm_"] = torch.nn.utils.clip_grad_norm_
        for fake in (ModuleType("amp_C"), ModuleType("apex"), ModuleType("apex.contrib"), module):
            monkeypatch.setitem(sys.modules, fake.__name__, fake)
        assert peers.importable_peers()["Apex"] is torch.nn.utils.clip_grad_norm_

    def test_apex_without_its_kernels_does_not_count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module = ModuleType("apex.contrib.clip_grad")
        vars(module)["clip_grad_norm_"] = torch.nn.utils.clip_grad_norm_
        monkeypatch.setitem(sys.modules, "apex.contrib.clip_grad", module)
        monkeypatch.setitem(sys.modules, "amp_C", None)
        assert "Apex" not in peers.importable_peers()

    @pytest.mark.parametrize("scales_by_tensor", [True, False])
    @pytest.mark.parametrize("share", [0.5, 2.0], ids=["clipping", "nothing to clip"])
    def test_transformer_engine_clips_as_native_does(
        self, monkeypatch: pytest.MonkeyPatch, scales_by_tensor: bool, share: float
    ) -> None:
        def scale(_: torch.Tensor, lists: list[list[torch.Tensor]], factor: Any) -> None:
            for source, target in zip(*lists, strict=True):
                target.copy_(source * factor)

        kernels = ModuleType("transformer_engine.pytorch.optimizers")
        vars(kernels).update(
            multi_tensor_applier=lambda op, flag, lists, *args: op(flag, lists, *args),
            multi_tensor_l2norm=lambda flag, lists, per_tensor: (
                torch.nn.utils.get_total_norm(lists[0])[None],
                None,
            ),
            multi_tensor_scale=scale,
        )
        if scales_by_tensor:
            vars(kernels)["multi_tensor_scale_tensor"] = scale
        monkeypatch.setitem(sys.modules, "transformer_engine", ModuleType("transformer_engine"))
        monkeypatch.setitem(sys.modules, "transformer_engine.pytorch", ModuleType("pytorch"))
        monkeypatch.setitem(sys.modules, kernels.__name__, kernels)
        clip_with_peer = peers.importable_peers()["TransformerEngine"]

        ours, native = small_gradients(), small_gradients()
        max_norm = share * float(torch.nn.utils.get_total_norm(native.gradients))
        expected = torch.nn.utils.clip_grad_norm_(native.parameters, max_norm)
        torch.testing.assert_close(clip_with_peer(ours.parameters, max_norm), expected)
        torch.testing.assert_close(ours.gradients, native.gradients)


class TestClipRows:
    def test_every_bar_has_its_row(self) -> None:
        rows = list(clip.rows(CPU, quick=False))
        assert sum(row.bar is not None for row in rows) == len(clip.BARS)
        assert all(row.workload.elements >= 640 for row in rows)

    def test_rows_on_cuda_are_not_judged_by_the_cpu_bars(self) -> None:
        rows = list(clip.rows(torch.device("cuda"), quick=False))
        assert rows
        assert all(row.bar is None for row in rows)

    def test_peers_add_rows_on_cuda_only(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(clip, "importable_peers", lambda: {"A peer": lambda *_: None})
        on_cuda = [row.against for row in clip.rows(torch.device("cuda"), quick=True)]
        assert "A peer" in on_cuda
        assert "A peer" not in [row.against for row in clip.rows(CPU, quick=True)]

    def test_rows_of_a_workload_are_together(self) -> None:
        in_order = [row.workload for row in clip.rows(CPU, quick=True)]
        assert len(list(itertools.groupby(in_order))) == len(set(in_order))

    def test_titles_are_unique(self) -> None:
        titles = [row.title for row in clip.rows(CPU, quick=False)]
        assert len(set(titles)) == len(titles)


# Each has a module in the package.
FAMILIES = {f.__name__: f for f in (activations, batch_norm, call_overhead, gated, softmax)}


class TestFamilies:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_titles_are_unique_and_rows_of_a_workload_together(self, family: str) -> None:
        rows: list[Row[Any]] = list(FAMILIES[family].rows(CPU, False))
        assert len({row.title for row in rows}) == len(rows)
        in_order = [row.workload for row in rows]
        assert len(list(itertools.groupby(in_order))) == len(set(in_order))

    @pytest.mark.parametrize("family", FAMILIES)
    def test_both_sides_of_each_row_do_the_same_work(self, family: str) -> None:
        rows: list[Row[Any]] = list(FAMILIES[family].rows(CPU, True))
        for workload, group in itertools.groupby(rows, key=lambda row: row.workload):
            data = workload.make()
            for row in group:
                agreement.check(row.title, row.prepare(data), data, workload.dtype)


def run_benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("results")
    json_path, plot_path = folder / "new" / "clip.json", folder / "new" / "clip.png"
    options = ["--quick", "--threads", "1", "--json", str(json_path), "--plot", str(plot_path)]
    finished = run_benchmarks("benchmarks.clip", *options)
    assert finished.returncode == 0, finished.stderr
    document = json.loads(json_path.read_text())
    return SimpleNamespace(output=finished.stdout, document=document, plot_path=plot_path)


class TestQuickRun:
    def test_json_has_the_machine_and_its_bandwidth(self, quick_run: SimpleNamespace) -> None:
        document = quick_run.document
        assert document["schema"] == 1
        assert document["quick"] is True
        machine = document["machine"]
        assert machine["threads"] == 1
        assert machine["torch"] == torch.__version__
        assert machine["cpu"]
        assert machine["cpu_isa"]
        for quantity in ("read", "copy"):
            rounds = document["bandwidth"]["cpu"][f"{quantity}_rounds_gb_per_s"]
            assert document["bandwidth"]["cpu"][f"{quantity}_gb_per_s"] == max(rounds) > 0

    def test_json_has_every_row(self, quick_run: SimpleNamespace) -> None:
        expected = list(clip.rows(CPU, quick=True))
        rows = [row for row in quick_run.document["rows"] if row["device"] == "cpu"]
        assert len(rows) == len(expected)
        for row, described in zip(rows, expected, strict=True):
            assert row["operation"] == described.operation
            assert row["against"] == described.against
            assert row["workload"] == described.workload.name
            assert row["tensors"] == described.workload.tensors
            assert row["elements"] == described.workload.elements
            assert row["bytes"] >= row["elements"] * described.workload.dtype.itemsize
            assert row["gb_per_s"] > 0
            assert (row["bar"] is None) == (described.bar is None)
            if described.bar is not None:
                assert row["bar"]["text"] == str(described.bar)
                assert row["bar"]["verdict"] == "not judged"
        counted = sum(row["bar"] is not None for row in quick_run.document["rows"])
        assert sum(quick_run.document["bars"].values()) == counted

    def test_json_ratios_come_from_the_pairs(self, quick_run: SimpleNamespace) -> None:
        for row in quick_run.document["rows"]:
            pairs = numpy.array(row["pairs_ms"])
            assert len(pairs) >= 2
            lower, median, upper = numpy.percentile(pairs[:, 1] / pairs[:, 0], [25, 50, 75])
            speedup = row["speedup"]
            assert speedup["median"] == pytest.approx(median, rel=1e-4)
            assert speedup["lower_quartile"] == pytest.approx(lower, rel=1e-4)
            assert speedup["upper_quartile"] == pytest.approx(upper, rel=1e-4)
            assert row["ours_ms"]["median"] == pytest.approx(numpy.median(pairs[:, 0]), rel=1e-4)
            assert row["theirs_ms"]["median"] == pytest.approx(numpy.median(pairs[:, 1]), rel=1e-4)

    def test_table_has_every_row(self, quick_run: SimpleNamespace) -> None:
        lines = iter(quick_run.output.splitlines())
        workload = None
        for row in clip.rows(CPU, quick=True):
            if row.workload != workload:
                workload = row.workload
                heading = f"{workload.name}, {str(workload.dtype).removeprefix('torch.')}, cpu"
                assert any(line.startswith(heading) for line in lines), heading
            line = next(lines)
            assert line.startswith(row.operation)
            assert row.against in line
            assert str(row.bar or "") in line
        assert "bandwidth in this run" in quick_run.output

    def test_plot_is_an_image(self, quick_run: SimpleNamespace) -> None:
        from matplotlib import image

        pixels = image.imread(quick_run.plot_path)
        assert min(pixels.shape[:2]) > 300
        assert pixels.std() > 0.01


class TestCommandLine:
    @pytest.mark.parametrize(
        ("pattern", "message"), [("no such row", "no row's title"), ("(", "regular expression")]
    )
    def test_filter_without_a_match(self, pattern: str, message: str) -> None:
        app = application({"clip": clip.rows}, "clip")
        finished = CliRunner().invoke(app, ["--quick", "--filter", pattern])
        assert finished.exit_code == 2
        assert message in finished.stderr

    @pytest.mark.parametrize("loaded", [True, False])
    def test_gpu_rows_only_with_kernels_for_it(
        self, monkeypatch: pytest.MonkeyPatch, loaded: bool, capsys: pytest.CaptureFixture[str]
    ) -> None:
        build = {"cuda": {"loaded": loaded, "reason": "built without CUDA"}}
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(gradkern, "build_info", lambda: build)
        assert ("cuda" in [device.type for device in devices()]) == loaded
        assert ("No rows for the GPU: built without CUDA" in capsys.readouterr().err) != loaded

    def test_all_families(self, tmp_path: Path) -> None:
        outputs = ["--json", str(tmp_path / "all.json"), "--plot", str(tmp_path / "all.png")]
        pattern = "cpu 10 x 64 float32: get_total_norm"
        finished = run_benchmarks("benchmarks", "--quick", "--filter", pattern, *outputs)
        assert finished.returncode == 0, finished.stderr
        rows = json.loads((tmp_path / "all.json").read_text())["rows"]
        assert [row["operation"] for row in rows] == ["get_total_norm"]
