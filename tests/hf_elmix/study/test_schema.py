from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hf_elmix.analysis.frames import curves_table, runs_table
from hf_elmix.errors import UsageError
from hf_elmix.hub.facts import facts_of, public_record
from hf_elmix.study.schema import Claim, Declaration, Manifest, Record, parse
from hf_elmix.study.spec import RunKey, RunRecord
from hf_elmix.study.store import DECLARATION, RECORD, Store
from hf_elmix.study.trackers import logs_of

KEY = RunKey("cola", "ce", 3)
TEXT = {
    **{"name": "cola", "columns": ["sentence"], "labels": ["a", "b"], "metrics": ["accuracy"]},
    **{"splits": ["validation"], "test_splits": ["test"]},
}
WHOLE: dict[str, Any] = {
    "key": {"task": "cola", "method": "ce", "seed": 3},
    "status": "done",
    "scores": {
        name: {"last": 0.5, "best": 0.5, "epochs": [0.25, 0.5], "steps": [2, 4]} for name in ("accuracy", "loss")
    },
    "training": [{"step": 2, "epoch": 1.0, "loss": 0.5, "loss_ce": 0.5, "alpha": 1.0, "focus": None}],
    "settings": {
        **{"loss": "ce", "select": {"metric": "accuracy", "epoch": "last"}, "secondary_metrics": {"loss": "the loss"}},
        "arguments": {"learning_rate": 0.1, "per_device_train_batch_size": 4},
        **{"text": TEXT, "model": "bert", "dataset": "glue", "max_length": 64, "rows": {"train": "ab"}},
    },
    "provenance": {
        **{"versions": {"python": "3", "datasets": None}, "commit": None, "dirty": False, "threads": 1},
        **{"device": "cpu", "data_rows": {"train": 3}, "model_revision": None},
    },
    "cost": {"seconds": 1.5, "steps_trained": 4, "steps_inherited": 0},
    "error": None,
    "format": 1,
}
SAID: dict[str, Any] = {
    "grids": [{"tasks": ["cola"], "methods": ["ce"], "seeds": [3]}],
    "methods": {"ce": {"loss": "ce", "arguments": {}}},
    "settings": {"cola": {"loss": "ce", "select": "accuracy"}},
    "commands": ["elmix study"],
    "format": 1,
}
VALUES = (
    *(None, True, -1, 0, 0.5, -0.5, 2**53, 10**400, float("nan"), float("inf"), "", "x", "\x00"),
    *([], [None], [1], ["x"], {}, {"x": 1}, [[[]]], {"last": None}),
)


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every part of a value, at any depth."""
    yield place
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in parts:
        yield from places(part, (*place, name))


def changed(whole: dict[str, Any], place: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value in a place."""
    if not place:
        return value
    new = copy.deepcopy(whole)
    part = new
    for name in place[:-1]:
        part = part[name]
    part[place[-1]] = value
    return new


def hostile(whole: dict[str, Any]) -> Iterator[Any]:
    """Copies with each part replaced by each value, left out, or with an entry that nobody knows."""
    for place in places(whole):
        for value in VALUES:
            yield changed(whole, place, value)
        part: Any = whole
        for name in place:
            part = part[name]
        if isinstance(part, dict):
            yield changed(whole, place, {**part, "zzz": "y"})
            for left_out in part:
                yield changed(whole, place, {name: value for name, value in part.items() if name != left_out})


@pytest.fixture
def record_file(store: Store) -> Path:
    path = Path(store.folder_of(KEY) / RECORD)
    path.parent.mkdir(parents=True)
    return path


def use(record: RunRecord) -> None:
    """Do with a record whatever the commands do."""
    runs_table([record])
    curves_table([record])
    list(logs_of(record))
    facts = facts_of(record)
    assert [facts.origins, facts.config, facts.hyperparameters, facts.versions]
    public_record(record)


def test_a_record_is_refused_in_one_line_or_all_that_reads_it_works():
    refused = []
    for values in hostile(WHOLE):
        data = json.dumps(values).encode()
        try:
            record = RunRecord.from_json(data)
        except ValueError as error:
            refused.append(str(error))
            continue
        use(record)
        assert RunRecord.from_json(json.dumps(record.to_dict()).encode()) == record
    assert len(refused) > 1000
    assert [text for text in refused if "\n" in text] == []


def test_a_declaration_is_refused_in_one_line_or_all_that_reads_it_works(store):
    path = Path(store.folder / DECLARATION)
    path.parent.mkdir()
    refused = []
    for values in hostile(SAID):
        path.write_text(json.dumps(values))
        try:
            store.declaration()
        except UsageError as error:
            refused.append(str(error))
            continue
        store.asked()
    assert len(refused) > 100
    assert [text for text in refused if "\n" in text or str(path) not in text] == []


def test_a_declaration_of_more_runs_than_anyone_can_do_is_refused(store):
    names = [str(number) for number in range(1000)]
    store.declare({**SAID, "grids": [{"tasks": names, "methods": names, "seeds": [0, 1]}]})  # a listing takes a minute
    with pytest.raises(UsageError, match=r"study.json asks for 2,000,000 runs, more than 1,000,000. Delete it."):
        store.asked()


