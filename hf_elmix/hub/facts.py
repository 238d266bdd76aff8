"""From a GLUE run to the facts in its card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import PurePath
from typing import Any

import numpy as np

from glue_runs.protocol import GLUE
from glue_runs.tasks import TASKS
from hf_elmix.hub.model_card import ModelFacts, Origin, Score
from hf_elmix.study.select import best_first
from hf_elmix.study.spec import RunRecord
from hf_elmix.text.tasks import TextTask

__all__ = ["facts_of", "model_facts", "public", "scores_on"]

# Settings that a card shows, before the training arguments; the others are told elsewhere in it.
SHOWN = ("max_length", "padding", "max_train_samples", "max_eval_samples")
# Arguments that say nothing of the training: where files lie, and what is secret or only about publishing.
UNTOLD = ("_dir", "_token", "resume_from_checkpoint")
ABOUT = {"commit": "hf_elmix commit", "dirty": "uncommitted changes", "device": "device"}


def model_facts(
    task: TextTask,
    settings: Mapping[str, Any],
    provenance: Mapping[str, Any],
    scores: Iterable[Score],
    seed: int,
    *,
    notes: Iterable[str] = (),
) -> ModelFacts:
    """The facts of one training.

    Args:
        task: The task.
        settings: As in a record: ``model`` and ``dataset`` as they were given, ``loss`` (None for the Trainer's own
            loss) and ``arguments`` (training arguments by name); ``max_length`` and others are shown where they are
            there. ``config`` is the configuration of the dataset if it is not the task's name.
        provenance: As in a record: ``model_revision``, ``data_revision`` (None for a folder), ``data_rows`` and, as
            far as they are known, ``versions``, ``commit``, ``dirty`` and ``device``.
        scores: What was measured (see `scores_on`).
        seed: Seed of the run.
        notes: Sentences on the scores.
    """
    arguments = {
        name: value
        for name, value in settings.get("arguments", {}).items()
        if not name.endswith(UNTOLD) and not name.startswith(("hub_", "push_to_hub"))
    }
    shown = {"seed": seed, **{name: settings.get(name) for name in SHOWN}, **arguments}
    about = {label: provenance.get(name) for name, label in ABOUT.items()}
    return ModelFacts(
        task=task.name,
        base=_origin(settings["model"], provenance.get("model_revision")),
        data=_origin(settings["dataset"], provenance.get("data_revision")),
        config=settings.get("config", task.name),
        rows=provenance.get("data_rows", {}),
        columns=task.columns,
        labels=task.labels,
        loss=settings["loss"],
        scores=tuple(scores),
        settings=_known(shown),
        versions=_known({**provenance.get("versions", {}), **about}),
        notes=tuple(notes),
        language="en" if settings["dataset"] == GLUE else None,  # of all its tasks (Wang et al. 2018)
    )


def scores_on(split: str, task: TextTask, metrics: Mapping[str, float | None], start: str = "eval_") -> list[Score]:
    """The task's metrics on a split, as far as they are there.

    Args:
        split: The rows they were measured on.
        task: The task.
        metrics: Values by name.
        start: What the names begin with.
    """
    found = {metric: metrics.get(start + metric) for metric in task.metrics}
    return [Score(split, metric, value) for metric, value in found.items() if value is not None]


def facts_of(record: RunRecord, others: Iterable[RunRecord] = ()) -> ModelFacts:
    """The facts of a run of the study.

    Args:
        record: The run.
        others: Runs with the same task and loss and other seeds, which the card tells of.
    """
    task, last = TASKS[record.key.task], {name: values["last"] for name, values in record.scores.items()}
    scores = [score for split in task.splits for score in scores_on(split, task, last, _start(task, split, last))]
    notes = _notes(record, [run for run in others if run.key != record.key and run.status == "done"])
    return model_facts(task, record.settings, record.provenance, scores, record.key.seed, notes=notes)


def public(record: RunRecord) -> RunRecord:
    """A record without what is nobody's business: the places of folders, and the traceback of an error."""
    names = {"model": record.provenance.get("model_revision"), "dataset": record.provenance.get("data_revision")}
    settings = {**record.settings}
    settings |= {name: _origin(settings[name], known).name for name, known in names.items() if name in settings}
    error = None if record.error is None else record.error.splitlines()[0]
    return replace(record, settings=settings, error=error)


def _origin(name: str, revision: str | None) -> Origin:
    """Without a commit it is a folder, of which only the last part is told."""
    return Origin(name if revision else PurePath(name).name, revision)


def _start(task: TextTask, split: str, metrics: Mapping[str, Any]) -> str:
    """What the names of metrics in a record begin with: that of their set, where there are several."""
    start = f"{split.removeprefix('validation_')}_"
    return start if start + task.metrics[0] in metrics else ""


def _notes(record: RunRecord, others: list[RunRecord]) -> list[str]:
    """What the other seeds say of a score."""
    runs = [run for run in [record, *others] if run.score is not None]
    if len(runs) < 2:
        return []
    values = 100 * np.array([run.score for run in runs], dtype=float)
    spread = f"{values.mean():.2f} ± {values.std(ddof=1):.2f}"
    name = record.select.scored_metric.replace("_", " ")  # type: ignore[union-attr]  # its score is known
    notes = [f"Over the {len(runs)} seeds of the study, {name} is {spread} % (mean ± standard deviation, n − 1)."]
    if min(runs, key=best_first) is record:
        notes.append(f"This is the model of seed {record.key.seed}, the best of them on these rows: expect less.")
    return notes


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
