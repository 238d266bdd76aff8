"""What a comparison has found so far, read from its folder."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Group
from rich.jupyter import JupyterMixin
from rich.table import Table
from rich.text import Text

from hf_elmix.analysis.frames import runs_table, scale_of
from hf_elmix.analysis.numbers import gain_text, number
from hf_elmix.analysis.report import PAGE, write_report
from hf_elmix.analysis.results import learned, read_study
from hf_elmix.analysis.sections.sequential import interval_of, sequential_verdict
from hf_elmix.analysis.sequential import COMPARISON, OPEN, Rules, looks, verdicts
from hf_elmix.comparison.split import TEST
from hf_elmix.plotting import method_label
from hf_elmix.study.files import write_json
from hf_elmix.study.select import choose_runs
from hf_elmix.study.spec import RunKey, RunRecord
from hf_elmix.study.store import Store

__all__ = ["Comparison"]

PATIENCE = 3  # seeds without a score after which a method is no longer waited for


@dataclass(frozen=True)
class Comparison(JupyterMixin):
    """Each method compared with the baseline, after every seed so far; a notebook shows it as a table.

    Attributes:
        store: Folder of the study.
        task: Name of its task.
        rules: The rules.
        seeds: Number of seeds that are compared.
        stopped: Why no more seeds are trained: ``decided``, ``no_scores`` (what is open has none), ``max_seeds``,
            ``budget`` or ``failed``; empty before.
        looks_df: The comparison after every seed (see `hf_elmix.analysis.sequential.looks`).
        learned_df: How many runs of each method have learned anything (see `hf_elmix.analysis.results.learned`).
        test_df: Mean score on the test set of each method and its difference from the baseline with the same seeds,
            in points, with the numbers of seeds and rows; only at the end.
    """

    store: Store
    task: str
    rules: Rules
    seeds: int
    stopped: str
    looks_df: pd.DataFrame
    learned_df: pd.DataFrame
    test_df: pd.DataFrame | None = None

    @classmethod
    def read(cls, store: Store, task: str, rules: Rules, seeds: int, stopped: str = "") -> Comparison:
        """Compare the first seeds of a study.

        Args:
            store: Folder of the study.
            task: Name of its task.
            rules: The rules.
            seeds: Number of seeds.
            stopped: See the attribute.
        """
        names = (rules.baseline, *rules.methods)
        known = store.records() if store.folder.exists() else ()
        records = [one for one in known if one.key.task == task and one.key.reported.method in names]
        asked = [key for key in store.asked() if key.task == task]
        runs = {key: run for key, run in choose_runs(records, asked).items() if run and key.seed < seeds}
        scores = _table({key: run.score for key, run in runs.items()}, names)
        known_df = learned(runs_table(runs.values()))
        test = {key: score for key, run in runs.items() if (score := _test_score(run)) is not None} if stopped else {}
        test_df = _means(_table(test, names), rules.baseline) if test else None
        if test_df is not None:
            test_df["rows"] = next((run.provenance.get("data_rows", {}).get(TEST) for run in runs.values()), None)
        return cls(store, task, rules, seeds, stopped, looks(scores, rules), known_df, test_df)

    @cached_property
    def verdicts_df(self) -> pd.DataFrame:
        """The last look at each method (see `hf_elmix.analysis.sequential.verdicts`)."""
        return verdicts(self.looks_df, self.rules)

    @property
    def verdict(self) -> dict[str, str]:
        """``better``, ``practically equal``, ``worse`` or ``not yet`` by method."""
        return self.verdicts_df["verdict"].to_dict()

    @property
    def open(self) -> list[str]:
        """The methods to train with another seed: those without a verdict, but for those that got no score so far."""
        found = self.verdicts_df
        waited_for = (found["seeds"] > 0) | (self.seeds < PATIENCE)
        return found.index[(found["verdict"] == OPEN) & waited_for].to_list()

    @property
    def sentences(self) -> list[str]:
        """What is known of each method, the best first, and with what confidence."""
        return sequential_verdict(self.looks_df, self.rules, self.learned_df, self.test_df)

    def to_frame(self) -> pd.DataFrame:
        """The comparison after every seed, with one row per method and seed (see `looks`)."""
        return self.looks_df.copy()

    def to_dict(self) -> dict[str, Any]:
        """The rules and the verdicts as plain JSON values; an end that is infinite is None."""
        found = self.verdicts_df.reset_index().to_dict("records")
        test = None if self.test_df is None else self.test_df.reset_index().to_dict("records")
        results = {"task": self.task, "seeds": self.seeds, "stopped": self.stopped, "verdicts": found, "test": test}
        learned = {f"runs_{name}": self.learned_df[name].to_dict() for name in ("one_class", "trivial", "lost")}
        return _finite({**self.rules.to_dict(), **results, **learned, "sentences": self.sentences})

    def save(self) -> None:
        """Write the rules and the verdicts to the folder, from where a report reads the rules."""
        self.store.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.store.folder / COMPARISON, self.to_dict())

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write the report of the study, with the verdict first, and return the path of its page.

        Args:
            path: Folder of the report.

        Raises:
            UsageError: If no run has a score.
        """
        commands = self.store.declaration()["commands"]
        write_report(read_study(self.store), Path(path), title=f"Comparison on {self.task}", commands=commands)
        return Path(path) / PAGE

    def __rich__(self) -> Group:
        """The verdict in sentences and as a table, with the score on the test set once it may be seen."""
        base = method_label(self.rules.baseline)
        table = Table(header_style="bold")
        for name in ("method", "verdict", f"points above {base}", "interval", "seeds"):
            table.add_column(name, no_wrap=True)
        test = {} if self.test_df is None else self.test_df["score"].map(number).to_dict()
        if test:
            table.add_column("test score", no_wrap=True)
            table.add_row(base, "baseline", "", "", str(self.seeds), test.get(self.rules.baseline, "n/a"))
        for row in self.verdicts_df.itertuples():
            cells = [gain_text(row.difference, 1), interval_of(row.low, row.high), str(row.seeds)]
            shown = [test.get(row.Index, "n/a")] if test else []
            table.add_row(method_label(str(row.Index)), str(row.verdict), *cells, *shown)
        return Group(*map(Text, self.sentences), table)


def _table(scores: Mapping[RunKey, float | None], names: tuple[str, ...]) -> pd.DataFrame:
    """Scores with one row per seed, in order, and one column per method."""
    seeds = sorted({key.seed for key in scores})
    by_place = {(key.seed, key.method): score for key, score in scores.items()}
    rows = [[by_place.get((seed, name)) for name in names] for seed in seeds]
    return pd.DataFrame(rows, pd.Index(seeds, name="seed", dtype=int), list(names), dtype=float)


def _test_score(record: RunRecord) -> float | None:
    """The score on the test set, at the evaluation that counts on the validation set; None without a test set."""
    select = record.select
    if record.status != "done" or select is None or select.scored_on is None:
        return None
    return replace(select, scored_on=TEST).score(record.scores)


def _means(scores: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Mean of each method in points, its difference from the baseline and number of seeds, indexed by method."""
    points = scores * scale_of(scores)
    gains = points.sub(points[baseline], axis=0)  # a decided method has fewer seeds than the baseline
    means = {"score": points.mean(), "difference": gains.mean(), "seeds": points.count()}
    return pd.DataFrame(means).rename_axis("method")


def _finite(values: Any) -> Any:
    """Plain JSON values, with None for numbers that JSON does not have."""
    text = json.dumps(values, default=lambda value: value.item())
    return json.loads(text, parse_constant=lambda _: None)
