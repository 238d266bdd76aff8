"""The grid: which runs are missing, and doing them, each step of training once."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any

from hf_elmix.errors import UsageError, in_one_line
from hf_elmix.study.checkpoints import Checkpoints
from hf_elmix.study.executors.local import Engine, Progress, run_here
from hf_elmix.study.keep import keep_best
from hf_elmix.study.progress import View
from hf_elmix.study.shared_prefixes import Branch, Outcome, roots, share
from hf_elmix.study.spec import KEEP, Method, RunKey, RunRecord, Study, Task
from hf_elmix.study.store import Store, claim_of, component, remove

__all__ = ["missing_runs", "run_grid"]

Experiment = tuple[str, int]  # task and seed

ATTEMPTS = 2  # at a branch whose process was killed: it may not have been the branch's fault
PATIENCE = 2.0  # seconds between two looks at what another process is doing


def missing_runs(study: Study, store: Store, *, retry_failed: bool = False) -> list[RunKey]:
    """Runs of the study that have no record yet.

    Args:
        study: The study.
        store: Its records.
        retry_failed: Count failed runs as missing. Those that failed under other settings always are.

    Returns:
        Their keys, experiment by experiment.

    Raises:
        UsageError: If a record of the study's tasks was made with other settings than the study's,
            be it of a seed or method that is not in the study: a report compares all runs of a folder.
    """
    return [key for key, state in _states(study, store, retry_failed).items() if state == "missing"]


def run_grid(
    study: Study,
    store: Store,
    run: Callable[..., Outcome],
    *,
    engine: Engine = run_here,
    sharing: bool = True,
    keep: str = "none",
    retry_failed: bool = False,
    overwrite: bool = False,
    track: Callable[[RunRecord], None] | None = None,
) -> Counter[str]:
    """Do the missing runs, writing each record as soon as its run ends; started again, it goes on where it stopped.

    Several processes may do this in one folder at a time: each experiment is done by one of them.

    Args:
        study: The study.
        store: Where the records go.
        run: Does one branch: `run_branch`, or a stand-in.
        engine: Where branches are done: `run_here`, or `run_in_workers` or `run_on_ray` with their arguments.
        sharing: Train what methods have in common once.
        keep: Which trained models stay beside their records: ``models`` (all), ``best`` (of each task and method
            that of the run with the best score) or ``none``.
        retry_failed: Do failed runs again.
        overwrite: First delete all that the folder holds of the study's tasks.
        track: Called with each record that has been written; see `hf_elmix.study.trackers`.

    Returns:
        How many runs of the study are done, failed and diverged.

    Raises:
        UsageError: If the settings are no plain JSON, or are other than those of the folder.
        OSError: If the disk is full.
    """
    if keep not in KEEP:
        raise UsageError(f"Expected keep to be one of {', '.join(KEEP)}, but got {keep!r}.")
    _check_json(study)
    with _alone(store):
        if overwrite:
            _clear(study, store)
        states = _states(study, store, retry_failed)
        _declare(study, store)
    _tidy(study, store, states, keep)
    todo = _Todo(study, store, states, sharing=sharing, retry_failed=retry_failed)
    view = View(states, todo.work())
    work: Callable[[Branch, Progress], Outcome] = partial(run, study, store, keep_models=keep != "none")
    with _interruptible() as check_interrupt, view, todo:

        def progress(branch: Branch, step: int, steps: int) -> None:
            view.progress(branch, step, steps, todo.tasks[branch.task].work)
            check_interrupt()

        for outcome in _outcomes(todo, view, partial(engine, todo.take, work, progress)):
            for record in todo.ended(outcome):
                view.ended(record)
                if track is not None:
                    _hand_over(track, record, view)
                if keep == "best":
                    _keep_best(study, store, record.key)
            check_interrupt()
    return Counter(states.values())


def _outcomes(todo: _Todo, view: View, engine: Callable[[], Iterator[Outcome]]) -> Iterator[Outcome]:
    """What comes of all branches, waiting for what others do where nothing else is left."""
    yield from engine()
    while todo.elsewhere:
        view.say(f"Waiting for another process that is doing {todo.elsewhere}.")
        held = todo.elsewhere
        while todo.elsewhere == held:
            time.sleep(PATIENCE)
            yield from engine()


def _hand_over(track: Callable[[RunRecord], None], record: RunRecord, view: View) -> None:
    """Let a tracker have a record; the record is safe already, so that a tracker that fails stops nothing."""
    try:
        track(record)
    except Exception as error:  # a server that is away, a full disk: each tracker has errors of its own
        view.say(f"{record.key}: not tracked: {in_one_line(error)}")


class _Todo:
    """What is still to be done. An experiment is claimed when its first branch is taken, until its last one ends."""

    def __init__(
        self, study: Study, store: Store, states: dict[RunKey, str], *, sharing: bool, retry_failed: bool
    ) -> None:
        self.study, self.store, self.sharing, self.retry_failed = study, store, sharing, retry_failed
        self.tasks: dict[str, Task] = {task.name: task for task in study.tasks}
        self.states = states
        self.missing = [key for key, state in states.items() if state == "missing"]
        self.waiting: deque[Experiment] = deque(dict.fromkeys((key.task, key.seed) for key in self.missing))
        self.look_again = 0.0  # when to try once more to claim what another process is doing
        self.ready: list[Branch] = []  # the last one is next: what goes on from a checkpoint goes before what starts
        self.open: Counter[Experiment] = Counter()  # branches that are ready or being done
        self.parents: dict[Branch, str] = {}  # the checkpoint that a branch goes on from
        self.attempts: Counter[Branch] = Counter()
        self.claims: dict[Experiment, ExitStack] = {}

    def __enter__(self) -> _Todo:
        return self

    def __exit__(self, *error: object) -> None:
        for claim in self.claims.values():
            claim.close()

    def work(self) -> float:
        """What the training of the missing runs costs altogether, in units of `Task.work`."""
        branches = [branch for experiment in self.waiting for branch in self._roots(experiment, self.missing)]
        losses = {method.name: method.loss for method in self.study.methods}
        return sum(self.tasks[branch.task].work * share(branch, losses) for branch in branches)

    @property
    def elsewhere(self) -> str:
        """The experiments that other processes are doing."""
        return ", ".join(f"{task} seed {seed}" for task, seed in sorted(self.waiting))

    def take(self) -> Branch | None:
        """The next branch, or None if there is none that this process can do now."""
        if not self.ready and time.monotonic() >= self.look_again:
            for _ in range(len(self.waiting)):
                if not self.ready:
                    self._claim(self.waiting.popleft())
            self.look_again = time.monotonic() + PATIENCE if self.waiting and not self.ready else 0.0
        return self.ready.pop() if self.ready else None

    def ended(self, outcome: Outcome) -> tuple[RunRecord, ...]:
        """Write the records of a branch that has ended, and make ready what goes on from it."""
        branch = outcome.branch
        experiment = branch.task, branch.seed
        self.attempts[branch] += 1
        if outcome.died is not None and self.attempts[branch] < ATTEMPTS:
            self.ready.append(branch)
            return ()
        records = outcome.records if outcome.died is None else tuple(self._dead(outcome))
        for record in records:
            self.store.write(record)
        self.ready += reversed(outcome.children)
        self.parents |= {child: outcome.checkpoint for child in outcome.children if outcome.checkpoint is not None}
        self.open[experiment] += len(outcome.children) - 1
        if not self.open[experiment]:
            self._checkpoints(experiment).clear()
            self.claims.pop(experiment).close()
        else:
            self._forget(branch)
        return records

    def _claim(self, experiment: Experiment) -> None:
        """Start an experiment, or let it wait if another process has started it."""
        claim = ExitStack()
        if not claim.enter_context(self.store.claim(claim_of(*experiment))):
            self.waiting.append(experiment)
            return
        missing = [key for key in self.missing if (key.task, key.seed) == experiment and self._still_missing(key)]
        branches = self._roots(experiment, missing)
        if not branches:
            self._checkpoints(experiment).clear()
            claim.close()
            return
        self.claims[experiment] = claim
        self.ready += reversed(branches)
        self.open[experiment] = len(branches)

    def _still_missing(self, key: RunKey) -> bool:
        """Whether no other process has done a run since."""
        record = self.store.read(key)
        if record is None:
            return True
        _check_settings(self.study, record, self.store)
        missing = _is_missing(self.study, record, self.retry_failed)
        self.states[key] = "missing" if missing else record.status
        return missing

    def _roots(self, experiment: Experiment, missing: list[RunKey]) -> list[Branch]:
        names = [key.method for key in missing if (key.task, key.seed) == experiment]
        return roots(*experiment, self.study.methods, names, sharing=self.sharing)

    def _forget(self, branch: Branch) -> None:
        """Delete the checkpoint that a branch went on from, if no other branch still has to."""
        name = self.parents.pop(branch, None)
        if name is not None and name not in self.parents.values():
            self._checkpoints((branch.task, branch.seed)).delete(name)

    def _checkpoints(self, experiment: Experiment) -> Checkpoints:
        return Checkpoints(self.store.segments_of(*experiment))

    def _dead(self, outcome: Outcome) -> Iterator[RunRecord]:
        """Failed records for the runs of a branch whose process died."""
        error = f"The process of this run died {ATTEMPTS} times, at last with {outcome.died}."
        cost = {"seconds": 0.0, "steps_trained": 0, "steps_inherited": 0}
        for key in outcome.branch.keys:
            settings = self.study.settings(*self.study.runs()[key])
            yield RunRecord(key, "failed", {}, [], settings, {}, cost, error)


@contextmanager
def _alone(store: Store) -> Iterator[None]:
    """Be the only process that declares what is done in a folder."""
    while True:
        with store.claim("study") as free:
            if free:
                yield
                return
        time.sleep(0.1)


def _declare(study: Study, store: Store) -> None:
    """Write down what was asked for, beside what was asked for before.

    Raises:
        UsageError: If another process is at work in the folder under other settings.
    """
    said = store.declaration()
    settings = {task.name: _plain(study.settings(task, Method("ce"))) for task in study.tasks}
    for name, now in settings.items():
        difference = _difference(said["settings"].get(name, now), now)
        if difference and (who := _at_work(store, name, said["grids"])):
            raise UsageError(
                f"{store.folder} is where {who} is doing {name} with other settings ({difference}). Choose another "
                "--output_dir."
            )
    grid = {
        "tasks": [task.name for task in study.tasks],
        "methods": [method.name for method in study.methods],
        "seeds": list(study.seeds),
    }
    grids = said["grids"] if grid in said["grids"] else [*said["grids"], grid]
    methods = {
        method.name: {"loss": str(method.loss), "arguments": _plain(method.arguments)} for method in study.methods
    }
    declaration = {
        "grids": grids,
        "methods": {**said["methods"], **methods},
        "settings": {**said["settings"], **settings},
    }
    if declaration != said:
        store.declare(declaration)


def _at_work(store: Store, task: str, grids: list[dict[str, Any]]) -> str | None:
    """Who is doing an experiment of a task, if anyone is."""
    seeds = {seed for grid in grids if task in grid["tasks"] for seed in grid["seeds"]}
    return next((who for seed in sorted(seeds) if (who := store.holder(claim_of(task, seed)))), None)


def _clear(study: Study, store: Store) -> None:
    """Delete all that a folder holds of the study's tasks.

    Raises:
        UsageError: If another process is at work on them.
    """
    said = store.declaration()
    for task in study.tasks:
        if who := _at_work(store, task.name, said["grids"]):
            raise UsageError(f"{who} is at work on {task.name} in {store.folder}. Stop it first.")
    names = {task.name for task in study.tasks}
    for name in names:
        remove(store.folder / component(name))
        remove(store.folder / ".segments" / component(name))
    grids = [{**grid, "tasks": [name for name in grid["tasks"] if name not in names]} for grid in said["grids"]]
    if grids:
        settings = {name: values for name, values in said["settings"].items() if name not in names}
        store.declare({**said, "grids": [grid for grid in grids if grid["tasks"]], "settings": settings})


def _tidy(study: Study, store: Store, states: Mapping[RunKey, str], keep: str) -> None:
    """Delete what a process that was killed after its last record has left of experiments that are complete."""
    incomplete = {(key.task, key.seed) for key, state in states.items() if state == "missing"}
    for experiment in dict.fromkeys((key.task, key.seed) for key in states):
        segments = store.segments_of(*experiment)
        # To ask who holds a claim ends one that nobody holds any more.
        if experiment not in incomplete and store.holder(claim_of(*experiment)) is None and segments.exists():
            with store.claim(claim_of(*experiment)) as free:
                if free:
                    Checkpoints(segments).clear()
    for key in {(key.task, key.method): key for key in study.runs() if keep == "best"}.values():
        _keep_best(study, store, key)


def _keep_best(study: Study, store: Store, key: RunKey) -> None:
    keys = [RunKey(key.task, key.method, seed) for seed in study.seeds]
    keep_best(store, [record for key in keys if (record := store.read(key))])


def _states(study: Study, store: Store, retry_failed: bool) -> dict[RunKey, str]:
    """The status of each run of the study, or ``missing``; records are read once, and checked."""
    records = {record.key: record for record in store.records()} if store.folder.exists() else {}
    others = store.declaration()["methods"] if records else {}
    for record in records.values():
        _check_settings(study, record, store, others)
    found = {key: records.get(key) for key in study.runs()}
    return {
        key: "missing" if record is None or _is_missing(study, record, retry_failed) else record.status
        for key, record in found.items()
    }


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


def _check_json(study: Study) -> None:
    for key, (task, method) in study.runs().items():
        try:
            json.dumps(study.settings(task, method))
        except TypeError as error:
            raise UsageError(f"Expected the settings of {key} to be plain JSON values, but {error}.") from None


def _is_missing(study: Study, record: RunRecord, retry_failed: bool) -> bool:
    """Whether a run is to be done although it has a record: it failed, and is to be tried again."""
    if record.status != "failed":
        return False
    return retry_failed or bool(_difference(record.settings, _settings(study, record.key, {})))


def _check_settings(
    study: Study, record: RunRecord, store: Store, others: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
) -> None:
    """Refuse a record that was made with other settings; one of a failed run has nothing to compare."""
    if record.status == "failed" or record.key.task not in {task.name for task in study.tasks}:
        return
    difference = _difference(record.settings, _settings(study, record.key, others))
    if difference:
        raise UsageError(
            f"{store.folder} holds runs with other settings ({record.key}: {difference}). Choose another "
            "--output_dir, start with the settings of before, or delete those runs with --overwrite."
        )


def _settings(study: Study, key: RunKey, others: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The settings of a run of this study, or of one with a method that was declared when the folder had another."""
    task = next(task for task in study.tasks if task.name == key.task)
    method = {method.name: method for method in study.methods}.get(key.method)
    return study.settings(task, method or Method(key.method, **others.get(key.method, {})))


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """In what two settings differ, in words; nothing if they are the same."""
    there, here = _flat(_plain(before)), _flat(_plain(now))
    names = [name for name in sorted(there.keys() | here.keys()) if there.get(name) != here.get(name)]
    return "; ".join(f"{name} was {there.get(name)!r} and is now {here.get(name)!r}" for name in names)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they are read from a file."""
    return json.loads(json.dumps(values))


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
