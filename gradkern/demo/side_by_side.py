"""Trains networks side by side: each on one thread, in as many processes as there are cores."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from gradkern.demo.training import Run, Workload, train

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized
    from multiprocessing.synchronize import Event

    from gradkern.demo.digits import Digits

_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class _Setting:
    """What is the same in all trainings."""

    digits: Digits
    seed: int
    quick: bool

    def train(self, workload: Workload, count: Callable[[int], object]) -> Run:
        """Tells `count` of steps as they are made, and of those left out by a run that diverges."""
        left = workload.steps(self.digits, self.quick)

        def on_step() -> None:
            nonlocal left
            left -= 1
            count(1)

        run = train(workload, self.digits, seed=self.seed, quick=self.quick, on_step=on_step)
        count(left)
        return run


def train_all(
    workloads: Sequence[Workload],
    digits: Digits,
    *,
    seed: int,
    quick: bool,
    processes: int,
    on_progress: Callable[[int], object],
) -> Generator[Run]:
    """Trains the workloads, each from the same seed, and yields their runs in the given order.

    The runs do not depend on the number of processes.

    Args:
        processes: how many networks are trained at a time. With 1 it happens in this process, whose
            random state and number of threads are as they were whenever a run is handed over.
        on_progress: is told now and then how many steps have been made; those that a diverging
            training left out count as made at its end.
    """
    setting = _Setting(digits, seed, quick)
    if processes == 1:
        return _train_here(workloads, setting, on_progress)
    return _train_elsewhere(workloads, setting, processes, on_progress)


def _train_here(
    workloads: Sequence[Workload], setting: _Setting, on_progress: Callable[[int], object]
) -> Generator[Run]:
    made = 0

    def count(steps: int) -> None:
        nonlocal made
        made += steps
        on_progress(made)

    for workload in workloads:
        with _one_thread(), torch.random.fork_rng(devices=[]):
            run = setting.train(workload, count)
        yield run


def _train_elsewhere(
    workloads: Sequence[Workload],
    setting: _Setting,
    processes: int,
    on_progress: Callable[[int], object],
) -> Generator[Run]:
    # A fork would copy torch's threads' locks without the threads.
    spawn = multiprocessing.get_context("spawn")
    steps, stop = spawn.Value("l", 0), spawn.Event()
    # Pickled here: multiprocessing would move the tensors to shared memory, which may be scarce.
    arguments = pickle.dumps(setting), steps, stop
    pool = ProcessPoolExecutor(processes, spawn, initializer=_Trainer.begin, initargs=arguments)
    try:
        for future in [pool.submit(_Trainer.train, workload) for workload in workloads]:
            while not wait([future], timeout=_POLL_SECONDS).done:
                on_progress(steps.value)
            on_progress(steps.value)
            yield future.result()
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


class _StoppedError(Exception):
    """The process that waits for the training has given up."""


class _Trainer:
    """One of the processes."""

    setting: _Setting
    steps: Synchronized[int]
    stop: Event

    @classmethod
    def begin(cls, setting: bytes, steps: Synchronized[int], stop: Event) -> None:
        # Control-C reaches all processes of a terminal; the first of them tells the others.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        torch.set_num_threads(1)
        cls.setting, cls.steps, cls.stop = pickle.loads(setting), steps, stop

    @classmethod
    def train(cls, workload: Workload) -> Run:
        return cls.setting.train(workload, cls._count)

    @classmethod
    def _count(cls, steps: int) -> None:
        with cls.steps.get_lock():
            cls.steps.value += steps
        if cls.stop.is_set():
            raise _StoppedError


@contextmanager
def _one_thread() -> Iterator[None]:
    """Matrices of 64 by 64 are too small to share: a second thread costs more than it brings."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
