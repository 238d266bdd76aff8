"""The facts in a model card, taken from a run record or from a single training."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np

from hf_elmix.predictions.class_counts import PREDICTED_CLASSES
from hf_elmix.study.select import best_first
from hf_elmix.study.spec import RunRecord

__all__ = ["ModelFacts", "Origin", "Score", "facts_of", "public_record", "public_settings", "scores_on"]

# Settings that a card lists before the training arguments; it mentions the other settings elsewhere.
LISTED = ("max_length", "padding", "max_train_samples", "max_eval_samples")
# Settings whose text is published: words from a list, names that the model's own files state, too, and fingerprints.
# Of all others only numbers are, because any text may hold a folder, an address or a password.
WORDS = {
    *("loss", "padding", "rows", "secondary_metrics", "select", "text", "versions", "weights"),
    *("eval_strategy", "logging_strategy", "lr_scheduler_type", "metric_for_best_model", "optim", "save_strategy"),
    *("torch_compile_backend", "torch_compile_mode", "train_sampling_strategy"),
}
# In a path or URL; a slash between digits is a fraction in a schedule.
PLACE = re.compile(r"[\\~]|(?<!\d)/|/(?!\d)")
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
SOFTWARE = {"commit": "hf_elmix commit", "dirty": "uncommitted changes", "device": "device"}
REVISIONS = {"model": "model_revision", "dataset": "data_revision"}


class Origin(NamedTuple):
    """A model or dataset: its id and commit on the Hub, or the last part of a local path without a commit."""

    name: str
    revision: str | None = None


class Score(NamedTuple):
    """A score: the split on which it was measured, the name of the metric on the Hub, and the value."""

    split: str
    metric: str
    value: float


@dataclass(frozen=True)
class ModelFacts:
    """The facts in a model card.

    Attributes:
        task: Name of the task.
        seed: Seed of the run.
        settings: As in a record: ``loss`` (None for the Trainer's own loss) and ``arguments`` (training arguments by
            name); where they exist ``model`` and ``dataset`` as given, ``text`` (the text task as plain values) and
            those in `LISTED`; and ``config``, the configuration of the dataset if it is not the task's name.
        provenance: As in a record: ``model_revision``, ``data_revision`` (None for a folder), ``data_rows`` and, as
            far as known, ``versions``, ``commit``, ``dirty`` and ``device``.
        scores: Scores at the end of training (see `scores_on`).
        notes: Sentences about the scores.
        changes: Sentences about what changed during training, where it continued from a checkpoint.
        steps: Optimizer steps of the training, if known: the card shows the phases into which they fall.
        licence: What the card states of the model's licence, under the Hub's names: ``license`` and, if that is
            ``other``, ``license_name`` and ``license_link``.
    """

    task: str
    seed: int
    settings: Mapping[str, Any]
    provenance: Mapping[str, Any]
    scores: Sequence[Score] = ()
    notes: Sequence[str] = ()
    changes: Sequence[str] = ()
    steps: int | None = None
    licence: Mapping[str, str] = field(default_factory=dict)

    @property
    def origins(self) -> dict[str, Origin]:
        """The ``model`` and the ``dataset``, if known; of a local path only the last part is public."""
        found = {}
        for name, revision in REVISIONS.items():
            if name in self.settings:
                commit = self.provenance.get(revision)
                if commit and HUB_ID.fullmatch(self.settings[name]):
                    found[name] = Origin(self.settings[name], commit)
                else:
                    found[name] = Origin(PurePath(self.settings[name].partition("?")[0]).name)
        return found

    @property
    def config(self) -> str | None:
        """The configuration of the dataset; None if it has none."""
        return self.settings.get("config", self.task if self.settings.get("text") else None)

    def rows_of(self, split: str) -> str:
        """The rows of a split that were scored: its name alone stands for all of them."""
        limit = self.settings.get("max_eval_samples")
        if limit is None or (self.provenance.get("data_rows") or {}).get(split, limit) < limit:
            return split
        return f"{split} (first {limit} rows)"

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The seed, the settings in `LISTED` and the training arguments that describe the training."""
        return _known(
            {
                "seed": self.seed,
                **{name: self.settings.get(name) for name in LISTED},
                **self.settings.get("arguments", {}),
            }
        )

    @property
    def versions(self) -> dict[str, Any]:
        """Versions of software by name, commit and device."""
        software = {label: self.provenance.get(name) for name, label in SOFTWARE.items()}
        return _known({**self.provenance.get("versions", {}), **software}, "versions")


