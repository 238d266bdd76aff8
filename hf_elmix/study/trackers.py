"""Runs in an experiment tracker: TensorBoard, trackio or Weights & Biases, through the trackers of accelerate.

A run is handed over from its record, whole, when it has ended: methods share stretches of training, other machines may
have trained them, and a run that was resumed would be there twice if each process reported what it sees. The names of
the values are those that the Trainer's own integrations use.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from typing import Any

from hf_elmix.errors import UsageError
from hf_elmix.study.spec import RunRecord
from hf_elmix.study.store import Store, component, local_path

__all__ = ["TRACKERS", "check_trackers", "logs_of", "track"]

TRACKERS = ("tensorboard", "trackio", "wandb")

TENSORBOARD = "TENSORBOARD_LOGGING_DIR"  # where the Trainer's integration writes, too


def check_trackers(names: Iterable[str], store: Store) -> tuple[str, ...]:
    """The trackers of some names, known to be there before anything is trained.

    Args:
        names: Names of trackers; ``none`` stands for none of them.
        store: Where the records go.

    Raises:
        UsageError: If one is unknown or not installed, or has nowhere to write.
    """
    from accelerate.tracking import get_available_trackers

    wanted = tuple(dict.fromkeys(name for name in names if name != "none"))
    for name in wanted:
        if name not in TRACKERS:
            raise UsageError(f"Expected trackers to be among {', '.join(TRACKERS)} or none, but got {name!r}.")
        if name not in map(str, get_available_trackers()):
            raise UsageError(f"The tracker {name!r} is not installed. It comes with: pip install {name}")
    if "tensorboard" in wanted:
        _tensorboard(store)
    return wanted


def track(record: RunRecord, store: Store, trackers: Iterable[str]) -> None:
    """Hand a run over to trackers: its settings, its training logs and its scores.

    The project is the study's, named after its folder; runs that differ in nothing but their seed are a group.

    Args:
        record: The run.
        store: Where its record is.
        trackers: Names of trackers that `check_trackers` has passed.
    """
    for name in trackers:
        with redirect_stdout(io.StringIO()):  # some have five lines to say for each run
            tracker = _start(name, record, store)
            try:
                tracker.store_init_configuration(_config(record))
                for step, values in logs_of(record):
                    tracker.log(values, step=step)
            finally:
                tracker.finish()


def logs_of(record: RunRecord) -> Iterator[tuple[int, dict[str, float]]]:
    """What a run has logged, by optimizer step: ``train/...`` (loss, its terms, weights) and ``eval/...`` (scores)."""
    logs: dict[int, dict[str, float]] = {}
    for log in record.training:
        values = {f"train/{name}": value for name, value in log.items() if name != "step"}
        logs.setdefault(log["step"], {}).update(values)
    for name, score in record.scores.items():
        for step, value in zip(score["steps"], score["epochs"], strict=True):
            logs.setdefault(step, {})[f"eval/{name}"] = value
    for step, values in sorted(logs.items()):
        yield step, {name: value for name, value in values.items() if value is not None}  # a value that is no number


def _start(name: str, record: RunRecord, store: Store) -> Any:
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState()  # the trackers ask it which process is the main one
    key, grid = record.key, store.folder.name
    group = f"{grid}/{key.task}/{key.method}"
    if name == "tensorboard":
        place = "/".join((component(key.task), component(key.method), f"seed{key.seed}"))
        tracker: Any = LOGGER_TYPE_TO_CLASS[name](place, logging_dir=_tensorboard(store))
    else:
        # The run is over: what the machine does now says nothing about it.
        quiet = {"auto_log_cpu": False, "auto_log_gpu": False} if name == "trackio" else {}
        tracker = LOGGER_TYPE_TO_CLASS[name](grid, name=f"{group}/seed{key.seed}", group=group, **quiet)
    tracker.start()
    return tracker


def _config(record: RunRecord) -> dict[str, Any]:
    """The settings of a run, flat and plain."""
    settings = {**record.settings, **record.settings.get("arguments", {})}
    plain = {name: value for name, value in settings.items() if isinstance(value, str | int | float | bool)}
    key = record.key
    return {"task": key.task, "method": key.method, "seed": key.seed, "status": record.status, **plain}


def _tensorboard(store: Store) -> str:
    """The folder of TensorBoard's files: the user's, else one beside the records."""
    given = os.environ.get(TENSORBOARD)
    here = local_path(store.folder)
    if given is None and here is None:
        raise UsageError(f"TensorBoard writes to a folder, and {store.folder} is none. Set {TENSORBOARD} to one.")
    return given or str(here / "tensorboard")  # type: ignore[operator]
