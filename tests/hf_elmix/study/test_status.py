from __future__ import annotations

import os

import pytest

from hf_elmix.errors import UsageError
from hf_elmix.study.claims import claim_name
from hf_elmix.study.spec import RunKey
from hf_elmix.study.status import status_of
from hf_elmix.study.store import DECLARATION


def asked(store, tasks="ab", methods=("ce", "0"), seeds=(0, 1)) -> None:
    said = store.declaration()
    grid = {"tasks": list(tasks), "methods": list(methods), "seeds": list(seeds)}
    store.declare({**said, "grids": [*said["grids"], grid]})


def test_every_state_with_its_reason(store, record_of):
    asked(store)
    store.write(record_of(RunKey("a", "ce", 0)))
    store.write(record_of(RunKey("a", "0", 0), status="failed", error="RuntimeError: no memory\nTraceback"))
    store.write(record_of(RunKey("a", "ce", 1), status="diverged"))
    with store.claims.hold(claim_name(("a", 1))):
        states = status_of(store)
    assert list(states) == [RunKey(p, m, s) for p in "ab" for s in (0, 1) for m in ("ce", "0")]
    assert states[RunKey("a", "ce", 0)] == ("done", "")
    assert states[RunKey("a", "0", 0)] == ("failed", "RuntimeError: no memory")
    assert states[RunKey("a", "ce", 1)] == ("diverged", "the loss became NaN or infinite")
    state, why = states[RunKey("a", "0", 1)]
    assert state == "running"
    assert f"process {os.getpid()} on " in why
    for method, seed in (("ce", 0), ("0", 0), ("ce", 1), ("0", 1)):
        state, why = states[RunKey("b", method, seed)]
        assert (state, "not started, or stopped" in why) == ("missing", True)


def test_a_claim_that_has_ended_is_not_shown_as_running(store):
    asked(store)
    with store.claims.hold(claim_name(("a", 0))):
        pass
    assert {state for state, _ in status_of(store).values()} == {"missing"}


def test_what_was_asked_for_in_several_commands_is_one_study(store, record_of):
    asked(store, "a", ("ce",), (0,))
    asked(store, "a", ("ce", "0"), (0,))
    asked(store, "b", ("ce",), (3,))
    assert list(status_of(store)) == [RunKey("a", "ce", 0), RunKey("a", "0", 0), RunKey("b", "ce", 3)]


def test_records_that_nobody_asked_for_are_shown_too(store, record_of):
    store.write(record_of(RunKey("c", "el", 5)))
    assert status_of(store) == {RunKey("c", "el", 5): ("done", "")}
    asked(store, "a", ("ce",), (0,))
    assert list(status_of(store)) == [RunKey("a", "ce", 0), RunKey("c", "el", 5)]


def test_a_folder_without_a_study_is_refused(store):
    with pytest.raises(UsageError, match="folder of runs"):
        status_of(store)
    store.folder.mkdir()
    with pytest.raises(UsageError, match="no study was started here") as caught:
        status_of(store)
    assert str(store.folder) in str(caught.value)
    assert not list(store.folder.iterdir())


def test_a_damaged_file_is_named(store, record_of):
    path = store.write(record_of(RunKey("a", "ce", 0)))
    path.write_text("{")
    with pytest.raises(UsageError, match="not a run record"):
        status_of(store)
    path.unlink()
    (store.folder / DECLARATION).write_text("{")
    with pytest.raises(UsageError, match="damaged"):
        status_of(store)


def test_looking_changes_nothing(store, record_of):
    asked(store)
    store.write(record_of(RunKey("a", "ce", 0)))
    before = {path: path.stat().st_mtime_ns for path in store.folder.rglob("*")}
    status_of(store)
    assert {path: path.stat().st_mtime_ns for path in store.folder.rglob("*")} == before
