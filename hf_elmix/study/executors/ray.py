"""Branches as tasks of a Ray cluster: this machine, many, or as many as an autoscaler adds."""

from __future__ import annotations

import gc
import logging
import os
import secrets
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from upath import UPath

from hf_elmix.errors import UsageError, in_one_line
from hf_elmix.study.executors.local import BranchProgress, Run, Take, environ
from hf_elmix.study.shared_prefixes import Branch, Outcome
from hf_elmix.study.store import local_path

__all__ = ["run_on_ray"]

Step = tuple[int, int]  # as `Progress` has it
Answer = tuple[Outcome | OSError | UsageError, Step | None]  # what came of a branch, and how far it was

PERIOD = 0.5  # seconds between two messages of a task, and between two looks at them
AHEAD = (
    2  # tasks given to the cluster, as a multiple of those it can do at a time: an autoscaler adds machines for them
)
PATIENCE = 5.0  # seconds for a cluster to answer
GRACE = 5.0  # seconds for tasks that were cancelled to remove what they have on their disks

# A cluster of our own is for this driver only: it can be reached from this machine alone, by who knows the secret, and
# tells nobody about itself. (The first is how Ray asks for the loopback address.)
OWN = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}

HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # how a gRPC client begins
SETTINGS = 4  # kind of the frame that a gRPC server begins with