WRONG = {
    "key.seed: input should be greater than or equal to 0, but got -1": ("key", "seed", -1),
    "key.seed: input should be less than 4294967296, but got 4294967296": ("key", "seed", 2**32),
    "status: input should be 'done', 'failed' or 'diverged', but got 'fine'": ("status", "fine"),
    "scores.accuracy.last: input should be a finite number, but got nan": ("scores", "accuracy", "last", float("nan")),
    "scores.loss.epochs.1: input should be a valid number, but got 'x'": ("scores", "loss", "epochs", 1, "x"),
    f"scores.loss.last: input should be less than or equal to {10**100}, but got 1e+308": (
        "scores",
        "loss",
        "last",
        1e308,
    ),
    "scores.accuracy: expected a step for each of the epochs, in order": ("scores", "accuracy", "steps", [4, 2]),
    "scores: expected 'f1', which is the score": ("settings", "select", "metric", "f1"),
    "settings.rows: expected no NaN or infinity, but got inf": ("settings", "rows", float("inf")),
    "settings.config: input should be a valid string, but got {'a': 1}": ("settings", "config", {"a": 1}),
    "provenance.data_rows: input should be an object, but got 'abc'": ("provenance", "data_rows", "abc"),
    "cost.seconds: input should be greater than or equal to 0, but got -0.5": ("cost", "seconds", -0.5),
}


@pytest.mark.parametrize("words", WRONG)
def test_the_place_and_the_value_are_named(words):
    *place, value = WRONG[words]
    with pytest.raises(ValueError) as caught:  # noqa: PT011, the whole text is compared
        RunRecord.from_json(json.dumps(changed(WHOLE, tuple(place), value)).encode())
    assert str(caught.value) == words


DEEP = 25 * 10**6
TEXTS = {
    "50 MB of nesting": b"[" * DEEP + b"]" * DEEP,
    "nesting in the settings": json.dumps(WHOLE).encode().replace(b'"glue"', b"[" * 10**5 + b"]" * 10**5),
    "a number of many digits": json.dumps(WHOLE).encode().replace(b"0.1", b"9" * 10**5),
    "a number that is infinite": json.dumps(WHOLE).encode().replace(b"0.1", b"1e999"),
    "half a character": json.dumps(WHOLE).encode().replace(b'"glue"', b'"\\ud800"'),
    "bytes that are no text": json.dumps(WHOLE).encode().replace(b'"glue"', b'"\xff"'),
    "nothing": b"",
    "zeros": bytes(1000),
    "UTF-16": json.dumps(WHOLE).encode("utf-16"),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_text_that_is_no_json_is_a_bad_record(store, record_file, kind):
    record_file.write_bytes(TEXTS[kind])
    with pytest.raises(UsageError, match="record.json is not a run record .*Delete it to repeat the run") as caught:
        list(store.records())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["record", "declaration", "predictions"])
def test_a_pipe_in_the_place_of_a_file_is_refused_at_once(store, name):
    read, file = {
        "record": (store.read, RECORD),
        "declaration": (lambda key: store.declaration(), f"../../../{DECLARATION}"),
        "predictions": (store.read_predictions, "predictions.safetensors"),
    }[name]
    folder = Path(store.folder_of(KEY))
    folder.mkdir(parents=True)
    os.mkfifo(folder / file)
    with pytest.raises(UsageError, match="not a regular file"):
        read(KEY)


@pytest.mark.parametrize("part", ["record", "declaration"])
def test_what_a_later_version_wrote_is_said_to_be_that(store, record_file, part):
    path, whole = (record_file, WHOLE) if part == "record" else (Path(store.folder / DECLARATION), SAID)
    path.write_text(json.dumps({**whole, "format": 2, "colour": "red"}))
    with pytest.raises(UsageError, match=r"was written by a newer hf_elmix \(format 2\). Update hf_elmix"):
        store.read(KEY) if part == "record" else store.declaration()


def test_what_was_written_before_formats_had_numbers_is_read(store, record_file):
    del (values := copy.deepcopy(WHOLE))["format"]
    record_file.write_text(json.dumps(values))
    assert store.read(KEY).to_dict() == WHOLE


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Claim, '{"host": "a", "process": -1}'),
        (Claim, '{"host": ["a"], "process": 3}'),
        (Manifest, '{"files": {}, "notes": {"costs": [{"method": "ce", "steps": -3, "seconds": 1}]}}'),
        (Manifest, '{"files": {}, "notes": {"costs": []}}'),
        (Manifest, '{"files": {"x": 3}, "notes": {"costs": []}}'),
        (Declaration, '{"grids": [], "methods": {}, "settings": {}, "commands": [3]}'),
    ],
)
def test_notes_of_other_types_are_refused(kind, text):
    with pytest.raises(ValueError, match="but got"):
        parse(kind, text.encode())


def test_the_schema_has_the_fields_of_the_record(record_of):
    assert set(Record.__annotations__) == set(record_of(KEY).to_dict())
