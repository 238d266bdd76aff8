from __future__ import annotations

import io
import time
from collections.abc import Iterable
from typing import Any

import pytest
from rich.console import Console

from hf_elmix.study import queue as queue_module
from hf_elmix.study.progress import QUIET, SIGNS, View, duration, grid_table
from hf_elmix.study.queue import GridState
from hf_elmix.study.shared_prefixes import Branch
from hf_elmix.study.spec import RunKey


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(queue_module.time, "monotonic", clock.monotonic)
    return clock


def keys(tasks: Iterable[str] = "ab", methods: tuple[str, ...] = ("ce", "0"), seeds: tuple[int, ...] = (0, 1)):
    return [RunKey(task, method, seed) for task in tasks for seed in seeds for method in methods]


def missing(*given: RunKey) -> dict[RunKey, str]:
    return dict.fromkeys(given or keys(), "missing")


def console(terminal: bool = False, width: int = 100, height: int = 25) -> Console:
    size = {"width": width, "height": height}
    return Console(force_terminal=terminal, file=io.StringIO(), color_system=None, legacy_windows=False, **size)


def shown(view: View) -> str:
    return view.console.file.getvalue()


def rendered(states: dict[RunKey, str]) -> list[str]:
    screen = console()
    screen.print(grid_table(states))
    return [line.rstrip() for line in screen.file.getvalue().splitlines()]


def view_of(states: dict[RunKey, str], work: float, console: Console | None = None) -> View:
    state = GridState(states)
    state.work = work
    return View(state, console)


def step(view: View, *given: Any) -> None:
    """A completed optimizer step, as the grid reports it."""
    view.state.step(*given)
    view.tick()


def branch(methods: tuple[str, ...] = ("ce",), start: int = 0, task: str = "a", seed: int = 0) -> Branch:
    return Branch(task, seed, methods, methods, start)


def test_tasks_go_down_methods_across_and_each_seed_is_a_sign():
    states = missing(*keys("ab", ("ce", "0,0.5"), (0, 1, 2)))
    states |= {RunKey("a", "ce", 0): "done", RunKey("a", "ce", 1): "running", RunKey("a", "ce", 2): "failed"}
    states |= {RunKey("b", "0,0.5", 1): "diverged"}
    assert [line.split() for line in rendered(states)] == [
        ["ce", "0,0.5"],
        ["a", "●▶✗", "···"],
        ["b", "···", "·≈·"],
    ]


def test_each_state_has_a_sign_of_its_own():
    assert set(SIGNS) == {"done", "running", "failed", "diverged", "missing"}
    assert len({sign for sign, _ in SIGNS.values()}) == len({colour for _, colour in SIGNS.values()}) == len(SIGNS)


def test_names_are_shown_as_they_are():
    key = RunKey("[red]x[/red]", "[bold]y", 0)
    assert [line.split() for line in rendered({key: "done"})] == [["[bold]y"], ["[red]x[/red]", "●"]]


def test_a_method_that_a_task_does_not_have_leaves_its_cell_empty():
    states = {RunKey("a", "ce", 0): "done", RunKey("b", "0", 0): "failed"}
    lines = rendered(states)
    assert lines[1].split() == ["a", "●"]
    assert lines[2].split() == ["b", "✗"]
    assert lines[2].index("✗") == lines[0].index("0")


def test_the_summary_counts_what_has_ended():
    states = dict(zip(keys(), ["done", "done", "failed", "diverged", "running", *["missing"] * 3], strict=True))
    assert view_of(states, 3.0, console()).summary() == "4 of 8 runs"


def test_steps_per_second_and_time_left(clock):
    view = view_of(missing(), 2.0, console())
    for k in range(1, 11):  # one step in 2 seconds, the first one at its end
        step(view, branch(), k, 100, 1.0)
        clock.now += 2
    # 0.1 of a run in 20 s, and 1.9 runs to go.
    assert view.summary() == "0 of 8 runs, 0.5 steps/s, 6 min left"
    assert view.state.share == pytest.approx(0.05)


def test_time_left_counts_a_tasks_work(clock):
    view = view_of(missing(), 10.0, console())
    step(view, branch(), 10, 10, 9.0)
    clock.now += 90
    assert view.state.share == pytest.approx(0.9)
    assert view.summary().endswith("10 s left")


