"""One JSON object a line: survives a crash, and can be read while it is written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from gradkern.monitor.events import Event, plain


class JsonlSink:
    """Appends each event to a file as a line, and hands it to the operating system at once.

    A process that is killed loses the line that it was writing, if any. A file that is there is
    continued; a line that was cut off stays by itself, and readers skip it.

    Args:
        path: of the file; its directory must exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        cut_off = _lacks_newline(self.path)
        self._file = self.path.open("a", encoding="utf-8")
        if cut_off:
            self._file.write("\n")

    def __call__(self, event: Event) -> None:
        # One write of a whole line: readers see all of it, or nothing.
        self._file.write(json.dumps(plain(event), separators=(",", ":")) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _lacks_newline(path: Path) -> bool:
    if not path.exists() or path.stat().st_size == 0:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"


def read_jsonl(path: str | Path) -> Iterator[Event]:
    """The events of a file, also while it is written; what is no whole line is left out.

    Raises:
        ValueError: there is no event in it.
    """
    found = False
    with Path(path).open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                event = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(event, dict) and "kind" in event:
                found = True
                yield event
    if not found:
        raise ValueError(f"{path} has no event in it; it must be a log of gradkern.Monitor")
