"""Train seed after seed, compare after each, and stop when every method is decided."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from transformers import TrainingArguments

from hf_elmix.analysis.numbers import gain_text
from hf_elmix.analysis.sections.sequential import interval_of
from hf_elmix.analysis.sequential import OPEN, Rules, read_comparison
from hf_elmix.comparison.result import Comparison
from hf_elmix.errors import UsageError, not_one_of
from hf_elmix.plotting import method_label
from hf_elmix.study.grid import run_grid
from hf_elmix.study.progress import duration
from hf_elmix.study.runner import run_branch
from hf_elmix.study.shared_prefixes import Outcome
from hf_elmix.study.spec import DEFAULTS, Method, Study
from hf_elmix.study.store import Store

__all__ = ["MAX_SEEDS", "rules_for", "run_comparison", "seconds_in"]

MAX_SEEDS = 20
UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def run_comparison(
    study: Study,
    store: Store,
    rules: Rules,
    *,
    max_seeds: int = MAX_SEEDS,
    budget: float = math.inf,
    overwrite: bool = False,
    run: Callable[..., Outcome] = run_branch,
    show: Callable[[Comparison, str], None],
    **options: Any,
) -> Comparison:
    """Train every method that is not decided yet with another seed until all are; records of earlier calls count.

    Args:
        study: A study of one task, with the methods of the rules. Its seeds are not used: they are 0, 1, 2, … here.
        store: Where the records go.
        rules: The rules.
        max_seeds: The largest number of seeds.
        budget: Seconds; no seed is begun that would probably end later.
        overwrite: First delete the records that the folder holds for the task.
        show: Called after every seed with what was found so far, and the same in one line.
        run: See `run_grid`.
        options: See `run_grid`.

    Raises:
        UsageError: If two methods are trained alike, or the folder holds a comparison of other methods or with another
            sweep; or as `run_grid`.
        OSError: As `run_grid`.
    """
    _check_different(study)
    if not overwrite:
        _check_same(study, store, rules)
    (task,), named = study.tasks, {method.name: method for method in study.methods}
    start, stopped = time.monotonic(), ""
    took: list[float] = []  # seconds for each seed
    found = Comparison.read(store, task.name, rules, 0)
    while not stopped and found.seeds < max_seeds and found.open:
        begun, seed = time.monotonic(), found.seeds
        if took and begun - start + max(took) > budget:
            stopped = "budget"
            break
        part = replace(study, methods=tuple(named[name] for name in (rules.baseline, *found.open)), seeds=(seed,))
        new = (overwrite and not seed) or any(store.read(key) is None for key in part.runs())
        counts = run_grid(part, store, run, overwrite=overwrite and not seed, **options)
        found = Comparison.read(store, task.name, rules, seed + 1)
        found.save()
        if new:
            took.append(time.monotonic() - begun)
            stopped = "failed" if counts["failed"] else ""
        show(found, _look(found, max_seeds, budget - (time.monotonic() - start), took))
    left = "no_scores" if OPEN in found.verdict.values() else "decided"
    why = stopped or ("max_seeds" if found.open else left)
    found = Comparison.read(store, task.name, rules, found.seeds, why)
    found.save()
    return found


def _check_different(study: Study) -> None:
    """Refuse two methods that are trained alike, whatever they are called, with a `UsageError`."""
    usual = {name: field.default for name, field in TrainingArguments.__dataclass_fields__.items()}
    seen: list[tuple[Method, Any]] = []
    for method in study.methods:
        trained = (
            method.loss,
            [
                {**usual, **DEFAULTS, **study.arguments, **method.arguments, **override}
                for override in method.sweep or ({},)
            ],
        )
        if other := next((other.name for other, same in seen if same == trained), None):
            raise UsageError(
                f"Expected methods that differ, but {other!r} and {method.name!r} have the same loss "
                f"({method.loss}) and the same arguments. Leave one out."
            )
        seen.append((method, trained))


def _check_same(study: Study, store: Store, rules: Rules) -> None:
    """Refuse to go on with fewer methods or with other candidates of one, with a `UsageError`.

    The methods share the error probability, so leaving some out after a look would make the others' intervals too
    narrow; and a seed must be compared by the best of the same candidates as every other.
    """
    before, _ = read_comparison(store)
    if before is None:
        return
    ours = {rules.baseline, *rules.methods}
    if before.baseline != rules.baseline or set(before.methods) - ours:
        raise UsageError(
            f"Expected the methods that were compared in {str(store.folder)!r}, the baseline {before.baseline} and "
            f"{', '.join(before.methods)}, but got {rules.baseline} and {', '.join(rules.methods)}. Name them all, or "
            "another folder."
        )
    candidates = {candidate.name for candidate in study.candidates}
    for key in store.asked():
        if key.task == study.tasks[0].name and key.reported.method in ours and key.method not in candidates:
            raise UsageError(
                f"Expected the sweep with which {str(store.folder)!r} was begun, which has {key.method!r}. Give the "
                "same, or another folder."
            )


def rules_for(methods: Iterable[Method], baseline: str | None, margin: float) -> tuple[list[Method], Rules]:
    """The methods with the baseline first, and the rules for comparing them.

    Args:
        methods: The methods.
        baseline: Name of one of them; None for ``ce``, which is added if it is not among them.
        margin: See `Rules`.

    Raises:
        UsageError: If there is nothing to compare, the baseline is not one of the methods, or the margin is not above
            0.
    """
    named: dict[str, Method] = {}
    for method in methods:
        if method.name in named:
            raise UsageError(f"Expected each method once, but got {method.name!r} twice. Rename one.")
        named[method.name] = method
    if baseline is None:
        sweep = next(iter(named.values())).sweep if named else ()  # the same budget for every method
        named, baseline = {"ce": Method("ce", sweep=sweep), **named}, "ce"
    if baseline not in named:
        raise not_one_of("the baseline", named, baseline)
    others = tuple(name for name in named if name != baseline)
    if not others:
        raise UsageError(f"Expected a method to compare with {baseline}, but got none. Add one, such as 0-0.5.")
    return [named[name] for name in (baseline, *others)], Rules(baseline, others, margin)


def seconds_in(text: str) -> float:
    """Seconds in a duration such as ``90s``, ``30m``, ``2h`` or ``1h30m``.

    Raises:
        UsageError: If the text is not a duration above 0.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([dhms])", text)
    total = sum(float(value) * UNITS[unit] for value, unit in parts)
    if "".join(map("".join, parts)) != text or not total:
        raise UsageError(f"Expected a duration such as 90s, 30m, 2h or 1h30m, but got {text!r}.")
    return total


def _look(found: Comparison, max_seeds: int, left: float, took: list[float]) -> str:
    """What is known after a seed, in one line, and the time left at most."""
    parts = [
        f"{method_label(str(row.Index))} {row.verdict} "
        f"{gain_text(row.difference, 1)} {interval_of(row.low, row.high)}".rstrip()
        for row in found.verdicts_df.itertuples()
    ]
    if found.open and took and found.seeds < max_seeds:
        at_most = min(sum(took) / len(took) * (max_seeds - found.seeds), left)
        parts.append(f"at most {duration(max(0.0, at_most))} left")
    return f"Seed {found.seeds} of at most {max_seeds}: {'; '.join(parts)}"
