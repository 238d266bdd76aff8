"""Show runs in TensorBoard, trackio or Weights & Biases while they train, through the trackers of accelerate.

The process that hands out work logs all runs, because methods share training and other machines may train them: each
line of a shared segment goes to all runs that continue from it. When a run ends, its record says what is still to be
logged; a run that has ended before is handed over from its record. Each run replaces what a tracker holds of it, so
that a study that was resumed, or handed over twice, appears once. Values have the names of the Trainer's integrations.
"""

from __future__ import annotations

import contextvars
import hashlib
import io
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

from hf_elmix.errors import UsageError, in_one_line, not_one_of
from hf_elmix.study.files import local_path
from hf_elmix.study.spec import SPEED, TRACKERS, TRAINING, RunKey, RunRecord, Study
from hf_elmix.study.store import Store

__all__ = ["Tracking", "check_trackers", "logs_of", "values_of"]

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


class Tracking:
    """Logs the runs of a study.

    The project is named after the folder of the study; runs that differ only in their seed form a group.

    Args:
        names: What `check_trackers` returned.
        study: The study.
        store: Where its records go.

    Attributes:
        say: Called with a line about a run that cannot be logged, after which it is left out.
    """

    def __init__(self, names: Iterable[str], study: Study, store: Store) -> None:
        self.names, self.store, self.runs = tuple(names), store, study.runs()
        self.settings = study.settings
        self.say: Callable[[str], None] = print
        self._open: dict[tuple[RunKey, str], Any] = {}
        self._logged: dict[tuple[RunKey, str], set[tuple[int, str]]] = {}
        self._failed: set[tuple[RunKey, str]] = set()

    def log(self, key: RunKey, logs: Iterable[Mapping[str, Any]]) -> None:
        """Log lines of a Trainer's log history; those that are logged already are left out."""
        self._each(key, self._log, [(log["step"], values_of(log)) for log in logs])

    def finish(self, record: RunRecord) -> None:
        """Log what is left of a run that has ended."""
        self._each(record.key, self._log, list(logs_of(record)))
        self._each(record.key, self._end)

    def close(self) -> None:
        """End what is being logged."""
        for key, _ in list(self._open):
            self._each(key, self._end)

    def _each(self, key: RunKey, call: Callable[..., None], *arguments: Any) -> None:
        """Do something with each tracker of a run; one that cannot is left out from then on."""
        for name in self.names:
            if (key, name) in self._failed:
                continue
            try:
                with redirect_stdout(io.StringIO()):  # some print several lines for each run
                    call(key, name, *arguments)
            except Exception as error:  # such as a server that is down; the record is safe
                self._failed.add((key, name))
                self.say(f"{key}: not tracked by {name}: {in_one_line(error)}")

    def _log(self, key: RunKey, name: str, logs: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
        if (key, name) not in self._open:
            self._open[key, name], self._logged[key, name] = self._start(name, key), set()
        seen = self._logged[key, name]
        for step, values in logs:
            new = {each: value for each, value in values.items() if (step, each) not in seen and _finite(value)}
            seen |= {(step, each) for each in new}
            if new:
                self._open[key, name].log(new, step=step)

    def _end(self, key: RunKey, name: str) -> None:
        if (key, name) in self._open:
            self._open.pop((key, name)).finish()

    def _start(self, name: str, key: RunKey) -> Any:
        """A tracker that has started a run, in place of what it holds of it."""
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState()  # the trackers ask it whether this is the main process
        settings = self.settings(*self.runs[key])
        config = {"task": key.task, "method": key.method, "seed": key.seed, **settings, **settings["arguments"]}
        config = {name: value for name, value in config.items() if isinstance(value, str | int | float | bool)}
        kind = LOGGER_TYPE_TO_CLASS[name]
        if name == "tensorboard":
            from torch.utils.tensorboard.summary import hparams

            tracker: Any = kind("/".join(self.store.folder_of(key).parts[-3:]), logging_dir=_tensorboard(self.store))
            for file in Path(tracker.logging_dir_param, tracker.run_name).glob("events.out.tfevents.*"):
                file.unlink()
            tracker.start()
            # `add_hparams` would write them to a folder of its own, which TensorBoard lists as another run.
            for part in hparams(config, {}):
                tracker.writer.file_writer.add_summary(part)
            return tracker
        folder = self.store.folder.absolute()  # two studies in folders of one name are two
        group = f"{folder.name}/{key.task}/{key.method}"
        run = f"{group}/seed{key.seed}"
        options = _replacing(name, folder.name, run, str(folder))
        tracker = kind(folder.name, name=run, group=group, config=config, **options)
        # Outside of this context, so that the trackers do not end the run that they started last.
        contextvars.copy_context().run(tracker.start)
        return tracker


def _replacing(tracker: str, project: str, run: str, folder: str) -> dict[str, Any]:
    """Options with which a tracker shows a run once, though it was logged before."""
    if tracker == "wandb":  # which ignores steps that it has
        name = hashlib.sha256(f"{folder} {run}".encode()).hexdigest()[:16]
        return {"id": name, "resume": "allow", "reinit": "create_new"}
    import trackio

    with suppress(ValueError):  # there is no such project yet
        for before in trackio.Api().runs(project):
            if before.name == run:
                before.delete()
    # The process that logs is not the one that trains: its load has nothing to do with the run.
    return {"resume": "allow", "auto_log_cpu": False, "auto_log_gpu": False}


def values_of(log: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a line of a Trainer's log history: ``train/...`` (loss, terms, weights) or ``eval/...`` (scores)."""
    if "loss" in log:
        return {f"train/{name}": log[name] for name in TRAINING if name in log and name != "step"}
    scores = {name: value for name, value in log.items() if name.startswith("eval_") and not name.endswith(SPEED)}
    return {f"eval/{name.removeprefix('eval_')}": value for name, value in scores.items()}


def logs_of(record: RunRecord) -> Iterator[tuple[int, dict[str, Any]]]:
    """Values of a run by optimizer step, with the names of `values_of`."""
    logs: dict[int, dict[str, Any]] = {}
    for log in record.training:
        logs.setdefault(log["step"], {}).update(values_of({"loss": None, **log}))
    for name, score in record.scores.items():
        for step, value in zip(score["steps"], score["epochs"], strict=True):
            logs.setdefault(step, {})[f"eval/{name}"] = value
    yield from sorted(logs.items())


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _tensorboard(store: Store) -> str:
    """The folder for TensorBoard: that of the environment variable, or else one beside the records."""
    given = os.environ.get(TENSORBOARD)
    here = local_path(store.folder)
    if given is None and here is None:
        raise UsageError(f"Expected a folder for TensorBoard, but {store.folder} is a URL. Set {TENSORBOARD} to one.")
    return given or str(here / "tensorboard")  # type: ignore[operator]
