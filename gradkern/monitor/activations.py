"""What modules put out: forward hooks that keep references, and one measurement for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gradkern import ops
from gradkern.monitor.activation_kinds import (
    ActivationKind,
    class_of,
    is_activation,
    is_batch_norm,
    is_normalisation,
    kind_of,
)
from gradkern.monitor.measuring import measure
from gradkern.monitor.model_hooks import ModelHook
from gradkern.monitor.output_samples import few_of_each_unit, unit_axis_of, whole_rows
from gradkern.monitor.own_activations import OwnActivation
from gradkern.monitor.own_batch_norms import OwnBatchNorm
from gradkern.monitor.own_statistics import OwnModule, OwnStatistics
from gradkern.monitor.parameters import matches
from gradkern.monitor.record import ActivationTable, Floats, StatTable, merged
from gradkern.monitor.sampled_columns import SAMPLED, Sample, measure_samples, measure_stacked
from gradkern.monitor.self_measuring import MeasuresOutput, OutputStatistics
from gradkern.stats import COLUMNS

OutputMode = Literal["sampled", "exact"] | None

# Of an output with more elements this many are measured; all of them with "exact".
MEASURED_ELEMENTS = 2**16
# What can't be summed up from the eight statistics is taken from a sample of this many elements.
SAMPLE_ELEMENTS = 2**14
# Outputs that wait to be measured together are kept alive. With more bytes than this they are
# measured at once: the next module's output can then have their memory, which is in the cache.
WAITING_BYTES = 2**22
# A module that is called more often in a forward pass (a recurrent cell) shares its last row.
CALLS_APART = 64
# A unit counts as dead when it was active on fewer samples (SageMaker Debugger's DeadRelu), once
# enough samples have been seen to tell.
ACTIVE_SHARE = 0.01
SAMPLES_NEEDED = 200
# The counts of earlier steps fade with this factor: about the last 50 steps count.
_FADE = 0.98

_Key = tuple[int, int]
"""A module's index, and which of its calls within a forward pass it was."""


@dataclass(frozen=True)
class WatchedModule:
    """A module whose output is measured."""

    name: str
    module: nn.Module
    kind: ActivationKind
    samples: bool
    """Whether a sample is looked at: for activation functions, not for norms."""
    measurer: MeasuresOutput | OwnModule | None
    """The module, where it measures itself."""
    is_batch_norm: bool


@dataclass(frozen=True)
class _Output:
    key: _Key
    tensor: Tensor
    version: int
    """What the tensor's version counter must still be for it to be measured."""


@dataclass
class ActivationMeasurements:
    """What has been measured of outputs since the last step, still on their device."""

    rows: list[tuple[list[_Key], Tensor]] = field(default_factory=list)
    sampled: list[tuple[list[_Key], Tensor]] = field(default_factory=list)
    active: list[tuple[list[_Key], Tensor, int]] = field(default_factory=list)
    own: list[tuple[_Key, OwnStatistics]] = field(default_factory=list)
    compiled: Tensor | None = None
    """What hooks inside compiled code have written, one row for each module; zeros without."""
    values_per_channel: dict[str, int] = field(default_factory=dict)

    def tensors(self) -> list[Tensor]:
        """Everything that must travel to the host."""
        return [
            *(rows for _, rows in self.rows),
            *(rows for _, rows in self.sampled),
            *(counts for _, counts, _ in self.active),
            *(own.stats.values for _, own in self.own),
            *(() if self.compiled is None else (self.compiled,)),
        ]


