from __future__ import annotations

import pytest

from hf_elmix.study.queue import GridState
from hf_elmix.study.shared_prefixes import Branch
from hf_elmix.study.spec import RunKey

KEYS = [RunKey("a", method, seed) for seed in (0, 1) for method in ("ce", "0")]


def grid_state(work: float) -> GridState:
    state = GridState(dict.fromkeys(KEYS, "missing"))
    state.work = work
    return state


def branch(methods: tuple[str, ...] = ("ce",), start: int = 0) -> Branch:
    return Branch("a", 0, methods, methods, start)


def test_what_was_shared_counts_once():
    state = grid_state(1.8)
    state.step(branch(("0", "ce")), 20, 100, 1.0)
    for method in ("0", "ce"):
        for step in (21, 100):
            state.step(branch((method,), 20), step, 100, 1.0)
    assert state.share == pytest.approx(1.0)
    assert state.runs[RunKey("a", "0", 0)] == state.runs[RunKey("a", "ce", 0)] == "running"


def test_what_is_trained_again_does_not_go_back():
    state = grid_state(1.0)
    state.step(branch(start=20), 80, 100, 1.0)
    state.step(branch(start=20), 10, 100, 1.0)
    assert state.share == pytest.approx(0.6)


def test_runs_that_have_ended_are_counted():
    state = GridState(dict(zip(KEYS, ("done", "failed", "diverged", "missing"), strict=True)))
    assert state.ended == 3
    state.step(branch(("ce", "0")), 1, 10, 1.0)
    assert [state.runs[key] for key in KEYS] == ["running", "running", "diverged", "missing"]
    assert state.ended == 1
