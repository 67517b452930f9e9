"""The monitor: what a training loop talks to."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from gradkern.clip import clip_grad_norm_
from gradkern.monitor import compile_check, loss_scale
from gradkern.monitor.activations import (
    MEASURED_ELEMENTS,
    ActivationMeasurements,
    ActivationMeter,
    OutputMode,
)
from gradkern.monitor.alerts import Alert, OnAlert, handler_of
from gradkern.monitor.causes import Case
from gradkern.monitor.events import Event, alert_event, run_event, step_event, verdict_event
from gradkern.monitor.gradients import GradientMeasurements
from gradkern.monitor.history import RunHistory
from gradkern.monitor.host_copy import HostCopy
from gradkern.monitor.judge import Judge
from gradkern.monitor.measuring import measure
from gradkern.monitor.network import Network
from gradkern.monitor.parameters import WatchedParameters, parameters_of, unwrapped
from gradkern.monitor.record import StepRecord
from gradkern.monitor.recurrence import RecurrenceMeter
from gradkern.monitor.report import Report
from gradkern.monitor.rules import build_rules
from gradkern.monitor.sinks import Log, Sink, open_sinks
from gradkern.monitor.step_in_flight import StepInFlight
from gradkern.monitor.updates import UpdateMeter, UpdateMode
from gradkern.monitor.verdict import Verdict, judge_training

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Optimizers: TypeAlias = Optimizer | Iterable[Optimizer] | None


class Monitor:
    """Measures what gradients, parameters, updates and outputs do, and says what is wrong.

    ::

        monitor = gradkern.Monitor(model, optimizer)
        for inputs, targets in batches:
            loss = loss_function(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            monitor.clip_grad_norm_(1.0)  # in place of torch.nn.utils.clip_grad_norm_; optional
            optimizer.step()
            monitor.step(loss)
        print(monitor.report())

    Nothing waits for a GPU: the statistics of a step are copied to the host behind an event, and
    judged when they have arrived, at the next :meth:`step` at the earliest. :meth:`report` and
    :meth:`close` wait for the last ones.

    - **Gradients** come from the pass that clips them; without :meth:`clip_grad_norm_` they are
      measured when an optimizer is about to step. They are those before clipping, and without a
      loss scale.
    - **Updates** are what the optimizers' steps add to a sample of the parameters.
    - **Outputs** of activation functions, norms and recurrent modules are measured by one call for
      all of them. Passes in ``eval()`` or without gradients don't count, nor does what a checkpoint
      computes again.
    - With gradient accumulation, call :meth:`step` where the optimizer steps; outputs of all passes
      in between are taken together.
    - Under data parallelism every rank measures; only rank 0 writes logs and handles alerts. The
      gradients are those after the reduction, outputs and loss are the rank's own.
    - Make the monitor before ``torch.compile`` first runs the model. Hooks added later are never
      called by compiled code: the monitor notices, and raises.

    Args:
        model: the module that is trained; data-parallel wrappers and what ``torch.compile``
            returned are looked through.
        optimizer: the optimizer, or several. Without one, updates are measured between two calls of
            :meth:`step`, and gradients at :meth:`clip_grad_norm_` or :meth:`step`, which must then
            come before they are cleared.
        scaler: the ``torch.amp.GradScaler`` in use: :meth:`clip_grad_norm_` then unscales gradients
            that aren't yet. Without clipping it isn't needed.
        every: measure each n-th step, beginning with the first.
        include, exclude: shell-style patterns of the names of parameters and modules.
        max_history: for how many steps the numbers of each layer are kept; where there are more,
            they are thinned evenly over the run.
        updates: ``"sampled"``: at most 4096 elements of a parameter and 0.5% of all (of a small
            model that is too few to say anything of its biases); ``"exact"``: all of them, which
            holds a copy of the parameters during the optimizers' step; None.
        activations: ``"sampled"``: of outputs with more than 65,536 elements that many, in whole
            rows of the batch, at each step others; ``"exact"``: all elements, which reads every
            output once more; None: none. What gradkern's own modules put out is measured whole, in
            the pass that computes it.
        rules: by a rule's name (``gradkern.monitor.RULES`` has them): False switches it off, a
            number is its threshold, a mapping has ``threshold`` and ``persistence``.
        on_alert: ``"log"`` (to the logger ``gradkern.monitor``); ``"raise"``: errors raise a
            :class:`~gradkern.monitor.TrainingError`, in :meth:`step`; a callable that takes an
            :class:`~gradkern.monitor.Alert`; or None.
        log: where every step goes: a path (``.csv``, or else JSONL), a sink of
            ``gradkern.monitor.sinks``, any callable that takes an event, or several of these.
        live: show the state of the training in one line of the terminal; needs rich.

    Raises:
        TypeError, ValueError: an argument is not what it must be.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with gradkern.Monitor(model, optimizer) as monitor:
        ...     for _ in range(3):
        ...         loss = model(torch.ones(2, 4)).square().mean()
        ...         optimizer.zero_grad()
        ...         loss.backward()
        ...         optimizer.step()
        ...         monitor.step(loss)
        >>> monitor.last.step, monitor.last.gradients.names
        (3, ('0.weight', '0.bias'))
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizers = None,
        *,
        scaler: GradScaler | None = None,
        every: int = 1,
        include: Sequence[str] = ("*",),
        exclude: Sequence[str] = (),
        max_history: int = 200,
        updates: UpdateMode = "sampled",
        activations: OutputMode = "sampled",
        rules: Mapping[str, Any] | None = None,
        on_alert: OnAlert = "log",
        log: Log = None,
        live: bool = False,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model is a {type(model).__name__}; it must be a torch.nn.Module")
        if every < 1:
            raise ValueError(f"every is {every}; it must be at least 1")
        if max_history < 2:
            raise ValueError(f"max_history is {max_history}; it must be at least 2")
        if activations not in ("sampled", "exact", None):
            raise ValueError(
                f"activations is {activations!r}; it must be 'sampled', 'exact' or None"
            )
        self._optimizers = _listed(optimizer)
        self._scaler = scaler
        self._every = every
        self.model = unwrapped(model)
        self.on_alert = handler_of(on_alert)
        self.judge = Judge(build_rules(rules))
        self.history = RunHistory(max_history)
        self._sinks: list[Sink] = open_sinks(log) if _is_first_rank() else []
        if live and _is_first_rank():
            from gradkern.monitor.terminal import LiveLine

            self._sinks.append(LiveLine())
        self._named: tuple[tuple[str, ...], ...] | None = None
        self._resumed = False
        self._announced: tuple[str, ...] = ()
        self._parameters = WatchedParameters(self.model, _patterns(include), _patterns(exclude))
        self._network = self._look_at_network()
        self._updates = UpdateMeter(updates)
        self._activations: ActivationMeter | None = None
        self._recurrence: RecurrenceMeter | None = None
        if activations is not None:
            self._activations = ActivationMeter(
                self.model,
                _patterns(include),
                _patterns(exclude),
                MEASURED_ELEMENTS if activations == "sampled" else None,
            )
            self._recurrence = RecurrenceMeter(self.model)
        self._gradients = GradientMeasurements()
        self._stepped: set[int] = set()
        self._queue: deque[StepInFlight] = deque()
        self._step = 0
        self._closed = False
        if not self._optimizers:
            self._updates.remember(self._parameters.tensors)
        self.last: StepRecord | None = None
        """The last step that was judged; None before there is one."""
        self._handles: list[RemovableHandle] = []
        for each in self._optimizers:
            self._handles.append(each.register_step_pre_hook(self._before_optimizer))
            self._handles.append(each.register_step_post_hook(self._after_optimizer))
        self._switch_meters()

    # What a training loop calls.

    def clip_grad_norm_(
        self,
        max_norm: float,
        norm_type: float = 2.0,
        error_if_nonfinite: bool = False,
        *,
        parameters: Iterable[nn.Parameter] | None = None,
    ) -> Tensor:
        """Clips as :func:`gradkern.clip_grad_norm_` does, and measures in the same pass.

        Args:
            max_norm, norm_type, error_if_nonfinite: as there.
            parameters: those to clip together; all of the model if not given.

        Returns:
            The total norm before clipping, 0-dim.

        Raises:
            RuntimeError: as there.

        Example:
            >>> layer = torch.nn.Linear(2, 1, bias=False)
            >>> monitor = gradkern.Monitor(layer)
            >>> layer.weight.grad = torch.tensor([[3.0, 4.0]])
            >>> monitor.clip_grad_norm_(1.0)
            tensor(5.)
        """
        chosen = parameters_of(self.model) if parameters is None else list(parameters)
        self._unscale()
        if not self._measuring:
            return clip_grad_norm_(chosen, max_norm, norm_type, error_if_nonfinite)
        return self._gradients.clip(chosen, float(max_norm), float(norm_type), error_if_nonfinite)

    def measure_gradients(self) -> None:
        """Measures the gradients now, for loops in which something else will clip them.

        What :meth:`step` then finds after that clipping is the total norm after it.

        Example:
            >>> layer = torch.nn.Linear(2, 1, bias=False)
            >>> monitor = gradkern.Monitor(layer, activations=None)
            >>> layer.weight.grad = torch.tensor([[3.0, 4.0]])
            >>> monitor.measure_gradients()
            >>> _ = torch.nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
            >>> monitor.step()
            >>> monitor.flush()
            >>> round(monitor.last.total_norm_before, 3), round(monitor.last.total_norm_after, 3)
            (5.0, 1.0)
        """
        if self._measuring:
            self._gradients.measure(self._parameters.tensors, None)
            self._gradients.clipped_later = True

    def step(self, loss: Tensor | float | None = None) -> None:
        """Ends a training step: to be called after the optimizers', before gradients are cleared.

        Args:
            loss: of the step: a number or a one-element tensor, without a loss scale.

        Raises:
            RuntimeError: compiled code has swallowed the hooks; the message has the remedy.
            TrainingError: with ``on_alert="raise"``, for an error.
            TypeError: ``loss`` is neither number nor one-element tensor.
        """
        if self._closed:
            raise RuntimeError("the monitor is closed; step must be called before close()")
        loss = _checked(loss)
        self._step += 1
        if (self._step - 1) % self._every == 0:
            self._enqueue(loss)
        self._switch_meters()
        self._judge_arrived()

    def flush(self) -> None:
        """Waits for everything that has been measured, and judges it."""
        while self._queue:
            pending = self._queue.popleft()
            pending.copy.wait()
            self._judge(pending)

    def close(self) -> None:
        """Judges what is left and removes every hook. A second call changes nothing."""
        if self._closed:
            return
        self._closed = True
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if self._recurrence is not None:
            self._recurrence.close()
        if self._activations is not None:
            self._activations.close()
        self._updates.forget()
        try:
            self.flush()
            if self.last is not None:
                self._emit(verdict_event(self._verdict_until_now()))
        finally:
            for sink in self._sinks:
                close = getattr(sink, "close", None)
                if close is not None:
                    close()
            self._sinks.clear()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def alerts(self) -> list[Alert]:
        """All alerts, the oldest first; at most the last thousand."""
        return list(self.judge.alerts)

    def verdict(self) -> Verdict:
        """What is wrong, where, why, and what to do; waits for what has been measured.

        Raises:
            RuntimeError: no step has been measured.
        """
        self.flush()
        return self._verdict_until_now()

    def report(self) -> Report:
        """The verdict, its evidence, cause and remedies, and the layers; waits for the last step.

        Print it; or call its ``html(path)`` or ``plot(path)``.

        Raises:
            RuntimeError: no step has been measured.
        """
        verdict = self.verdict()
        self.history.add(verdict_event(verdict))
        return Report(self.history, type(self.model).__name__)

    def plot(self, path: str | Path | None = None) -> Figure:
        """The five plots of :meth:`report`, by matplotlib.

        Args:
            path: where to save them, if anywhere.

        Returns:
            The figure.
        """
        return self.report().plot(path)

    def status(self) -> str:
        """The last judged step and the verdict until then, in one line."""
        if self.last is None:
            return "nothing has been judged yet"
        last, verdict = self.last, self._verdict_until_now()
        return (
            f"step {last.step}: {verdict.kind}, loss {last.loss:.4g}, gradient norm "
            f"{last.total_norm_before:.3g} -> {last.total_norm_after:.3g}"
        )

    def memory(self) -> dict[str, int]:
        """Bytes that the monitor holds, by what they are for.

        Returns:
            ``samples``: of parameters, held from before an optimizer's step until :meth:`step`;
            ``history``: of numbers for plots and rules; ``parameters``: for comparison, those of
            the model.

        Example:
            >>> sorted(gradkern.Monitor(torch.nn.Linear(2, 2)).memory())
            ['history', 'parameters', 'samples']
        """
        return {
            "samples": self._updates.bytes_for(self._parameters.tensors),
            "history": self.history.bytes
            + self.judge.past.bytes
            + (0 if self._activations is None else self._activations.bytes),
            "parameters": sum(p.nbytes for p in self.model.parameters()),
        }

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`load_state_dict` needs to go on: plain data, as checkpoints hold.

        Waits for what has been measured.
        """
        self.flush()
        return {
            "step": self._step,
            "judge": self.judge.state_dict(),
            "history": self.history.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where another monitor's :meth:`state_dict` was taken.

        Args:
            state: of a monitor of the same model.

        Raises:
            KeyError: something is missing from it.
        """
        self._step = state["step"]
        self.judge.load_state_dict(state["judge"])
        self.history.load_state_dict(state["history"])
        self._resumed = True
        self._switch_meters()

    def _verdict_until_now(self) -> Verdict:
        if self.last is None:
            raise RuntimeError("nothing has been measured; a step() must come before the verdict")
        past = self.judge.past
        case = Case(
            network=self._network,
            record=self.last,
            past=past,
            rules=frozenset(alert.rule for alert in self.judge.alerts),
            holding=self.judge.holding,
        )
        return judge_training(self.alerts, {r.name: r.indicates for r in self.judge.rules}, case)

    # Measuring.

    @property
    def _measuring(self) -> bool:
        """Whether the step that is going on is one of those that are measured."""
        return not self._closed and self._step % self._every == 0

    def _switch_meters(self) -> None:
        for meter in (self._activations, self._recurrence):
            if meter is not None:
                meter.enabled = self._measuring

    def _look_at_network(self) -> Network:
        return Network.of(self.model, self._parameters.watched, self._optimizers)

    def _unscale(self) -> None:
        if self._scaler is None or not self._scaler.is_enabled():
            return
        for optimizer in self._optimizers:
            if not loss_scale.is_unscaled(self._scaler, optimizer):
                self._scaler.unscale_(optimizer)

    def _before_optimizer(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if not self._measuring:
            return
        if not self._updates.remembers:
            self._refresh()
            self._updates.remember(self._parameters.tensors)
        if not _has_closure(args, kwargs):  # which computes gradients: they are measured afterwards
            self._gradients.measure_before_step(optimizer, self._watched_by(optimizer))

    def _after_optimizer(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if not self._measuring:
            return
        self._stepped.add(id(optimizer))
        if _has_closure(args, kwargs):
            self._gradients.measure_rest(self._watched_by(optimizer))

    def _watched_by(self, optimizer: Optimizer) -> list[nn.Parameter]:
        return [
            parameter
            for group in optimizer.param_groups
            for parameter in group["params"]
            if id(parameter) in self._parameters.index
        ]

    def _refresh(self) -> None:
        if self._parameters.refresh():
            self._network = self._look_at_network()

    def _enqueue(self, loss: Tensor | float | None) -> None:
        self._refresh()
        parameters = self._parameters.tensors
        if not self._optimizers:
            self._gradients.measure_rest(parameters)
        if self._gradients.clipped_later:
            self._gradients.measure_total_after(parameters)
        gradients, self._gradients = self._gradients, GradientMeasurements()
        stepped = bool(self._stepped) or not self._optimizers
        self._stepped.clear()

        measured = measure(parameters)
        updates = self._updates.measure(parameters)
        if not self._optimizers:
            self._updates.remember(parameters)
        outputs = ActivationMeasurements()
        if self._activations is not None:
            outputs = self._activations.finish_step()
        probed = [] if self._recurrence is None else self._recurrence.finish_step()
        rates = [g["lr"] for o in self._optimizers for g in o.param_groups]
        tensors = (
            gradients.tensors(),
            [rows for _, rows in measured],
            [rows for _, moved, excess in updates for rows in (moved, excess)],
            outputs.tensors(),
            [norms for _, norms in probed],
            [_kept(x) for x in (*rates, loss) if isinstance(x, Tensor)],
        )
        self._queue.append(
            StepInFlight(
                step=self._step,
                loss=loss if isinstance(loss, float) else None,
                loss_is_tensor=isinstance(loss, Tensor),
                learning_rates=tuple(None if isinstance(r, Tensor) else float(r) for r in rates),
                stepped=stepped,
                network=self._network,
                index=self._parameters.index,
                gradients=gradients,
                parameters=[indices for indices, _ in measured],
                updates=[indices for indices, _, _ in updates],
                outputs=outputs,
                probed=[name for name, _ in probed],
                copy=HostCopy([t for group in tensors for t in group]),
                lengths=tuple(len(group) for group in tensors),
            )
        )

    # Judging.

    def _judge_arrived(self) -> None:
        # The newest is left for the next step, also where it has arrived at once.
        while len(self._queue) > 1 and self._queue[0].copy.arrived:
            self._judge(self._queue.popleft())

    def _judge(self, pending: StepInFlight) -> None:
        record = pending.read(self._activations)
        self.last = record
        if self._activations is not None:
            compile_check.require_hooks(self._activations, record)
        names = (record.gradients.names, record.activations.names)
        if names != self._named:
            begins = self._named is None and not self._resumed
            self._named = names
            held = self._updates.bytes_for(self._parameters.tensors)
            self._emit(run_event(record, pending.network, begins, self._updates.mode, held))
        self._emit(step_event(record))
        alerts = self.judge.judge(record, pending.network)
        for alert in alerts:
            self._emit(alert_event(alert))
        if alerts:
            self._announce()
        if _is_first_rank():
            for alert in alerts:
                self.on_alert(alert)

    def _announce(self) -> None:
        """Logs the verdict where it has changed."""
        verdict = self._verdict_until_now()
        key = (verdict.kind, verdict.severity, verdict.cause.name)
        if key != self._announced:
            self._announced = key
            self._emit(verdict_event(verdict))

    def _emit(self, event: Event) -> None:
        self.history.add(event)
        for sink in self._sinks:
            sink(event)


def _listed(optimizer: Optimizers) -> list[Optimizer]:
    listed = [] if optimizer is None else optimizer
    listed = [listed] if isinstance(listed, Optimizer) else list(listed)
    for each in listed:
        if not isinstance(each, Optimizer):
            raise TypeError(
                f"optimizer has a {type(each).__name__}; it must be a torch.optim.Optimizer or "
                "several of them"
            )
    return listed


def _patterns(patterns: Sequence[str]) -> Sequence[str]:
    return (patterns,) if isinstance(patterns, str) else patterns


def _is_first_rank() -> bool:
    distributed = torch.distributed
    return not (
        distributed.is_available() and distributed.is_initialized() and distributed.get_rank()
    )


def _has_closure(args: Any, kwargs: Any) -> bool:
    # A hook's args begin with the optimizer.
    return kwargs.get("closure", args[1] if len(args) > 1 else None) is not None


def _checked(loss: Tensor | float | None) -> Tensor | float | None:
    if loss is None or isinstance(loss, Tensor):
        if isinstance(loss, Tensor) and loss.numel() != 1:
            raise TypeError(f"loss has shape {tuple(loss.shape)}; it must be one number")
        return loss
    try:
        return float(loss)
    except (TypeError, ValueError):
        raise TypeError(
            f"loss is a {type(loss).__name__}; it must be a number or a one-element tensor"
        ) from None


def _kept(scalar: Tensor) -> Tensor:
    """A copy that nobody changes later."""
    return scalar.detach().reshape(()).to(torch.float64, copy=True)
