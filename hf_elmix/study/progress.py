"""The grid while it is being done: every run as one sign, steps per second, time left."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hf_elmix.study.shared_prefixes import Branch
from hf_elmix.study.spec import RunKey, RunRecord

__all__ = ["SIGNS", "View", "duration", "grid_table"]

# What a run looks like, and in which colour; told apart without the colour too.
SIGNS = {
    "done": ("●", "green"),
    "running": ("▶", "cyan"),
    "failed": ("✗", "red"),
    "diverged": ("≈", "magenta"),
    "missing": ("·", "dim"),
}
WINDOW = 30.0  # seconds that steps per second are counted over
QUIET = 30.0  # seconds between two lines where there is no terminal to draw on


def grid_table(states: Mapping[RunKey, str]) -> Table:
    """Tasks down, methods across, one sign for each seed.

    Args:
        states: The state of each run, a key of `SIGNS`.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    methods = list(dict.fromkeys(key.method for key in states))
    for method in methods:
        table.add_column(escape(method))
    for task in dict.fromkeys(key.task for key in states):
        cells = [Text(), *(Text() for _ in methods)]
        cells[0].append(task)
        for key, state in states.items():
            if key.task == task:
                cells[1 + methods.index(key.method)].append(*SIGNS[state])
        table.add_row(*cells)
    return table


class View:
    """Shows a grid at work on standard error.

    Args:
        states: The state of each run of the study.
        work: What there is to do, in units of `Task.work`.
        console: Where to show it; standard error if left out.
    """

    def __init__(self, states: dict[RunKey, str], work: float, console: Console | None = None) -> None:
        self.states, self.work = states, work
        self.console = console or Console(stderr=True)
        self.live = Live(self, console=self.console, refresh_per_second=4, redirect_stdout=False)
        self.done: dict[Branch, float] = {}  # share of a run that was trained, times the run's work
        self.steps: deque[float] = deque()  # when the last ones ended
        self.start: float | None = None
        self.said = time.monotonic()

    def __enter__(self) -> Self:
        """Start showing."""
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last state on the screen."""
        if self.console.is_terminal:
            self.live.stop()

    def say(self, text: str) -> None:
        """Show a line that stays.

        Args:
            text: The line.
        """
        self.console.print(Text(text), soft_wrap=True)

    def progress(self, branch: Branch, step: int, steps: int, work: float) -> None:
        """Note that an optimizer step of a branch has ended.

        Args:
            branch: The branch.
            step: Completed steps of its run.
            steps: All steps of its run.
            work: What all of them cost.
        """
        now = time.monotonic()
        self.start = now if self.start is None else self.start
        self.done[branch] = max(self.done.get(branch, 0.0), (step - branch.start) / steps * work)
        self.steps.append(now)
        while self.steps[0] < now - WINDOW:
            self.steps.popleft()
        for key in branch.keys:
            self.states[key] = "running"
        if not self.console.is_terminal and now - self.said > QUIET:
            self.said = now
            self.say(self.summary())

    def ended(self, record: RunRecord) -> None:
        """Note that a run has ended, with a line that stays.

        Args:
            record: Of the run.
        """
        self.states[record.key] = record.status
        self.say(_line(record))

    def summary(self) -> str:
        """Runs that have ended, steps per second and time left, in one line."""
        ended = sum(state in ("done", "failed", "diverged") for state in self.states.values())
        words = [f"{ended} of {len(self.states)} runs"]
        now = time.monotonic()
        if self.start is not None and now >= self.start + 1 and self.share > 0:  # sooner, both would be guesses
            span = min(WINDOW, now - self.start)
            words.append(f"{len([t for t in self.steps if t > now - WINDOW]) / span:.1f} steps/s")
            words.append(f"{duration((now - self.start) * (1 - self.share) / self.share)} left")
        return ", ".join(words)

    @property
    def share(self) -> float:
        """The share of the work that is done, in [0, 1]."""
        return min(1.0, sum(self.done.values()) / self.work) if self.work else 1.0

    def __rich__(self) -> Group:
        """What is drawn four times a second."""
        bar = Table.grid(padding=(0, 1))
        bar.add_row(ProgressBar(total=1.0, completed=self.share, width=30), Text(self.summary()))
        return Group(grid_table(self.states), bar)


def duration(seconds: float) -> str:
    """A length of time as people say it: ``40 s``, ``12 min``, ``3 h 5 min``, ``2 d 4 h``.

    Args:
        seconds: How long, 0 or more.
    """
    minutes, hours, days = round(seconds / 60), seconds / 3600, seconds / 86400
    if seconds < 90:
        return f"{seconds:.0f} s"
    if hours < 1.5:
        return f"{minutes} min"
    if days < 1.5:
        return f"{int(hours)} h {minutes % 60} min" if minutes // 60 == int(hours) else f"{int(hours) + 1} h 0 min"
    return f"{int(days)} d {int(hours % 24)} h"


def _line(record: RunRecord) -> str:
    """One line on a run that has ended."""
    if record.status == "failed":
        return f"{record.key}: failed: {(record.error or '').splitlines()[0]}"
    score = record.settings["score"]
    value = record.scores.get(score, {}).get("last", float("nan"))
    inherited = record.cost["steps_inherited"]
    shared = f", {inherited} of {inherited + record.cost['steps_trained']} steps shared" if inherited else ""
    return f"{record.key}: {record.status}, {score} {value:.4f}, {record.cost['seconds']:.1f} s{shared}"
