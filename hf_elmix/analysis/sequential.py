"""Sequential comparison: intervals that hold at every look, and the verdicts that follow from them.

A study that is looked at after every seed, and stopped as soon as its interval is narrow enough, needs intervals that
hold at all looks together. The t intervals of `hf_elmix.analysis.comparison` hold at one look that was fixed before.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from hf_elmix.analysis.comparison import differences
from hf_elmix.analysis.frames import scale_of
from hf_elmix.errors import UsageError
from hf_elmix.study.files import read_bytes
from hf_elmix.study.store import Store

__all__ = [
    "BETTER",
    "COMPARISON",
    "EQUAL",
    "OPEN",
    "TESTED",
    "WORSE",
    "Rules",
    "confidence_sequence",
    "looks",
    "read_comparison",
    "verdicts",
]

COMPARISON = "comparison.json"  # beside the declaration of a study: the rules, and what was found so far

BETTER, EQUAL, WORSE, OPEN = "better", "practically equal", "worse", "not yet"

# Precision of the normal prior on the effect size (mean / standard deviation), the parameter c² of the source. With
# 0.1 the intervals are within 15 % of the narrowest for 4 to 20 seeds.
PRECISION = 0.1

TESTED = ["score", "difference", "seeds", "rows"]  # of the test scores
COLUMNS = ["method", "seed", "seeds", "difference", "low", "high", "verdict"]


@dataclass(frozen=True)
class Rules:
    """How methods are compared; fixed before the first look.

    Attributes:
        baseline: The method that the others are compared with.
        methods: The others.
        margin: Margin of practical equivalence, above 0, in points (see `scale_of`).
        level: Probability, in (0, 1), with which all intervals of all methods hold at all looks together.

    Raises:
        UsageError: If a value is out of its range.
    """

    baseline: str
    methods: tuple[str, ...]
    margin: float = 0.2
    level: float = 0.95

    def __post_init__(self) -> None:
        if not 0 < self.margin < math.inf:
            raise UsageError(f"Expected a margin above 0, but got {self.margin}. Give the smallest gain that matters.")
        if not 0 < self.level < 1:
            raise UsageError(f"Expected a level between 0 and 1, but got {self.level}.")

    @property
    def alpha(self) -> float:
        """Error probability of one method: that of all is divided equally between them (Bonferroni)."""
        return (1 - self.level) / max(1, len(self.methods))

    def state(self, low: float, high: float) -> str:
        """The verdict on a method whose difference from the baseline lies between `low` and `high`."""
        if -self.margin < low and high < self.margin:
            return EQUAL
        return BETTER if low > 0 else WORSE if high < 0 else OPEN

    def to_dict(self) -> dict[str, Any]:
        """The rules as plain JSON values, for `of`."""
        return asdict(self)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Rules:
        """The rules with the values of `to_dict`; other values are ignored.

        Raises:
            KeyError: If one is missing.
            UsageError: If one is out of its range.
        """
        methods = tuple(map(str, values["methods"]))
        return cls(str(values["baseline"]), methods, float(values["margin"]), float(values["level"]))


def confidence_sequence(x: np.ndarray, alpha: float, resolution: Any = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Intervals for the mean of normal observations of unknown variance, one after each observation.

    With probability 1 − alpha the mean lies in all of them, so one may look after each observation and stop at will.
    They are the means that the mixture of likelihood ratios over normally distributed effect sizes does not reject
    (Wang and Ramdas 2024, arXiv:2310.03722, the scale-invariant t-test of section 4 and its confidence sequence; the
    bound on all looks is Ville's inequality). Each interval is intersected with those before it.

    Scores are rounded, so observations can coincide. Their variance is never taken to be below that of the rounding
    (Sheppard's correction for the difference of two scores), and while all are equal there is no interval as long as
    that happens with a probability above alpha where half of all observations are equal.

    Args:
        x: Observations, shape (..., n).
        alpha: Error probability, in (0, 1).
        resolution: The step in which the scores behind the observations are measured, as far as is known at each look,
            shape () or (n,); 0 if they are not rounded.

    Returns:
        Lower and upper ends, shape (..., n); −inf and inf while there is no interval.
    """
    x = np.asarray(x, dtype=float)
    n = np.arange(1, x.shape[-1] + 1)
    mean = np.cumsum(x, axis=-1) / n
    centred = x - x[..., :1]  # so that the squares of large equal numbers do not cancel
    squares = np.cumsum(centred**2, axis=-1) - np.cumsum(centred, axis=-1) ** 2 / n  # sum of squared deviations
    squares = np.maximum(squares, (n - 1) * np.square(resolution) / 6)
    t = (((n + PRECISION) / PRECISION) / alpha**2) ** (1 / n)
    slack = n + PRECISION - t * PRECISION
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = np.sqrt(squares * (t - 1) * (n + PRECISION) / (n * slack))
    equal = np.maximum.accumulate(np.abs(centred), axis=-1) == 0
    none = (slack <= 0) | (equal & (0.5 ** (n - 1) > alpha))
    reach = np.where(none, np.inf, reach)
    low = np.maximum.accumulate(mean - reach, axis=-1)
    high = np.minimum.accumulate(mean + reach, axis=-1)
    return low, np.maximum(low, high)  # crossing ends would mean that the error has happened


