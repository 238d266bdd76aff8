"""Studies that are interrupted, and real commands: interrupted, killed, and two at a time in one folder."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glue_runs.commands import main

pytestmark = pytest.mark.slow


def wait_until(condition: Callable[[], Any], started: Any) -> None:
    """Wait for something that a study does before it ends, however busy the machine is."""
    while not condition():
        assert not started.ended(), f"ended too early:\n{started.said()}"
        time.sleep(0.01)


def check_interrupted(started: Any) -> None:
    """Check that a study has ended as it should after Ctrl-C."""
    assert started.wait() == 130, started.said()
    started.settle()
    said = started.said()
    assert "Traceback" not in said
    assert "Error" not in said
    early = "glue-runs: stopped."  # while Python loads the command
    assert started.lines() in ([early], [f"{early} Completed runs are kept; run the same command again to continue."])
    assert said.splitlines()[-1] == started.lines()[0]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_interrupt_at_random_moments(begin_study, snapshot, strays, check_complete, tmp_path, workers):
    draw = random.Random(int(workers))
    for number in range(2):
        folder, kept = tmp_path / f"runs{number}", {}
        for _ in range(4):
            started = begin_study(folder, "--workers", workers)
            wait_until((folder / "study.json").exists, started)
            deadline = time.monotonic() + draw.uniform(0.0, 0.7)
            while not started.ended() and time.monotonic() < deadline:
                time.sleep(0.005)
            if started.ended():
                break
            for pid in started.alive():  # as a terminal does: all processes of the command
                os.kill(pid, signal.SIGINT)
            check_interrupted(started)
            assert snapshot(folder).items() >= kept.items()
            kept = snapshot(folder)
            assert [name for name in strays(folder) if "/step" not in name] == []  # what can be used may stay
        last = begin_study(folder, "--workers", workers)
        assert last.wait() == 0, last.said()
        assert snapshot(folder).items() >= kept.items()
        check_complete(folder)


def workers_of(started: Any) -> list[int]:
    """The workers of a command, once they are at work: those processes of it that have imported PyTorch."""
    others = [pid for pid in started.alive() if pid != started.process.pid]
    return [pid for pid in others if "libtorch" in _read(f"/proc/{pid}/maps")]


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_study_survives_interrupt_lost_worker_and_kill(
    begin_command, begin_study, snapshot, strays, results, undisturbed, words, runs
):
    command = ["study", "--output_dir", str(runs), *words, "--workers", "2"]

    interrupted = begin_command(*command)
    wait_until(lambda: len(interrupted.alive()) > 3, interrupted)  # its workers are about to import
    time.sleep(0.5)
    os.killpg(interrupted.process.pid, signal.SIGINT)
    check_interrupted(interrupted)

    killed = begin_command(*command)
    wait_until(lambda: snapshot(runs) and len(workers_of(killed)) == 2, killed)
    lost, other = workers_of(killed)
    os.kill(lost, signal.SIGKILL)
    # Another worker replaces it. The command ends only after that one has trained the branch again.
    wait_until(lambda: set(workers_of(killed)) - {lost, other}, killed)
    killed.kill()
    assert "died" not in killed.said()
    kept = snapshot(runs)
    assert 0 < len(kept) < 8
    killed.settle()

    last = begin_study(runs, *words)
    assert last.wait() == 0, last.said()
    assert snapshot(runs).items() >= kept.items()
    assert results(runs) == undisturbed
    assert strays(runs) == []


def test_two_commands_share_one_folder_without_repeating_steps(
    begin_command, snapshot, strays, records, results, undisturbed, words, runs, capsys
):
    both = [begin_command("study", "--output_dir", str(runs), *words) for _ in range(2)]
    states: set[str] = set()
    while not all(one.ended() for one in both):
        if (runs / "study.json").exists() and main(["status", str(runs)]) == 0:
            lines = [line for line in capsys.readouterr().out.splitlines() if " seed " in line]
            states |= {line.split(": ")[1] for line in lines}
        time.sleep(0.2)
    assert [one.wait() for one in both] == [0, 0], [one.said() for one in both]
    assert "running" in states
    assert results(runs) == undisturbed
    assert strays(runs) == []
    # No step was trained twice: the first of 0, 0,0.5 and 0-0.5 trains what it shares with the others.
    costs = {name: record["cost"]["steps_trained"] for name, record in records(runs).items()}
    assert sum(costs.values()) == 2 * 57
    said = "".join(one.said() for one in both)
    for name in costs:
        task, mixing, seed, _ = name.split("/")
        assert said.count(f"{task} {mixing} {seed.replace('seed', 'seed ')}: done") == 1
