from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_elmix.errors import UsageError
from hf_elmix.schedules import REGIMES
from hf_elmix.study.spec import RunKey
from hf_elmix.study.store import RECORD, Store

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


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


def test_a_record_comes_back_as_it_was_written(store, record_of):
    record = record_of(KEY, 0.1 + 0.2, error="ValueError: naïve\nsecond line")
    store.write(record)
    assert store.read(KEY) == record


@pytest.mark.parametrize("method", REGIMES)
def test_the_papers_regimes_are_folders_under_the_name_they_were_typed_with(store, record_of, method):
    path = store.write(record_of(RunKey("cola", method, 3)))
    assert path == store.folder / "cola" / method / "seed3" / "record.json"
    assert files_below(store.folder) == [f"cola/{method}/seed3/record.json"]


def test_a_person_can_read_the_file(store, record_of):
    text = store.write(record_of(KEY, error="naïve")).read_text(encoding="utf-8")
    assert "naïve" in text
    assert text.endswith("}\n")
    assert len(text.splitlines()) > 20


def test_a_run_without_a_record_reads_as_none(store, record_of):
    assert store.read(KEY) is None
    store.write(record_of(KEY))
    assert store.read(RunKey("cola", "0,0.5", 4)) is None
    assert store.read(RunKey("cola", "0", 3)) is None


def test_a_second_write_replaces_the_first(store, record_of):
    store.write(record_of(KEY, 0.25))
    store.write(record_of(KEY, 0.75))
    assert [record.scores["accuracy"]["last"] for record in store.records()] == [0.75]


class Crash(Exception):
    pass


def crash(*args: Any, **kwargs: Any) -> None:
    raise Crash


@pytest.mark.parametrize(("module", "name"), [(os, "replace"), (os, "fsync"), (json, "dumps")])
def test_a_crash_while_writing_leaves_the_old_record_and_nothing_else(store, record_of, monkeypatch, module, name):
    old = record_of(KEY, 0.25)
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
    store.write(record_of(KEY, 0.25))
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


@pytest.mark.parametrize("place", ["problem", "method"])
def test_any_name_stays_inside_the_folder_and_comes_back(store, record_of, place):
    names = {"problem": "p", "method": "m"}
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


def test_records_come_in_the_order_of_their_keys(store, record_of):
    keys = [RunKey(problem, method, seed) for problem in "ba" for method in ("ce", "0") for seed in (10, 9, 2)]
    for key in keys:
        store.write(record_of(key))
    assert [record.key for record in store.records()] == [
        RunKey(problem, method, seed) for problem in "ab" for method in ("0", "ce") for seed in (2, 9, 10)
    ]


def test_other_files_in_the_folder_are_no_records(store, record_of):
    store.write(record_of(KEY))
    for other in ("report/summary.csv", "cola/0,0.5/seed3/model/config.json", "record.json", "cola/record.json"):
        path = store.folder / other
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    assert [record.key for record in store.records()] == [KEY]


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
    "key is incomplete": b'{"key": {"problem": "cola"}}',
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
def test_a_file_that_is_no_record_is_named_with_what_to_do(store, record_of, kind):
    record = record_of(KEY)
    path = store.write(record)
    path.write_bytes(broken(kind, record.to_dict()))
    for read in (lambda: store.read(KEY), lambda: list(store.records())):
        with pytest.raises(UsageError, match="no record of a run") as caught:
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


def test_numbers_that_are_none_are_null_and_the_file_is_strict_json(store, record_of):
    record = record_of(KEY)
    record.scores["loss"] = {"last": float("nan"), "best": float("inf"), "epochs": [1.0, float("-inf")]}
    text = store.write(record).read_text()
    values = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert values["scores"]["loss"] == {"last": None, "best": None, "epochs": [1.0, None]}
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
    with pytest.raises(UsageError, match="is no record of a run"):
        store.read(KEY)
