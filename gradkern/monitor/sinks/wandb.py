"""Weights & Biases, where it is installed."""

from __future__ import annotations

from typing import Any

from gradkern.monitor.events import Event
from gradkern.monitor.sinks.scalars import scalars


class WandbSink:
    """Logs every number of each step to a run, and the verdict to its summary.

    Numbers are logged against ``gradkern/step``, so that they don't clash with the run's own steps:
    they arrive one step late.

    Args:
        run: what ``wandb.init`` returned; the current run if not given.
        prefix: of the names.

    Raises:
        ImportError: wandb is not installed.
        RuntimeError: there is no current run.
    """

    def __init__(self, run: Any = None, prefix: str = "gradkern/") -> None:
        if run is None:
            import wandb

            run = wandb.run
        if run is None:
            raise RuntimeError("run is None and wandb has no current run; wandb.init() makes one")
        self._run = run
        self._prefix = prefix
        self._names: Event = {}
        run.define_metric(f"{prefix}step")
        run.define_metric(f"{prefix}*", step_metric=f"{prefix}step")

    def __call__(self, event: Event) -> None:
        if event["kind"] == "run":
            self._names = event
        elif event["kind"] == "step":
            named = {self._prefix + n: x for n, x in scalars(self._names, event).items()}
            self._run.log({f"{self._prefix}step": event["step"], **named})
        elif event["kind"] == "verdict":
            self._run.summary[f"{self._prefix}verdict"] = event["headline"]
        else:
            self._run.summary[f"{self._prefix}alert/{event['rule']}"] = event["message"]
