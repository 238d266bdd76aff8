from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from hf_elmix.study.spec import Materials, Method, Problem, RunKey, RunRecord, Study
from hf_elmix.study.store import Store
from hf_elmix.study.workers import run_here, run_in_workers

CRASHES = RunKey("b", "ce", 1)


def nothing(seed: int) -> Materials:
    return Materials({})


def study() -> Study:
    problems = tuple(Problem(name, "accuracy", nothing) for name in "ab")
    return Study(problems, (Method("ce"), Method("0")), (0, 1, 2), {})


def record_of(study: Study, key: RunKey, **provenance: object) -> RunRecord:
    settings = study.settings(*study.runs()[key])
    return RunRecord(key, "done", {}, [], settings, {"process": os.getpid(), **provenance}, {"seconds": 0.0})


def run(study: Study, key: RunKey, folder: Path, progress) -> RunRecord:
    """A stand-in that trains nothing."""
    for step in (1, 2):
        progress(step, 2)
    return record_of(study, key, folder=str(folder), threads=os.environ.get("OMP_NUM_THREADS"))


def crashing_run(study: Study, key: RunKey, folder: Path, progress) -> RunRecord:
    if key == CRASHES:
        os.kill(os.getpid(), signal.SIGKILL)
    return record_of(study, key)


def slow_run(study: Study, key: RunKey, folder: Path, progress) -> RunRecord:
    progress(1, 1000)
    time.sleep(60)
    return record_of(study, key)


@pytest.mark.parametrize("workers", [None, 3], ids=["here", "in workers"])
def test_every_run_once_with_its_progress(tmp_path, workers):
    seen: list[tuple[RunKey, int, int]] = []
    given = (study(), Store(tmp_path), run, list(study().runs()), lambda *step: seen.append(step))
    records = list(run_in_workers(*given, workers=workers) if workers else run_here(*given))
    assert sorted(record.key for record in records) == sorted(study().runs())
    assert sorted(seen) == sorted((key, step, 2) for key in study().runs() for step in (1, 2))
    for record in records:
        assert record.provenance["folder"] == str(Store(tmp_path).folder_of(record.key))


def test_workers_are_other_processes_that_share_the_processors(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    records = list(run_in_workers(study(), Store(tmp_path), run, list(study().runs()), lambda *_: None, workers=2))
    processes = {record.provenance["process"] for record in records}
    assert 1 <= len(processes) <= 2
    assert os.getpid() not in processes
    assert {record.provenance["threads"] for record in records} == {"4"}
    assert "OMP_NUM_THREADS" not in os.environ


def test_a_killed_worker_loses_only_its_run(tmp_path):
    keys = list(study().runs())
    records = {
        r.key: r for r in run_in_workers(study(), Store(tmp_path), crashing_run, keys, lambda *_: None, workers=2)
    }
    assert set(records) == set(keys)
    assert {key for key, record in records.items() if record.status == "failed"} == {CRASHES}
    assert "exit code -9" in (records[CRASHES].error or "")
    assert records[CRASHES].settings == study().settings(*study().runs()[CRASHES])


def test_no_process_is_left_behind(tmp_path):
    """Whatever ends the loop, here an exception as of Ctrl-C while both workers are busy."""
    started: list[RunKey] = []

    def stop(key: RunKey, step: int, steps: int) -> None:
        started.append(key)
        if len(started) == 2:
            raise KeyboardInterrupt

    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(run_in_workers(study(), Store(tmp_path), slow_run, list(study().runs()), stop, workers=2))
    assert time.monotonic() - begin < 50
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    if children.exists():
        commands = [Path(f"/proc/{pid}/cmdline").read_text() for pid in children.read_text().split()]
        assert not [command for command in commands if "spawn_main" in command]
