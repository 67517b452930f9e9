"""A training in bounded memory: the whole run, thinned evenly, for plots and reports."""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradkern.monitor.events import Event, numbers, plain

# Numbers of a step as a whole are few: there can be more of them than of layers.
_POINTS_PER_ROW = 5
_KEPT_ALERTS = 1000
Half = NDArray[np.float16]


@dataclass
class Point:
    """A step as a whole, or the largest values of the steps that it stands for."""

    step: int
    loss: float
    before: float
    after: float


@dataclass
class Row:
    """The layers in one step; log10 of norms and ratios, which half precision keeps to 4%."""

    step: int
    gradient: Half
    update: Half
    weight: Half
    output_std: Half
    saturated: Half
    dead: Half


class RunHistory:
    """Takes events in, and keeps at most `max_rows` steps of layers and five times as many points.

    When there are more, every second one is dropped and the others are kept half as often from then
    on, so that what is left covers the run evenly. Spikes are not lost: a point takes the largest
    of what it stands for.

    Args:
        max_rows: at least 2.

    Attributes:
        run: the last run event.
        rows, points: the oldest first.
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
        self.points: list[Point] = []
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
        point = Point(
            int(event["step"]),
            float(event["loss"]),
            float(event["total_norm_before_clipping"]),
            float(event["total_norm_after_clipping"]),
        )
        self.points, self._point_stride = _thinned(
            self.points, self._point_stride, _POINTS_PER_ROW * self.max_rows, _largest
        )
        if self.steps % self._point_stride == 0 or not self.points:
            self.points.append(point)
        else:
            self.points[-1] = _largest(self.points[-1], point)
        self.rows, self._row_stride = _thinned(self.rows, self._row_stride, self.max_rows, None)
        row = _row(event)
        self.first = self.first or row
        self.last = row
        if self.steps % self._row_stride == 0:
            self.rows.append(row)
        self.steps += 1

    @property
    def bytes(self) -> int:
        """What the kept numbers take."""
        per_row = 0 if self.last is None else sum(v.nbytes for v in _arrays(self.last))
        return per_row * (len(self.rows) + 2) + 32 * len(self.points)

    @property
    def shown_rows(self) -> list[Row]:
        """The rows, and the last one."""
        if self.last is None or (self.rows and self.rows[-1].step == self.last.step):
            return list(self.rows)
        return [*self.rows, self.last]

    def state_dict(self) -> dict[str, Any]:
        """As plain data; see :meth:`load_state_dict`."""

        def row(of: Row | None) -> dict[str, Any] | None:
            return None if of is None else {k: _listed(v) for k, v in vars(of).items()}

        return {
            "run": plain(self.run),
            "rows": [row(r) for r in self.rows],
            "points": [asdict(p) for p in self.points],
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
            arrays = {k: np.array(v, dtype=np.float16) for k, v in of.items() if k != "step"}
            return Row(step=of["step"], **arrays)

        self._clear()
        self.run = state["run"]
        self.rows = [r for r in map(row, state["rows"]) if r is not None]
        self.points = [Point(**p) for p in state["points"]]
        self.first, self.last = row(state["first"]), row(state["last"])
        self.last_step = state["last_step"]
        self.alerts.extend(state["alerts"])
        self.verdict = state["verdict"]
        self.steps = state["steps"]
        self._row_stride, self._point_stride = state["strides"]


def _arrays(row: Row) -> list[Half]:
    return [value for value in vars(row).values() if isinstance(value, np.ndarray)]


def _listed(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _thinned(kept: list[Any], stride: int, limit: int, merge: Any) -> tuple[list[Any], int]:
    """Half of what is kept, and twice the stride, where the limit is reached."""
    if len(kept) < limit:
        return kept, stride
    if merge is None:
        return kept[::2], 2 * stride
    pairs = [merge(a, b) for a, b in zip(kept[::2], kept[1::2], strict=False)]
    return pairs + ([kept[-1]] if len(kept) % 2 else []), 2 * stride


def _largest(a: Point, b: Point) -> Point:
    # fmax: a NaN does not hide a number, and infinity does.
    return Point(
        a.step,
        float(np.fmax(a.loss, b.loss)),
        float(np.fmax(a.before, b.before)),
        float(np.fmax(a.after, b.after)),
    )


def _row(event: Event) -> Row:
    return Row(
        int(event["step"]),
        _decades(event["gradient_norm"]),
        _decades(event["update_ratio"]),
        _decades(event["weight_rms"]),
        _decades(event["output_std"]),
        _half(event["saturated"]),
        _half(event["dead"]),
    )


def _half(values: Any) -> Half:
    array = values if isinstance(values, np.ndarray) else numbers(values)
    return array.astype(np.float16)


def _decades(values: Any) -> Half:
    """log10; -inf for 0, which is not the same as vanished."""
    array = values if isinstance(values, np.ndarray) else numbers(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log10(array).astype(np.float16)
