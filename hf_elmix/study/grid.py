"""The grid: find the missing runs of a study and train them, each shared step once."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import cache, partial
from typing import TYPE_CHECKING

from hf_elmix.errors import not_one_of
from hf_elmix.interrupt import interruptible
from hf_elmix.study.claims import claim_name
from hf_elmix.study.executors.local import BranchProgress, Executor, Logs, Run, run_in_process
from hf_elmix.study.progress import View
from hf_elmix.study.queue import Queue
from hf_elmix.study.select import best_first, choose_runs
from hf_elmix.study.settings import check_plain, check_record, declare, is_missing, withdraw
from hf_elmix.study.shared_prefixes import Branch, Outcome
from hf_elmix.study.spec import KEEP, RunKey, RunRecord, Study
from hf_elmix.study.store import Store

if TYPE_CHECKING:
    from hf_elmix.study.trackers import Tracking

__all__ = ["keep_best", "run_grid", "run_states"]


def run_grid(
    study: Study,
    store: Store,
    run: Callable[..., Outcome],
    *,
    executor: Executor = run_in_process,
    sharing: bool = True,
    keep: str = "none",
    retry_failed: bool = False,
    overwrite: bool = False,
    tracking: Tracking | None = None,
    command: str | None = None,
) -> Counter[str]:
    """Train the missing runs and write each record as soon as its run ends; started again, it continues.

    Several processes may work in one folder at a time: each block is trained by one of them.

    Args:
        study: The study.
        store: Where the records go.
        run: Trains one branch: `run_branch`, or a stand-in.
        executor: What trains branches: `run_in_process`, or `run_in_workers` or `run_on_ray` with arguments.
        sharing: Train what methods have in common once.
        keep: Which models stay, as after the last step: ``models`` (all), ``best`` (by task and method) or ``none``.
        retry_failed: Repeat failed runs.
        overwrite: First delete the records, predictions and models that the folder holds for the study's tasks.
        tracking: Logs the runs, those that have ended before, too.
        command: The command line of the study, to be kept in the declaration.

    Returns:
        Number of runs of the study that are done, failed and diverged.

    Raises:
        UsageError: If the settings are not plain JSON, or differ from those of the folder.
        OSError: If the disk is full, or the lock file of a block is deleted.
    """
    states = _prepare(study, store, keep, retry_failed, overwrite, command)
    queue = Queue(study, store, states, sharing=sharing, retry_failed=retry_failed)
    train = partial(run, study, store, keep_models=keep != "none")
    with interruptible() as check_interrupt, View(queue.state) as view, closing(queue), ExitStack() as stack:
        if tracking is not None:
            stack.enter_context(closing(tracking))
            tracking.say = view.say
            for key in (key for key, state in states.items() if state != "missing"):
                if record := store.read(key):
                    tracking.finish(record)
                check_interrupt()
        for record in _finished(queue, view, executor, train, check_interrupt, tracking):
            view.report(record)
            if tracking is not None:
                tracking.finish(record)
            if keep == "best":
                keep_best(store, _same_method(study, record.key))
    return Counter(queue.state.runs.values())


def keep_best(store: Store, keys: list[RunKey]) -> None:
    """Remove the models of all but the best of the given runs, which have the same task and method.

    The candidates of a sweep are compared once all those of a seed have ended.
    """
    records = [record for key in keys if (record := store.read(key))]
    kept = [record.key for record in records if store.model_files(record.key)]
    chosen = [record for record in choose_runs(records, keys).values() if record is not None]
    # A candidate that failed leaves its sweep undecided until it is repeated.
    decided = [record for record in chosen if record.status != "failed" or record.key == record.key.reported]
    best = next((record.key for record in sorted(decided, key=best_first) if record.key in kept), None)
    for key in kept:
        if key != best and key.seed in {record.key.seed for record in decided}:
            store.delete_model(key)


def _prepare(
    study: Study, store: Store, keep: str, retry_failed: bool, overwrite: bool, command: str | None
) -> dict[RunKey, str]:
    """Check the study against its folder, declare it, and return the state of each run."""
    if keep not in KEEP:
        raise not_one_of("keep", KEEP, keep)
    check_plain(study)
    store.check_no_links(study.runs())
    with store.claims.hold("study", wait=True):
        if overwrite:
            withdraw(study, store)
            for task in study.tasks:
                store.clear(task.name, [key for key in study.runs() if key.task == task.name])
        states = run_states(study, store, retry_failed)
        declare(study, store, command)
    # A process that was killed after its last record may have left checkpoints of a complete block.
    incomplete = {key.block for key, state in states.items() if state == "missing"}
    for block in dict.fromkeys(key.block for key in states):
        checkpoints = store.checkpoints(block)
        # Asking for the holder ends a claim that nobody holds any more.
        if block not in incomplete and store.claims.holder(claim_name(block)) is None and checkpoints.folder.exists():
            with store.claims.hold(claim_name(block)) as free:
                if free:
                    checkpoints.clear()
    for key in {(key.task, key.reported.method): key for key in study.runs() if keep == "best"}.values():
        keep_best(store, _same_method(study, key))
    return states


def run_states(study: Study, store: Store, retry_failed: bool = False) -> dict[RunKey, str]:
    """The state of each run of the study, block by block: ``missing`` or the status of its record.

    Args:
        study: The study.
        store: Its records.
        retry_failed: Count failed runs as missing. Those that failed under other settings always are.

    Raises:
        UsageError: If a record of the study's tasks was made under other settings, even one of a seed or method
            outside the study: a report compares all runs of a folder.
    """
    records = {record.key: record for record in store.records()} if store.folder.exists() else {}
    declared = store.declaration()["methods"] if records else {}
    for record in records.values():
        check_record(study, record, store, declared)
    return {
        key: "missing" if is_missing(study, records.get(key), retry_failed) else records[key].status
        for key in study.runs()
    }


def _watch(queue: Queue, view: View, check_interrupt: Callable[[], None], tracking: Tracking | None) -> BranchProgress:
    """What an executor calls after each step and log of a branch."""
    losses = {method.name: method.loss for method in queue.study.candidates}

    @cache
    def warn(method: str, steps: int) -> None:
        if text := losses[method].untrained(steps):
            view.say(text)

    def progress(branch: Branch, step: int, steps: int, logs: Logs = ()) -> None:
        queue.progress(branch, step, steps)
        view.tick()
        for method in branch.methods:
            warn(method, steps)
        if tracking is not None and logs:
            for key in branch.keys:
                tracking.log(key, logs)
        check_interrupt()

    return progress


def _finished(
    queue: Queue,
    view: View,
    executor: Executor,
    train: Run,
    check_interrupt: Callable[[], None],
    tracking: Tracking | None,
) -> Iterator[RunRecord]:
    """The records of all missing runs as they are written; waits for other processes when nothing else is left."""
    progress = _watch(queue, view, check_interrupt, tracking)
    waiting_for = ""
    while True:
        for outcome in executor(queue.take, train, progress):
            if any(record.status == "failed" for record in outcome.records):
                check_interrupt()  # some libraries turn Ctrl-C into an error of their own, which is no result of a run
            yield from queue.end(outcome)
            check_interrupt()
        if not queue.elsewhere:
            return
        if queue.elsewhere != waiting_for:
            waiting_for = queue.elsewhere
            view.say(f"Waiting for another process that is working on {waiting_for}.")
        time.sleep(queue.patience)


def _same_method(study: Study, key: RunKey) -> list[RunKey]:
    """The runs of the same task and method, with all seeds and all candidates of a sweep."""
    names = [method.name for method in study.candidates]
    same = [name for name in names if RunKey(key.task, name, key.seed).reported == key.reported]
    return [RunKey(key.task, name, seed) for seed in study.seeds for name in same]
