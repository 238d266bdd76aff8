"""Train branches as tasks of a Ray cluster: this machine, many, or as many as an autoscaler adds."""

from __future__ import annotations

import gc
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from upath import UPath

from hf_elmix.errors import UsageError, in_one_line
from hf_elmix.study.executors.cluster import GONE, GRACE, PATIENCE, PERIOD, Guard, check_address, connected
from hf_elmix.study.executors.local import BranchProgress, Logs, Run, Take
from hf_elmix.study.executors.worker import picklable
from hf_elmix.study.files import local_path
from hf_elmix.study.shared_prefixes import Branch, Outcome

__all__ = ["check_address", "connected", "run_on_ray"]

Step = tuple[int, int, Logs]  # as in `Progress`
Result = tuple[Outcome | OSError | UsageError, Step | None]  # what a task returns, and its last step

AHEAD = 2  # tasks submitted, as a multiple of those that can run at once: an autoscaler adds machines for the rest


def run_on_ray(
    take: Take,
    run: Run,
    progress: BranchProgress,
    *,
    address: str | None = None,
    folder: str | os.PathLike[str] | None = None,
    tasks_per_gpu: int = 1,
) -> Iterator[Outcome]:
    """Train branches as tasks of a Ray cluster.

    A task has a processor and, if the cluster has any, a GPU or an equal share of one. A task whose process or machine
    dies ends in an outcome that says so. No task is left behind, nor a cluster that was started here, even after an
    error.

    Args:
        take: Returns the next branch, or None.
        run: Trains one branch. It is pickled once, with everything it refers to; its code must be installed on all
            machines.
        progress: Called for every optimizer step, at most `PERIOD` seconds late.
        address: Of the cluster, as ``host:port``, ``ray://host:port`` or ``auto``; by default ``$RAY_ADDRESS``, and
            without that a cluster is started on this machine.
        folder: Where `run` writes. Unless that is a URL, machines that cannot see it are refused.
        tasks_per_gpu: Number of tasks that share each GPU; more than one needs a cluster with GPUs.

    Yields:
        The outcome of each branch when it ends.

    Raises:
        UsageError: If there is no cluster at the address, or its machines cannot do the work.
        OSError: If `run` raised it, or the head of the cluster is gone.
    """
    first = take()
    if first is None:  # no need to start a cluster
        return
    waiting = [first]
    with connected(address) as (ray, guard), _marker(folder) as marker:
        if guard is not None and marker is not None:
            guard.rubbish.append(marker)
        tasks = _Tasks(ray, run, progress, marker, _head(ray, address), guard, tasks_per_gpu)
        try:
            while True:
                while len(tasks.submitted) < tasks.limit() and (branch := waiting.pop() if waiting else take()):
                    tasks.submit(branch)
                if not tasks.submitted:
                    return
                yield from tasks.ended()
        finally:
            tasks.cancel()


@dataclass
class _Task:
    """A branch that was submitted to the cluster."""

    number: int
    branch: Branch
    step: int  # the last one that was reported


