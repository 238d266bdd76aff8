"""Which number of a run counts, and which candidate of a sweep."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from hf_elmix.errors import UsageError

if TYPE_CHECKING:
    from hf_elmix.study.spec import RunKey, RunRecord

__all__ = ["Select", "best_first", "choose_parts", "choose_runs"]

Part = TypeVar("Part")


@dataclass(frozen=True)
class Select:
    """Which number of a run is its score. Larger is better.

    With ``Select("accuracy", "best", chosen_on="validation", scored_on="test")`` the score is the test accuracy at the
    evaluation with the best validation accuracy (the first of equals).

    Attributes:
        metric: Name of the metric as the Trainer reports it, without ``eval_`` and without the name of its set.
        epoch: Which evaluation counts: the ``last`` or the ``best``.
        chosen_on: Evaluation set by which the best epoch, and the best candidate of a sweep, are chosen.
        scored_on: Evaluation set of the score. With a single evaluation set both are None; choosing and scoring on the
            same rows makes scores optimistic.

    Raises:
        UsageError: If the values contradict each other.
    """

    metric: str
    epoch: str = "last"
    chosen_on: str | None = None
    scored_on: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.metric, str) or not self.metric:
            raise UsageError(f"Expected the name of a metric, but got {self.metric!r}.")
        if self.metric.startswith("eval_"):
            raise UsageError(
                f"Expected the name of a metric as `compute_metrics` gives it, but got {self.metric!r}. Leave out "
                "'eval_'."
            )
        if self.metric == "loss" or self.metric.endswith("_loss"):
            raise UsageError(f"Expected a metric of which more is better, but got {self.metric!r}. Negate it.")
        if self.epoch not in ("last", "best"):
            raise UsageError(f"Expected the epoch to be 'last' or 'best', but got {self.epoch!r}.")
        for name in ("chosen_on", "scored_on"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                raise UsageError(f"Expected {name} to be the name of an evaluation set or None, but got {value!r}.")
        if self.scored_on is None and self.chosen_on is not None:
            raise UsageError(f"Expected scored_on, too, where runs are chosen on {self.chosen_on!r}. Name both sets.")
        if self.epoch == "best" and self.chosen_on is None and self.scored_on is not None:
            raise UsageError(
                f"Expected chosen_on where the best epoch is scored on {self.scored_on!r}. Name the evaluation set "
                "that the epoch is chosen on."
            )

    @classmethod
    def of(cls, value: Select | str | Mapping[str, Any]) -> Select:
        """A selection from a `Select`, from a metric's name (whose last epoch counts), or from `to_settings`."""
        if isinstance(value, Mapping):
            if unknown := set(value) - set(cls.__dataclass_fields__):
                raise UsageError(f"Expected metric, epoch, chosen_on and scored_on, but got {sorted(unknown)[0]!r}.")
            return cls(**{"metric": "", **value})
        return value if isinstance(value, Select) else cls(value)

    def to_settings(self) -> dict[str, str]:
        """The selection as plain JSON values, for `of`."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def scored_metric(self) -> str:
        """Name of the score in the `scores` of a record."""
        return self.metric if self.scored_on is None else f"{self.scored_on}_{self.metric}"

    @property
    def chosen_metric(self) -> str:
        """Name, in the `scores` of a record, of the metric by which epochs and candidates are chosen."""
        return self.scored_metric if self.chosen_on is None else f"{self.chosen_on}_{self.metric}"

    def score(self, scores: Mapping[str, Any]) -> float | None:
        """The score among the `scores` of a record, or None if it was not measured."""
        return self._read(scores, self.scored_metric)

    def choice(self, scores: Mapping[str, Any]) -> float | None:
        """The value by which the best candidate of a sweep is chosen, or None if it was not measured."""
        return self._read(scores, self.chosen_metric)

    def _read(self, scores: Mapping[str, Any], metric: str) -> float | None:
        """A metric at the evaluation that counts."""
        if metric not in scores or self.chosen_metric not in scores:
            return None
        if self.epoch == "last":
            return scores[metric]["last"]
        chosen = zip(scores[self.chosen_metric]["steps"], scores[self.chosen_metric]["epochs"], strict=True)
        known = [(step, value) for step, value in chosen if value is not None and value == value]  # not NaN
        if not known:
            return None
        best, _ = max(known, key=lambda pair: pair[1])
        return dict(zip(scores[metric]["steps"], scores[metric]["epochs"], strict=True)).get(best)


def choose_runs(records: Iterable[RunRecord], expected: Iterable[RunKey] = ()) -> dict[RunKey, RunRecord | None]:
    """The runs that a report shows, each with the record that counts for it.

    For a method with a sweep, that is the record of the candidate with the best validation score in each block.
    Nothing is chosen before all candidates have ended: the run is missing while one of them is, and has failed if one
    of them has. A candidate that diverged is a result, but a worse one than any other. A run under the method's name
    counts as a candidate, too.

    Args:
        records: The records, including those of candidates.
        expected: Runs that were asked for (see `Store.asked`).

    Returns:
        The record, or None for a missing run, by the key under which a report shows the run. A chosen record keeps
        the key of its candidate.
    """
    return choose_parts(records, expected, lambda record: record)


def choose_parts(
    records: Iterable[RunRecord], expected: Iterable[RunKey], part: Callable[[RunRecord], Part]
) -> dict[RunKey, Part | None]:
    """`choose_runs` that keeps a part of each record, so that a large study need not be in memory as a whole."""
    places = {key: place for place, key in enumerate(dict.fromkeys(expected))}
    missing: set[RunKey] = set(places)
    chosen: dict[RunKey, tuple[tuple[float, ...], Part]] = {}
    for record in records:
        missing.discard(record.key)
        rank = *_chosen_first(record), places.setdefault(record.key, len(places))
        reported = record.key.reported
        if reported not in chosen or rank < chosen[reported][0]:
            chosen[reported] = rank, part(record)
    unknown = {key.reported for key in missing}
    return {key: None if key in unknown else chosen[key][1] for key in dict.fromkeys(key.reported for key in places)}


def best_first(record: RunRecord) -> tuple[float, int]:
    """Sort key that puts the run with the best score first, and among equals the one with the smallest seed."""
    score = record.score
    return (float("inf") if score is None else -score, record.key.seed)


def _chosen_first(candidate: RunRecord) -> tuple[int, float]:
    """Sort key of the candidates for one run: failed first, then by validation score."""
    if candidate.status == "failed":
        return (1, 0.0)
    select = candidate.select if candidate.status == "done" else None
    choice = select.choice(candidate.scores) if select else None
    return (3, 0.0) if choice is None else (2, -choice)
