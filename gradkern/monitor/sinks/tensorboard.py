"""TensorBoard, through torch's own writer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gradkern.monitor.events import Event
from gradkern.monitor.sinks.scalars import scalars


class TensorBoardSink:
    """Writes every number of each step as a scalar, alerts and verdicts as text.

    Args:
        writer: a ``torch.utils.tensorboard.SummaryWriter``, or the directory for a new one.
        prefix: of the tags.

    Raises:
        ImportError: tensorboard is not installed.
    """

    def __init__(self, writer: Any, prefix: str = "gradkern/") -> None:
        self._own = isinstance(writer, (str, Path))
        if self._own:
            from torch.utils.tensorboard import SummaryWriter

            writer = SummaryWriter(str(writer))
        self._writer = writer
        self._prefix = prefix
        self._run: Event = {}

    def __call__(self, event: Event) -> None:
        if event["kind"] == "run":
            self._run = event
        elif event["kind"] == "step":
            for name, number in scalars(self._run, event).items():
                self._writer.add_scalar(self._prefix + name, number, event["step"])
        else:
            text = event["headline"] if event["kind"] == "verdict" else event["message"]
            self._writer.add_text(self._prefix + event["kind"], text, event["step"])

    def close(self) -> None:
        """Flushes, and closes a writer of its own."""
        self._writer.flush()
        if self._own:
            self._writer.close()