def scores_on(
    split: str, names: Iterable[str], metrics: Mapping[str, float | None], prefix: str = "eval_"
) -> list[Score]:
    """Return those of the named metrics that were measured on a split and are numbers.

    Args:
        split: Name of the split.
        names: Names of the metrics.
        metrics: Values by name.
        prefix: What each name starts with in `metrics`.
    """
    found = {name: metrics.get(prefix + name) for name in names}
    return [Score(split, name, value) for name, value in found.items() if value is not None and math.isfinite(value)]


def facts_of(record: RunRecord, others: Iterable[RunRecord] = ()) -> ModelFacts:
    """Return the facts of a run of a study.

    Args:
        record: The run.
        others: Runs of the same task and method with other seeds, which the card mentions.
    """
    text, last = record.settings.get("text", {}), {name: values["last"] for name, values in record.scores.items()}
    # Which splits the metrics of another task belong to is not known.
    known = [record.select.scored_metric] if record.select and record.score is not None and not text else []
    scores = scores_on("evaluation", known, last, "")
    for split in text.get("splits", ()):
        prefix = f"{split.removeprefix('validation_')}_"  # with several evaluation sets, that of the set
        scores += scores_on(split, text["metrics"], last, prefix if prefix + text["metrics"][0] in last else "")
    key = record.key
    steps = record.cost.get("steps_trained", 0) + record.cost.get("steps_inherited", 0)
    notes = _notes(record, others)
    return ModelFacts(key.task, key.seed, record.settings, record.provenance, scores, notes, steps=steps)


def public_record(record: RunRecord) -> RunRecord:
    """Return what is published of a record: numbers, settings that describe the run, the class of an error."""
    names = {name: origin.name for name, origin in facts_of(record).origins.items()}
    kind = re.match(r"\w+(?=:|$)", record.error or "")
    return replace(
        record,
        scores={name: kept for name, values in record.scores.items() for kept in _public("", values)},
        training=[kept for log in record.training for kept in _public("", log)],
        settings={**public_settings(record.settings), **names},
        provenance={},
        cost=public_settings(record.cost),
        error=None if record.error is None else kind[0] if kind else "error",
    )


def public_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that are published: numbers at any depth, and the texts of those in `WORDS`."""
    (kept,) = _public("", settings)
    return kept


def _public(name: str, value: Any) -> Iterator[Any]:
    """Yield what is published of a setting, if there is anything."""
    if isinstance(value, Enum):
        value = value.value
    if value is None or isinstance(value, int | float):
        yield value
    elif isinstance(value, str):
        yield from [value] if name in WORDS and not PLACE.search(value) else []
    elif isinstance(value, Mapping):
        parts = {part: name if name in WORDS else part for part in value if not PLACE.search(part)}
        yield {part: kept for part, group in parts.items() for kept in _public(group, value[part])}
    elif isinstance(value, list | tuple):
        kept = [one for item in value for one in _public(name, item)]
        yield from [kept] if len(kept) == len(value) else []


def _notes(record: RunRecord, others: Iterable[RunRecord]) -> list[str]:
    """Say whether the model tells classes apart, and how its score compares with those of the other seeds."""
    counts = {values["last"] for name, values in record.scores.items() if name.endswith(PREDICTED_CLASSES)}
    notes = ["This model predicts the same class for every row."] if 1 in counts else []
    runs = [run for run in {run.key: run for run in (record, *others)}.values() if run.score is not None]
    if len(runs) < 2 or record.select is None:
        return notes
    name, values = record.select.scored_metric, np.array([run.score for run in runs], dtype=float)
    scale, unit = (100, " %") if np.abs(values).max() <= 1 else (1, "")
    mean, spread = scale * values.mean(), scale * values.std(ddof=1)
    summary = f"{mean:.2f} ± {spread:.2f}{unit} (mean ± standard deviation, n − 1)"
    notes.append(f"Over the {len(runs)} seeds of the study, {name.replace('_', ' ')} is {summary}.")
    if min(runs, key=best_first).key == record.key:
        notes.append(
            f"This is the model of seed {record.key.seed}, the best of them on these rows, so expect a lower score on "
            "new ones."
        )
    return notes


def _known(values: Mapping[str, Any], group: str = "") -> dict[str, Any]:
    (kept,) = _public(group, values)
    return {name: value for name, value in kept.items() if value is not None}
