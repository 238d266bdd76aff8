from __future__ import annotations

import itertools
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tqdm import tqdm

from hf_elmix.errors import UsageError
from hf_elmix.study import grid
from hf_elmix.study.grid import missing_runs, run_grid
from hf_elmix.study.spec import Materials, Method, Problem, RunKey, RunRecord, Study
from hf_elmix.study.store import Store


def no_materials(seed: int) -> Materials:
    raise AssertionError("the grid loads nothing: a run does")


def study(
    problems: str = "ab",
    methods: tuple[str | Method, ...] = ("ce", "0"),
    seeds: tuple[int, ...] = (0, 1),
    *,
    score: str = "accuracy",
    settings: dict[str, Any] | None = None,
    **arguments: Any,
) -> Study:
    return Study(
        tuple(Problem(name, score, no_materials, {"model": "bert", **(settings or {})}) for name in problems),
        tuple(method if isinstance(method, Method) else Method(method) for method in methods),
        seeds,
        {"learning_rate": 2e-5, **arguments},
    )


class StubRun:
    """Does a run in no time. Its score is its number, so that a record tells when it was made."""

    def __init__(self, record_of: Callable[..., RunRecord], **status: str) -> None:
        self.record_of, self.status = record_of, status
        self.keys: list[RunKey] = []
        self.folders: list[Path] = []
        self.interrupt_at: int | None = None

    def __call__(self, study: Study, key: RunKey, folder: Path, progress: Callable[[int, int], None]) -> RunRecord:
        if len(self.keys) == self.interrupt_at:
            raise KeyboardInterrupt
        self.keys.append(key)
        self.folders.append(folder)
        for step in (1, 2, 3, 4):
            progress(step, 4)
        settings = study.settings(*study.runs()[key])
        status = self.status.get(f"{key.problem}{key.seed}", "done")
        error = "RuntimeError: out of memory\nTraceback" if status == "failed" else None
        return self.record_of(key, len(self.keys) / 64, settings=settings, status=status, error=error)


@pytest.fixture
def stub(record_of) -> StubRun:
    return StubRun(record_of)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


def contents(store: Store) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(store.folder.rglob("*")) if path.is_file()}


def scores(store: Store) -> dict[RunKey, float]:
    return {record.key: record.scores["accuracy"]["last"] for record in store.records()}


def test_every_run_of_an_empty_folder_is_done_in_the_studys_order(store, stub):
    assert run_grid(study(), store, stub) == Counter(done=8)
    assert stub.keys == list(study().runs())
    assert scores(store) == {key: (k + 1) / 64 for k, key in enumerate(study().runs())}


def test_a_run_is_given_the_folder_its_record_goes_to(store, stub):
    run_grid(study(), store, stub)
    assert stub.folders == [store.folder_of(key) for key in study().runs()]


def test_a_study_that_is_done_is_not_done_again(store, stub):
    run_grid(study(), store, stub)
    before = contents(store)
    assert run_grid(study(), store, stub) == Counter(done=8)
    assert len(stub.keys) == 8
    assert contents(store) == before


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
def test_an_interrupted_study_keeps_what_is_done_and_goes_on_from_there(store, stub, done):
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

    def run(*args: Any) -> RunRecord:
        there.append(len(contents(store)))
        return stub(*args)

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
    "the problem": ({"settings": {"model": "roberta"}}, "model was 'bert' and is now 'roberta'"),
    "the score": ({"score": "f1"}, "score was 'accuracy' and is now 'f1'"),
    "a nested value": (
        {"settings": {"model": {"name": "bert", "layers": 2}}},
        "model was 'bert' and is now None; model.layers was None and is now 2; model.name was None and is now 'bert'",
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
def test_a_folder_can_grow_by_problems_methods_and_seeds(store, stub, larger):
    run_grid(study(), store, stub)
    before = contents(store)
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


class RecordingBar(tqdm):
    """A bar that keeps where it was."""

    positions: list[float]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        type(self).positions = [self.n]

    def update(self, n: float | None = 1) -> bool | None:
        moved = super().update(n)
        self.positions.append(self.n)
        return moved


def test_the_bar_moves_within_runs_and_ends_full(store, stub, monkeypatch):
    monkeypatch.setattr(grid, "tqdm", RecordingBar)
    run_grid(study("a"), store, stub)
    quarters = [run + step / 4 for run in range(4) for step in (1, 2, 3, 4, 4)]
    assert RecordingBar.positions == pytest.approx([0, *quarters])


def test_the_bar_of_a_restarted_study_starts_where_it_stopped(store, stub, monkeypatch, capsys):
    run_grid(study("a", seeds=(0,)), store, stub)
    monkeypatch.setattr(grid, "tqdm", RecordingBar)
    run_grid(study("a"), store, stub)
    # Its first move is the first step of the third run.
    assert RecordingBar.positions[1] == 2 + 1 / 4
    assert RecordingBar.positions[-1] == pytest.approx(4)
    assert "4.0/4 runs" in capsys.readouterr().err


def test_each_run_leaves_one_line(store, record_of, capsys):
    stub = StubRun(record_of, a1="failed", a2="diverged")
    run_grid(study("a", ("ce",), (0, 1, 2)), store, stub)
    assert capsys.readouterr().out.splitlines() == [
        "a ce seed 0: done, accuracy 0.0156, 1.5 s",
        "a ce seed 1: failed: RuntimeError: out of memory",
        "a ce seed 2: diverged, accuracy 0.0469, 1.5 s",
    ]


def test_a_file_that_is_no_record_stops_the_study_before_anything_is_done(store, stub):
    run_grid(study("b"), store, stub)
    path = store.folder_of(RunKey("b", "0", 1)) / "record.json"
    path.write_text("{")
    with pytest.raises(UsageError, match="no record of a run"):
        run_grid(study("ab"), store, stub)
    assert len(stub.keys) == 4


def test_two_halves_of_a_study_make_the_whole(store, stub):
    halves = [study(problems, methods=(method,)) for problems, method in itertools.product("ab", ("ce", "0"))]
    for half in halves:
        assert run_grid(half, store, stub) == Counter(done=2)
    assert missing_runs(study(), store) == []


def test_settings_that_are_no_json_are_refused_before_anything_is_done(store, stub):
    with pytest.raises(UsageError, match="plain JSON values, but Object of type complex"):
        run_grid(study(settings={"model": 1j}), store, stub)
    assert stub.keys == []


class Finalized:
    """Presses Ctrl-C while it is collected."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_is_not_lost_where_python_drops_it(store, capfd):
    """In a finalizer: the study stops all the same, at the next step, and shows no traceback."""
    before = signal.getsignal(signal.SIGINT), sys.unraisablehook
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.unraisablehook = sys.__unraisablehook__  # pytest has one of its own
    asked = []

    def run(study, key, folder, progress):
        asked.append(key)
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
