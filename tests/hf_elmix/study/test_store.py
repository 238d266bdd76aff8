from __future__ import annotations

import json
import math
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_elmix.errors import UsageError
from hf_elmix.losses.schedules import REGIMES
from hf_elmix.predictions.records import FILE, Predictions
from hf_elmix.study.spec import RunKey
from hf_elmix.study.store import (
    DECLARATION,
    RECORD,
    Store,
)

KEY = RunKey("cola", "0,0.5", 3)

# Others may be using the machine: how long an example takes says nothing.
unhurried = settings(deadline=None)

# Names that a careless path would split, climb out with, hide, or confuse with each other.
NASTY = [
    *("..", ".", "%2E%2E", "%2E", ".hidden", "a/b", "a%2Fb", "a\\b", "/etc", "../../up", "a b", " a", "a ", "*", "?"),
    *("ce@0 el@5/6", "ce@0 el@5%2F6", "1:1@0 1:2.5@0.5", "C:x", "[a]", "é", "e\u0301", "~", "seed0", RECORD, "a\nb"),
]
NAMES = st.text(min_size=1, max_size=6) | st.text("./%\\ 2EF", min_size=1, max_size=6) | st.sampled_from(NASTY)
KEYS = st.builds(RunKey, NAMES, NAMES, st.integers(0, 11))


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture(params=["local", "memory"])
def anywhere(request, tmp_path: Path) -> Iterator[Store]:
    """A store in a folder, and one behind a URL."""
    if request.param == "local":
        yield Store(tmp_path / "runs")
        return
    store = Store(f"memory://{uuid.uuid4().hex}/runs")
    yield store
    store.folder.fs.store.clear()


def test_a_record_comes_back_as_it_was_written(anywhere, record_of):
    record = record_of(KEY, 0.1 + 0.2, error="ValueError: naïve\nsecond line")
    path = anywhere.write(record)
    assert path == anywhere.folder / "cola" / "0,0.5" / "seed3" / RECORD
    assert anywhere.read(KEY) == record
    assert list(anywhere.records()) == [record]


@pytest.mark.parametrize("method", REGIMES)
def test_the_papers_regimes_are_folders_under_the_name_they_were_typed_with(store, record_of, method):
    path = store.write(record_of(RunKey("cola", method, 3)))
    assert path == store.folder / "cola" / method / "seed3" / "record.json"
    assert files_below(store.folder) == [f"cola/{method}/seed3/record.json"]


def test_predictions_lie_beside_the_record(anywhere, record_of):
    sets = {name: Predictions.from_logits(np.eye(2), np.array([0, 0])) for name in ("a", "b")}
    assert anywhere.read_predictions(KEY) is None
    anywhere.write_predictions(KEY, sets)
    anywhere.write(record_of(KEY))
    read = anywhere.read_predictions(KEY)
    assert list(read) == ["a", "b"]
    np.testing.assert_array_equal(read["b"].p_true, sets["b"].p_true)
    assert len(list(anywhere.records())) == 1
    anywhere.write_predictions(KEY, {"": sets["a"]})
    assert list(anywhere.read_predictions(KEY)) == [""]
    (anywhere.folder_of(KEY) / FILE).write_bytes(b"text")
    with pytest.raises(UsageError, match=f"Expected '.*{FILE}' to hold predictions"):
        anywhere.read_predictions(KEY)


def test_runs_that_have_predictions_are_found(anywhere, record_of):
    keys = [RunKey(task, "0,0.5", seed) for task in ("a/b", ".", "c") for seed in range(2)]
    assert anywhere.with_predictions(keys) == []
    for key in keys:
        anywhere.write(record_of(key))
    for key in keys[::3]:
        anywhere.write_predictions(key, {"": Predictions([3], [1.0], [0], [[0.25]], [[False]], np.eye(2)[:1])})
    assert anywhere.with_predictions(iter(keys)) == keys[::3]
    assert len(list(anywhere.records())) == 6


def test_a_crash_while_writing_predictions_leaves_the_old_ones(store, monkeypatch):
    old, new = (Predictions.from_logits(np.array([[0.0, logit]]), np.array([0])) for logit in (math.log(3), 0.0))
    store.write_predictions(KEY, {"": old})
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        with pytest.raises(Crash):
            store.write_predictions(KEY, {"": new})
    assert store.read_predictions(KEY)[""].p_true.tolist() == [[0.25]]
    assert files_below(store.folder) == [f"cola/0,0.5/seed3/{FILE}"]


