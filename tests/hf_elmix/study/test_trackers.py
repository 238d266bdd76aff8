from __future__ import annotations

import json
import subprocess
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hf_elmix import UsageError
from hf_elmix.study.grid import run_grid
from hf_elmix.study.runner import run_branch
from hf_elmix.study.spec import RunKey
from hf_elmix.study.store import Store
from hf_elmix.study.trackers import check_trackers, logs_of, track

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


def test_logs_have_the_trainers_names(record):
    logs = dict(logs_of(record))
    assert logs.keys() == {4, 8, 16}
    assert logs[4] == {f"train/{name}": value for name, value in TRAINING[0].items() if name != "step"}
    assert logs[8]["eval/accuracy"] == 0.5
    assert "train/loss" not in logs[8]  # it was no number
    assert logs[16] == {"eval/accuracy": 0.75}


def read_tensorboard(folder):
    events = EventAccumulator(str(folder))
    events.Reload()
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_tensorboard(record, store):
    track(record, store, check_trackers(["tensorboard", "none"], store))
    stored = read_tensorboard(store.folder / "tensorboard/a%2Fb/0,0.5/seed3")
    assert stored["eval/accuracy"] == [(8, 0.5), (16, 0.75)]
    assert stored["train/focus"] == [(4, 0.0), (8, 0.5)]
    assert dict(stored["train/loss_el"]) == pytest.approx({4: 0.6, 8: 0.5})
    assert {"train/alpha", "train/beta", "train/loss_ce", "train/loss"} <= stored.keys()


TRACKIO = """
import json, sys
from hf_elmix.study.spec import RunRecord
from hf_elmix.study.store import Store
from hf_elmix.study.trackers import check_trackers, track
record, store = RunRecord.from_json(sys.argv[1].encode()), Store(sys.argv[2])
track(record, store, check_trackers(["trackio"], store))
from trackio.sqlite_storage import SQLiteStorage
(run,) = SQLiteStorage.get_runs("runs")
print(json.dumps([run, SQLiteStorage.get_logs("runs", run), SQLiteStorage.get_run_config("runs", run)]))
"""


@pytest.mark.slow
def test_trackio(record, store, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
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
    with pytest.raises(UsageError, match="among tensorboard, trackio, wandb or none, but got 'tensorbord'"):
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


def test_a_grid_hands_over_what_it_has_shared(toy, store):
    """Methods that share training are there whole, each with its own weights."""
    study = toy.study(None, "0", "0,0.5")
    run_grid(study, store, run_branch, track=lambda record: track(record, store, ["tensorboard"]))
    stored = {method: read_tensorboard(store.folder / f"tensorboard/toy/{method}/seed3") for method in ("0", "0,0.5")}
    for method, logs in stored.items():
        record = store.read(RunKey("toy", method, 3))
        assert [step for step, _ in logs["train/loss"]] == [log["step"] for log in record.training]
        assert [value for _, value in logs["train/alpha"]] == [log["alpha"] for log in record.training]
        assert [value for _, value in logs["eval/accuracy"]] == pytest.approx(record.scores["accuracy"]["epochs"])
    assert stored["0"]["train/alpha"][-1][1] == 1
    assert stored["0,0.5"]["train/alpha"][-1][1] == 0


def test_a_tracker_that_fails_stops_nothing(toy, store, capsys):
    def fail(record):
        raise RuntimeError("no such server")

    counts = run_grid(toy.study(None, "ce", "0"), store, run_branch, track=fail)
    assert counts == {"done": 2}
    assert "toy ce seed 3: not tracked: no such server." in capsys.readouterr().err