def test_steps_per_second_forget_what_was_long_ago(clock):
    view = view_of(missing(), 1.0, console())
    for k in range(1, 101):
        step(view, branch(), k, 1000, 1.0)
        clock.now += 0.1
    clock.now += 60
    for k in range(101, 131):
        step(view, branch(), k, 1000, 1.0)
        clock.now += 1
    assert "1.0 steps/s" in view.summary()


@pytest.mark.parametrize("work", [0.0, 0.5])
def test_the_share_never_exceeds_one(clock, work):
    view = view_of(missing(), work, console())
    step(view, branch(), 9, 10, 1.0)
    clock.now += 1
    assert view.state.share == 1.0
    assert view.summary().endswith("0 s left")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (89, "89 s"),
        (90, "2 min"),
        (750, "12 min"),
        (5340, "89 min"),
        (5400, "1 h 30 min"),
        (7170, "2 h 0 min"),
        (7200, "2 h 0 min"),
        (11100, "3 h 5 min"),
        (129540, "35 h 59 min"),
        (129600, "1 d 12 h"),
        (187300, "2 d 4 h"),
    ],
)
def test_durations_are_readable(seconds, text):
    assert duration(seconds) == text


def test_without_a_terminal_a_line_at_most_every_half_minute(clock):
    with view_of(missing(), 8.0, console()) as view:
        lines = []
        for k in range(1, 101):
            clock.now += 1
            step(view, branch(), k, 100, 1.0)
            lines.append(len(shown(view).splitlines()))
    assert lines[-1] == 3
    said = [k for k in range(1, 100) if lines[k] > lines[k - 1]]
    assert all(later - earlier > QUIET for earlier, later in zip(said, said[1:], strict=False))
    assert all("0 of 8 runs, " in line and " left" in line for line in shown(view).splitlines())


def test_each_run_leaves_one_line(record_of):
    view = view_of(missing(), 8.0, console())
    settings = {"select": {"metric": "accuracy", "epoch": "last"}}
    shared = {"seconds": 1.5, "steps_trained": 3, "steps_inherited": 17}
    nan = {"accuracy": {"last": float("nan"), "best": None, "epochs": [], "steps": []}}
    view.report(record_of(RunKey("a", "ce", 0), 0.5, settings=settings))
    view.report(record_of(RunKey("a", "0", 0), 0.25, settings=settings, cost=shared))
    view.report(record_of(RunKey("a", "ce", 1), status="failed", scores={}, error="RuntimeError: [red]x\nTraceback"))
    view.report(record_of(RunKey("a", "0", 1), status="diverged", scores=nan, settings=settings))
    assert shown(view).splitlines() == [
        "a ce seed 0: done, accuracy 0.5000, 1.5 s",
        "a 0 seed 0: done, accuracy 0.2500, 1.5 s, 17 of 20 steps shared",
        "a ce seed 1: failed: RuntimeError: [red]x",
        "a 0 seed 1: diverged, accuracy nan, 1.5 s",
    ]


def test_a_long_line_is_not_broken():
    view = view_of(missing(), 1.0, console())
    view.say("x" * 300)
    assert shown(view) == "x" * 300 + "\n"


def test_on_a_terminal_the_grid_is_drawn_and_its_last_state_stays(clock, record_of):
    with view_of(missing(), 8.0, console(terminal=True)) as view:
        step(view, branch(("[red]x",)), 1, 2, 1.0)
        view.report(record_of(RunKey("a", "ce", 0)))
        clock.now += 100
        step(view, branch(), 2, 2, 1.0)
    lines = [line.strip() for line in shown(view).splitlines()]
    assert any("a ce seed 0: done" in line for line in lines)
    assert any("left" in line for line in lines[-2:])
    assert not view.live.is_started


def test_on_a_terminal_an_error_leaves_no_live_display_behind():
    with pytest.raises(KeyboardInterrupt), view_of(missing(), 8.0, console(terminal=True)) as view:
        raise KeyboardInterrupt
    assert not view.live.is_started