def looks(scores: pd.DataFrame, rules: Rules) -> pd.DataFrame:
    """Compare each method with the baseline after every seed.

    Args:
        scores: One row per seed, in the order in which they were trained, and one column per method. A missing score
            is never imputed: the seed does not count for that method.
        rules: The rules.

    Returns:
        One row for each method of the rules and each seed of which it and the baseline have a score: ``method``,
        ``seed``, ``seeds`` (how many so far), ``difference`` (their mean), ``low`` and ``high`` (infinite while there
        is no interval), in points, and ``verdict``.

    Raises:
        UsageError: If the baseline has no column.
    """
    names = [name for name in (rules.baseline, *rules.methods) if name in scores]
    points = scores[names] * scale_of(scores[names])
    gains, values = differences(points, rules.baseline), points.to_numpy()
    resolution = pd.Series([_resolution(values[: k + 1]) for k in range(len(values))], scores.index, dtype=float)
    tables = [pd.DataFrame(columns=COLUMNS)]
    for method in names[1:]:
        known = gains[method].dropna()
        seeds = np.arange(1, len(known) + 1)
        low, high = confidence_sequence(known.to_numpy(), rules.alpha, resolution[known.index].to_numpy())
        states = [rules.state(*ends) for ends in zip(low, high, strict=True)]
        parts = (method, known.index, seeds, known.cumsum().to_numpy() / seeds, low, high, states)
        tables.append(pd.DataFrame(dict(zip(COLUMNS, parts, strict=True))))
    return pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)


def verdicts(looks_df: pd.DataFrame, rules: Rules) -> pd.DataFrame:
    """The last look at each method of the rules.

    Args:
        looks_df: From `looks`.
        rules: The rules.

    Returns:
        One row per method, in the order of the rules, indexed by ``method``: ``seeds``, ``difference``, ``low``,
        ``high`` and ``verdict``. A method that has no look is ``not yet`` decided after 0 seeds.
    """
    last = looks_df.drop_duplicates("method", keep="last").set_index("method")
    rows = {
        name: last.loc[name, COLUMNS[2:]].to_list() if name in last.index else [0, np.nan, -np.inf, np.inf, OPEN]
        for name in rules.methods
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=COLUMNS[2:]).rename_axis("method")


def read_comparison(store: Store) -> tuple[Rules | None, pd.DataFrame | None]:
    """The rules of the comparison that a study's folder holds, and its test scores once they may be seen.

    Returns:
        The rules, and a table indexed by ``method`` with ``score`` (mean, in points), ``difference`` (from the
        baseline with the same seeds), ``seeds`` and ``rows``. It is None before the end and without a test set; both
        are None for any other study.

    Raises:
        UsageError: If the file is damaged.
    """
    path = store.folder / COMPARISON
    if not path.exists():
        return None, None
    try:
        values = json.loads(read_bytes(path))
        rules, test = Rules.of(values), values.get("test")
        table = pd.DataFrame(test or [], columns=["method", *TESTED]).set_index("method").astype(float)
        return rules, table if test else None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UsageError(f"{path} is damaged ({error}). Delete it: `elmix compare` writes it again.") from None


def _resolution(values: np.ndarray) -> float:
    """The step in which scores are measured: the smallest distance between two of them, 0 if all are equal."""
    steps = np.diff(np.unique(values[~np.isnan(values)].round(9)))
    return float(steps.min()) if len(steps) else 0.0
