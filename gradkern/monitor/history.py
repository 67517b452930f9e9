"""A training in bounded memory: the whole run, thinned evenly, for plots and reports."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradkern.monitor.events import Event, numbers, plain
from gradkern.monitor.record import Floats

# Numbers of a step as a whole are few: there can be more of them than of layers.
_POINTS_PER_ROW = 5
_KEPT_ALERTS = 1000
# A row and its array, as CPython and NumPy hold them.
_ROW_OBJECT = 200
Half: TypeAlias = NDArray[np.float16]


@dataclass
class Point:
    """A step as a whole, or the largest values of the steps that it stands for."""

    step: int
    loss: float
    before: float
    after: float


class Row:
    """The layers in one step, packed: log10 of norms and ratios, which half precision keeps to 4%.

    Args:
        step: counted from 1.
        packed: the three quantities of the parameters, then the three of the outputs.
        parameters: how many there are.
    """

    __slots__ = ("packed", "parameters", "step")

    def __init__(self, step: int, packed: Half, parameters: int) -> None:
        self.step = step
        self.packed = packed
        self.parameters = parameters

    def _of_parameters(self, place: int) -> Half:
        return self.packed[place * self.parameters : (place + 1) * self.parameters]

    def _of_outputs(self, place: int) -> Half:
        rest = self.packed[3 * self.parameters :]
        count = len(rest) // 3
        return rest[place * count : (place + 1) * count]

    @property
    def gradient(self) -> Half:
        """log10 of the gradients' norms; -inf for 0, which is not the same as vanished."""
        return self._of_parameters(0)

    @property
    def update(self) -> Half:
        """log10 of std(dw) / std(w)."""
        return self._of_parameters(1)

    @property
    def weight(self) -> Half:
        """log10 of the weights' rms."""
        return self._of_parameters(2)

    @property
    def output_std(self) -> Half:
        """log10 of the outputs' standard deviations."""
        return self._of_outputs(0)

    @property
    def saturated(self) -> Half:
        """Shares of saturated outputs."""
        return self._of_outputs(1)

    @property
    def dead(self) -> Half:
        """Shares of dead units."""
        return self._of_outputs(2)


