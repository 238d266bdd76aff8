from __future__ import annotations

import argparse
from functools import partial

import pytest

from hf_elmix import UsageError
from hf_elmix.cli import study as cli
from hf_elmix.cli.study import add_execution, executor_of
from hf_elmix.study.executors import local
from hf_elmix.study.executors.local import run_in_process, run_in_workers
from hf_elmix.study.spec import Method, Study, Task


def found_for(words: str, seeds: int = 4, **arguments):
    """What trains a study of two methods."""
    parser = argparse.ArgumentParser()
    add_execution(parser)
    study = Study(
        (Task("a", "accuracy", lambda seed: None),), (Method("ce"), Method("0")), tuple(range(seeds)), arguments
    )
    return executor_of(parser.parse_args(words.split()), study)


def executor_for(words: str, seeds: int = 4, **arguments):
    """Its number of workers, or None if it trains in this process."""
    found = found_for(words, seeds, **arguments)
    if found is run_in_process:
        return None
    assert isinstance(found, partial)
    assert found.func is run_in_workers
    return found.keywords["workers"]


@pytest.mark.parametrize(
    ("words", "cores", "gpus", "seeds", "workers"),
    [
        ("", 8, 0, 4, None),
        ("", 8, 2, 4, 1),  # this process would spread a batch over both
        ("--workers 3", 8, 0, 4, 3),
        ("--workers auto", 5, 0, 4, 5),
        ("--workers auto", 64, 0, 4, 8),  # there are eight runs
        ("--workers auto", 1, 0, 4, None),
        ("--workers auto", 16, 3, 4, 3),
        ("--workers auto", 16, 3, 1, 2),
        ("--workers_per_gpu 1", 8, 1, 4, None),
        ("--workers_per_gpu 3", 8, 2, 4, 6),
        ("--workers_per_gpu auto", 4, 2, 4, 4),
        ("--workers_per_gpu auto", 1, 2, 4, 2),
        ("--workers_per_gpu auto", 64, 2, 4, 8),  # there are eight runs
    ],
)
def test_workers(words, cores, gpus, seeds, workers, monkeypatch):
    monkeypatch.setattr(cli, "usable_cores", lambda: cores)
    monkeypatch.setattr(local, "visible_gpus", lambda: [str(n) for n in range(gpus)])
    assert executor_for(words, seeds) == workers


def test_workers_fill_a_gpu_only_where_asked(monkeypatch):
    monkeypatch.setattr(cli, "usable_cores", lambda: 4)
    monkeypatch.setattr(local, "visible_gpus", lambda: ["0", "1"])
    fills = [found_for(f"--workers_per_gpu {number}").keywords["fill_gpus"] for number in ("auto", "2")]
    assert fills == [True, False]


@pytest.mark.parametrize(("gpus", "use_cpu"), [(0, False), (1, True)])
def test_workers_for_each_gpu_need_a_gpu(gpus, use_cpu, monkeypatch):
    monkeypatch.setattr(local, "visible_gpus", lambda: [str(n) for n in range(gpus)])
    with pytest.raises(UsageError, match="--workers_per_gpu needs a GPU, and there is none for this study"):
        executor_for("--workers_per_gpu 2", use_cpu=use_cpu)


def test_a_study_on_the_cpu_has_a_worker_for_each_core_whatever_the_gpus(monkeypatch):
    monkeypatch.setattr(cli, "usable_cores", lambda: 4)
    monkeypatch.setattr(local, "visible_gpus", lambda: ["0"])
    assert executor_for("--workers auto", use_cpu=True) == 4
