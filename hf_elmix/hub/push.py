"""From a folder of runs to the Hub: the models that were kept, or the runs themselves."""

from __future__ import annotations

import os
import re
import shlex
import string
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from huggingface_hub.utils import HFValidationError, validate_repo_id

from glue_runs.tasks import TASKS
from hf_elmix.analysis.frames import curves_table, runs_table
from hf_elmix.analysis.results import StudyResults
from hf_elmix.errors import UsageError, in_one_line
from hf_elmix.hub.dataset_card import DATASET_MARK, dataset_files
from hf_elmix.hub.facts import facts_of, public
from hf_elmix.hub.model_card import card_files, model_mark
from hf_elmix.hub.publish import Published, claim_repo, files_of_model, own_namespace, publish_files
from hf_elmix.study.select import best_first
from hf_elmix.study.spec import RunRecord
from hf_elmix.study.store import MODEL, Store

__all__ = ["push_models", "push_results", "repo_ids"]

PLACES = ("model", "task", "mixing", "seed")


def push_models(store: Store, template: str, **options: Any) -> Iterator[Published]:
    """Publish the models that were kept beside their records, each with a card.

    Of each task and mixing it is the model of the best seed, or with ``{seed}`` in the template that of every seed.
    All repositories are looked at before anything is uploaded.

    Args:
        store: The runs.
        template: The id of each repository, with the places ``{model}``, ``{task}``, ``{mixing}`` and ``{seed}``.
        options: ``private`` and ``overwrite`` of `publish_files`.

    Yields:
        What was done, one repository after the other.

    Raises:
        UsageError: If no model was kept, the template gives no ids or gives one twice, or for one of
            the reasons of `publish_files`.
    """
    records = list(store.records())
    kept = [record for record in records if record.key.task in TASKS and _is_kept(store, record)]
    if not kept:
        raise UsageError(_none_kept(records, store))
    if "/" not in template:
        template = f"{own_namespace()}/{template}"
    ids = repo_ids(template, kept)
    marks = {repo_id: model_mark(facts_of(record)) for repo_id, record in ids.items()}
    for repo_id, mark in marks.items():
        claim_repo(repo_id, mark, create=False, **options)
    for repo_id, record in ids.items():
        facts = facts_of(record, [other for other in records if _method(other) == _method(record)])
        model = files_of_model(store.folder_of(record.key) / MODEL)
        yield publish_files({**model, **card_files(facts, repo_id)}, repo_id, marks[repo_id], **options)


def push_results(store: Store, repo_id: str, **options: Any) -> Published:
    """Publish the runs as a dataset: Parquet files and a card.

    Args:
        store: The runs.
        repo_id: Id of the dataset.
        options: ``private`` and ``overwrite`` of `publish_files`.

    Raises:
        UsageError: If no run has a score, or for one of the reasons of `publish_files`.
    """
    records = [public(record) for record in store.records()]
    if not records:
        raise UsageError(f"Expected a folder of runs, but {str(store.folder)!r} holds no record.")
    results = StudyResults(runs_table(records, store.asked()), curves_table(records, store.asked()))
    repo_id = claim_repo(repo_id, DATASET_MARK, repo_type="dataset", create=False, **options)
    files = dataset_files(results, repo_id, list(map(public_command, store.declaration()["commands"])))
    return publish_files(files, repo_id, DATASET_MARK, repo_type="dataset", **options)


def repo_ids(template: str, records: list[RunRecord]) -> dict[str, RunRecord]:
    """The id of each model that is to be published.

    Args:
        template: See `push_models`.
        records: The runs whose models are there.

    Raises:
        UsageError: If the template is none, an id cannot be one on the Hub, or two runs have the same.
    """
    if "seed" not in _places(template):
        best = {_method(record): record for record in sorted(records, key=best_first, reverse=True)}
        records = sorted(best.values(), key=lambda record: record.key)
    ids: dict[str, RunRecord] = {}
    for record in records:
        repo_id = _id(template, record)
        if repo_id in ids:
            one, two = sorted(str(run.key) for run in (ids[repo_id], record))
            raise UsageError(f"{template!r} makes {repo_id!r} of both {one} and {two}. {_expected(template)}")
        ids[repo_id] = record
    return ids


def public_command(command: str) -> str:
    """A command without the places of folders, of which only the last part is published.

    Args:
        command: A command line.
    """
    words = []
    for word in shlex.split(command):
        flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        is_place = "://" in value or value.startswith(("/", ".", "~")) or os.path.exists(value)
        words.append(flag + equals + (PurePath(value).name or value if is_place else value))
    return shlex.join(words)


def _id(template: str, record: RunRecord) -> str:
    key = record.key
    values = (PurePath(record.settings["model"]).name, key.task, key.method, key.seed)
    try:
        repo_id = template.format(**dict(zip(PLACES, map(_legal, values), strict=True)))
        validate_repo_id(repo_id)
    except (HFValidationError, ValueError) as error:
        raise UsageError(f"{template!r} makes no id for {key}: {in_one_line(error)}") from error
    return repo_id


def _legal(value: object) -> str:
    """A name as part of an id on the Hub: ``0_0.5`` for ``0,0.5``."""
    text = re.sub(r"[^A-Za-z0-9._-]+", "_", str(value))
    return re.sub(r"([-.])\1+", r"\1", text)


def _places(template: str) -> set[str]:
    """The places in a template.

    Raises:
        UsageError: If it has others than there are, or a brace too many.
    """
    try:
        places = {place for _, place, _, _ in string.Formatter().parse(template) if place is not None}
    except ValueError as error:
        raise UsageError(f"{template!r} is no template: {in_one_line(error)} {_expected(template)}") from error
    if unknown := sorted(places - set(PLACES)):
        raise UsageError(f"Unknown place {{{unknown[0]}}} in {template!r}. {_expected(template)}")
    return places


def _expected(template: str) -> str:
    namespace = template.partition("/")[0] if "/" in template else "name"
    return f"Expected something like {namespace}/{{model}}-{{task}}-{{mixing}}; there is {{seed}}, too."


def _is_kept(store: Store, record: RunRecord) -> bool:
    return record.status == "done" and (store.folder_of(record.key) / MODEL).is_dir()


def _method(record: RunRecord) -> tuple[str, str]:
    return record.key.task, record.key.method


def _none_kept(records: list[RunRecord], store: Store) -> str:
    folder = str(store.folder)
    if not records:
        return f"Expected a folder of runs, but {folder!r} holds no record."
    command = next(iter(store.declaration()["commands"]), "the command of the study with")
    return f"No model was kept in {folder!r}. Train once more and keep them: {command} --keep best --overwrite"
