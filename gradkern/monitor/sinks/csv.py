"""One row for each step, for spreadsheets."""

from __future__ import annotations

import csv
from pathlib import Path

from gradkern.monitor.events import Event

_OF_THE_STEP = (
    "step",
    "loss",
    "learning_rate",
    "total_norm_before_clipping",
    "total_norm_after_clipping",
    "clip_coefficient",
)
_OF_PARAMETERS = ("gradient_norm", "weight_rms", "update_ratio")


class CsvSink:
    """Writes the numbers of each step, and three of each parameter, as one row.

    The columns are those of the first step's parameters; what is added later is in the other sinks.

    Args:
        path: of the file, which is written anew; its directory must exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = self.path.open("w", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file)
        self._parameters: list[str] = []
        self._columns: list[str] = []

    def __call__(self, event: Event) -> None:
        if event["kind"] == "run":
            self._parameters = event["parameters"]
            if not self._columns:
                per_parameter = [f"{q}/{n}" for q in _OF_PARAMETERS for n in self._parameters]
                self._columns = [*_OF_THE_STEP, *per_parameter]
                self._writer.writerow(self._columns)
        elif event["kind"] == "step":
            values = {name: event[name] for name in _OF_THE_STEP}
            for quantity in _OF_PARAMETERS:
                for name, value in zip(self._parameters, event[quantity], strict=True):
                    values[f"{quantity}/{name}"] = float(value)
            self._writer.writerow([values.get(column, "") for column in self._columns])
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