def test_a_person_can_read_the_file(store, record_of):
    text = store.write(record_of(KEY, error="naïve")).read_text(encoding="utf-8")
    assert "naïve" in text
    assert text.endswith("}\n")
    assert len(text.splitlines()) > 20


def test_a_run_without_a_record_reads_as_none(anywhere, record_of):
    assert anywhere.read(KEY) is None
    anywhere.write(record_of(KEY))
    assert anywhere.read(RunKey("cola", "0,0.5", 4)) is None
    assert anywhere.read(RunKey("cola", "0", 3)) is None


def test_only_a_failed_record_is_replaced(anywhere, record_of):
    for score, status in ((0.25, "failed"), (0.5, "done"), (0.75, "failed"), (1.0, "done")):
        anywhere.write(record_of(KEY, score, status=status))
    assert [(record.status, record.scores["accuracy"]["last"]) for record in anywhere.records()] == [("done", 0.5)]


class Crash(Exception):
    pass


def crash(*args: Any, **kwargs: Any) -> None:
    raise Crash


@pytest.mark.parametrize(("module", "name"), [(os, "replace"), (os, "fsync"), (json, "dumps")])
def test_a_crash_while_writing_leaves_the_old_record_and_nothing_else(store, record_of, monkeypatch, module, name):
    old = record_of(KEY, 0.25, status="failed")
    before = store.write(old).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(module, name, crash)
        with pytest.raises(Crash):
            store.write(record_of(KEY, 0.75))
    assert store.read(KEY) == old
    assert (store.folder_of(KEY) / RECORD).read_bytes() == before
    assert files_below(store.folder) == ["cola/0,0.5/seed3/record.json"]


