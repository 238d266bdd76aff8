from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hf_elmix import UsageError
from hf_elmix.study.executors.local import run_in_process, run_in_workers
from hf_elmix.study.grid import run_grid
from hf_elmix.study.runner import run_branch
from hf_elmix.study.spec import RunKey
from hf_elmix.study.store import Store
from hf_elmix.study.trackers import Tracking, check_trackers, logs_of, values_of

KEY = RunKey("a/b", "0,0.5", 3)
TRAINING = [
    {"step": 4, "epoch": 0.5, "loss": 1.5, "alpha": 1.0, "beta": 1.0, "focus": 0.0, "loss_ce": 0.9, "loss_el": 0.6},
    {"step": 8, "epoch": 1.0, "loss": None, "alpha": 0.0, "beta": 1.0, "focus": 0.5, "loss_ce": 0.8, "loss_el": 0.5},
]
SCORES = {"accuracy": {"last": 0.75, "best": 0.75, "epochs": [0.5, 0.75], "steps": [8, 16]}}
SETTINGS = {
    "select": {"metric": "accuracy", "epoch": "last"},
    "loss": "mix:0,0.5",
    "rows": {"train": "x"},
    "arguments": {"learning_rate": 2e-5},
}


@pytest.fixture
def record(record_of):
    return record_of(KEY, training=TRAINING, scores=SCORES, settings=SETTINGS)


class RecordedOnly:
    """A study whose only run is that of the record."""

    @staticmethod
    def runs():
        return {KEY: (None, None)}

    @staticmethod
    def settings(task, method):
        return SETTINGS


def test_logs_have_the_trainers_names(record):
    logs = dict(logs_of(record))
    assert logs.keys() == {4, 8, 16}
    assert logs[4] == {f"train/{name}": value for name, value in TRAINING[0].items() if name != "step"}
    assert logs[8]["eval/accuracy"] == 0.5
    assert logs[16] == {"eval/accuracy": 0.75}
    assert values_of({"eval_accuracy": 0.5, "eval_runtime": 3.0, "epoch": 1.0, "step": 8}) == {"eval/accuracy": 0.5}
    assert values_of({"train_loss": 0.5, "train_runtime": 3.0, "step": 8}) == {}


def read_tensorboard(folder):
    events = EventAccumulator(str(folder))
    events.Reload()
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_tensorboard_lists_a_run_once_however_often_it_is_handed_over(record, store):
    for _ in range(2):
        tracking = Tracking(check_trackers(["tensorboard", "none"], store), RecordedOnly, store)
        tracking.finish(record)
        tracking.close()
    folder = store.folder / "tensorboard/a%2Fb/0,0.5/seed3"
    (events,) = (store.folder / "tensorboard").rglob("*tfevents*")  # of several, TensorBoard follows the last only
    assert events.parent == folder
    assert b"mix:0,0.5" in events.read_bytes()
    stored = read_tensorboard(folder)
    assert stored["eval/accuracy"] == [(8, 0.5), (16, 0.75)]
    assert stored["train/focus"] == [(4, 0.0), (8, 0.5)]
    assert dict(stored["train/loss_el"]) == pytest.approx({4: 0.6, 8: 0.5})
    assert stored["train/loss"] == [(4, 1.5)]  # later it was no number


TRACKIO = """
import json, sys
from test_trackers import RecordedOnly
from hf_elmix.study.spec import RunRecord
from hf_elmix.study.store import Store
from hf_elmix.study.trackers import Tracking, check_trackers
record, store = RunRecord.from_json(sys.argv[1].encode()), Store(sys.argv[2])
for _ in range(2):
    tracking = Tracking(check_trackers(["trackio"], store), RecordedOnly, store)
    tracking.finish(record)
    tracking.close()
from trackio.sqlite_storage import SQLiteStorage
(run,) = SQLiteStorage.get_runs("runs")
print(json.dumps([run, SQLiteStorage.get_logs("runs", run), SQLiteStorage.get_run_config("runs", run)]))
"""


