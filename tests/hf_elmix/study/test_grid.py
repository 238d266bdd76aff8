from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hf_elmix.errors import UsageError
from hf_elmix.study.checkpoints import MANIFEST, Checkpoints
from hf_elmix.study.claims import claim_name
from hf_elmix.study.executors.local import run_in_workers
from hf_elmix.study.grid import keep_best, run_grid, run_states
from hf_elmix.study.progress import View
from hf_elmix.study.queue import Queue
from hf_elmix.study.runner import run_branch
from hf_elmix.study.shared_prefixes import Branch, Outcome, plan
from hf_elmix.study.spec import KEEP, Method, RunKey, RunRecord, Study, Task, TrainerInputs
from hf_elmix.study.store import Store

STEPS = 20
PAPER = ("ce", "0", "0,0.5", "0-0.5")


def no_inputs(seed: int) -> TrainerInputs:
    raise AssertionError("the grid loads nothing: a run does")


def study(
    tasks: str = "ab",
    methods: tuple[str | Method, ...] = ("ce", "0"),
    seeds: tuple[int, ...] = (0, 1),
    *,
    select: str = "accuracy",
    settings: dict[str, Any] | None = None,
    **arguments: Any,
) -> Study:
    return Study(
        tuple(Task(name, select, no_inputs, {"model": "bert", **(settings or {})}) for name in tasks),
        tuple(method if isinstance(method, Method) else Method(method) for method in methods),
        seeds,
        {"learning_rate": 2e-5, **arguments},
    )


def custom(logits: Any, labels: Any) -> Any:
    return (labels - logits[:, 0]).abs()


def test_a_study_goes_on_without_a_method_whose_loss_is_a_function(tmp_path, record_of):
    """Only its name is in the declaration, and nobody registered it."""
    run = StubRun(record_of)
    whole, part = study("a", ("ce", Method("mine", loss=custom))), study("a", ("ce", "0"))
    run_grid(whole, Store(tmp_path), run)
    assert run_grid(part, Store(tmp_path), run) == {"done": 4}


def stub_outcome(study: Study, store: Store, branch: Branch, record: Callable[[RunKey], RunRecord]) -> Outcome:
    """What `run_branch` gives, without training anything; checkpoints are real ones."""
    methods = {method.name: method.loss for method in study.methods}
    segments = plan({name: methods[name] for name in branch.among}, STEPS)
    segment = branch.segment(segments)
    if segment.stop == STEPS:
        return Outcome(branch, tuple(record(key) for key in branch.keys))
    checkpoints = Checkpoints(store.segments_of(branch.task, branch.seed))
    with checkpoints.scratch() as scratch:
        (scratch / "made").mkdir()
        checkpoints.save(name := f"{segment.stop} {segment.methods}", scratch / "made", {})
    return Outcome(branch, children=branch.children(segments), checkpoint=name)


class StubRun:
    """Does a run in no time. Its score is its number, so that a record tells when it was made."""

    def __init__(self, record_of: Callable[..., RunRecord], **status: str) -> None:
        self.record_of, self.status = record_of, status
        self.keys: list[RunKey] = []
        self.branches: list[Branch] = []
        self.there: list[set[str]] = []  # the checkpoints of a block before each of its branches
        self.interrupt_at: int | None = None

    def __call__(
        self, study: Study, store: Store, branch: Branch, progress: Callable[[int, int], None], **given: Any
    ) -> Outcome:
        if len(self.keys) == self.interrupt_at:
            raise KeyboardInterrupt
        self.branches.append(branch)
        there = store.segments_of(branch.task, branch.seed).glob(f"*/{MANIFEST}")
        self.there.append({path.parent.name.split()[0] for path in there})
        progress(branch.start + 1, STEPS)
        return stub_outcome(study, store, branch, partial(self.record, study))

    def record(self, study: Study, key: RunKey) -> RunRecord:
        self.keys.append(key)
        settings = study.settings(*study.runs()[key])
        status = self.status.get(f"{key.task}{key.seed}", "done")
        error = "RuntimeError: out of memory\nTraceback" if status == "failed" else None
        return self.record_of(key, len(self.keys) / 64, settings=settings, status=status, error=error)


@pytest.fixture
def stub(record_of) -> StubRun:
    return StubRun(record_of)


def contents(store: Store) -> dict[str, bytes]:
    """Every file but those of claims, which come and go."""
    files = (path for path in Path(store.folder).rglob("*") if path.is_file() and ".locks" not in path.parts)
    return {str(path): path.read_bytes() for path in sorted(files)}


def left(store: Store) -> list[Path]:
    """What is left of shared training and of claims."""
    folders = [Path(store.folder) / name for name in (".segments", ".locks")]
    return [path for folder in folders for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]


def scores(store: Store) -> dict[RunKey, float]:
    return {record.key: record.scores["accuracy"]["last"] for record in store.records()}


def test_every_run_of_an_empty_folder_is_done_in_the_studys_order(store, stub):
    assert run_grid(study(), store, stub) == Counter(done=8)
    assert stub.keys == list(study().runs())
    assert scores(store) == {key: (k + 1) / 64 for k, key in enumerate(study().runs())}


