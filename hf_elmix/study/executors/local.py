"""Train branches in this process, or in several worker processes."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from typing import Any

from accelerate.utils import patch_environment

from hf_elmix.machine import usable_cores
from hf_elmix.study.executors.worker import work
from hf_elmix.study.shared_prefixes import Branch, Outcome

__all__ = [
    "BranchProgress",
    "Executor",
    "Logs",
    "Progress",
    "Run",
    "Take",
    "run_in_process",
    "run_in_workers",
    "visible_gpus",
]

Logs = Sequence[Mapping[str, Any]]  # lines of a Trainer's log history
# Takes the completed optimizer steps of a run, their total and, if there are any, new lines of its logs.
Progress = Callable[..., None]
BranchProgress = Callable[..., None]  # takes the branch before them
Run = Callable[[Branch, Progress], Outcome]
Take = Callable[[], Branch | None]  # returns the next branch that can be trained, or None if there is none now

# Trains branches until none can be taken and none is in progress. Handling an outcome may add branches to take.
Executor = Callable[[Take, Run, BranchProgress], Iterator[Outcome]]


def run_in_process(take: Take, run: Run, progress: BranchProgress) -> Iterator[Outcome]:
    """Train branches one after the other in this process.

    Args:
        take: Returns the next branch, or None.
        run: Trains one branch.
        progress: Called after every optimizer step, with the branch.

    Yields:
        The outcome of each branch when it ends.

    Raises:
        OSError: If `run` raised it.
    """
    gc.freeze()  # the Trainer collects garbage before each training; looking through all imports takes 0.3 s
    try:
        while (branch := take()) is not None:
            yield run(branch, partial(progress, branch))
    finally:
        gc.unfreeze()


def run_in_workers(
    take: Take, run: Run, progress: BranchProgress, *, workers: int, fill_gpus: bool = False
) -> Iterator[Outcome]:
    """Train branches in several processes, 1 or more; otherwise like `run_in_process`.

    Each process gets a pickle of `run` and of everything it refers to. The processors are divided between the
    processes; on a machine with GPUs each process has one of them, and more processes than GPUs share them. A process
    that dies loses only its own branch and is replaced. No process is left behind, even after an error.

    With `fill_gpus`, each GPU begins with one process. When its first branch has ended, it gets as many of the others
    as its memory has room for.
    """
    pool: dict[int, _Worker] = {}
    gpus = visible_gpus()
    room: dict[str, int] = {}  # number of further processes for which a GPU has memory
    try:
        while True:
            for place in range(workers):
                gpu = gpus[place % len(gpus)] if gpus else ""
                if fill_gpus and gpu and place // len(gpus) > room.get(gpu, 0):
                    continue
                _give_work(pool, place, take, partial(_Worker, run, _environment(workers, gpu)))
            at_work = {worker.connection: place for place, worker in pool.items() if worker.branch is not None}
            if not at_work:
                return
            for connection in wait(list(at_work)):
                place = at_work[connection]  # type: ignore[index]
                message = pool[place].receive()
                if isinstance(message, tuple):
                    progress(*message)
                elif isinstance(message, int):
                    room.setdefault(gpus[place % len(gpus)], message)
                else:
                    if message.died is not None:
                        pool.pop(place).end()
                    yield message
    finally:
        _end(pool.values())


def _end(workers: Collection[_Worker]) -> None:
    """End processes, all at the same time."""
    for worker in workers:
        worker.stop()
    for worker in workers:
        worker.end()


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, as in CUDA_VISIBLE_DEVICES."""
    import torch

    count = torch.cuda.device_count()
    given = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return given[:count] if given else [str(index) for index in range(count)]


def _give_work(pool: dict[int, _Worker], place: int, take: Take, start: Callable[[], _Worker]) -> None:
    """Give a branch, if there is one, to the worker of a place that has none; it is started for its first one."""
    if place in pool and pool[place].branch is not None:
        return
    branch = take()
    if branch is not None:
        if place not in pool:
            pool[place] = start()
        pool[place].assign(branch)


class _Worker:
    """A process that trains the branches it is sent, and this end of the pipe to it."""

    branch: Branch | None = None

    def __init__(self, run: Run, environment: dict[str, str]) -> None:
        # A process forked from one that has run PyTorch may hang in its threads; a new one cannot.
        context = multiprocessing.get_context("spawn")
        self.connection, its_end = context.Pipe()
        self.process = context.Process(target=work, args=(its_end, pickle.dumps(run)), daemon=True)
        with patch_environment(**environment), _ignore_ctrl_c():
            self.process.start()
        its_end.close()  # so that the pipe breaks when the process dies

    def assign(self, branch: Branch) -> None:
        self.branch = branch
        with suppress(OSError):  # It may have died; `receive` reports it.
            self.connection.send(branch)

    def receive(self) -> Outcome | int | tuple[Branch, int, int, Logs]:
        """The branch and its progress, the room on the GPU (see `room_on_gpu`), or the outcome, such as a death."""
        assert self.branch is not None, "a worker without a branch sends nothing"
        try:
            message = self.connection.recv()
        except (EOFError, OSError):
            self.process.join(timeout=20)
            return Outcome(self.branch, died=f"exit code {self.process.exitcode}")
        if isinstance(message, OSError):
            raise message
        if isinstance(message, tuple):
            return self.branch, *message
        if isinstance(message, int):
            return message
        self.branch = None
        return message

    def stop(self) -> None:
        """Let an idle process exit by itself, and ask a busy one to."""
        self.connection.close()
        if self.branch is not None:
            self.process.terminate()

    def end(self) -> None:
        """Wait for the process to end, but not for long."""
        self.stop()
        self.process.join(timeout=20)
        self.process.kill()
        self.process.join()


@contextmanager
def _ignore_ctrl_c() -> Iterator[None]:
    """Let processes started here ignore Ctrl-C from the start; this process receives it when the context ends."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # else the first process starts it, which resets the mask
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _environment(workers: int, gpu: str) -> dict[str, str]:
    """Environment variables to set for one of several workers; numbers of threads that the user has set stay."""
    given = os.environ.get("OMP_NUM_THREADS")
    threads = {} if given else {"OMP_NUM_THREADS": str(max(1, usable_cores() // workers))}
    return {**threads, **({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})}