def test_a_crash_while_writing_the_first_record_leaves_none(store, record_of, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        with pytest.raises(Crash):
            store.write(record_of(KEY))
    assert store.read(KEY) is None
    assert files_below(store.folder) == []


def test_the_new_record_is_whole_before_it_takes_the_old_ones_place(store, record_of, monkeypatch):
    store.write(record_of(KEY, 0.25, status="failed"))
    seen = []

    def replace(source: Path, target: Path) -> None:
        last = [json.loads(Path(path).read_text())["scores"]["accuracy"]["last"] for path in (source, target)]
        seen.append((last, Path(source).parent == Path(target).parent))
        rename(source, target)

    rename = os.replace
    monkeypatch.setattr(os, "replace", replace)
    store.write(record_of(KEY, 0.75))
    # In the same folder, so on the same file system: only there is a rename atomic.
    assert seen == [([0.75, 0.25], True)]


@unhurried
@given(KEYS)
def test_every_run_has_a_folder_of_its_own_three_levels_below(key):
    folder = Path("/runs")
    below = Path(os.path.normpath(Store(folder).folder_of(key))).relative_to(folder)
    assert len(below.parts) == 3
    assert below.name == f"seed{key.seed}"


@unhurried
@given(KEYS, KEYS)
def test_distinct_keys_have_distinct_folders(one, other):
    store = Store("/runs")
    assert (store.folder_of(one) == store.folder_of(other)) == (one == other)


@pytest.mark.parametrize("place", ["task", "method"])
def test_any_name_stays_inside_the_folder_and_comes_back(store, record_of, place):
    names = {"task": "p", "method": "m"}
    records = [record_of(RunKey(**{**names, place: name}, seed=0), k / 64) for k, name in enumerate(NASTY)]
    for record in records:
        store.write(record)
    assert [store.read(record.key) for record in records] == records
    assert list(store.records()) == sorted(records, key=lambda record: record.key)
    assert len(files_below(store.folder.parent)) == len(files_below(store.folder)) == len(NASTY)


def test_a_record_under_an_empty_name_is_found_again(store, record_of):
    record = record_of(RunKey("", "ce", 0))
    store.write(record)
    assert list(store.records()) == [record]


def test_records_come_in_the_order_of_their_keys(anywhere, record_of):
    keys = [RunKey(task, method, seed) for task in "ba" for method in ("ce", "0") for seed in (10, 9, 2)]
    for key in keys:
        anywhere.write(record_of(key))
    assert [record.key for record in anywhere.records()] == [
        RunKey(task, method, seed) for task in "ab" for method in ("0", "ce") for seed in (2, 9, 10)
    ]


def test_other_files_in_the_folder_are_not_records(anywhere, record_of):
    anywhere.write(record_of(KEY))
    for other in ("report/summary.csv", "cola/0,0.5/seed3/model/config.json", "record.json", "cola/record.json"):
        path = anywhere.folder / other
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    assert [record.key for record in anywhere.records()] == [KEY]


def test_a_missing_folder_is_refused_by_name_and_not_made(store):
    with pytest.raises(UsageError, match=f"folder of runs.*{store.folder}"):
        list(store.records())
    assert not store.folder.exists()


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(UsageError, match="folder of runs"):
        list(Store(tmp_path / "runs").records())


def test_an_empty_folder_has_no_records(tmp_path):
    assert list(Store(tmp_path).records()) == []


BROKEN = {
    "empty": b"",
    "truncated": None,
    "no json": b"hello",
    "no text": b"\xff\xfe\x00\x81",
    "a list": b"[]",
    "a number": b"3",
    "null": b"null",
    "another object": b'{"_name_or_path": "bert"}',
    "key is a text": b'{"key": "cola"}',
    "key is incomplete": b'{"key": {"task": "cola"}}',
    "an extra field": None,
    "a field is missing": None,
}


def broken(kind: str, whole: dict[str, Any]) -> bytes:
    if kind == "truncated":
        return json.dumps(whole).encode()[:-40]
    if kind == "an extra field":
        return json.dumps({**whole, "colour": "red"}).encode()
    if kind == "a field is missing":
        return json.dumps({name: value for name, value in whole.items() if name != "status"}).encode()
    return BROKEN[kind]


@pytest.mark.parametrize("kind", BROKEN)
def test_a_file_that_is_not_a_record_is_named_with_what_to_do(store, record_of, kind):
    record = record_of(KEY)
    path = store.write(record)
    path.write_bytes(broken(kind, record.to_dict()))
    for read in (lambda: store.read(KEY), lambda: list(store.records())):
        with pytest.raises(UsageError, match="not a run record") as caught:
            read()
        assert str(path) in str(caught.value)
        assert "Delete it" in str(caught.value)


def test_a_record_copied_into_another_runs_folder_is_refused(store, record_of):
    # Else the run would pass for done with another run's score, and tables would have the other run twice.
    text = store.write(record_of(KEY)).read_text()
    path = store.folder_of(RunKey("cola", "0,0.5", 4)) / RECORD
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(UsageError, match="seed4"):
        store.read(RunKey("cola", "0,0.5", 4))


def test_nan_and_infinity_are_null_and_the_file_is_strict_json(store, record_of):
    record = record_of(KEY)
    record.scores["loss"] = {
        "last": float("nan"),
        "best": float("inf"),
        "epochs": [1.0, float("-inf")],
        "steps": [1, 2],
    }
    text = store.write(record).read_text()
    values = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert values["scores"]["loss"] == {"last": None, "best": None, "epochs": [1.0, None], "steps": [1, 2]}
    assert store.read(KEY).scores["loss"]["last"] is None


@pytest.mark.parametrize(
    "change",
    [
        {"status": "fine"},
        {"scores": None},
        {"scores": {"accuracy": 5}},
        {"scores": {"f1": {"best": 1}}},
        {"cost": None},
        {"settings": None},
        {"scores": {"f1": {"last": "x"}}},
    ],
)
def test_a_record_with_an_unknown_status_or_without_scores_is_refused(store, record_of, change):
    path = store.write(record_of(KEY))
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UsageError, match="is not a run record"):
        store.read(KEY)


SAID = {
    "grids": [{"tasks": ["a"], "methods": ["ce", "0,0.5"], "seeds": [0, 1]}],
    "methods": {"ce": {"loss": "ce", "arguments": {}}},
    "settings": {"a": {"select": {"metric": "accuracy", "epoch": "last"}}},
    "commands": ["glue-runs study --output_dir runs"],
}


def test_a_declaration_comes_back_as_it_was_written(anywhere):
    assert anywhere.declaration() == {"grids": [], "methods": {}, "settings": {}, "commands": []}
    anywhere.declare({"grids": [], "methods": {}, "settings": {}, "commands": []})
    anywhere.declare(SAID)
    assert anywhere.declaration() == SAID
    assert list(anywhere.records()) == []


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", "{}", '{"grids": []}', '{"grids": 3, "settings": {}}'])
def test_a_damaged_declaration_is_named_with_what_to_do(anywhere, text):
    anywhere.declare(SAID)
    (anywhere.folder / DECLARATION).write_text(text)
    with pytest.raises(UsageError, match="damaged .* Delete it") as caught:
        anywhere.declaration()
    assert str(anywhere.folder / DECLARATION) in str(caught.value)