class RunHistory:
    """Takes events in, and keeps at most `max_rows` steps of layers and five times as many points.

    When there are more, every second one is dropped and the others are kept half as often from then
    on, so that what is left covers the run evenly. Spikes are not lost: a point takes the largest
    of what it stands for.

    Args:
        max_rows: at least 2.

    Attributes:
        run: the last run event.
        rows: the oldest first.
        first, last: of the rows, also where thinning has dropped them.
        alerts: the last thousand, as dictionaries.
        verdict: the last verdict event, if there is one.
        steps: how many there were.
    """

    def __init__(self, max_rows: int) -> None:
        self.max_rows = max_rows
        self._clear()

    def _clear(self) -> None:
        self.run: Event = {}
        self.rows: list[Row] = []
        self._points = np.empty((_POINTS_PER_ROW * self.max_rows, 4))
        self._point_count = 0
        self.first: Row | None = None
        self.last: Row | None = None
        self.last_step: Event = {}
        self.alerts: deque[Event] = deque(maxlen=_KEPT_ALERTS)
        self.verdict: Event | None = None
        self.steps = 0
        self._row_stride = 1
        self._point_stride = 1

    def add(self, event: Event) -> None:
        """Takes one event in; what has no known kind is left out."""
        kind = event.get("kind")
        if kind == "run":
            if event.get("begins"):
                self._clear()
            elif event.get("parameters") != self.run.get("parameters"):
                self.rows.clear()  # rows of other layers can't be shown beside these
                self.first = None
            self.run = event
        elif kind == "step":
            self._add_step(event)
        elif kind == "alert":
            self.alerts.append(event)
        elif kind == "verdict":
            self.verdict = event

    def _add_step(self, event: Event) -> None:
        self.last_step = event
        point = [
            float(event[name])
            for name in (
                "step",
                "loss",
                "total_norm_before_clipping",
                "total_norm_after_clipping",
            )
        ]
        if self._point_count == len(self._points):
            self._halve_points()
        if self.steps % self._point_stride == 0:
            self._points[self._point_count] = point
            self._point_count += 1
        else:
            _take_largest(self._points[self._point_count - 1], np.array(point))
        self.rows, self._row_stride = _thinned(self.rows, self._row_stride, self.max_rows)
        row = _row(event)
        self.first = self.first or row
        self.last = row
        if self.steps % self._row_stride == 0:
            self.rows.append(row)
        self.steps += 1

    def _halve_points(self) -> None:
        """Makes one point of two neighbours."""
        kept = self._points[::2].copy()
        _take_largest(kept[: len(self._points) // 2], self._points[1::2])
        self._point_count = len(kept)
        self._points[: self._point_count] = kept
        self._point_stride *= 2

    @property
    def points(self) -> list[Point]:
        """The steps as a whole, the oldest first."""
        return [Point(int(p[0]), *map(float, p[1:])) for p in self._points[: self._point_count]]

    @property
    def bytes(self) -> int:
        """What the kept numbers take, with the objects that hold them."""
        per_row = 0 if self.last is None else self.last.packed.nbytes + _ROW_OBJECT
        return per_row * (len(self.rows) + 2) + self._points.nbytes

    @property
    def shown_rows(self) -> list[Row]:
        """The rows, and the last one."""
        if self.last is None or (self.rows and self.rows[-1].step == self.last.step):
            return list(self.rows)
        return [*self.rows, self.last]

    def state_dict(self) -> dict[str, Any]:
        """As plain data; see :meth:`load_state_dict`."""

        def row(of: Row | None) -> dict[str, Any] | None:
            if of is None:
                return None
            return {"step": of.step, "packed": of.packed.tolist(), "parameters": of.parameters}

        return {
            "run": plain(self.run),
            "rows": [row(r) for r in self.rows],
            "points": self._points[: self._point_count].tolist(),
            "first": row(self.first),
            "last": row(self.last),
            "last_step": plain(self.last_step),
            "alerts": [plain(alert) for alert in self.alerts],
            "verdict": plain(self.verdict),
            "steps": self.steps,
            "strides": [self._row_stride, self._point_stride],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where a :meth:`state_dict` was taken."""

        def row(of: dict[str, Any] | None) -> Row | None:
            if of is None:
                return None
            return Row(of["step"], np.array(of["packed"], dtype=np.float16), of["parameters"])

        self._clear()
        self.run = state["run"]
        self.rows = [r for r in map(row, state["rows"]) if r is not None]
        self._point_count = min(len(state["points"]), len(self._points))
        self._points[: self._point_count] = state["points"][-self._point_count :]
        self.first, self.last = row(state["first"]), row(state["last"])
        self.last_step = state["last_step"]
        self.alerts.extend(state["alerts"])
        self.verdict = state["verdict"]
        self.steps = state["steps"]
        self._row_stride, self._point_stride = state["strides"]


def _thinned(kept: list[Row], stride: int, limit: int) -> tuple[list[Row], int]:
    """Half of what is kept, and twice the stride, where the limit is reached."""
    return (kept, stride) if len(kept) < limit else (kept[::2], 2 * stride)


def _take_largest(points: Floats, others: Floats) -> None:
    """The largest of each number but the step; NaN hides no number, and infinity does."""
    points[..., 1:] = np.fmax(points[..., 1:], others[..., 1:])


def _row(event: Event) -> Row:
    parts = [_decades(event[name]) for name in ("gradient_norm", "update_ratio", "weight_rms")]
    parts += [_decades(event["output_std"]), _half(event["saturated"]), _half(event["dead"])]
    return Row(int(event["step"]), np.concatenate(parts), len(parts[0]))


def _half(values: Any) -> Half:
    array = values if isinstance(values, np.ndarray) else numbers(values)
    return array.astype(np.float16)


def _decades(values: Any) -> Half:
    """log10; -inf for 0, which is not the same as vanished."""
    array = values if isinstance(values, np.ndarray) else numbers(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log10(array).astype(np.float16)
