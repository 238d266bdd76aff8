"""Runs in processes of their own, several at a time."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path

from hf_elmix.study.spec import RunKey, RunRecord, Study
from hf_elmix.study.store import Store

__all__ = ["Progress", "Run", "run_here", "run_in_workers"]

Progress = Callable[[int, int], None]  # optimizer steps done, and of how many
Run = Callable[[Study, RunKey, Path, Progress], RunRecord]
KeyedProgress = Callable[[RunKey, int, int], None]


def run_here(
    study: Study, store: Store, run: Run, keys: Iterable[RunKey], progress: KeyedProgress
) -> Iterator[RunRecord]:
    """Do runs one after the other in this process.

    Args:
        study: The study.
        store: Says where a run may write.
        run: Does one run.
        keys: Which runs.
        progress: Called after every optimizer step, with the run's key.

    Yields:
        The record of each run, as it ends.
    """
    for key in keys:
        yield run(study, key, store.folder_of(key), partial(progress, key))


def run_in_workers(
    study: Study, store: Store, run: Run, keys: Iterable[RunKey], progress: KeyedProgress, workers: int
) -> Iterator[RunRecord]:
    """Do runs in `workers` processes; arguments and records as for `run_here`.

    A process that dies takes only its own run with it, which becomes a failed record; another one takes its place.
    However this ends, no process is left behind.
    """
    waiting = deque(keys)
    crew: list[_Worker] = []
    try:
        while waiting or crew:
            while waiting and len(crew) < workers:
                crew.append(_Worker(study, store, run, workers))
                crew[-1].assign(waiting.popleft())
            for connection in wait([worker.connection for worker in crew]):
                worker = next(worker for worker in crew if worker.connection is connection)
                message = worker.receive(study)
                if not isinstance(message, RunRecord):
                    progress(*message)
                    continue
                if waiting and worker.alive:
                    worker.assign(waiting.popleft())
                else:
                    crew.remove(worker)
                    worker.end()
                yield message
    finally:
        for worker in crew:
            worker.end()


class _Worker:
    """A process that does the runs it is told, and the parent's end of the line to it."""

    key: RunKey | None = None

    def __init__(self, study: Study, store: Store, run: Run, workers: int) -> None:
        # A process forked from one that has run PyTorch may hang in its threads; a new one cannot.
        context = multiprocessing.get_context("spawn")
        self.connection, its_end = context.Pipe()
        self.process = context.Process(target=_serve, args=(its_end, study, store, run), daemon=True)
        with _threads(max(1, (os.cpu_count() or 1) // workers)):
            self.process.start()
        its_end.close()  # so that the line breaks when the process dies
        self.alive = True

    def assign(self, key: RunKey) -> None:
        self.key = key
        with suppress(OSError):  # It may have died; receiving from it says so.
            self.connection.send(key)

    def receive(self, study: Study) -> RunRecord | tuple[RunKey, int, int]:
        """A run's progress, or its record; that of a failed run if the process has died."""
        assert self.key is not None, "only a worker with a run has something to say"
        try:
            message: RunRecord | tuple[int, int] = self.connection.recv()
        except (EOFError, OSError):
            self.alive = False
            self.process.join()
            error = f"its process ended with exit code {self.process.exitcode} (negative: the signal that killed it)"
            message = RunRecord(self.key, "failed", {}, [], study.settings(*study.runs()[self.key]), {}, {}, error)
        if not isinstance(message, RunRecord):
            return self.key, *message
        self.key = None
        return message

    def end(self) -> None:
        """Let a process without a run leave by itself, and end one that has a run."""
        self.connection.close()
        if self.key is not None:
            self.process.terminate()
        self.process.join(timeout=10)
        self.process.kill()
        self.process.join()


def _serve(connection: Connection, study: Study, store: Store, run: Run) -> None:
    """What a worker does until it is ended: one run after the other."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent says what happens.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # which lets Python tidy up
    gc.freeze()  # What the imports left is never garbage; the Trainer looks through all else before each training.
    with suppress(EOFError, BrokenPipeError):  # The parent is gone, and nobody wants the result.
        while True:
            key: RunKey = connection.recv()
            connection.send(run(study, key, store.folder_of(key), lambda step, steps: connection.send((step, steps))))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let processes started in this context use `count` threads each, unless the user said otherwise."""
    name = "OMP_NUM_THREADS"
    if name in os.environ:
        yield
        return
    os.environ[name] = str(count)
    try:
        yield
    finally:
        del os.environ[name]
