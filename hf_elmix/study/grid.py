"""The grid: which runs are missing, and doing them one after the other."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from hf_elmix.errors import UsageError
from hf_elmix.study.spec import Method, RunKey, RunRecord, Study
from hf_elmix.study.store import Store
from hf_elmix.study.workers import Run, run_here, run_in_workers

__all__ = ["missing_runs", "run_grid"]

BAR = "{desc}{percentage:3.0f}%|{bar}| {n:.1f}/{total} runs [{elapsed}<{remaining}]"


def missing_runs(study: Study, store: Store, *, retry_failed: bool = False) -> list[RunKey]:
    """Runs of the study that have no record yet.

    Args:
        study: The study.
        store: Its records.
        retry_failed: Count failed runs as missing.

    Raises:
        UsageError: (a ValueError) If a record of the study's problems was made with other settings than the study's,
            be it of a seed or method that is not in the study: a report compares all runs of a folder.
    """
    records = {record.key: record for record in store.records()} if store.folder.exists() else {}
    again = {"failed"} if retry_failed else set()
    for record in records.values():
        if record.status not in again or record.key not in study.runs():
            _check_settings(study, record, store.folder)
    return [key for key in study.runs() if key not in records or records[key].status in again]


def run_grid(study: Study, store: Store, run: Run, *, workers: int = 1, retry_failed: bool = False) -> Counter[str]:
    """Do the missing runs, writing each record as soon as its run ends; started again, it goes on where it stopped.

    Args:
        study: The study.
        store: Where the records go.
        run: Does one run; `run_one`, or a stand-in.
        workers: How many runs are done at a time; more than one are done in processes of their own.
        retry_failed: Do failed runs again.

    Returns:
        How many runs of the study are done, failed and diverged.
    """
    _check_json(study)
    missing = missing_runs(study, store, retry_failed=retry_failed)
    total = len(study.runs())
    with (
        _interruptible() as check_interrupt,
        tqdm(total=total, bar_format=BAR, dynamic_ncols=True, mininterval=0.5) as bar,
    ):
        bar.initial = bar.n = total - len(missing)
        view = _View(bar, check_interrupt)
        if workers == 1:
            records = run_here(study, store, run, missing, view.progress)
        else:
            records = run_in_workers(study, store, run, missing, view.progress, workers)
        for record in records:
            store.write(record)
            view.ended(record)
    return Counter(done.status for key in study.runs() if (done := store.read(key)))


class _View:
    """The bar: it moves within runs, so that the time left is known before the first one has ended."""

    def __init__(self, bar: tqdm, check_interrupt: Callable[[], None]) -> None:
        self.bar, self.runs, self.check_interrupt = bar, bar.n, check_interrupt
        self.shares: dict[RunKey, float] = {}

    def progress(self, key: RunKey, step: int, steps: int) -> None:
        self.shares[key] = step / steps
        self.bar.set_description(", ".join(map(str, self.shares)), refresh=False)
        self._move()

    def ended(self, record: RunRecord) -> None:
        self.bar.write(_line(record))
        self.shares.pop(record.key, None)
        self.runs += 1
        self._move()

    def _move(self) -> None:
        self.bar.update(self.runs + sum(self.shares.values()) - self.bar.n)
        self.check_interrupt()


@contextmanager
def _interruptible() -> Iterator[Callable[[], None]]:
    """Ctrl-C that cannot get lost; yields a function that raises it once more if it has been pressed.

    Python drops an exception that is raised in a finalizer, after showing its traceback, and each training starts with
    a garbage collection.
    """
    pressed: list[int] = []

    def press(number: int, frame: object) -> None:
        pressed.append(number)
        raise KeyboardInterrupt

    def check() -> None:
        if pressed:
            raise KeyboardInterrupt

    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield check
        return
    show = sys.unraisablehook
    sys.unraisablehook = lambda dropped: None if dropped.exc_type is KeyboardInterrupt else show(dropped)
    signal.signal(signal.SIGINT, press)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.unraisablehook = show


def _line(record: RunRecord) -> str:
    """One line on a run that has ended."""
    if record.status == "failed":
        return f"{record.key}: failed: {(record.error or '').splitlines()[0]}"
    score = record.settings["score"]
    value = record.scores.get(score, {}).get("last", float("nan"))
    return f"{record.key}: {record.status}, {score} {value:.4f}, {record.cost['seconds']:.1f} s"


def _check_json(study: Study) -> None:
    for key, (problem, method) in study.runs().items():
        try:
            json.dumps(study.settings(problem, method))
        except TypeError as error:
            raise UsageError(f"Expected the settings of {key} to be plain JSON values, but {error}.") from None


def _check_settings(study: Study, record: RunRecord, folder: Path) -> None:
    problems = {problem.name: problem for problem in study.problems}
    methods = {method.name: method for method in study.methods}
    if record.key.problem not in problems:
        return
    # A method that is not in the study differs in its schedule, and in nothing else.
    method = methods.get(record.key.method, Method(record.key.method))
    settings = study.settings(problems[record.key.problem], method)
    there, here = _flat(record.settings), _flat(json.loads(json.dumps(settings)))
    differences = [
        f"{name} was {there.get(name)!r} and is now {here.get(name)!r}"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
    ]
    if differences:
        raise UsageError(
            f"{folder} holds runs with other settings ({record.key}: {'; '.join(differences)}). Choose another "
            "--output_dir, or start with the settings of before."
        )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