@pytest.mark.parametrize("url", ["nowhere://bucket/runs", "memroy://runs"])
def test_a_url_that_nobody_knows_is_refused(url):
    with pytest.raises(UsageError, match=f"Cannot use '{url}'"):
        Store(url)


def test_a_url_of_this_machine_is_a_folder(tmp_path, record_of):
    store = Store(f"file://{tmp_path}/runs")
    store.write(record_of(KEY))
    assert store.local
    assert Store(tmp_path / "runs").read(KEY) == record_of(KEY)
    with store.claims.hold("x"), Store(tmp_path / "runs").claims.hold("x") as free:
        assert not free


def test_a_missing_folder_behind_a_url_is_refused():
    with pytest.raises(UsageError, match="Expected a folder of runs"):
        list(Store(f"memory://{uuid.uuid4().hex}").records())


def test_training_that_is_shared_lies_beside_the_records_and_is_none(anywhere, record_of):
    anywhere.write(record_of(KEY))
    folder = anywhere.segments_of("cola", 3)
    (folder / "step4-0").mkdir(parents=True)
    (folder / "step4-0" / RECORD).write_text("{}")
    assert str(folder).startswith(str(anywhere.folder))
    assert [record.key for record in anywhere.records()] == [KEY]
    assert anywhere.segments_of("cola", 4) != folder != anywhere.segments_of("a/b", 3)
    assert len(anywhere.segments_of("a/b", 3).parts) == len(folder.parts)


def test_a_name_of_more_digits_than_a_number_may_have_is_that_of_no_run():
    store = Store(f"memory://{uuid.uuid4().hex}/runs")
    path = store.folder / "a" / "ce" / f"seed{'9' * 5000}" / RECORD
    path.fs.pipe_file(path.path, b"{}")
    with pytest.raises(UsageError, match="seed9+.record.json is not a run record"):
        list(store.records())


def test_clearing_a_task_removes_what_killed_processes_left_of_its_files(store, record_of):
    folder = Path(store.write(record_of(KEY)).parent)
    for name in (".record.json.0123456789abcdef.new", f".{FILE}.0123456789abcdef.new", "notes.txt"):
        (folder / name).write_text("")
    store.clear("cola", [])
    assert files_below(store.folder) == ["cola/0,0.5/seed3/notes.txt"]


def test_half_a_model_that_a_killed_process_left_goes_with_the_next_record(store, record_of):
    half, whole = (store.folder_of(KEY) / name for name in (".model.1234abcd", "model"))
    for folder in (half, whole):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    store.write(record_of(KEY))
    assert not half.exists()
    assert (whole / "config.json").exists()


def test_what_was_asked_for_are_the_runs_of_all_grids_each_once(store):
    assert store.asked() == []
    grids = [
        {"tasks": ["a"], "methods": ["ce"], "seeds": [0, 1]},
        {"tasks": ["a", "b"], "methods": ["ce"], "seeds": [1]},
    ]
    store.declare({"grids": grids, "methods": {}, "settings": {}})
    assert store.asked() == [RunKey("a", "ce", 0), RunKey("a", "ce", 1), RunKey("b", "ce", 1)]


def test_a_url_that_cannot_be_written_is_known_before_anything_is(monkeypatch):
    store = Store("memory://probed")
    store.check_writable()
    assert list(store.folder.glob("**/*")) == []

    def refuse(*_) -> None:
        raise OSError("Access Denied")

    monkeypatch.setattr("hf_elmix.study.store.write_bytes", refuse)
    with pytest.raises(UsageError, match="that can be written to, but got 'memory://.*probed': Access Denied"):
        store.check_writable()


def test_records_are_read_one_at_a_time_in_the_order_of_their_keys(store, record_of):
    given = [RunKey(task, method, seed) for task in ("b", "a/c") for method in ("el", "ce") for seed in (10, 9)]
    for key in given:
        store.write(record_of(key))
    (store.folder_of(max(given)) / RECORD).write_text("{")
    records = store.records()
    assert [next(records).key for _ in given[1:]] == sorted(given)[:-1]
    with pytest.raises(UsageError, match="is not a run record"):
        next(records)


@pytest.mark.parametrize("task", ["study.json", "comparison.json", "report", ".segments", ".locks", ".", ".."])
def test_a_task_has_another_folder_than_the_files_of_the_study(tmp_path, task):
    store = Store(tmp_path)
    folder = store.folder_of(RunKey(task, "ce", 0)).parent.parent
    assert folder.parent == store.folder
    assert folder.name not in (task, "")
    assert not folder.name.startswith(".")
    assert unquote(folder.name) == task
