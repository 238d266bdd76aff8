"""The facts in a model card, and how they follow from a run record or a single training."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any

import numpy as np

from hf_elmix.study.select import best_first
from hf_elmix.study.spec import RunRecord

__all__ = ["ModelFacts", "Origin", "Score", "facts_of", "model_facts", "public_record", "public_settings", "scores_on"]

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


@dataclass(frozen=True)
class Origin:
    """A model or dataset that was used.

    Attributes:
        name: Its id on the Hub, or the last part of a local path: a card does not tell where folders are.
        revision: Its commit on the Hub; None for a folder.
    """

    name: str
    revision: str | None = None

    @classmethod
    def of(cls, name: str, revision: str | None) -> Origin:
        """Make an origin from a name as given by the user, which is a folder if it has no commit."""
        if revision and HUB_ID.fullmatch(name):
            return cls(name, revision)
        return cls(PurePath(name.partition("?")[0]).name)


@dataclass(frozen=True)
class Score:
    """A measured score.

    Attributes:
        split: The split it was measured on.
        metric: Name of the metric, as on the Hub.
        value: Its value.
    """

    split: str
    metric: str
    value: float


@dataclass(frozen=True)
class ModelFacts:
    """Everything that a model card says.

    Attributes:
        task: Name of the task.
        base: The pre-trained model, if there was one.
        data: The dataset, if it has a name.
        config: Configuration of the dataset, if it has any.
        rows: Number of rows used from each split.
        columns: The one or two text columns that the model reads; none if the task is not text classification.
        labels: Names of the classes, in the order of their ids; none for regression.
        loss: The loss, in the notation of `parse_loss`; None for the Trainer's own loss.
        scores: Scores at the end of training.
        settings: Hyperparameters by name.
        versions: Versions of software by name, commit and device.
        notes: Sentences about the scores.
    """

    task: str
    base: Origin | None
    data: Origin | None
    config: str | None
    rows: Mapping[str, int]
    columns: tuple[str, ...]
    labels: tuple[str, ...]
    loss: str | None
    scores: tuple[Score, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def model_facts(
    task: str,
    settings: Mapping[str, Any],
    provenance: Mapping[str, Any],
    scores: Iterable[Score],
    seed: int,
    *,
    notes: Iterable[str] = (),
) -> ModelFacts:
    """Collect the facts of one training.

    Args:
        task: Name of the task.
        settings: As in a record: ``loss`` (None for the Trainer's own loss) and ``arguments`` (training arguments by
            name), and where they exist ``model`` and ``dataset`` as given, ``text`` (the text task as plain values)
            and ``max_length`` and others that are listed. ``config`` is the configuration of the dataset if it is not
            the task's name.
        provenance: As in a record: ``model_revision``, ``data_revision`` (None for a folder), ``data_rows`` and, as
            far as known, ``versions``, ``commit``, ``dirty`` and ``device``.
        scores: The scores (see `scores_on`).
        seed: Seed of the run.
        notes: Sentences about the scores.
    """
    text = settings.get("text", {})
    listed = {"seed": seed, **{name: settings.get(name) for name in LISTED}, **settings.get("arguments", {})}
    software = {label: provenance.get(name) for name, label in SOFTWARE.items()}
    origins = {
        name: Origin.of(settings[name], provenance.get(revision)) if name in settings else None
        for name, revision in (("model", "model_revision"), ("dataset", "data_revision"))
    }
    return ModelFacts(
        task=task,
        base=origins["model"],
        data=origins["dataset"],
        config=settings.get("config", task if text else None),
        rows=_known(provenance.get("data_rows", {})),
        columns=tuple(text.get("columns", ())),
        labels=tuple(text.get("labels", ())),
        loss=settings["loss"],
        scores=tuple(scores),
        settings=_known(listed),
        versions=_known({**provenance.get("versions", {}), **software}, "versions"),
        notes=tuple(notes),
    )


def scores_on(
    split: str, names: Iterable[str], metrics: Mapping[str, float | None], prefix: str = "eval_"
) -> list[Score]:
    """Return those of the named metrics that were measured on a split.

    Args:
        split: Name of the split.
        names: Names of the metrics.
        metrics: Values by name.
        prefix: What each name starts with in `metrics`.
    """
    found = {name: metrics.get(prefix + name) for name in names}
    return [Score(split, name, value) for name, value in found.items() if value is not None]


def facts_of(record: RunRecord, others: Iterable[RunRecord] = ()) -> ModelFacts:
    """Collect the facts of a run of a study.

    Args:
        record: The run.
        others: Runs of the same task and method with other seeds, which the card mentions.
    """
    text, last = record.settings.get("text", {}), {name: values["last"] for name, values in record.scores.items()}
    # Which splits the metrics of another task belong to is not known.
    metric = record.select.scored_metric if record.select else "score"
    scores = [Score("evaluation", metric, record.score)] if record.score is not None and not text else []
    for split in text.get("splits", ()):
        prefix = f"{split.removeprefix('validation_')}_"  # with several evaluation sets, that of the set
        scores += scores_on(split, text["metrics"], last, prefix if prefix + text["metrics"][0] in last else "")
    notes = _notes(record, [run for run in others if run.key != record.key and run.status == "done"])
    return model_facts(record.key.task, record.settings, record.provenance, scores, record.key.seed, notes=notes)


def public_record(record: RunRecord) -> RunRecord:
    """Return what is published of a record: numbers, settings that describe the run, the class of an error."""
    revisions = {"model": record.provenance.get("model_revision"), "dataset": record.provenance.get("data_revision")}
    names = {
        name: Origin.of(record.settings[name], revision).name
        for name, revision in revisions.items()
        if name in record.settings
    }
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


def _notes(record: RunRecord, others: list[RunRecord]) -> list[str]:
    """Say how the score compares with those of the other seeds."""
    runs = [run for run in [record, *others] if run.score is not None]
    if len(runs) < 2 or record.select is None:
        return []
    name, values = record.select.scored_metric, 100 * np.array([run.score for run in runs], dtype=float)
    summary = f"{values.mean():.2f} ± {values.std(ddof=1):.2f} % (mean ± standard deviation, n − 1)"
    notes = [f"Over the {len(runs)} seeds of the study, {name.replace('_', ' ')} is {summary}."]
    if min(runs, key=best_first) is record:
        notes.append(
            f"This is the model of seed {record.key.seed}, the best of them on these rows, so expect a lower score on "
            "new ones."
        )
    return notes


def _known(values: Mapping[str, Any], group: str = "") -> dict[str, Any]:
    (kept,) = _public(group, values)
    return {name: value for name, value in kept.items() if value is not None}
