"""Where the events of a training go: a file, a logger, or any callable that takes an event."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeAlias

from gradkern.monitor.events import Event
from gradkern.monitor.sinks.csv import CsvSink
from gradkern.monitor.sinks.jsonl import JsonlSink, read_jsonl
from gradkern.monitor.sinks.tensorboard import TensorBoardSink
from gradkern.monitor.sinks.wandb import WandbSink

__all__ = [
    "CsvSink",
    "Event",
    "JsonlSink",
    "Log",
    "Sink",
    "TensorBoardSink",
    "WandbSink",
    "open_sinks",
    "read_jsonl",
]

Sink: TypeAlias = Callable[[Event], object]
Log: TypeAlias = str | Path | Sink | Iterable["str | Path | Sink"] | None


def open_sinks(log: Log) -> list[Sink]:
    """The sinks that a ``log`` argument stands for.

    Args:
        log: a path (``.csv``: a :class:`CsvSink`; any other name: a :class:`JsonlSink`), a
            callable, several of them, or None.

    Raises:
        TypeError: something is none of these.
    """
    if log is None:
        return []
    if isinstance(log, (str, Path)):
        path = Path(log)
        return [CsvSink(path) if path.suffix == ".csv" else JsonlSink(path)]
    if callable(log):
        return [log]
    if isinstance(log, Iterable):
        return [sink for each in log for sink in open_sinks(each)]
    raise TypeError(
        f"log is a {type(log).__name__}; it must be a path, a callable that takes an event, or a "
        "sequence of these"
    )