def test_a_study_that_is_done_is_not_done_again(store, stub):
    run_grid(study(), store, stub)
    before = contents(store)
    assert run_grid(study(), store, stub) == Counter(done=8)
    assert len(stub.keys) == 8
    assert contents(store) == before


def missing_runs(study, store, retry_failed=False):
    return [key for key, state in run_states(study, store, retry_failed).items() if state == "missing"]


def test_only_what_is_missing_is_done(store, stub, record_of):
    whole = study()
    keys = list(whole.runs())
    there = keys[1::3]
    for key in there:
        store.write(record_of(key, 0.99, settings=whole.settings(*whole.runs()[key])))
    missing = [key for key in keys if key not in there]
    assert missing_runs(whole, store) == missing
    assert run_grid(whole, store, stub) == Counter(done=8)
    assert stub.keys == missing
    assert [key for key, score in scores(store).items() if score == 0.99] == sorted(there)


@pytest.mark.parametrize("done", range(9))
def test_an_interrupted_study_keeps_what_is_done_and_continues_from_there(store, stub, done):
    stub.interrupt_at = done
    if done < 8:
        with pytest.raises(KeyboardInterrupt):
            run_grid(study(), store, stub)
        keys = list(study().runs())
        assert missing_runs(study(), store) == keys[done:]
    stub.interrupt_at = None
    assert run_grid(study(), store, stub) == Counter(done=8)
    assert stub.keys == list(study().runs())
    assert scores(store) == {key: (k + 1) / 64 for k, key in enumerate(study().runs())}


def test_each_record_is_on_disk_before_the_next_run_starts(store, stub):
    there = []

    def run(*args: Any, **given: Any) -> Outcome:
        there.append(len(list(store.records())))
        return stub(*args, **given)

    run_grid(study(), store, run)
    assert there == list(range(8))


def test_counts_say_how_the_runs_of_the_study_ended(store, record_of):
    stub = StubRun(record_of, a0="failed", b1="diverged")
    assert run_grid(study(), store, stub) == Counter(done=4, failed=2, diverged=2)
    # A part of the study counts its own runs only, done now or before.
    assert run_grid(study("a"), store, stub) == Counter(done=2, failed=2)
    assert run_grid(study("a", seeds=(1,)), store, stub) == Counter(done=2)
    assert len(stub.keys) == 8


def test_failed_runs_stay_unless_they_are_asked_for(store, record_of):
    first, second = StubRun(record_of, a0="failed", b1="diverged"), StubRun(record_of)
    run_grid(study(), store, first)
    before = contents(store)
    assert run_grid(study(), store, second) == Counter(done=4, failed=2, diverged=2)
    assert second.keys == []
    assert contents(store) == before

    failed = [RunKey("a", "ce", 0), RunKey("a", "0", 0)]
    assert missing_runs(study(), store, retry_failed=True) == failed
    assert run_grid(study(), store, second, retry_failed=True) == Counter(done=6, diverged=2)
    assert second.keys == failed


