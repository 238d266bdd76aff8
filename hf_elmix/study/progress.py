"""The progress view: a sign for each run of the grid, steps per second, time left."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hf_elmix.study.queue import GridState
from hf_elmix.study.spec import RunKey, RunRecord
from hf_elmix.terminal import printable

__all__ = ["SIGNS", "View", "duration", "grid_table", "running_table"]

# Sign and colour of each state; the signs alone distinguish them.
SIGNS = {
    "done": ("●", "green"),
    "running": ("▶", "cyan"),
    "failed": ("✗", "red"),
    "diverged": ("≈", "magenta"),
    "missing": ("·", "dim"),
}
MANY = 12  # seeds whose signs fit in a cell, and methods whose names fit in a row, at most
WIDE = 10_000  # columns of a screen on which every table fits
QUIET = 30.0  # seconds between two lines where there is no terminal to draw on


def grid_table(states: Mapping[RunKey, str]) -> Table:
    """A table of tasks by methods, with one sign for the state of each seed's run.

    Where there are many seeds, signs are counted; many methods become the rows.
    """
    cells: dict[tuple[str, str], list[str]] = {}
    for key, state in states.items():
        cells.setdefault((key.task, key.method), []).append(state)
    rows, columns, turned = _axes(states)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ["", *columns]:
        table.add_column(Text(printable(name)))
    for row in rows:
        places = [(column, row) if turned else (row, column) for column in columns]
        table.add_row(Text(printable(row)), *(_signs(cells.get(place, [])) for place in places))
    return table


def _axes(states: Iterable[RunKey]) -> tuple[list[str], list[str], bool]:
    """The rows and columns of the table: tasks and methods or, of many methods, methods and tasks."""
    names = {(key.task, key.method): None for key in states}
    tasks, methods = (list(dict.fromkeys(part)) for part in zip(*names, strict=True)) if names else ([], [])
    turned = len(methods) > max(MANY, len(tasks))
    return (methods, tasks, True) if turned else (tasks, methods, False)


def _signs(states: Sequence[str]) -> Text:
    """A sign for each state, or the number of each if there are many."""
    return Text.assemble(*(SIGNS[state] for state in states)) if len(states) <= MANY else _counted(states)


def _counted(states: Iterable[str]) -> Text:
    """The number of each state, with its sign."""
    counts = Counter(states)
    return Text(" ").join(
        Text(f"{counts[state]}{sign}", colour) for state, (sign, colour) in SIGNS.items() if counts[state]
    )


def running_table(states: Mapping[RunKey, str], most: int) -> Table:
    """The numbers of runs in each state: of all tasks and, in `most` rows at most, of those that are being trained."""
    by_task: dict[str, list[str]] = {}
    for key, state in states.items():
        by_task.setdefault(key.task, []).append(state)
    running = [task for task, own in by_task.items() if "running" in own]
    shown = running if len(running) < most else running[: max(0, most - 2)]
    table = Table.grid(padding=(0, 2))
    for task in shown:
        table.add_row(Text(printable(task), no_wrap=True, overflow="ellipsis"), _counted(by_task[task]))
    if len(shown) < len(running) and most > 1:
        table.add_row(Text(f"{len(running) - len(shown)} more tasks are being trained", no_wrap=True))
    table.add_row(Text(f"all {len(by_task)} tasks", no_wrap=True), _counted(states.values()))
    return table


class View:
    """Shows the state of a grid, which it only reads, on standard error."""

    def __init__(self, state: GridState, console: Console | None = None) -> None:
        self.state = state
        self.console = console or Console(stderr=True)
        self.live = Live(self, console=self.console, refresh_per_second=4, redirect_stdout=False)
        self.said = time.monotonic()

    def __enter__(self) -> Self:
        """Start showing."""
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the last state on the screen."""
        if self.console.is_terminal:
            self.live.stop()

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self.console.print(Text(printable(text)), soft_wrap=True)

    def tick(self) -> None:
        """Print the summary at intervals where there is no terminal to draw on."""
        now = time.monotonic()
        if not self.console.is_terminal and now - self.said > QUIET:
            self.said = now
            self.say(self.summary())

    def report(self, record: RunRecord) -> None:
        """Print a line about a run that has ended."""
        if record.status == "failed":
            self.say(f"{record.key}: failed: {(record.error or '').splitlines()[0]}")
            return
        score = record.select.score(record.scores) if record.select else None
        name = record.select.scored_metric if record.select else "score"
        value = "not measured" if score is None else f"{score:.4f}"
        inherited = record.cost["steps_inherited"]
        shared = f", {inherited} of {inherited + record.cost['steps_trained']} steps shared" if inherited else ""
        self.say(f"{record.key}: {record.status}, {name} {value}, {record.cost['seconds']:.1f} s{shared}")

    def summary(self) -> str:
        """Runs that have ended, steps per second and time left, in one line."""
        words = [f"{self.state.ended} of {len(self.state.runs)} runs"]
        if pace := self.state.pace():
            words += [f"{pace[0]:.1f} steps/s"] * (pace[0] > 0) + [f"{duration(pace[1])} left"]
        return ", ".join(words)

    def __rich__(self) -> Group:
        """A bar below the table, or below what is running of one that is larger than the screen."""
        bar = Table.grid(padding=(0, 1))
        bar.add_row(ProgressBar(total=1.0, completed=self.state.share, width=30), Text(self.summary()))
        return Group(self._table(self.console.height - 2), bar)  # also a line on which the cursor stands

    def _table(self, height: int) -> Table:
        """What fits into so many lines."""
        rows, columns, _ = _axes(self.state.runs)
        if len(rows) < height and sum(map(len, columns)) < self.console.width:  # else it need not be made
            table = grid_table(self.state.runs)
            whole = self.console.options.update(max_width=WIDE)
            if self.console.measure(table, options=whole).maximum <= self.console.width:
                return table
        return running_table(self.state.runs, height)


def duration(seconds: float) -> str:
    """A number of seconds, 0 or more, in readable units: ``40 s``, ``12 min``, ``3 h 5 min``, ``2 d 4 h``."""
    minutes, hours = round(seconds / 60), int(seconds // 3600)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if hours < 36 else f"{hours // 24} d {hours % 24} h"
