"""Studies whose processes are killed or run out of memory."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

Snapshot = dict[str, Any]


class Killer:
    """Starts a study, kills it, and starts it again, until it has been killed often enough and is complete."""

    def __init__(
        self, begin: Callable[..., Any], snapshot: Callable[[Path], Snapshot], folder: Path, *words: str
    ) -> None:
        self.begin, self.snapshot, self.folder, self.words = begin, snapshot, folder, words
        self.kept: Snapshot = {}
        self.kills = 0
        self.started: list[Any] = []

    def start(self, **faults: Any) -> Any:
        self.started.append(self.begin(self.folder, *self.words, **faults))
        return self.started[-1]

    def killed(self) -> None:
        """Note that the driver has been killed, and what it had got done."""
        self.kills += 1
        now = self.snapshot(self.folder)
        assert now.items() >= self.kept.items(), "a record has changed"
        self.kept = now

    def complete(self) -> None:
        """Start it a last time; what was there stays, and all its processes end."""
        last = self.start()
        assert last.wait() == 0, last.said()
        assert self.snapshot(self.folder).items() >= self.kept.items(), "a record has changed"
        for one in self.started:
            one.settle()


def duration_of(started: Any) -> float:
    """Seconds until a study that is left alone has ended."""
    start = time.monotonic()
    assert started.wait() == 0, started.said()
    return time.monotonic() - start


@pytest.mark.parametrize("workers", ["1", "2"])
def test_driver_killed_at_random_moments(begin_study, snapshot, check_complete, tmp_path, workers):
    whole = duration_of(begin_study(tmp_path / "undisturbed", "--workers", workers))
    check_complete(tmp_path / "undisturbed")
    draw = random.Random(int(workers))
    kills = rounds = 0
    while kills < 3:
        rounds += 1
        killer = Killer(begin_study, snapshot, tmp_path / f"runs{rounds}", "--workers", workers)
        while killer.kills < 3:
            started, deadline = killer.start(), time.monotonic() + draw.uniform(0.2, 0.9) * whole
            while not started.ended() and time.monotonic() < deadline:
                time.sleep(0.005)
            if started.ended():  # it had little left to do
                assert started.wait() == 0, started.said()
                break
            started.kill()
            killer.killed()
            if draw.random() < 0.5:  # else the next one meets what is left of this one
                started.settle()
        kills += killer.kills
        killer.complete()
        check_complete(killer.folder)


def test_driver_killed_before_random_file_operations(begin_study, snapshot, check_complete, tmp_path):
    draw, killer = random.Random(7), Killer(begin_study, snapshot, tmp_path / "runs")
    for _ in range(10):
        started = killer.start(crash=("", draw.randrange(1, 120)))
        if (code := started.wait()) == 0:
            break
        assert code == -9, started.said()
        killer.killed()
    killer.complete()
    check_complete(killer.folder)


# What is about to happen when the process is killed, and for which time.
MOMENTS = {
    "the study is declared": ("rename .*/.study.json.* /study.json$", 1),
    "a block is claimed": ("rename .* /.locks/toy seed4.json$", 1),
    "a checkpoint is written": ("mkdir .*/checkpoint-19", 1),
    "a checkpoint gets its manifest": ("open .*manifest.json", 2),
    "a checkpoint is put into place": ("rename .* /.segments/toy/seed3/step19", 1),
    "a checkpoint is half deleted": ("remove optimizer.pt", 1),
    "a record is put into place": ("rename .* /toy/0/seed3/record.json$", 1),
    "a record is there and its branches go on": ("remove /toy/ce/seed3/.record.json", 1),
    "the last record is put into place": ("rename .* /toy/0-0.5/seed4/record.json$", 1),
    "all is done but the tidying": ("remove pending.json", 4),
    "the last claim ends": ("remove /.locks/toy seed4.json", 1),
    "a model is put into place": ("rename .* /toy/0/seed3/model$", 1),
    "a model that is not the best is deleted": ("rmdir /toy/0-0.5/seed./model$", 3),  # after those of before
    "a model is there and its record is not": ("open /toy/0/seed3/.record.json", 1),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_driver_killed_at_critical_moment(begin_study, snapshot, check_complete, runs, moment):
    keep = "best" if "best" in moment else "models" if "model" in moment else "none"
    killer = Killer(begin_study, snapshot, runs, "--keep", keep)
    started = killer.start(crash=MOMENTS[moment])
    assert started.wait() == -9, started.said()
    killer.killed()
    killer.complete()
    check_complete(runs, models={"best": 4, "models": 8, "none": 0}[keep])


@pytest.mark.parametrize("moment", ["rename .* /toy/0/seed3/record.json$", "rmtree /.segments/toy/seed3$"])
def test_waiting_driver_takes_over_from_killed_one(begin_study, check_complete, runs, moment):
    killed = begin_study(runs, crash=(moment, 1))
    while not (runs / ".locks" / "toy seed3.json").exists() and not killed.ended():
        time.sleep(0.005)
    waiting = begin_study(runs)
    assert killed.wait() == -9, killed.said()
    assert waiting.wait() == 0, waiting.said()
    check_complete(runs)


# A training step of the first seed: its number within its segment, how often a step of that number comes before it
# where one process does them all, and the methods that need it.
STEPS = {
    "of one run": (18, 0, ("ce",)),
    "of what three runs share": (2, 1, ("0", "0,0.5", "0-0.5")),
    "of what two of them share later": (5, 1, ("0", "0,0.5")),
}


def fault(kind: str, folder: Path, step: str = "of one run", times: int = 1) -> dict[str, Any]:
    """Something that goes wrong in a training step."""
    from fault_drivers import tokens

    call, skip, _ = STEPS[step]
    call += 2  # a model is tried twice on the first batch
    return {"kind": kind, "task": "toy", "seed": 3, "call": call, "fired": tokens(folder / "fired", times, skip)}


def hit(step: str) -> list[str]:
    """The records of the runs that need a step."""
    return sorted(f"toy/{method}/seed3/record.json" for method in STEPS[step][-1])


def without(files: Snapshot, names: list[str]) -> Snapshot:
    return {path: file for path, file in files.items() if not path.endswith(tuple(names))}


def check_hit(there: dict[str, Any], names: list[str], error: str) -> None:
    """Check that these runs have failed with an error and that all others are done."""
    assert len(there) == 8
    assert sorted(name for name, record in there.items() if record["status"] != "done") == names
    assert all(there[name]["status"] == "failed" and error in there[name]["error"] for name in names)


def test_killed_worker_is_replaced(begin_study, check_complete, runs, tmp_path):
    started = begin_study(runs, "--workers", "2", fault=fault("die", tmp_path))
    assert started.wait() == 0, started.said()
    started.settle()
    assert list((tmp_path / "fired").iterdir()) == []  # it was
    assert "died" not in started.said()
    check_complete(runs)


def test_worker_killed_twice_fails_its_runs(begin_study, records, snapshot, check_complete, runs, tmp_path):
    wrong, names = fault("die", tmp_path, times=2), hit("of one run")
    started = begin_study(runs, "--workers", "2", fault=wrong)
    assert started.wait() == 1, started.said()
    check_hit(records(runs), names, "died 2 times, most recently with exit code -9")
    assert "--retry_failed" in started.said()
    kept = without(snapshot(runs), names)
    again = begin_study(runs, "--workers", "2", "--retry_failed", fault=wrong)
    assert again.wait() == 0, again.said()
    assert snapshot(runs).items() >= kept.items()
    check_complete(runs)


@pytest.mark.parametrize(
    ("kind", "error", "step", "workers"),
    [
        ("memory", "MemoryError", "of one run", "2"),
        ("memory", "MemoryError", "of what three runs share", "1"),
        ("gpu memory", "OutOfMemoryError", "of what two of them share later", "1"),
    ],
)
def test_error_in_one_block_leaves_other_runs_done(
    begin_study, records, snapshot, check_complete, runs, tmp_path, kind, error, step, workers
):
    wrong, names = fault(kind, tmp_path, step), hit(step)
    started = begin_study(runs, "--workers", workers, fault=wrong)
    assert started.wait() == 1, started.said()
    check_hit(records(runs), names, error)
    kept = snapshot(runs)
    assert begin_study(runs, "--workers", workers, fault=wrong).wait() == 1  # failed runs stay
    assert snapshot(runs) == kept
    again = begin_study(runs, "--workers", workers, "--retry_failed", fault=wrong)
    assert again.wait() == 0, again.said()
    assert snapshot(runs).items() >= without(kept, names).items()
    check_complete(runs)


def test_dismissed_worker_shows_no_traceback(begin_study, check_complete, runs, tmp_path):
    started = begin_study(runs, "--workers", "2", fault=fault("leave", tmp_path))
    assert started.wait() == 0, started.said()
    assert list((tmp_path / "fired").iterdir()) == []
    assert "Traceback" not in started.said()
    check_complete(runs)