CHANGES = {
    "an argument": ({"learning_rate": 3e-5}, "arguments.learning_rate was 2e-05 and is now 3e-05"),
    "a new argument": ({"warmup_steps": 5}, "arguments.warmup_steps was None and is now 5"),
    "the task": ({"settings": {"model": "roberta"}}, "model was 'bert' and is now 'roberta'"),
    "the score": ({"select": "f1"}, "select.metric was 'accuracy' and is now 'f1'"),
    "a nested value": (
        {"settings": {"net": {"name": "bert", "layers": 2}}},
        "net.layers was None and is now 2; net.name was None and is now 'bert'",
    ),
    "a method": (
        {"methods": (Method("ce", {"learning_rate": 1.0}), "0")},
        "arguments.learning_rate was 2e-05 and is now 1.0",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("cut", [1, 8])
def test_other_settings_in_the_same_folder_are_refused_and_nothing_is_touched(store, stub, change, cut):
    stub.interrupt_at = cut
    if cut < 8:
        with pytest.raises(KeyboardInterrupt):
            run_grid(study(), store, stub)
    else:
        run_grid(study(), store, stub)
    stub.interrupt_at = None
    before = contents(store)
    arguments, difference = CHANGES[change]
    with pytest.raises(UsageError) as caught:
        run_grid(study(**arguments), store, stub)
    message = str(caught.value)
    assert "a ce seed 0" in message or "a 0 seed 0" in message
    assert difference in message
    assert str(store.folder) in message
    assert "--output_dir" in message
    assert len(stub.keys) == cut
    assert contents(store) == before


def test_settings_that_json_changes_are_not_taken_for_other_settings(store, stub):
    # A tuple comes back from JSON as a list, a whole float may come back as an integer.
    whole = study(optim_betas=(0.9, 0.999), num_train_epochs=3.0, nested={"a": {}, "b": (1, (2,))})
    run_grid(whole, store, stub)
    assert missing_runs(whole, store) == []
    assert (
        missing_runs(study(optim_betas=[0.9, 0.999], num_train_epochs=3, nested=whole.arguments["nested"]), store)
        == []
    )


@pytest.mark.parametrize(
    "larger",
    [
        study("abc"),
        study("cba"),
        study(methods=("ce", "0-0.5", "0", "0.3")),
        study(seeds=(7, 0, 1)),
        study(methods=("ce", "0", Method("el", {"learning_rate": 1.0}))),
    ],
)
def test_a_folder_can_grow_by_tasks_methods_and_seeds(store, stub, larger):
    run_grid(study(), store, stub)
    before = {name: content for name, content in contents(store).items() if name.endswith("record.json")}
    added = [key for key in larger.runs() if key not in study().runs()]
    assert run_grid(larger, store, stub) == Counter(done=len(larger.runs()))
    assert stub.keys[8:] == added
    assert contents(store).items() >= before.items()


@pytest.mark.parametrize("extra", [{"seeds": (2, 3)}, {"methods": ("0-0.5",)}])
def test_a_folder_does_not_grow_under_other_settings(store, stub, extra):
    # The report averages over all seeds of the folder and compares all of its methods: they must be comparable,
    # whether or not the study at hand declares again what is there.
    run_grid(study("a"), store, stub)
    with pytest.raises(UsageError, match="learning_rate was 2e-05 and is now 0.001"):
        run_grid(study("a", learning_rate=1e-3, **extra), store, stub)
    assert len(stub.keys) == 4


def test_two_methods_under_one_name_are_refused(store, stub):
    # They would be one run: the first of them would silently not be done.
    with pytest.raises(UsageError, match="'ce'"):
        run_grid(study(methods=("ce", Method("ce", {"learning_rate": 1.0}))), store, stub)


def test_each_run_leaves_one_line(store, record_of, capsys):
    stub = StubRun(record_of, a1="failed", a2="diverged")
    run_grid(study("a", ("ce",), (0, 1, 2)), store, stub)
    assert capsys.readouterr().err.splitlines() == [
        "a ce seed 0: done, accuracy 0.0156, 1.5 s",
        "a ce seed 1: failed: RuntimeError: out of memory",
        "a ce seed 2: diverged, accuracy 0.0469, 1.5 s",
    ]


def test_a_file_that_is_not_a_record_stops_the_study_before_anything_is_done(store, stub):
    run_grid(study("b"), store, stub)
    path = store.folder_of(RunKey("b", "0", 1)) / "record.json"
    path.write_text("{")
    with pytest.raises(UsageError, match="not a run record"):
        run_grid(study("ab"), store, stub)
    assert len(stub.keys) == 4


def test_two_halves_of_a_study_make_the_whole(store, stub):
    halves = [study(tasks, methods=(method,)) for tasks, method in itertools.product("ab", ("ce", "0"))]
    for half in halves:
        assert run_grid(half, store, stub) == Counter(done=2)
    assert missing_runs(study(), store) == []


def test_settings_that_are_not_json_are_refused_before_anything_is_done(store, stub):
    with pytest.raises(UsageError, match="plain JSON values, but Object of type complex"):
        run_grid(study(settings={"model": 1j}), store, stub)
    assert stub.keys == []


class Finalized:
    """Presses Ctrl-C while it is collected."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def test_an_error_that_ctrl_c_has_caused_is_no_result(store, monkeypatch):
    """PyTorch, for example, may raise a ValueError when Ctrl-C is pressed in the middle of a conversion."""

    def run(study, store, branch, progress, **given):
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        cost = {"seconds": 1.0, "steps_trained": 0, "steps_inherited": 0}
        failed = (RunRecord(key, "failed", {}, [], {}, {}, cost, "ValueError: no shape") for key in branch.keys)
        return Outcome(branch, tuple(failed))

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_grid(study(), store, run)
    finally:
        signal.signal(signal.SIGINT, before)
    assert list(store.records()) == []


def test_ctrl_c_is_not_lost_where_python_drops_it(store, capfd):
    """In a finalizer: the study stops all the same, at the next step, and shows no traceback."""
    before = signal.getsignal(signal.SIGINT), sys.unraisablehook
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.unraisablehook = sys.__unraisablehook__  # pytest has one of its own
    asked = []

    def run(study, store, branch, progress, **given):
        asked.append(branch)
        Finalized()
        progress(1, 2)
        pytest.fail("went on after Ctrl-C")

    try:
        with pytest.raises(KeyboardInterrupt):
            run_grid(study(), store, run)
        assert len(asked) == 1
        assert "Traceback" not in capfd.readouterr().err
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert sys.unraisablehook is sys.__unraisablehook__
    finally:
        signal.signal(signal.SIGINT, before[0])
        sys.unraisablehook = before[1]


def test_what_continues_from_a_checkpoint_goes_before_what_starts(store, stub):
    run_grid(study("ab", PAPER, (0,)), store, stub)
    order = [(branch.task, branch.methods, branch.start) for branch in stub.branches]
    one = [(("ce",), 0), (PAPER[1:], 0), (("0", "0,0.5"), 4), (("0",), 19), (("0,0.5",), 19), (("0-0.5",), 4)]
    assert order == [(task, *part) for task in "ab" for part in one]


def test_checkpoints_go_with_the_last_branch_that_needs_them(store, stub):
    run_grid(study("a", PAPER, (0,)), store, stub)
    assert stub.there == [set(), set(), {"4"}, {"4", "19"}, {"4", "19"}, {"4"}]
    assert left(store) == []


def test_without_sharing_every_run_is_a_branch(store, stub):
    run_grid(study("a", PAPER, (0,)), store, stub, sharing=False)
    assert [(branch.among, branch.start) for branch in stub.branches] == [((method,), 0) for method in PAPER]


@pytest.mark.parametrize("keep", ["none", "models", "best"])
def test_runs_are_told_whether_to_keep_models(store, stub, keep):
    told = []

    def run(*args: Any, keep_models: bool) -> Outcome:
        told.append(keep_models)
        return stub(*args)

    run_grid(study("a"), store, run, keep=keep)
    assert set(told) == {keep != "none"}


def test_a_block_is_claimed_while_it_is_done_and_no_longer(store, stub):
    held = []

    def run(study: Study, store: Store, branch: Branch, progress: Any, **given: Any) -> Outcome:
        names = [(task, seed) for task in "ab" for seed in (0, 1)]
        held.append([name for name in names if store.claims.holder(claim_name(name)) is not None])
        assert held[-1] == [(branch.task, branch.seed)]
        return stub(study, store, branch, progress)

    run_grid(study(methods=PAPER), store, run)
    assert len(held) == 4 * 6
    assert left(store) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "full"), RuntimeError("a bug")])
def test_claims_end_with_the_study_however_it_ends(store, stub, error):
    def run(*args: Any, **given: Any) -> Outcome:
        if len(stub.branches) == 3:
            raise error
        return stub(*args)

    with pytest.raises(type(error)):
        run_grid(study(methods=PAPER), store, run)
    assert [path for path in left(store) if ".locks" in path.parts] == []
    with store.claims.hold(claim_name(("a", 0))) as free:
        assert free
    assert [record.key.method for record in store.records()] == ["ce"]


def test_a_full_disk_ends_the_study_and_nothing_is_recorded_of_it(store, stub):
    def run(*args: Any, **given: Any) -> Outcome:
        if len(stub.keys) == 3:
            raise OSError(errno.ENOSPC, "No space left", "/runs")
        return stub(*args)

    with pytest.raises(OSError, match="No space left"):
        run_grid(study(), store, run)
    assert len(list(store.records())) == 3
    assert run_grid(study(), store, stub) == Counter(done=8)


def dying(times: int, of: Callable[[Branch], bool]) -> Any:
    """An executor in which the process of some branches dies so many times."""
    deaths: Counter[Branch] = Counter()

    def executor(take: Any, run: Any, progress: Any) -> Iterator[Outcome]:
        while (branch := take()) is not None:
            if of(branch) and deaths[branch] < times:
                deaths[branch] += 1
                yield Outcome(branch, died="exit code -9")
            else:
                yield run(branch, lambda *_: None)

    return executor


def test_a_branch_whose_process_died_is_tried_once_more(store, stub):
    executor = dying(1, lambda branch: True)
    assert run_grid(study("a", PAPER, (0,)), store, stub, executor=executor) == Counter(done=4)
    assert len(stub.branches) == 6
    assert stub.there == [set(), set(), {"4"}, {"4", "19"}, {"4", "19"}, {"4"}]
    assert left(store) == []


def test_a_branch_whose_process_died_twice_fails_its_runs_and_no_others(store, stub):
    executor = dying(2, lambda branch: branch.methods == ("0", "0,0.5"))
    assert run_grid(study("a", PAPER, (0,)), store, stub, executor=executor) == Counter(done=2, failed=2)
    for method in ("0", "0,0.5"):
        record = store.read(RunKey("a", method, 0))
        assert record.error == "The process of this run died 2 times, most recently with exit code -9."
        assert record.settings == study("a", PAPER, (0,)).settings(
            *study("a", PAPER, (0,)).runs()[RunKey("a", method, 0)]
        )
        assert set(record.cost) == {"seconds", "steps_trained", "steps_inherited"}
    assert left(store) == []
    assert run_grid(study("a", PAPER, (0,)), store, stub, retry_failed=True) == Counter(done=4)


def test_runs_that_failed_under_other_settings_are_done_again_without_being_asked_for(store, record_of):
    failing, working = StubRun(record_of, a0="failed"), StubRun(record_of)
    run_grid(study("a", seeds=(0,)), store, failing)
    changed = study("a", seeds=(0,), learning_rate=1e-3)
    assert missing_runs(changed, store) == list(changed.runs())
    assert run_grid(changed, store, working) == Counter(done=2)
    assert working.keys == list(changed.runs())


def test_overwrite_deletes_what_is_there_of_the_studys_tasks(store, stub, record_of):
    run_grid(study("ab"), store, stub)
    extra = record_of(RunKey("a", "el", 7), settings=study().settings(study().tasks[0], Method("el")))
    store.write(extra)
    half = store.segments_of("a", 7)
    half.mkdir(parents=True)
    (half / "file").write_text("")
    changed = study("a", learning_rate=1.0)
    assert run_grid(changed, store, stub, overwrite=True) == Counter(done=4)
    assert stub.keys[8:] == list(changed.runs())
    records = {record.key: record.settings["arguments"]["learning_rate"] for record in store.records()}
    assert records == {key: 1.0 if key.task == "a" else 2e-5 for key in study("ab").runs()}
    assert left(store) == []
    said = store.declaration()
    assert {name: part["arguments"]["learning_rate"] for name, part in said["settings"].items()} == {
        "a": 1.0,
        "b": 2e-5,
    }
    assert sorted(task for grid in said["grids"] for task in grid["tasks"]) == ["a", "b"]


def test_overwrite_leaves_what_no_study_made_and_follows_no_link(store, stub, tmp_path):
    whole = study("a", ("ce", "0"), (0,))
    run_grid(whole, store, stub)
    key, linked = whole.runs()
    save_model(store, key)
    store.segments_of("a", 0).mkdir(parents=True)
    notes = ["", "a/", "a/ce/", "a/ce/seed0/", "a/ce/seed0/model/", "a/mine/seed1/model/"]
    for place in notes:
        (store.folder / place).mkdir(parents=True, exist_ok=True)
        (store.folder / place / "notes.txt").write_text("mine")
    (store.folder / "a/mine/seed1/model/config.json").write_text("mine")  # beside no record
    elsewhere = tmp_path / "elsewhere"
    store.folder_of(linked).rename(elsewhere)
    store.folder_of(linked).symlink_to(elsewhere, target_is_directory=True)
    (elsewhere / "model").mkdir()
    (elsewhere / "model" / "config.json").write_text("mine")
    assert [bool(store.model_files(one)) for one in (key, linked)] == [True, False]
    store.clear("a", [key])
    files = {path.relative_to(store.folder).as_posix() for path in Path(store.folder).rglob("*") if path.is_file()}
    mine = {*(f"{place}notes.txt" for place in notes), "study.json", "a/mine/seed1/model/config.json"}
    assert {name for name in files if not name.startswith((".locks", "a/0"))} == mine
    assert {path.name for path in elsewhere.rglob("*")} == {"record.json", "model", "config.json"}
    assert not (store.folder / ".segments/a").exists()


@pytest.mark.parametrize("place", ["a", "a/ce", "a/ce/seed0", ".segments", ".segments/a", ".locks"])
@pytest.mark.parametrize("overwrite", [True, False])
def test_a_study_writes_through_no_link(store, stub, tmp_path, place, overwrite):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    link = Path(store.folder) / place
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(elsewhere, target_is_directory=True)
    with pytest.raises(UsageError, match="is a link. Remove it"):
        run_grid(study("a", ("ce", "0"), (0,)), store, stub, overwrite=overwrite)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("place", ["a", "a/0", "a/0/seed0", ".segments", ".segments/a", ".segments/a/seed0", ".locks"])
@pytest.mark.parametrize("branches", [0, 1])
def test_a_link_that_takes_the_place_of_a_folder_stops_the_study(store, stub, tmp_path, place, branches):
    elsewhere, link = tmp_path / "elsewhere", Path(store.folder) / place
    elsewhere.mkdir()

    def attacked(*given: Any, **more: Any) -> Outcome:
        if len(stub.branches) == branches:
            shutil.rmtree(link, ignore_errors=True)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(elsewhere, target_is_directory=True)
        return stub(*given, **more)

    with pytest.raises(OSError, match="A link has taken the place of|lock file .* was deleted"):
        run_grid(study("a", ("ce", "0-0.5", "0"), (0, 1)), store, attacked)
    assert list(elsewhere.iterdir()) == []
    link.unlink()
    assert run_grid(study("a", ("ce", "0-0.5", "0"), (0, 1)), store, stub) == Counter(done=6)


def test_a_saved_model_leaves_other_files_in_its_folder(store, tmp_path):
    key, place = RunKey("a", "ce", 0), store.folder_of(RunKey("a", "ce", 0)) / "model"
    save_model(store, key)
    (place / "notes.txt").write_text("mine")
    (place / "tokenizer.json").write_text("of the earlier model")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.json").write_text("new")
    store.put_model(key, tmp_path / "new")
    assert {path.name: path.read_text() for path in place.iterdir()} == {"config.json": "new", "notes.txt": "mine"}


@pytest.mark.parametrize("replaced", [False, True])
def test_a_lock_that_is_deleted_stops_its_owner(store, stub, record_of, replaced):
    def robbed(*given: Any, **more: Any) -> Outcome:
        for path in (Path(store.folder) / ".locks").iterdir():
            path.unlink()
            if replaced:
                path.write_text("another's")
        return stub(*given, **more)

    with pytest.raises(OSError, match="lock file .*a seed0.lock was deleted"):
        run_grid(study("a"), store, robbed)
    assert list(store.records()) == []
    if replaced:
        assert (Path(store.folder) / ".locks" / "a seed0.json").read_text() == "another's"
    assert run_grid(study("a"), store, stub) == Counter(done=4)


def test_a_result_of_another_driver_stays(store, stub, record_of):
    (key,) = study("a", ("ce",), (0,)).runs()
    there = record_of(key, 0.99, settings=study().settings(*study("a").runs()[key]))

    def overtaken(*given: Any, **more: Any) -> Outcome:
        store.write(there)
        return stub(*given, **more)

    stub.status = {"a0": "failed"}
    assert run_grid(study("a", ("ce",), (0,)), store, overtaken) == Counter(done=1)
    assert list(store.records()) == [there]


def test_overwrite_is_refused_while_another_process_is_at_work_there(store, stub):
    run_grid(study("ab"), store, stub)
    before = contents(store)
    with (
        store.claims.hold(claim_name(("a", 1))),
        pytest.raises(UsageError, match="process .* is working on a in .* Stop it first"),
    ):
        run_grid(study("a"), store, stub, overwrite=True)
    assert contents(store) == before


def test_a_declaration_says_what_was_asked_for_and_grows(store, stub):
    slow = Method("slow", {"learning_rate": 1.0}, "0-0.5")
    run_grid(study("a", ("ce", slow)), store, stub)
    run_grid(study("a", ("ce", slow)), store, stub)
    run_grid(study("b", ("0",), (3,)), store, stub)
    said = store.declaration()
    assert said["grids"] == [
        {"tasks": ["a"], "methods": ["ce", "slow"], "seeds": [0, 1]},
        {"tasks": ["b"], "methods": ["0"], "seeds": [3]},
    ]
    assert said["methods"]["slow"] == {"loss": "mix:0-0.5", "arguments": {"learning_rate": 1.0}}
    assert set(said["methods"]) == {"ce", "slow", "0"}
    assert said["settings"] == {
        name: {
            "loss": "ce",
            "select": {"metric": "accuracy", "epoch": "last"},
            "arguments": {"learning_rate": 2e-5},
            "model": "bert",
        }
        for name in "ab"
    }


def test_the_commands_that_asked_are_kept_each_once_and_in_order(store, stub):
    run_grid(study("a"), store, stub)
    assert store.declaration()["commands"] == []
    for command in ("study a", "study b", "study a"):
        run_grid(study(command[-1]), store, stub, command=command)
    assert store.declaration()["commands"] == ["study a", "study b"]
    run_grid(study("ab"), store, stub, overwrite=True, command="study ab")
    assert store.declaration()["commands"] == ["study ab"]


def test_a_folder_with_a_method_of_its_own_can_grow_by_others(store, stub):
    run_grid(study("a", ("ce", Method("slow", {"learning_rate": 1.0}, "0-0.5"))), store, stub)
    assert run_grid(study("a", ("0",)), store, stub) == Counter(done=2)
    with pytest.raises(UsageError, match="learning_rate was 2e-05 and is now 0.5"):
        run_grid(study("a", ("el",), learning_rate=0.5), store, stub)


def test_what_was_asked_for_is_declared_before_the_first_branch(store, stub):
    def run(study: Study, store: Store, *args: Any, **given: Any) -> Outcome:
        assert store.declaration()["grids"] == [{"tasks": ["a"], "methods": ["ce", "0"], "seeds": [0, 1]}]
        return stub(study, store, *args)

    run_grid(study("a"), store, run)


def test_other_settings_are_refused_while_another_process_is_at_work(store, stub):
    """Though there is no record yet that would say so."""
    refused = []

    def run(*args: Any, **given: Any) -> Outcome:
        if not refused:
            with pytest.raises(UsageError) as caught:
                run_grid(study("a", learning_rate=1.0, seeds=(5,)), Store(store.folder), stub)
            refused.append(str(caught.value))
            other = study("b", learning_rate=1.0, seeds=(0,))
            assert run_grid(other, Store(store.folder), StubRun(stub.record_of)) == Counter(done=2)
        return stub(*args)

    assert run_grid(study("a", seeds=(0,)), store, run) == Counter(done=2)
    assert f"process {os.getpid()} on " in refused[0]
    assert "arguments.learning_rate was 2e-05 and is now 1.0" in refused[0]
    assert "--output_dir" in refused[0]
    assert len(stub.keys) == 2


def test_leftovers_of_complete_blocks_are_tidied_away(store, stub):
    run_grid(study(methods=PAPER), store, stub)
    for task, seed in (("a", 0), ("b", 1)):
        folder = store.segments_of(task, seed)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "file").write_text("")
    with store.claims.hold(claim_name(("b", 1))):
        run_grid(study(methods=PAPER), store, stub)
        assert [path.parent.name for path in left(store) if path.name == "file"] == ["seed1"]
    run_grid(study(methods=PAPER), store, stub)
    assert left(store) == []


@pytest.fixture
def impatient(monkeypatch) -> None:
    monkeypatch.setattr(Queue, "patience", 0.02)


def threads_of(count: int, work: Callable[[int], None]) -> None:
    """Do something in several threads at a time, and raise what they raise."""
    errors: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(600)
    assert not errors, errors
    assert not any(thread.is_alive() for thread in threads)


def test_two_drivers_in_one_folder_do_each_run_once_and_both_finish(store, record_of, impatient):
    stubs, counts = [StubRun(record_of) for _ in range(2)], [Counter(), Counter()]
    whole = study("abc", PAPER, (0, 1))

    def drive(number: int) -> None:
        def run(*args: Any, **given: Any) -> Outcome:
            time.sleep(0.01)
            return stubs[number](*args)

        counts[number] = run_grid(whole, Store(store.folder), run)

    threads_of(2, drive)
    assert Counter(stubs[0].keys) + Counter(stubs[1].keys) == Counter(whole.runs().keys())
    assert counts == [Counter(done=24)] * 2
    # A block is done by one of them, and each of them had some.
    blocks = [{(key.task, key.seed) for key in one.keys} for one in stubs]
    assert blocks[0] & blocks[1] == set()
    assert min(map(len, blocks)) > 0
    assert left(store) == []


def test_a_run_done_elsewhere_is_shown_as_what_it_is(store, record_of, impatient, monkeypatch):
    """A driver that waits for another one ends with the whole grid."""
    views: dict[int, View] = {}
    enter = View.__enter__
    monkeypatch.setattr(View, "__enter__", lambda self: enter(views.setdefault(threading.get_ident(), self)))
    barrier = threading.Barrier(2)

    def drive(number: int) -> None:
        def run(*args: Any, **given: Any) -> Outcome:
            if args[2].methods == ("ce",):
                barrier.wait(600)  # both have claimed one of the two
            return StubRun(record_of)(*args)

        run_grid(study("ab", ("ce", "0"), (0,)), Store(store.folder), run)

    threads_of(2, drive)
    assert [set(view.state.runs.values()) for view in views.values()] == [{"done"}] * 2


HOLD = """
import sys, time
from hf_elmix.study.claims import claim_name
from hf_elmix.study.store import Store
with Store(sys.argv[1]).claims.hold(claim_name(("a", 0))) as mine:
    print(mine, flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_a_driver_takes_over_from_one_that_is_killed(store, stub, impatient, capsys):
    command = [sys.executable, "-c", HOLD, str(store.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "True\n"
        timer = threading.Timer(0.5, other.kill)
        timer.start()
        try:
            assert run_grid(study("ab", seeds=(0,)), store, stub) == Counter(done=4)
        finally:
            other.kill()
    assert [key.task for key in stub.keys] == ["b", "b", "a", "a"]
    assert "Waiting for another process that is working on a seed 0." in capsys.readouterr().err


def test_what_another_driver_did_in_the_meantime_is_not_done_again(store, stub, record_of, impatient):
    """A driver that was told of two missing blocks, of which another one did the second, in part."""
    whole = study("ab", seeds=(0,))

    def run(*args: Any, **given: Any) -> Outcome:
        key = RunKey("b", "0", 0)
        store.write(record_of(key, 0.99, settings=whole.settings(*whole.runs()[key])))
        return stub(*args)

    assert run_grid(whole, store, run) == Counter(done=4)
    assert stub.keys == [RunKey("a", "ce", 0), RunKey("a", "0", 0), RunKey("b", "ce", 0)]
    assert scores(store)[RunKey("b", "0", 0)] == 0.99


def test_other_settings_of_another_driver_in_the_meantime_are_refused(store, stub, record_of):
    whole, other = study("ab", seeds=(0,)), study("ab", seeds=(0,), learning_rate=1.0)

    def run(*args: Any, **given: Any) -> Outcome:
        key = RunKey("b", "0", 0)
        store.write(record_of(key, 0.99, settings=other.settings(*other.runs()[key])))
        return stub(*args)

    with pytest.raises(UsageError, match="learning_rate was 1.0 and is now 2e-05"):
        run_grid(whole, store, run)


def recording_run(study: Study, store: Store, branch: Branch, progress: Any, **given: Any) -> Outcome:
    """For workers: notes in a file of its own that it was asked for a branch."""
    log = Path(store.folder).parent / "log" / f"{os.getpid()}-{time.monotonic_ns()}"
    log.parent.mkdir(exist_ok=True)
    log.write_text(json.dumps([branch.task, branch.seed, branch.methods, branch.start]))
    progress(branch.start + 1, STEPS)
    time.sleep(0.02)
    cost = {"seconds": 0.1, "steps_trained": 1, "steps_inherited": 0}
    accuracy = {"accuracy": {"last": 0.5, "best": 0.5, "epochs": [0.5], "steps": [3]}}

    def record(key: RunKey) -> RunRecord:
        return RunRecord(key, "done", accuracy, [], study.settings(*study.runs()[key]), {}, cost)

    return stub_outcome(study, store, branch, record)


@pytest.mark.slow
@pytest.mark.usefixtures("importable")
def test_workers_of_two_drivers_do_each_branch_once(store, impatient):
    whole = study("ab", PAPER, (0, 1))
    executor = partial(run_in_workers, workers=1)
    threads_of(2, lambda _: run_grid(whole, Store(store.folder), recording_run, executor=executor))
    asked = [json.loads(path.read_text()) for path in (Path(store.folder).parent / "log").iterdir()]
    assert len(asked) == 4 * 6
    assert len({json.dumps(branch) for branch in asked}) == len(asked)
    assert {record.key for record in store.records()} == set(whole.runs())
    assert left(store) == []


def test_behind_a_url_a_study_is_done_as_in_a_folder(stub):
    store = Store("memory://grid/runs")
    try:
        assert run_grid(study(methods=PAPER), store, stub) == Counter(done=16)
        assert run_grid(study(methods=PAPER), store, stub) == Counter(done=16)
        assert len(stub.keys) == 16
        assert [name for name in store.folder.fs.find("/grid/runs") if "record" not in name] == [
            "/grid/runs/study.json"
        ]
        assert run_grid(study("a", PAPER, learning_rate=1.0), store, stub, overwrite=True) == Counter(done=8)
        assert len(stub.keys) == 24
    finally:
        store.folder.fs.store.clear()


# Which models stay.


def kept(store: Store) -> list[int]:
    """Seeds whose model is there."""
    return sorted(int(path.parent.name.removeprefix("seed")) for path in store.folder.glob("*/*/seed*/model"))


def keys_of(records: Iterable[RunRecord]) -> list[RunKey]:
    return [record.key for record in records]


def save_model(store: Store, key: RunKey) -> None:
    place = store.folder_of(key) / "model"
    place.mkdir(parents=True)
    (place / "config.json").write_text("{}")


@pytest.fixture
def with_models(store, record_of):
    """Records with a model beside each: one for each score, or status, the k-th of seed k."""

    def make(*scores: float | str | None) -> list[RunRecord]:
        made = []
        for seed, score in enumerate(scores):
            key = RunKey("a", "ce", seed)
            status = score if isinstance(score, str) else "done"
            value = score if not isinstance(score, str) else 0.99
            made.append(record_of(key, value, status=status))
            save_model(store, key)
            store.write(made[-1])
        return made

    return make


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ((0.5, 0.7, 0.6), 1),
        ((0.7, 0.7, 0.6), 0),
        ((0.5, "diverged", 0.6), 2),
        (("diverged", 0.1), 1),
        ((None, -0.5), 1),
        ((0.4,), 0),
    ],
)
def test_the_model_of_the_best_run_that_is_done_stays(store, with_models, scores, best):
    made = with_models(*scores)
    keep_best(store, keys_of(made))
    assert kept(store) == [best]
    assert [store.read(record.key) for record in made] == made
    keep_best(store, keys_of(reversed(made)))
    assert kept(store) == [best]


def test_of_equal_runs_the_one_of_the_first_seed_stays_however_they_are_given(store, with_models):
    keep_best(store, keys_of(reversed(with_models(0.5, 0.7, 0.7))))
    assert kept(store) == [1]


def test_runs_without_a_model_cannot_be_the_best(store, with_models, record_of):
    made = with_models(0.5, 0.6)
    store.write(best := record_of(RunKey("a", "ce", 7), 0.99))
    keep_best(store, keys_of([*made, best]))
    assert kept(store) == [1]


def test_of_a_sweep_one_model_stays_and_none_goes_before_all_candidates_of_a_seed_have_ended(store, record_of):
    scores = {("x [lr=1]", 0): 0.5, ("x [lr=2]", 0): 0.6, ("x [lr=1]", 1): 0.9, ("x [lr=2]", 1): 0.7}
    keys = [RunKey("a", method, seed) for method, seed in scores]
    for key, score in list(zip(keys, scores.values(), strict=True))[:3]:
        store.write(record_of(key, score))
        save_model(store, key)
    keep_best(store, keys)
    assert [(store.folder_of(key) / "model").exists() for key in keys[:3]] == [False, True, True]
    store.write(record_of(keys[3], 0.7))
    save_model(store, keys[3])
    keep_best(store, keys)
    assert [(store.folder_of(key) / "model").exists() for key in keys] == [False, False, True, False]


def test_other_tasks_and_methods_are_let_alone(store, with_models, record_of):
    made = with_models(0.5, 0.6)
    (store.folder_of(RunKey("a", "0", 5)) / "model").mkdir(parents=True)
    (store.folder_of(RunKey("b", "ce", 6)) / "model").mkdir(parents=True)
    keep_best(store, keys_of(made))
    assert kept(store) == [1, 5, 6]


@pytest.mark.parametrize("keep", KEEP)
def test_a_study_keeps_the_models_it_was_told_to(toy, store, keep):
    study = toy.study(None, "0", "0@0 0.5@0.5", seeds=(3, 4, 5), learning_rate=0.1)
    assert run_grid(study, store, run_branch, keep=keep) == {"done": 6}
    records = {record.key: record for record in store.records()}
    there = {key for key in study.runs() if (store.folder_of(key) / "model" / "model.safetensors").exists()}
    if keep == "best":
        for method in ("0", "0@0 0.5@0.5"):
            scores = {s: records[RunKey("toy", method, s)].scores["accuracy"]["last"] for s in (3, 4, 5)}
            assert {key.seed for key in there if key.method == method} == {max(scores, key=scores.get)}
    else:
        assert there == (set(study.runs()) if keep == "models" else set())
    files = {path.name for path in store.folder.rglob("*") if path.is_file() and ".locks" not in path.parts}
    assert files == {"record.json", "study.json", *(["model.safetensors", "config.json"] if there else [])}


def test_the_best_of_a_study_that_was_stopped_is_found_over_all_seeds(toy, store):
    study = toy.study(None, "0", seeds=(3, 4, 5), learning_rate=0.1)
    for seeds in ((3,), (3, 4), (3, 4, 5)):
        run_grid(toy.study(None, "0", seeds=seeds, learning_rate=0.1), store, run_branch, keep="best")
    scores = {key.seed: store.read(key).scores["accuracy"]["last"] for key in study.runs()}
    assert kept(store) == [max(scores, key=scores.get)]


def test_an_unknown_word_is_refused_before_anything_is_done(toy, store):
    with pytest.raises(UsageError, match="one of models, best, none, but got 'all'"):
        run_grid(toy.study(), store, run_branch, keep="all")
    assert not store.folder.exists()


def test_phases_without_a_step_are_named_once(toy, store, capsys):
    study = toy.study(None, "0,0.5", "0", seeds=(3, 4), max_steps=4)
    run_grid(study, store, run_branch)
    said = capsys.readouterr().err
    assert said.count("No optimizer step falls into 1 of the 2 phases of the loss 'mix:0,0.5'") == 1
    assert said.count("No optimizer step") == 1