class ActivationMeter:
    """Watches the outputs of a model's activation functions, norms and recurrent modules.

    A forward hook keeps a reference to each output, or a copy of some rows of a large one; one
    ``tensor_stats`` call measures many of them, when the model's forward pass is over or they have
    become large. Modules that measure themselves (:class:`~gradkern.monitor.MeasuresOutput`) are
    asked instead. In a model without any module for its activation functions, linear layers and
    convolutions are watched.

    What doesn't count: passes in ``eval()`` or without gradients, and the second forward of
    checkpointed parts, which happens in the backward pass. (Reentrant checkpoints run their first
    forward without gradients; it counts all the same, as part of a pass of the model that does.)

    Args:
        model: what is called in training, without wrappers.
        include, exclude: shell-style patterns of module names.
        measured_elements: of how many elements of an output at most; None: of all.
    """

    def __init__(
        self,
        model: nn.Module,
        include: Sequence[str],
        exclude: Sequence[str],
        measured_elements: int | None = MEASURED_ELEMENTS,
    ) -> None:
        self.model = model
        self.measured_elements = measured_elements
        self.expects_hooks = True
        self.called: set[int] = set()
        """Of which watched modules the hook has been called, whether or not the pass counted."""
        self.watched = list(_chosen(model, include, exclude))
        self._enabled = True
        self._in_forward = False
        self._pending: list[_Output] = []
        self._pending_bytes = 0
        self._calls: dict[int, int] = {}
        self._turn = 0
        self.measurements = ActivationMeasurements()
        self._seen: dict[_Key, tuple[Floats, float]] = {}
        # A 3-dim output is [batch, channel, length] in convolutional models, else [..., feature].
        self._channels_second = any(isinstance(m, nn.Conv1d) for m in model.modules())
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        width = len(COLUMNS) + len(SAMPLED)
        self._compiled_rows = torch.zeros(
            (len(self.watched), width), dtype=torch.float64, device=device
        )
        self.handles = list(self._register())

    def _register(self) -> Iterator[RemovableHandle]:
        yield self.model.register_forward_pre_hook(ModelHook(self._before_model))
        for index, watched in enumerate(self.watched):
            if watched.measurer is not None:
                watched.measurer.measure_output(True)
            yield watched.module.register_forward_hook(ModelHook(partial(self._saw_output, index)))
        for module in self.model.modules():
            if getattr(module, "inplace", False):
                yield module.register_forward_pre_hook(ModelHook(self._before_in_place))
        yield self.model.register_forward_hook(ModelHook(self._after_model))

    def close(self) -> None:
        """Removes every hook."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
        for watched in self.watched:
            if watched.measurer is not None:
                watched.measurer.measure_output(False)
        self._forget_pending()

    def _forget_pending(self) -> None:
        self._pending.clear()
        self._pending_bytes = 0

    @property
    def enabled(self) -> bool:
        """Whether passes are measured now."""
        return self._enabled

    @enabled.setter
    def enabled(self, enabled: bool) -> None:
        if enabled == self._enabled:
            return
        self._enabled = enabled
        for watched in self.watched:
            if watched.measurer is not None:
                watched.measurer.measure_output(enabled)

    # Hooks. Under torch.compile they are traced: what they do must be tensor operations.

    def _before_model(self, module: nn.Module, args: Any) -> None:
        if torch.compiler.is_compiling():
            return
        self._forget_pending()  # of a pass that raised
        self._calls.clear()
        self._in_forward = self.enabled and module.training and torch.is_grad_enabled()

    def _after_model(self, module: nn.Module, args: Any, output: Any) -> None:
        if torch.compiler.is_compiling():
            return
        self._in_forward = False
        self.flush()

    def _before_in_place(self, module: nn.Module, args: Any) -> None:
        """What is about to be overwritten has to be measured now."""
        if torch.compiler.is_compiling() or not self._pending:
            return
        given = _first_tensor(args)
        if given is not None and any(o.tensor is given for o in self._pending):
            self.flush()

    def _saw_output(self, index: int, module: nn.Module, args: Any, output: Any) -> None:
        watched = self.watched[index]
        tensor = _first_tensor(output)
        if tensor is None:
            return
        if torch.compiler.is_compiling():
            if watched.module.training and torch.is_grad_enabled():
                self._measure_compiled(index, tensor)
            return
        self.called.add(index)
        if not self._counts(watched.module):
            return
        call = self._calls.get(index, 0)
        self._calls[index] = call + 1
        key = (index, min(call, CALLS_APART - 1))
        if watched.is_batch_norm:
            values = tensor.numel() // tensor.shape[1]
            known = self.measurements.values_per_channel.get(watched.name, values)
            self.measurements.values_per_channel[watched.name] = min(values, known)
        if isinstance(watched.measurer, OwnModule):
            own = watched.measurer.own_statistics()
            if own is not None:
                self.measurements.own.append((key, own))
                return
        elif watched.measurer is not None:
            statistics = watched.measurer.output_statistics()
            if statistics is not None:
                return self._take(key, statistics)
        part = self._measured_part(tensor, self._turn)
        # The version counter tells whether the output is overwritten before it is measured.
        version = 0 if part.is_inference() else part._version
        self._pending.append(_Output(key, part, version))
        self._pending_bytes += part.nbytes
        if self._pending_bytes > WAITING_BYTES:
            self.flush()

    def _measured_part(self, tensor: Tensor, turn: int) -> Tensor:
        """The output itself, or a copy of some rows of it."""
        if (
            self.measured_elements is None
            or tensor.layout != torch.strided
            or tensor.numel() <= self.measured_elements
        ):
            return tensor
        unit_axis = unit_axis_of(tensor, self._channels_second)
        return whole_rows(tensor.detach(), self.measured_elements, unit_axis, turn)

    def _counts(self, module: nn.Module) -> bool:
        if not self.enabled:
            return False
        # A graph task is running: this is the recomputation of a checkpoint.
        if torch._C._current_graph_task_id() != -1:
            return False
        return self._in_forward or (module.training and torch.is_grad_enabled())

    # Measuring.

    def flush(self) -> None:
        """Measures the outputs that are waiting."""
        pending, self._pending, self._pending_bytes = self._pending, [], 0
        outputs = [o for o in pending if o.tensor.is_inference() or o.tensor._version == o.version]
        if not outputs:
            return
        with torch.no_grad():
            for indices, rows in measure([o.tensor for o in outputs]):
                self.measurements.rows.append(([outputs[i].key for i in indices], rows))
            self._measure_samples(
                [
                    output
                    for output in outputs
                    if self.watched[output.key[0]].samples
                    and output.tensor.is_floating_point()
                    and output.tensor.numel() > 0
                ]
            )

    def _measure_samples(self, outputs: Sequence[_Output]) -> None:
        samples = [
            Sample(*self._part_of(o.tensor.detach(), self._turn), self.watched[o.key[0]].kind)
            for o in outputs
        ]
        for alike in measure_samples(samples):
            keys = [outputs[i].key for i in alike.places]
            self.measurements.sampled.append((keys, alike.columns))
            if alike.active is not None:
                self.measurements.active.append((keys, alike.active, alike.samples))

    def _part_of(self, tensor: Tensor, turn: int) -> tuple[Tensor, int]:
        """A sample with all units, and their axis."""
        unit_axis = unit_axis_of(tensor, self._channels_second)
        return few_of_each_unit(tensor, SAMPLE_ELEMENTS, unit_axis, turn), unit_axis

    def _take(self, key: _Key, statistics: OutputStatistics) -> None:
        values = statistics.values.detach().double()
        nan = values.new_full((), torch.nan)
        columns = [statistics.mean_abs, statistics.saturated, statistics.derivative, None]
        row = torch.stack([nan if c is None else c.detach().double() for c in columns])
        self.measurements.rows.append(([key], values.reshape(1, -1)))
        self.measurements.sampled.append(([key], row.reshape(1, -1)))
        if statistics.active is not None:
            active = statistics.active.detach().double().reshape(1, -1)
            self.measurements.active.append(([key], active, statistics.samples))

    def _measure_compiled(self, index: int, tensor: Tensor) -> None:
        detached = tensor.detach()
        row = self._compiled_rows[index]
        with torch.no_grad():
            # The same part at each step: what changes would be compiled again.
            part = self._measured_part(detached, 0)
            stats = ops.tensor_stats([part])[0]
            if self.watched[index].samples and detached.dim() > 0:
                sample, unit_axis = self._part_of(part, 0)
                columns, _ = measure_stacked(sample[None], unit_axis, self.watched[index].kind)
            else:
                columns = stats.new_full((1, len(SAMPLED)), torch.nan)
            row.copy_(torch.cat([stats, columns[0]]))

    # Handing over.

    def finish_step(self) -> ActivationMeasurements:
        """What was measured since the last call."""
        self.flush()
        self._calls.clear()
        self._turn += 1
        done, self.measurements = self.measurements, ActivationMeasurements()
        if self.watched and self.uses_compile:
            done.compiled = self._compiled_rows.clone()
            self._compiled_rows.zero_()
        return done

    @property
    def uses_compile(self) -> bool:
        """Whether torch.compile has compiled anything in this process."""
        import torch._dynamo.utils as dynamo

        return bool(dynamo.counters["stats"]["unique_graphs"])

    def read(self, done: ActivationMeasurements, arrays: Sequence[Floats]) -> ActivationTable:
        """Puts together what has arrived, in the order of the calls."""
        queue = iter(arrays)
        parts: dict[_Key, list[Floats]] = {}
        for keys, _ in done.rows:
            for key, row in zip(keys, next(queue), strict=True):
                parts.setdefault(key, []).append(row)
        sampled: dict[_Key, list[Floats]] = {}
        for keys, _ in done.sampled:
            for key, row in zip(keys, next(queue), strict=True):
                sampled.setdefault(key, []).append(row)
        for keys, _, samples in done.active:
            for key, counts in zip(keys, next(queue), strict=True):
                self._count_active(key, counts, samples)
        for key, own in done.own:
            numbers = next(queue)
            row, shares = own.read(numbers)
            parts.setdefault(key, []).append(row)
            sampled.setdefault(key, []).append(shares)
            if own.counts_active:
                self._count_active(key, own.active(numbers), own.samples)
        if done.compiled is not None:
            for index, row in enumerate(next(queue)):
                if row[0] > 0:
                    parts.setdefault((index, 0), []).append(row[: len(COLUMNS)])
                    sampled.setdefault((index, 0), []).append(row[len(COLUMNS) :])
        keys_in_order = sorted(parts)  # by the order of registration, then of calls
        repeated = {index for index, call in keys_in_order if call > 0}
        if not keys_in_order:
            return ActivationTable.empty()
        none = [np.full(len(SAMPLED), np.nan)]
        columns = np.stack([_mean(sampled.get(key, none)) for key in keys_in_order])
        return ActivationTable(
            stats=StatTable(
                tuple(self._name(key, repeated) for key in keys_in_order),
                np.stack([merged(parts[key]) for key in keys_in_order]),
            ),
            kinds=tuple(class_of(self.watched[i].module) for i, _ in keys_in_order),
            mean_abs=columns[:, 0],
            saturated=columns[:, 1],
            derivative=columns[:, 2],
            dead=np.array([self._dead(key, columns[i, 3]) for i, key in enumerate(keys_in_order)]),
        )

    def _name(self, key: _Key, repeated: set[int]) -> str:
        index, call = key
        name = self.watched[index].name
        return f"{name}#{call + 1}" if index in repeated else name

    @property
    def bytes(self) -> int:
        """What the counts of active units take."""
        return sum(active.nbytes for active, _ in self._seen.values())

    def _count_active(self, key: _Key, active: Floats, samples: int) -> None:
        before, seen = self._seen.get(key, (np.zeros_like(active), 0.0))
        if before.shape != active.shape:
            before, seen = np.zeros_like(active), 0.0
        self._seen[key] = (_FADE * before + active, _FADE * seen + samples)

    def _dead(self, key: _Key, silent: float) -> float:
        if key not in self._seen:
            return silent
        active, seen = self._seen[key]
        if seen < SAMPLES_NEEDED:
            return float("nan")
        return float(np.mean(active < ACTIVE_SHARE * seen))


def _chosen(
    model: nn.Module, include: Sequence[str], exclude: Sequence[str]
) -> Iterator[WatchedModule]:
    # As in unit_axis_of: [batch, channel, ...] in convolutional models, else [..., feature].
    convolutional = any(isinstance(m, nn.modules.conv._ConvNd) for m in model.modules())
    unit_axis = 1 if convolutional else -1
    named = [(n, m) for n, m in model.named_modules() if matches(n, include, exclude)]
    has_activations = any(is_activation(m) or isinstance(m, MeasuresOutput) for _, m in named)
    for name, module in named:
        samples = is_activation(module) or isinstance(module, MeasuresOutput)
        if not has_activations:
            samples = isinstance(module, (nn.Linear, nn.modules.conv._ConvNd))
        if samples or is_normalisation(module) or isinstance(module, nn.RNNBase):
            yield WatchedModule(
                name,
                module,
                kind_of(module),
                samples,
                _measurer_of(module, unit_axis),
                is_batch_norm(module),
            )


def _measurer_of(module: nn.Module, unit_axis: int) -> MeasuresOutput | OwnModule | None:
    """What knows a module's statistics without reading its output."""
    if isinstance(module, MeasuresOutput):
        return module
    return OwnActivation.of(module, unit_axis) or OwnBatchNorm.of(module)


def _first_tensor(output: Any) -> Tensor | None:
    while isinstance(output, (tuple, list)) and output:
        output = output[0]
    return output if isinstance(output, Tensor) else None


def _mean(rows: Sequence[Floats]) -> Floats:
    # Most modules are called once in a step.
    return rows[0] if len(rows) == 1 else np.mean(rows, axis=0)
