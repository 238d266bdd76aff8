from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from hf_elmix.study.executors import local as workers_module
from hf_elmix.study.executors import worker
from hf_elmix.study.executors.local import (
    Logs,
    Progress,
    Take,
    run_in_process,
    run_in_workers,
    visible_gpus,
)
from hf_elmix.study.shared_prefixes import Branch, Outcome
from hf_elmix.study.spec import RunRecord

pytestmark = pytest.mark.usefixtures("importable")

SIX = [Branch(task, seed, ("ce", "0"), ("ce", "0")) for task in "ab" for seed in range(3)]


def outcome(branch: Branch, **provenance: Any) -> Outcome:
    """What a run leaves, with a word on where it was."""
    said = {"process": os.getpid(), "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"), **provenance}
    cost = {"seconds": 0.0, "steps_trained": 2, "steps_inherited": 0}
    return Outcome(branch, tuple(RunRecord(key, "done", {}, [], {}, said, cost) for key in branch.keys))


def run(branch: Branch, progress: Progress) -> Outcome:
    """A stand-in that trains nothing."""
    for step in (1, 2):
        progress(step, 2)
    return outcome(branch, threads=os.environ.get("OMP_NUM_THREADS"))


def dying_run(branch: Branch, progress: Progress) -> Outcome:
    if branch == SIX[2]:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)  # so that the others do not do everything before this one is replaced
    return outcome(branch)


def slow_run(branch: Branch, progress: Progress) -> Outcome:
    progress(1, 1000)
    time.sleep(600)
    return outcome(branch)


def full_run(branch: Branch, progress: Progress) -> Outcome:
    if branch == SIX[1]:
        raise OSError(errno.ENOSPC, "No space left", "/somewhere")
    return outcome(branch)


def forking_run(branch: Branch, progress: Progress) -> Outcome:
    """Two branches go on from each that starts at the beginning."""
    if branch.start:
        return outcome(branch)
    children = tuple(Branch(branch.task, branch.seed, branch.among, (name,), 1) for name in branch.methods)
    return Outcome(branch, children=children, checkpoint="x")


def taken(branches: list[Branch]) -> Take:
    left = list(branches)
    return lambda: left.pop(0) if left else None


def ignore(branch: Branch, step: int, steps: int, logs: Logs = ()) -> None:
    pass


EXECUTORS = pytest.mark.parametrize(
    "executor",
    [run_in_process, pytest.param(partial(run_in_workers, workers=3), marks=pytest.mark.slow)],
    ids=["here", "in workers"],
)


@EXECUTORS
def test_every_branch_once_with_its_progress(executor):
    seen: list[tuple[Branch, int, int]] = []
    outcomes = list(executor(taken(SIX), run, lambda *step: seen.append(step[:3])))
    assert Counter(one.branch for one in outcomes) == Counter(SIX)
    assert Counter(seen) == Counter((branch, step, 2) for branch in SIX for step in (1, 2))
    for branch in SIX:
        assert [step for name, step, _ in seen if name == branch] == [1, 2]
    for one in outcomes:
        assert [record.key for record in one.records] == list(one.branch.keys)


@EXECUTORS
def test_nothing_to_take_is_nothing_to_do(executor):
    assert list(executor(taken([]), run, ignore)) == []


@EXECUTORS
def test_what_a_branch_brings_is_taken_too(executor):
    todo = deque(SIX[:2])
    done: list[Branch] = []
    for one in executor(lambda: todo.pop() if todo else None, forking_run, ignore):
        todo.extend(one.children)
        done.append(one.branch)
    assert len(done) == len(set(done)) == 6
    assert {(branch.seed, branch.methods, branch.start) for branch in done} == {
        (seed, methods, start) for seed in (0, 1) for methods, start in ((("ce", "0"), 0), (("ce",), 1), (("0",), 1))
    }


@EXECUTORS
def test_an_error_of_the_system_ends_everything(executor):
    with pytest.raises(OSError, match="No space left") as caught:
        list(executor(taken(SIX), full_run, ignore))
    assert caught.value.errno == errno.ENOSPC
    assert processes() == []


