"""Branches in processes of their own, several at a time."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait

from hf_elmix.study.shared_prefixes import Branch, Outcome

__all__ = ["BranchProgress", "Engine", "Progress", "Run", "Take", "run_here", "run_in_workers", "visible_gpus"]

Progress = Callable[[int, int], None]  # optimizer steps of the run done, and of how many
BranchProgress = Callable[[Branch, int, int], None]
Run = Callable[[Branch, Progress], Outcome]
Take = Callable[[], Branch | None]  # the next branch that can be done, or None if there is none now

# Does branches until there are none to take and none under way. What it yields may bring more of them to take.
Engine = Callable[[Take, Run, BranchProgress], Iterator[Outcome]]


def run_here(take: Take, run: Run, progress: BranchProgress) -> Iterator[Outcome]:
    """Do branches one after the other in this process.

    Args:
        take: Gives the next branch, or None.
        run: Does one branch.
        progress: Called after every optimizer step, with the branch.

    Yields:
        The outcome of each branch, as it ends.
    """
    gc.freeze()  # as in a worker, see below
    try:
        while (branch := take()) is not None:
            yield run(branch, partial(progress, branch))
    finally:
        gc.unfreeze()


def run_in_workers(take: Take, run: Run, progress: BranchProgress, *, workers: int) -> Iterator[Outcome]:
    """Do branches in `workers` processes; arguments and outcomes as for `run_here`.

    The processors are divided between the processes; on a machine with GPUs each process has one of them. A process
    that dies takes only its own branch with it, and another one takes its place. However this ends, no process is left
    behind.

    Args:
        take: Gives the next branch, or None.
        run: Does one branch; each process gets a pickle of it, and of all it refers to.
        progress: Called after every optimizer step, with the branch.
        workers: How many processes, 1 or more.

    Yields:
        The outcome of each branch, as it ends.

    Raises:
        OSError: If a branch raised it.
    """
    crew: dict[int, _Worker] = {}
    gpus = visible_gpus()
    try:
        while True:
            for place in range(workers):
                busy = place in crew and crew[place].branch is not None
                branch = None if busy else take()
                if branch is not None:
                    if place not in crew:
                        crew[place] = _Worker(run, _environment(place, workers, gpus))
                    crew[place].assign(branch)
            busy_ones = {w.connection: place for place, w in crew.items() if w.branch is not None}
            if not busy_ones:
                return
            for connection in wait(list(busy_ones)):
                place = busy_ones[connection]  # type: ignore[index]
                message = crew[place].receive()
                if isinstance(message, tuple):
                    progress(*message)
                    continue
                if message.died is not None:
                    crew.pop(place).end()
                yield message
    finally:
        for worker in crew.values():
            worker.end()


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES has them."""
    import torch

    count = torch.cuda.device_count()
    given = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return given[:count] if given else [str(index) for index in range(count)]


class _Worker:
    """A process that does the branches it is told, and the parent's end of the line to it."""

    branch: Branch | None = None

    def __init__(self, run: Run, environment: dict[str, str]) -> None:
        # A process forked from one that has run PyTorch may hang in its threads; a new one cannot.
        context = multiprocessing.get_context("spawn")
        self.connection, its_end = context.Pipe()
        self.process = context.Process(target=_serve, args=(its_end, run), daemon=True)
        with environ(environment), _deaf_to_ctrl_c():
            self.process.start()
        its_end.close()  # so that the line breaks when the process dies

    def assign(self, branch: Branch) -> None:
        self.branch = branch
        with suppress(OSError):  # It may have died; receiving from it says so.
            self.connection.send(branch)

    def receive(self) -> Outcome | tuple[Branch, int, int]:
        """A branch's progress, or its outcome, be it that the process has died.

        Raises:
            OSError: If the branch raised it.
        """
        assert self.branch is not None, "only a worker with a branch has something to say"
        try:
            message = self.connection.recv()
        except (EOFError, OSError):
            self.process.join(timeout=20)
            return Outcome(self.branch, died=f"exit code {self.process.exitcode}")
        if isinstance(message, OSError):
            raise message
        if isinstance(message, tuple):
            return self.branch, *message
        self.branch = None
        return message

    def end(self) -> None:
        """Let a process without a branch leave by itself, and end one that has one."""
        self.connection.close()
        if self.branch is not None:
            self.process.terminate()
        self.process.join(timeout=20)
        self.process.kill()
        self.process.join()


def _serve(connection: Connection, run: Run) -> None:
    """What a worker does until it is ended: one branch after the other."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent says what happens.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # which lets Python tidy up
    show = sys.unraisablehook  # Python drops what is raised in a finalizer; the line that breaks ends this one, too
    sys.unraisablehook = lambda dropped: None if dropped.exc_type is SystemExit else show(dropped)
    # What is there now stays: the Trainer looks through all else for garbage before each training (0.3 s for all).
    gc.freeze()
    # The parent is gone, and nobody wants the result. The line is reset where it left something unread.
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            branch: Branch = connection.recv()
            try:
                connection.send(run(branch, lambda step, steps: connection.send((step, steps))))
            except BrokenPipeError:
                raise
            except OSError as error:
                connection.send(travelling(error))


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Let processes that are started in this context not hear Ctrl-C, from the start; this one hears it after it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # else the start of the first process starts it, which undoes what follows
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def travelling(error: OSError) -> OSError:
    """An error as it can be sent to another process: without its traceback, and whatever it came from."""
    return OSError(error.errno, error.strerror, error.filename) if error.errno else OSError(str(error))


def _environment(place: int, workers: int, gpus: list[str]) -> dict[str, str]:
    """What sets one worker's process apart, unless the user said otherwise."""
    threads = {} if os.environ.get("OMP_NUM_THREADS") else {"OMP_NUM_THREADS": str(_share(workers))}
    return {**threads, **({"CUDA_VISIBLE_DEVICES": gpus[place % len(gpus)]} if gpus else {})}


def _share(workers: int) -> int:
    return max(1, (os.cpu_count() or 1) // workers)


@contextmanager
def environ(values: dict[str, str]) -> Iterator[None]:
    """Let processes that are started in this context find these in their environment."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
