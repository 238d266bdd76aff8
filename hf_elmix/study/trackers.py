"""Log runs to TensorBoard, trackio or Weights & Biases, through the trackers of accelerate.

Each run is logged from its record when it finishes: methods share training, other machines may have trained it, and a
resumed run would appear twice if each process logged what it sees. Values have the same names as in the Trainer's
integrations.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from typing import Any

from hf_elmix.errors import UsageError, not_one_of
from hf_elmix.study.files import local_path
from hf_elmix.study.spec import TRACKERS, RunRecord
from hf_elmix.study.store import Store

__all__ = ["check_trackers", "logs_of", "track"]

TENSORBOARD = "TENSORBOARD_LOGGING_DIR"  # the Trainer's integration reads it, too


def check_trackers(names: Iterable[str], store: Store) -> tuple[str, ...]:
    """Check trackers before anything is trained.

    Args:
        names: Names of trackers; ``none`` is ignored.
        store: Where the records go.

    Returns:
        The names, each once.

    Raises:
        UsageError: If one is unknown or not installed, or has no folder to write to.
    """
    from accelerate.tracking import get_available_trackers

    wanted = tuple(dict.fromkeys(name for name in names if name != "none"))
    for name in wanted:
        if name not in TRACKERS:
            raise not_one_of("a tracker", (*TRACKERS, "none"), name)
        if name not in map(str, get_available_trackers()):
            raise UsageError(f"The tracker {name!r} is not installed. It comes with: pip install {name}")
    if "tensorboard" in wanted:
        _tensorboard(store)
    return wanted


def track(record: RunRecord, store: Store, trackers: Iterable[str]) -> None:
    """Log a run: its settings, training logs and scores.

    The project is named after the folder of the study; runs that differ only in their seed form a group.

    Args:
        record: The run.
        store: Where its record is.
        trackers: Names that `check_trackers` returned.
    """
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState()  # the trackers ask it whether this is the main process
    key, grid = record.key, store.folder.name
    group = f"{grid}/{key.task}/{key.method}"
    settings = {**record.settings, **record.settings.get("arguments", {})}
    plain = {name: value for name, value in settings.items() if isinstance(value, str | int | float | bool)}
    for name in trackers:
        with redirect_stdout(io.StringIO()):  # some print several lines for each run
            if name == "tensorboard":
                place = "/".join(store.folder_of(key).parts[-3:])
                tracker: Any = LOGGER_TYPE_TO_CLASS[name](place, logging_dir=_tensorboard(store))
            else:
                # The run has ended: the current load of the machine has nothing to do with it.
                quiet = {"auto_log_cpu": False, "auto_log_gpu": False} if name == "trackio" else {}
                tracker = LOGGER_TYPE_TO_CLASS[name](grid, name=f"{group}/seed{key.seed}", group=group, **quiet)
            tracker.start()
            try:
                run = {"task": key.task, "method": key.method, "seed": key.seed, "status": record.status}
                tracker.store_init_configuration({**run, **plain})
                for step, values in logs_of(record):
                    tracker.log(values, step=step)
            finally:
                tracker.finish()


def logs_of(record: RunRecord) -> Iterator[tuple[int, dict[str, float]]]:
    """Values of a run by optimizer step: ``train/...`` (loss, its terms, weights) and ``eval/...`` (scores)."""
    logs: dict[int, dict[str, float]] = {}
    for log in record.training:
        values = {f"train/{name}": value for name, value in log.items() if name != "step"}
        logs.setdefault(log["step"], {}).update(values)
    for name, score in record.scores.items():
        for step, value in zip(score["steps"], score["epochs"], strict=True):
            logs.setdefault(step, {})[f"eval/{name}"] = value
    for step, values in sorted(logs.items()):
        yield step, {name: value for name, value in values.items() if value is not None}  # NaN


def _tensorboard(store: Store) -> str:
    """The folder for TensorBoard: that of the environment variable, or else one beside the records."""
    given = os.environ.get(TENSORBOARD)
    here = local_path(store.folder)
    if given is None and here is None:
        raise UsageError(f"Expected a folder for TensorBoard, but {store.folder} is a URL. Set {TENSORBOARD} to one.")
    return given or str(here / "tensorboard")  # type: ignore[operator]
