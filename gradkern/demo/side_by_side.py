"""Trains networks side by side: each on one thread, in as many processes as there are cores."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from gradkern.demo.training import Run, Workload, train

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized
    from multiprocessing.synchronize import Event

    from gradkern.demo.digits import Digits

_POLL_SECONDS = 0.1


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
    if processes == 1:
        return _train_here(workloads, digits, seed, quick, on_progress)
    return _train_elsewhere(workloads, digits, seed, quick, processes, on_progress)


def _train_here(
    workloads: Sequence[Workload],
    digits: Digits,
    seed: int,
    quick: bool,
    on_progress: Callable[[int], object],
) -> Generator[Run]:
    before = 0
    for workload in workloads:
        made = 0

        def on_step(before: int = before) -> None:
            nonlocal made
            made += 1
            on_progress(before + made)

        with _one_thread(), torch.random.fork_rng(devices=[]):
            run = train(workload, digits, seed=seed, quick=quick, on_step=on_step)
        before += workload.steps(digits, quick)
        on_progress(before)
        yield run


def _train_elsewhere(
    workloads: Sequence[Workload],
    digits: Digits,
    seed: int,
    quick: bool,
    processes: int,
    on_progress: Callable[[int], object],
) -> Generator[Run]:
    # A fork would copy torch's threads' locks without the threads.
    spawn = multiprocessing.get_context("spawn")
    steps, stop = spawn.Value("l", 0), spawn.Event()
    # Pickled here: multiprocessing would move the tensors to shared memory, which may be scarce.
    arguments = (pickle.dumps(digits), seed, quick, steps, stop)
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
    """One of the processes: what is the same in all trainings."""

    digits: Digits
    seed: int
    quick: bool
    steps: Synchronized[int]
    stop: Event

    @classmethod
    def begin(
        cls, digits: bytes, seed: int, quick: bool, steps: Synchronized[int], stop: Event
    ) -> None:
        # Control-C reaches all processes of a terminal; the first of them tells the others.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        torch.set_num_threads(1)
        cls.digits, cls.seed, cls.quick = pickle.loads(digits), seed, quick
        cls.steps, cls.stop = steps, stop

    @classmethod
    def train(cls, workload: Workload) -> Run:
        left = workload.steps(cls.digits, cls.quick)

        def on_step() -> None:
            nonlocal left
            left -= 1
            cls._count(1)
            if cls.stop.is_set():
                raise _StoppedError

        run = train(workload, cls.digits, seed=cls.seed, quick=cls.quick, on_step=on_step)
        cls._count(left)
        return run

    @classmethod
    def _count(cls, steps: int) -> None:
        with cls.steps.get_lock():
            cls.steps.value += steps


@contextmanager
def _one_thread() -> Iterator[None]:
    """Matrices of 64 by 64 are too small to share: a second thread costs more than it brings."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