class _Tasks:
    """The tasks of a driver in a cluster."""

    def __init__(
        self,
        ray: Any,
        run: Run,
        progress: BranchProgress,
        marker: Path | None,
        head: tuple[str, int],
        guard: Guard | None,
        tasks_per_gpu: int = 1,
    ) -> None:
        self.ray, self.progress, self.head, self.guard = ray, progress, head, guard
        self.submitted: dict[Any, _Task] = {}  # by the reference to their results
        self.count, self.looked = 0, time.monotonic()
        self.room, self.asked = 0, float("-inf")  # when the head last answered
        has_gpus = bool(ray.cluster_resources().get("GPU"))
        if tasks_per_gpu > 1 and not has_gpus:
            raise UsageError(f"Expected GPUs for {tasks_per_gpu} runs on each, but the Ray cluster has none.")
        self.shared_by = {"CPU": 1, **({"GPU": tasks_per_gpu} if has_gpus else {})}  # tasks on one of each
        # The grid repeats a branch whose process died, and counts the attempts.
        options = {"num_cpus": 1, "num_gpus": 1 / tasks_per_gpu if has_gpus else 0, "max_retries": 0}
        self.remote = ray.remote(**options)(_work)
        self.board = ray.remote(num_cpus=0, max_restarts=-1)(_board_class()).remote()
        self.given = ray.put(run), self.board, marker, Path.cwd()

    def gone(self) -> OSError:
        """The error for a head that is gone; there are no tasks to cancel then."""
        self.submitted.clear()
        host, port = self.head
        return OSError(GONE.format(f"{host}:{port}"))

    def check(self) -> None:
        """Raise an error if a cluster that was started here has lost a process that it needs."""
        if self.guard is not None and self.guard.lost.is_set():
            raise self.gone()

    def limit(self) -> int:
        """Number of tasks to submit at a time; the cluster may have grown since the last call.

        Raises:
            OSError: If nobody answers at the address of the head. Ray itself would wait for a minute and then end this
                process at once.
        """
        self.check()
        if time.monotonic() - self.asked >= PERIOD:
            try:
                socket.create_connection(self.head, timeout=PATIENCE).close()
            except OSError as error:
                raise self.gone() from error
            resources = self.ray.cluster_resources()
            if self.guard is not None and not resources:  # its only machine is dead
                raise self.gone()
            at_once = min(int(resources.get(name, 0)) * tasks for name, tasks in self.shared_by.items())
            self.room = AHEAD * max(1, at_once)
            self.asked = time.monotonic()
        return self.room

    def submit(self, branch: Branch) -> None:
        """Submit a branch to the cluster."""
        self.count += 1
        self.submitted[self.remote.remote(branch, self.count, *self.given)] = _Task(self.count, branch, branch.start)

    def ended(self) -> Iterator[Outcome]:
        """Wait a moment for tasks to end, report progress, and yield outcomes or raise the error of a task."""
        over, _ = self.ray.wait(list(self.submitted), num_returns=1, timeout=PERIOD)
        if time.monotonic() - self.looked >= PERIOD:
            self.looked = time.monotonic()
            # The board may still be starting, here or on another machine; steps are reported when a task ends, too.
            with suppress(self.ray.exceptions.RayError, TimeoutError):
                news = self.ray.get(self.board.read.remote(), timeout=PERIOD)
                for task in self.submitted.values():
                    self._report(task, news.get(task.number))
        self.check()  # tasks may have ended with their cluster, which is no result
        for reference in over:
            task = self.submitted.pop(reference)
            outcome, last = self._result(reference, task.branch)
            self._report(task, last)
            if not isinstance(outcome, Outcome):
                raise outcome
            yield outcome

    def cancel(self) -> None:
        """End all tasks. They have a moment to clean up; those that are left then are killed."""
        left = list(self.submitted)
        for force in (False, True):
            for reference in left:
                with suppress(Exception):  # the cluster may be gone
                    self.ray.cancel(reference, force=force)
            if left:
                _, left = self.ray.wait(left, num_returns=len(left), timeout=GRACE)
        self.submitted.clear()

    def _result(self, reference: Any, branch: Branch) -> Result:
        """The result of a task that has ended."""
        errors = self.ray.exceptions
        try:
            return self.ray.get(reference)
        except errors.RayTaskError as error:  # Errors of training are outcomes; this one came before it.
            return UsageError(
                f"A machine of the Ray cluster cannot do the study: {in_one_line(error.cause or error)} Expected each "
                "machine to have the same packages as this one. In a checkout there, type: pip install -e '.[ray]'"
            ), None
        except errors.LocalRayletDiedError as error:  # of the task's machine, which may not be that of the driver
            if self.guard is not None:
                raise self.gone() from error
            return Outcome(branch, died=in_one_line(error)), None
        except errors.RayError as error:
            return Outcome(branch, died=f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"), None

    def _report(self, task: _Task, last: Step | None) -> None:
        """Report every step up to the last known one."""
        if last is None:
            return
        step, steps, logs = last
        # A task that lacks its parent's checkpoint first trains its content again, so steps may go back.
        if step < task.step:
            task.step = step - 1
        while task.step < step:
            task.step += 1
            self.progress(task.branch, task.step, steps)
        if logs:
            self.progress(task.branch, step, steps, logs)


def _work(branch: Branch, number: int, run: Run, board: Any, marker: Path | None, cwd: Path) -> Result:
    """Train one branch in a task. Errors of `run` are returned, because raised ones do not pickle well."""
    with suppress(OSError):
        os.chdir(cwd)  # so that relative paths mean the same as for the driver
    if marker is not None and not marker.exists():
        return UsageError(
            f"The machine {socket.gethostname()} of the Ray cluster does not see {marker.parent}. Expected a folder "
            "that all machines share; choose one as --output_dir, or a URL such as s3://bucket/runs."
        ), None
    if not gc.get_freeze_count():  # once in a process, as in `run_in_process`
        gc.freeze()
    progress = _TaskProgress(board, number)
    try:
        return run(branch, progress), progress.last
    except OSError as error:
        return picklable(error), progress.last


class _TaskProgress:
    """Writes the progress of a task to the board, at most once every `PERIOD` seconds."""

    def __init__(self, board: Any, number: int) -> None:
        self.board, self.number = board, number
        self.last: Step | None = None
        self.written = float("-inf")

    def __call__(self, step: int, steps: int, logs: Logs = (), /) -> None:
        self.last = step, steps, [*(self.last[2] if self.last else ()), *logs]
        if time.monotonic() - self.written >= PERIOD:
            self.written = time.monotonic()
            self.board.write.remote(self.number, self.last)
            self.last = step, steps, ()


def _board_class() -> type:
    """The class of the board. A local class is pickled whole, so its process need not import this module."""

    class Board:
        """Where tasks write their progress, for the driver to read."""

        def __init__(self) -> None:
            self.news: dict[int, Step] = {}

        def write(self, number: int, step: Step) -> None:
            before = self.news[number][2] if number in self.news else ()
            self.news[number] = *step[:2], [*before, *step[2]]

        def read(self) -> dict[int, Step]:
            news, self.news = self.news, {}
            return news

    return Board


@contextmanager
def _marker(folder: str | os.PathLike[str] | None) -> Iterator[Path | None]:
    """A temporary file beside the records by which tasks recognise the driver's folder."""
    here = None if folder is None else local_path(UPath(folder))
    if here is None:
        yield None
        return
    here.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(prefix=".ray-", dir=here.absolute()) as file:
        yield Path(file.name)


def _head(ray: Any, address: str | None) -> tuple[str, int]:
    """Host and port at which the head of the cluster answers this driver."""
    place = address or os.environ.get("RAY_ADDRESS") or ""
    parts = urlsplit(place if place.startswith("ray://") else f"//{ray.get_runtime_context().gcs_address}")
    return str(parts.hostname), int(parts.port or 0)