def run_on_ray(
    take: Take,
    run: Run,
    progress: BranchProgress,
    *,
    address: str | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> Iterator[Outcome]:
    """Do branches as tasks of a Ray cluster; other arguments and outcomes as for `run_here`.

    A task has a GPU to itself where the cluster has any, else one processor. A task whose process or machine dies ends
    in an outcome that says so. However this ends, no task is left behind, and no cluster that was started here.

    Args:
        take: Gives the next branch, or None.
        run: Does one branch. It travels once, with all that it refers to; its code must be installed everywhere.
        progress: Called for every optimizer step, at most `PERIOD` seconds late.
        address: Of the cluster, as ``host:port``, ``ray://host:port`` or ``auto``; left out, it is that in
            ``$RAY_ADDRESS``, else a cluster is started on this machine.
        folder: Where `run` writes. If that is no URL, machines that do not see it are refused.

    Yields:
        The outcome of each branch, as it ends.

    Raises:
        UsageError: If there is no cluster at the address, or its machines cannot do the work.
        OSError: If a branch raised it.
    """
    first = take()
    if first is None:  # There is nothing to start a cluster for.
        return
    waiting = [first]
    with _cluster(address) as ray, _marker(folder) as marker:
        tasks = _Tasks(ray, run, progress, marker)
        try:
            while True:
                while len(tasks.flights) < tasks.limit() and (branch := waiting.pop() if waiting else take()):
                    tasks.submit(branch)
                if not tasks.flights:
                    return
                yield from tasks.ended()
        finally:
            tasks.cancel()


@dataclass
class _Flight:
    """A branch that the cluster has been given."""

    number: int
    branch: Branch
    step: int  # the last one that was reported


class _Tasks:
    """The tasks that a driver has in a cluster."""

    def __init__(self, ray: Any, run: Run, progress: BranchProgress, marker: Path | None) -> None:
        self.ray, self.progress = ray, progress
        self.flights: dict[Any, _Flight] = {}  # by the reference to what will come of them
        self.count, self.looked = 0, time.monotonic()
        self.needs = {"CPU": 1, **({"GPU": 1} if ray.cluster_resources().get("GPU") else {})}
        # The grid does a branch again whose process died, and counts how often.
        options = {"num_cpus": 1, "num_gpus": self.needs.get("GPU", 0), "max_retries": 0}
        self.task = ray.remote(**options)(_work)
        self.board = ray.remote(num_cpus=0, max_restarts=-1)(_board_class()).remote()
        self.given = ray.put(run), self.board, marker, Path.cwd()

    def limit(self) -> int:
        """How many tasks the cluster is given at a time; it may have grown since it was last asked."""
        resources = self.ray.cluster_resources()
        return AHEAD * max(1, min(int(resources.get(name, 0) // need) for name, need in self.needs.items()))

    def submit(self, branch: Branch) -> None:
        """Let the cluster do a branch."""
        self.count += 1
        self.flights[self.task.remote(branch, self.count, *self.given)] = _Flight(self.count, branch, branch.start)

    def ended(self) -> Iterator[Outcome]:
        """What has come of tasks, after waiting a moment for it; meanwhile, their progress.

        Raises:
            UsageError: If a machine cannot do the work.
            OSError: If a branch raised it.
        """
        over, _ = self.ray.wait(list(self.flights), num_returns=1, timeout=PERIOD)
        if time.monotonic() - self.looked >= PERIOD:
            self._look()
        for reference in over:
            flight = self.flights.pop(reference)
            outcome, last = self._answer(reference, flight.branch)
            self._report(flight, last)
            if not isinstance(outcome, Outcome):
                raise outcome
            yield outcome

    def cancel(self) -> None:
        """End all tasks. They have a moment to tidy up; those that are still there then are killed."""
        left = list(self.flights)
        for force in (False, True):
            for reference in left:
                with suppress(Exception):  # the cluster may be gone
                    self.ray.cancel(reference, force=force)
            if left:
                _, left = self.ray.wait(left, num_returns=len(left), timeout=GRACE)
        self.flights.clear()

    def _answer(self, reference: Any, branch: Branch) -> Answer:
        errors = self.ray.exceptions
        try:
            return self.ray.get(reference)
        except errors.RayTaskError as error:  # All that can go wrong in training is an outcome; this is before it.
            return UsageError(
                f"A machine of the Ray cluster cannot do the study: {in_one_line(error.cause or error)} Expected each "
                "machine to have the same packages as this one; install them there, e.g. pip install 'hf-elmix[ray]'."
            ), None
        except errors.RayError as error:
            return Outcome(branch, died=f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"), None

    def _look(self) -> None:
        """Report the steps that tasks have done since the last look."""
        self.looked = time.monotonic()
        try:
            news = self.ray.get(self.board.read.remote(), timeout=PERIOD)
        except (self.ray.exceptions.RayError, TimeoutError):
            return  # The board is starting, here or on another machine; steps are reported when a task ends, too.
        for flight in self.flights.values():
            self._report(flight, news.get(flight.number))

    def _report(self, flight: _Flight, last: Step | None) -> None:
        """Report every step up to the last one that is known of."""
        if last is None:
            return
        step, steps = last
        # A task that lacks its parent's checkpoint first trains what that held, so a step may come twice.
        if step < flight.step:
            flight.step = step - 1
        while flight.step < step:
            flight.step += 1
            self.progress(flight.branch, flight.step, steps)


def _work(branch: Branch, number: int, run: Run, board: Any, marker: Path | None, cwd: Path) -> Answer:
    """A task: do one branch. What `run` raises is given back, as errors do not travel well."""
    with suppress(OSError):
        os.chdir(cwd)  # Paths that are relative mean what they mean to the driver.
    if marker is not None and not marker.exists():
        return UsageError(
            f"The machine {socket.gethostname()} of the Ray cluster does not see {marker.parent}. Expected a folder "
            "that all machines share; choose one as --output_dir, or a URL such as s3://bucket/runs."
        ), None
    _settle()
    note = _Note(board, number)
    try:
        outcome = run(branch, note)
    except OSError as error:
        plain = OSError(error.errno, error.strerror, error.filename) if error.errno else OSError(str(error))
        return plain, note.last
    return outcome, note.last


@cache
def _settle() -> None:
    """What the imports left is never garbage; the Trainer looks through all else before each training."""
    gc.freeze()


class _Note:
    """A task's progress, written on the board every now and then."""

    def __init__(self, board: Any, number: int) -> None:
        self.board, self.number = board, number
        self.last: Step | None = None
        self.written = float("-inf")

    def __call__(self, step: int, steps: int) -> None:
        self.last = step, steps
        if time.monotonic() - self.written >= PERIOD:
            self.written = time.monotonic()
            self.board.write.remote(self.number, self.last)


def _board_class() -> type:
    """The class of the board. A class inside a function travels whole, so that its process need import nothing."""

    class Board:
        """Where tasks write how far they are, for the driver to read."""

        def __init__(self) -> None:
            self.news: dict[int, Step] = {}

        def write(self, number: int, step: Step) -> None:
            self.news[number] = step

        def read(self) -> dict[int, Step]:
            news, self.news = self.news, {}
            return news

    return Board


@contextmanager
def _marker(folder: str | os.PathLike[str] | None) -> Iterator[Path | None]:
    """A file beside the records by which tasks know that they see the driver's folder."""
    here = None if folder is None else local_path(UPath(folder))
    if here is None:
        yield None
        return
    path = Path(here.absolute(), f".ray-{uuid.uuid4().hex[:8]}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def _cluster(address: str | None) -> Iterator[Any]:
    """The module `ray`, connected: as it is already, to the cluster at an address, or to one of our own."""
    address = address or os.environ.get("RAY_ADDRESS")
    with environ({} if address else {**OWN, "RAY_AUTH_TOKEN": secrets.token_hex(32)}):
        import ray

        if ray.is_initialized():
            yield ray
            return
        with _quiet(ray), _session(partial(ray.init, log_to_driver=False, logging_level=logging.ERROR), address):
            try:
                yield ray
            finally:
                ray.shutdown()


@contextmanager
def _quiet(ray: Any) -> Iterator[None]:
    """Let Ray not print the logs of a machine that died, pages long; that it died is an outcome."""
    place, name = ray._private.worker, "print_to_stdstream"
    shown = getattr(place, name, None)
    if shown is not None:  # It has no switch, and may have another name in another version.
        setattr(place, name, lambda *_, **__: None)
    try:
        yield
    finally:
        if shown is not None:
            setattr(place, name, shown)


@contextmanager
def _session(init: Callable[..., object], address: str | None) -> Iterator[None]:
    """Connect, or start a cluster with a folder of its own, which is removed in the end."""
    if address is not None:
        _connect(init, address)
        yield
        return
    # Ray has sockets in there, and the path of a socket must be short.
    short = os.environ.get("RAY_TMPDIR") or ("/tmp" if os.path.isdir("/tmp") else None)
    folder = tempfile.mkdtemp(prefix="elmix-ray-", dir=short)
    try:
        init("local", include_dashboard=False, _temp_dir=folder)
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _connect(init: Callable[..., object], address: str) -> None:
    """Connect to the cluster at an address.

    Raises:
        UsageError: If there is none.
    """
    expected = "Expected host:port as `ray start --head` shows it, ray://host:port, or auto."
    if address != "auto" and (problem := _no_answer(address)):
        raise UsageError(f"No Ray cluster at {address!r}: {problem}. {expected}")
    try:
        init(address)
    except (ValueError, RuntimeError, OSError) as error:
        raise UsageError(f"Cannot use the Ray cluster at {address!r}: {in_one_line(error)} {expected}") from error


def _no_answer(address: str) -> str | None:
    """Why there can be no cluster at an address, if so: asked to connect there, Ray itself tries for minutes."""
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        if parts.hostname is None or parts.port is None:
            return "it is no host:port"
        with socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE) as line:
            if os.environ.get("RAY_USE_TLS") == "1":
                return None
            line.sendall(HELLO)
            answer = line.recv(9)
    except (OSError, ValueError) as error:  # a port that is no number is a ValueError
        return str(error)
    return None if len(answer) > 3 and answer[3] == SETTINGS else "something else answers there"