def test_here_one_branch_is_taken_only_when_the_last_has_ended():
    events: list[str] = []

    def take() -> Branch | None:
        events.append("take")
        return SIX[len(events) // 2] if len(events) < 6 else None

    def noting(branch: Branch, progress: Progress) -> Outcome:
        events.append("run")
        return outcome(branch)

    for _ in run_in_process(take, noting, ignore):
        assert events[-1] == "run"
    assert events == ["take", "run"] * 3 + ["take"]


def processes() -> list[multiprocessing.process.BaseProcess]:
    return multiprocessing.active_children()


@pytest.fixture
def gpus(monkeypatch) -> Callable[..., None]:
    return lambda *names: monkeypatch.setattr(workers_module, "visible_gpus", lambda: list(names))


@pytest.mark.slow
def test_workers_are_other_processes_that_share_the_processors(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(workers_module, "usable_cores", lambda: 8)
    outcomes = list(run_in_workers(taken(SIX), run, ignore, workers=2))
    said = [one.records[0].provenance for one in outcomes]
    assert 1 <= len({one["process"] for one in said}) <= 2
    assert os.getpid() not in {one["process"] for one in said}
    assert {one["threads"] for one in said} == {"4"}
    assert "OMP_NUM_THREADS" not in os.environ
    assert processes() == []


@pytest.mark.slow
def test_a_number_of_threads_that_was_asked_for_stays(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    (one,) = run_in_workers(taken(SIX[:1]), run, ignore, workers=4)
    assert one.records[0].provenance["threads"] == "3"


@pytest.mark.slow
def test_no_more_processes_than_branches_are_started(monkeypatch):
    started = []
    init = workers_module._Worker.__init__
    monkeypatch.setattr(workers_module._Worker, "__init__", lambda *given: (started.append(1), init(*given))[1])
    assert len(list(run_in_workers(taken(SIX[:1]), run, ignore, workers=5))) == 1
    assert len(started) == 1


@pytest.mark.slow
def test_a_killed_worker_loses_only_its_branch_and_is_replaced(gpus):
    gpus("7", "5")
    outcomes = {one.branch: one for one in run_in_workers(taken(SIX), dying_run, ignore, workers=2)}
    assert set(outcomes) == set(SIX)
    assert {branch: one.died for branch, one in outcomes.items() if one.died} == {SIX[2]: "exit code -9"}
    assert outcomes[SIX[2]].records == ()
    by_process = {(p["process"], p["gpu"]) for one in outcomes.values() for p in [r.provenance for r in one.records]}
    assert 2 <= len(by_process) <= 3
    # Each process has one GPU, and whoever takes a place has the GPU of that place.
    assert len({process for process, _ in by_process}) == len(by_process)
    assert {gpu for _, gpu in by_process} == {"7", "5"}
    assert processes() == []


@pytest.mark.slow
def test_gpus_are_dealt_out_one_to_a_worker(gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    gpus("GPU-a", "GPU-b")
    environments: list[str | None] = []
    init = workers_module._Worker.__init__

    def noting(self: Any, run: Any, environment: dict[str, str]) -> None:
        environments.append(environment.get("CUDA_VISIBLE_DEVICES"))
        init(self, run, environment)

    monkeypatch.setattr(workers_module._Worker, "__init__", noting)
    outcomes = list(run_in_workers(taken(SIX), dying_run, ignore, workers=3))
    assert environments[:3] == ["GPU-a", "GPU-b", "GPU-a"]
    seen = {record.provenance["gpu"] for one in outcomes for record in one.records}
    assert seen <= {"GPU-a", "GPU-b"}
    # The third branch killed the third worker; who takes its place, if anyone had to, has its GPU.
    assert environments[3:] in ([], ["GPU-a"])
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"


def crowded_run(branch: Branch, progress: Progress) -> Outcome:
    """A run on a GPU that has memory for one more process."""
    sys.modules["torch"] = GPU  # type: ignore[assignment]
    progress(1, 2)
    time.sleep(0.3)
    return outcome(branch)


class GPU:
    """Stands for PyTorch in a process that has reserved 1 GiB; 2.5 GiB are free."""

    class cuda:  # noqa: N801
        is_initialized = staticmethod(lambda: True)
        mem_get_info = staticmethod(lambda: (5 << 29, 8 << 30))
        max_memory_reserved = staticmethod(lambda: 1 << 30)


def test_the_room_on_a_gpu(monkeypatch):
    assert worker.room_on_gpu() is None
    monkeypatch.setitem(sys.modules, "torch", GPU)
    assert worker.room_on_gpu() == 1  # 0.8 x 2.5 GiB / 1.6 GiB
    monkeypatch.setattr(GPU.cuda, "max_memory_reserved", lambda: 3 << 30)
    assert worker.room_on_gpu() == 0


@pytest.mark.slow
def test_a_gpu_gets_more_workers_once_it_is_known_how_many_fit(gpus, monkeypatch):
    """Each GPU has room for one more; six workers are asked for, three for each."""
    gpus("7", "5")
    events: list[str] = []
    init = workers_module._Worker.__init__

    def noting(self: Any, run: Any, environment: dict[str, str]) -> None:
        events.append(environment["CUDA_VISIBLE_DEVICES"])
        init(self, run, environment)

    monkeypatch.setattr(workers_module._Worker, "__init__", noting)
    many = [Branch(task, seed, ("ce",), ("ce",)) for task in "ab" for seed in range(20)]
    outcomes = list(run_in_workers(taken(many), crowded_run, ignore, workers=6, fill_gpus=True))
    assert {one.branch for one in outcomes} == set(many)
    assert set(events[:2]) == {"7", "5"}
    assert Counter(events) == {"7": 2, "5": 2}


@pytest.mark.slow
def test_without_a_gpu_the_environment_is_left_alone(gpus, monkeypatch):
    gpus()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (one,) = run_in_workers(taken(SIX[:1]), run, ignore, workers=1)
    assert one.records[0].provenance["gpu"] is None
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.parametrize(
    ("said", "count", "names"),
    [
        (None, 0, []),
        (None, 2, ["0", "1"]),
        ("", 0, []),
        ("3", 1, ["3"]),
        ("3,1", 2, ["3", "1"]),
        ("GPU-8f,GPU-2c", 2, ["GPU-8f", "GPU-2c"]),
        ("1,-1,2", 1, ["1"]),
    ],
)
def test_visible_gpus_have_the_names_that_the_user_gave_them(monkeypatch, said, count, names):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    if said is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", said)
    assert visible_gpus() == names


@pytest.mark.slow
def test_no_process_is_left_behind():
    """Whatever ends the loop, here an exception as of Ctrl-C while both workers are busy."""
    started: list[Branch] = []

    def stop(branch: Branch, step: int, steps: int, logs: Logs = ()) -> None:
        started.append(branch)
        if len(started) == 2:
            raise KeyboardInterrupt

    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(run_in_workers(taken(SIX), slow_run, stop, workers=2))
    assert time.monotonic() - begin < 500
    assert processes() == []


@pytest.mark.slow
def test_no_process_is_left_behind_when_nobody_wants_the_rest():
    outcomes = run_in_workers(taken(SIX), run, ignore, workers=2)
    next(outcomes)
    assert isinstance(outcomes, Iterator)
    outcomes.close()
    assert processes() == []