def test_it_is_shown_on_standard_error(capfd, record_of):
    view = view_of(missing(), 1.0)
    view.report(record_of(RunKey("a", "ce", 0)))
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "a ce seed 0: done" in captured.err


def test_many_seeds_are_counted():
    states = {key: "failed" if key.seed == 7 else "done" for key in keys("a", ("ce",), tuple(range(13)))}
    assert rendered(states) == ["   ce", "a  12● 1✗"]


def test_many_methods_become_the_rows():
    names = tuple(f"m{k}" for k in range(13))
    assert rendered(missing(*keys("ab", names, (0,)))) == ["     a  b", *(f"{name:<3}  ·  ·" for name in names)]


def drawn(states: dict[RunKey, str], **size: int) -> list[str]:
    """The lines of the live view on a screen of a size."""
    screen = console(terminal=True, **size)
    screen.print(view_of(states, 1.0, screen))
    return [line.rstrip() for line in screen.file.getvalue().splitlines()]


def test_of_more_tasks_than_lines_those_are_shown_that_are_being_trained():
    tasks = [f"t{k}" for k in range(120)]
    states = missing(*keys(tasks, ("ce", "0"), (0, 1)))
    states |= dict.fromkeys(keys(["t0"], ("ce", "0"), (0, 1)), "done")
    states |= dict.fromkeys(keys(["t1"], ("ce", "0"), (0,)), "running")
    lines = drawn(states)
    assert [line.split() for line in lines[:2]] == [
        ["t1", "2▶", "2·"],
        ["all", "120", "tasks", "4●", "2▶", "474·"],
    ]
    assert lines[2].endswith("4 of 480 runs")
    assert len(lines) == 3


@pytest.mark.parametrize("height", [1, 2, 3, 4, 5, 10, 24, 60])
@pytest.mark.parametrize(("tasks", "methods", "state"), [(120, 2, "running"), (3, 21, "running"), (8, 4, "missing")])
def test_the_view_fits_a_screen_of_any_height(height, tasks, methods, state):
    names = tuple(f"ce [learning_rate=0.00{k}]" for k in range(methods))
    states = dict.fromkeys(keys([f"a task with the number {k}" for k in range(tasks)], names), state)
    for width in (40, 80, 1000):
        lines = drawn(states, height=height, width=width)
        assert len(lines) <= max(2, height - 1)
        assert lines[-1].endswith(f"0 of {len(states)} runs")


def test_a_table_that_is_wider_than_the_screen_is_not_squeezed():
    names = tuple(f"ce [learning_rate=0.00{k}]" for k in range(8))
    states = missing(*keys([f"t{k}" for k in range(9)], names, (0,))) | {RunKey("t3", names[0], 0): "running"}
    assert drawn(states, width=300)[4].split() == ["t3", "▶", *"·" * 7]
    assert [line.split() for line in drawn(states, width=80)[:-1]] == [
        ["t3", "1▶", "7·"],
        [*["all", "9", "tasks"], "1▶", "71·"],
    ]


def test_tasks_for_which_there_is_no_line_are_counted():
    states = dict.fromkeys(keys([f"t{k}" for k in range(30)]), "running")
    lines = drawn(states, height=10)
    assert [line.split()[0] for line in lines[:-3]] == [f"t{k}" for k in range(6)]
    assert lines[-3].strip() == "24 more tasks are being trained"
    assert lines[-2].split() == ["all", "30", "tasks", "120▶"]


def test_a_table_of_many_runs_takes_a_moment():
    states = missing(*keys([f"t{k}" for k in range(200)], ("ce",), tuple(range(100))))
    start = time.perf_counter()
    grid_table(states)
    assert time.perf_counter() - start < 2  # 20,000 runs; looking at all of them for each task took 4 s


def test_drawing_a_large_study_takes_little_of_a_processor():
    """It is drawn four times a second, beside the training."""
    methods = tuple(f"ce [learning_rate={k}]" for k in range(21))
    states = missing(*keys([f"t{k}" for k in range(120)], methods, (0, 1, 2, 3)))
    view = view_of(states, 1.0, console(terminal=True))
    start = time.process_time()
    for _ in range(5):
        view.console.print(view)
    assert (time.process_time() - start) / 5 < 0.03  # with the whole table it took 0.1 s