@pytest.mark.slow
def test_trackio(record, store, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, sys.path)))
    command = [sys.executable, "-c", TRACKIO, json.dumps(record.to_dict()), str(store.folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    run, logs, config = json.loads(done.stdout.splitlines()[0])  # the tracker itself has said nothing before
    assert run == "runs/a/b/0,0.5/seed3"
    assert [(log["step"], log["eval/accuracy"]) for log in logs if "eval/accuracy" in log] == [(8, 0.5), (16, 0.75)]
    assert [(log["train/focus"], log["train/loss_ce"]) for log in logs if "train/focus" in log] == [
        (0, 0.9),
        (0.5, 0.8),
    ]
    assert config["_Group"] == "runs/a/b/0,0.5"
    assert (config["loss"], config["learning_rate"], config["seed"]) == ("mix:0,0.5", 2e-5, 3)


def test_unknown_and_missing_trackers(store, monkeypatch):
    with pytest.raises(UsageError, match="one of tensorboard, trackio, wandb, none, but got 'tensorbord'. Did you"):
        check_trackers(["tensorbord"], store)
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: [])
    with pytest.raises(UsageError, match="'wandb' is not installed. It comes with: pip install wandb"):
        check_trackers(["wandb"], store)
    assert check_trackers(["none"], store) == ()


def test_tensorboard_needs_a_folder(tmp_path, monkeypatch):
    store = Store("memory://runs")
    with pytest.raises(UsageError, match="memory://runs is a URL. Set TENSORBOARD_LOGGING_DIR"):
        check_trackers(["tensorboard"], store)
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path))
    assert check_trackers(["tensorboard"], store) == ("tensorboard",)


class Listening(Tracking):
    """Notes what trackers are told, and whether the run had a record then."""

    def __init__(self, study, store):
        super().__init__(["mine"], study, store)
        self.told, self.ended = {}, []

    def _start(self, name, key):
        mine = SimpleNamespace(
            log=lambda values, step: self.told.setdefault(key, []).append((step, values, self.store.read(key))),
            finish=lambda: self.ended.append(key),
        )
        return mine


def told_of(tracking, key, name):
    return [(step, values[name]) for step, values, _ in tracking.told[key] if name in values]


@pytest.mark.parametrize(
    "executor",
    [run_in_process, pytest.param(partial(run_in_workers, workers=2), marks=pytest.mark.slow)],
    ids=["here", "workers"],
)
def test_runs_are_logged_while_they_train(toy, store, executor):
    """Methods that share training are there whole, each with its own weights."""
    study = toy.study(None, "0", "0,0.5", "ce")
    tracking = Listening(study, store)
    run_grid(study, store, run_branch, tracking=tracking, executor=executor)
    assert sorted(tracking.ended) == sorted(study.runs())
    for key in study.runs():
        record = store.read(key)
        steps = [step for step, _, _ in tracking.told[key]]
        assert steps == sorted(steps)
        live = [step for step, _, written in tracking.told[key] if written is None]
        assert live == [step for step in steps if step < steps[-1]]  # the last one is in the record
        logs = list(logs_of(record))
        for name in ("train/alpha", "train/loss", "eval/accuracy"):
            assert told_of(tracking, key, name) == [(step, values[name]) for step, values in logs if name in values]


def test_a_finished_study_is_handed_over(toy, store):
    study = toy.study(None, "ce", "0")
    run_grid(study, store, run_branch)
    tracking = Listening(study, store)
    run_grid(study, store, run_branch, tracking=tracking)
    for key in study.runs():
        record = store.read(key)
        assert [value for _, value in told_of(tracking, key, "train/loss")] == [log["loss"] for log in record.training]
    assert sorted(tracking.ended) == sorted(study.runs())


def test_a_tracker_that_fails_stops_nothing_and_is_named_once(toy, store, capsys):
    class Failing(Listening):
        def _start(self, name, key):
            if name == "broken":
                raise RuntimeError("no such server")
            return super()._start(name, key)

    study = toy.study(None, "ce", "0")
    tracking = Failing(study, store)
    tracking.names = ("broken", "mine")
    assert run_grid(study, store, run_branch, tracking=tracking) == {"done": 2}
    assert capsys.readouterr().err.count("toy ce seed 3: not tracked by broken: no such server.") == 1
    assert tracking.told.keys() == study.runs().keys()
