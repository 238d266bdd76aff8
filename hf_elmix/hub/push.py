"""Publishing a study: the models that were kept, or the runs as a dataset; and the folder of a single model."""

from __future__ import annotations

import json
import re
import shlex
import string
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

import yaml
from huggingface_hub import RepoCard
from huggingface_hub.utils import HFValidationError, validate_repo_id

from hf_elmix.analysis.frames import curves_table, runs_table
from hf_elmix.analysis.results import StudyResults
from hf_elmix.analysis.sequential import read_rules
from hf_elmix.errors import UsageError, did_you_mean, in_one_line
from hf_elmix.hub.client import licence_of
from hf_elmix.hub.dataset_card import DATASET_MARK, dataset_files
from hf_elmix.hub.facts import PLACE, WORDS, ModelFacts, facts_of, public_record
from hf_elmix.hub.model_card import CARD, MARK, card_files, model_mark
from hf_elmix.hub.publish import Content, Published, claim_repo, files_of_model, own_namespace, publish_files
from hf_elmix.study.select import best_first, choose_runs
from hf_elmix.study.spec import RunRecord
from hf_elmix.study.store import MODEL, Store

__all__ = ["licensed", "push_folder", "push_models", "push_results", "repo_ids"]

PLACEHOLDERS = ("model", "task", "mixing", "seed")

# Of a command, its own words, numbers and the values of these flags are published, and the last part of folders.
CHOICES = {"", "executor", "keep", "losses", "mixings", "report_to", "tasks"}
PLACES = {"dataset_name", "model_name_or_path", "output_dir"}
NUMBER = re.compile(r"[-+]?[\d.]+(e[-+]?\d+)?|true|false", re.IGNORECASE)


def push_models(store: Store, template: str, licence: str | None = None, **options: Any) -> Iterator[Published]:
    """Publish the models that were kept beside their records, each with a card.

    For each task and method, the model of the best seed is published or, with ``{seed}`` in the template, the models
    of all seeds; for a sweep, those of the chosen candidates (see `choose_runs`). All repositories are checked before
    anything is uploaded.

    Args:
        store: The runs.
        template: Id of each repository, with the placeholders ``{model}``, ``{task}``, ``{mixing}`` and ``{seed}``.
        licence: As the Hub abbreviates it; by default that of the base model.
        options: ``private`` and ``overwrite`` of `claim_repo`.

    Yields:
        The result of each push.

    Raises:
        UsageError: If no model was kept, the template does not make valid and distinct ids, or `publish_files` fails.
    """
    records = [record for record in choose_runs(_records(store), store.asked()).values() if record is not None]
    kept = [run for run in records if run.status == "done" and (store.folder_of(run.key) / MODEL).is_dir()]
    if not kept:
        commands = store.declaration()["commands"]
        again = f"Train again and keep them: {commands[0]}" if commands else "Repeat the study with"
        raise UsageError(f"No model was kept in {str(store.folder)!r}. {again} --keep best --overwrite")
    if "/" not in template:
        template = f"{own_namespace()}/{template}"
    ids = repo_ids(template, kept)
    facts = {
        repo_id: licensed(
            facts_of(record, [other for other in records if _method_of(other) == _method_of(record)]), licence
        )
        for repo_id, record in ids.items()
    }
    for repo_id, known in facts.items():
        claim_repo(repo_id, model_mark(known), **options)
    for repo_id, known in facts.items():
        files = {
            **files_of_model(store.folder_of(ids[repo_id].key) / MODEL, store.folder),
            **card_files(known, repo_id),
        }
        yield publish_files(files, repo_id, model_mark(known), **options)


def licensed(facts: ModelFacts, licence: str | None = None) -> ModelFacts:
    """Return the facts with a licence; by default that of the base model, if its card on the Hub states one."""
    base = facts.origins.get("model")
    stated = licence_of(base.name, base.revision) if licence is None and base and base.revision else {}
    return replace(facts, licence={"license": licence} if licence else stated)


def push_folder(folder: Path, repo_id: str, licence: str | None = None, **options: Any) -> Published:
    """Publish a model that was fine-tuned on its own, with the card in its folder.

    Args:
        folder: The model's folder, with the card that was written when it was trained, which may have been edited.
        repo_id: Id of the repository, which also replaces that in the card's example.
        licence: As the Hub abbreviates it; by default as the card says.
        options: ``private`` and ``overwrite`` of `claim_repo`.

    Raises:
        UsageError: If the folder holds no model with a card of hf_elmix, or `publish_files` fails.
    """
    try:
        card = RepoCard((folder / CARD).read_text(encoding="utf-8"), ignore_metadata_errors=False)
        mark = dict(card.data[MARK])
    except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise UsageError(
            f"Expected a model with its card in {str(folder)!r}, as fine-tuning leaves them, but {CARD} has "
            f"no {MARK!r} in its metadata. To push a study, type --hub_id_template ID or --results."
        ) from error
    files: dict[str, Content] = files_of_model(folder.resolve())
    repo_id = claim_repo(repo_id, mark, **options)
    if licence:
        card.data["license"] = licence
    card.text = re.sub(r"(?<=pipeline\(\"text-classification\", model=)\"[^\"\n]*\"", json.dumps(repo_id), card.text)
    return publish_files({**files, CARD: str(card).encode()}, repo_id, mark, **options)


def push_results(store: Store, repo_id: str, licence: str | None = None, **options: Any) -> Published:
    """Publish the runs as a dataset: Parquet files and a card.

    Args:
        store: The runs.
        repo_id: Id of the dataset.
        licence: As the Hub abbreviates it.
        options: ``private`` and ``overwrite`` of `claim_repo`.

    Raises:
        UsageError: If no run has a score, or `publish_files` fails.
    """
    records, expected = [public_record(record) for record in _records(store)], store.asked()
    tables = runs_table(records, expected), curves_table(records, expected)
    results = StudyResults(*tables, rules=read_rules(store))
    names = {record.settings[name] for record in records for name in ("model", "dataset") if name in record.settings}
    commands = [_public_command(command, names) for command in store.declaration()["commands"]]
    options["repo_type"] = "dataset"
    repo_id = claim_repo(repo_id, DATASET_MARK, **options)
    return publish_files(dataset_files(results, repo_id, commands, licence), repo_id, DATASET_MARK, **options)


def repo_ids(template: str, records: list[RunRecord]) -> dict[str, RunRecord]:
    """Return the runs whose models are published, by the id of their repository (see `push_models`).

    Raises:
        UsageError: If the template or an id is not valid, or two runs would have the same id.
    """
    namespace = template.partition("/")[0] if "/" in template else "name"
    expected = f"Expected something like {namespace}/{{model}}-{{task}}-{{mixing}}, also with {{seed}}."
    try:
        used = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise UsageError(f"{template!r} is not a template: {in_one_line(error)} {expected}") from error
    if unknown := sorted(used - set(PLACEHOLDERS)):
        hint = did_you_mean(unknown[0], PLACEHOLDERS)
        raise UsageError(f"Unknown placeholder {{{unknown[0]}}} in {template!r}. {expected}{hint}")
    if "seed" not in used:
        best = {_method_of(record): record for record in sorted(records, key=best_first, reverse=True)}
        records = sorted(best.values(), key=lambda record: record.key)
    ids: dict[str, RunRecord] = {}
    for record in records:
        repo_id = _repo_id(template, record)
        if repo_id in ids:
            one, two = sorted(str(run.key) for run in (ids[repo_id], record))
            raise UsageError(f"{template!r} gives {one} and {two} the same id, {repo_id!r}. {expected}")
        ids[repo_id] = record
    return ids


def _repo_id(template: str, record: RunRecord) -> str:
    """Fill in a template with characters that an id may have: ``0_0.5`` for ``0,0.5``."""
    key = record.key.reported
    values = (PurePath(record.settings.get("model", "model")).name, key.task, key.method, key.seed)
    legal = [re.sub(r"([-.])\1+", r"\1", re.sub(r"[^A-Za-z0-9._-]+", "_", str(value))) for value in values]
    try:
        repo_id = template.format(**dict(zip(PLACEHOLDERS, legal, strict=True)))
        validate_repo_id(repo_id)
    except (HFValidationError, ValueError) as error:
        raise UsageError(f"{template!r} gives no valid id for {key}: {in_one_line(error)}") from error
    return repo_id


def _records(store: Store) -> list[RunRecord]:
    records = list(store.records())
    if not records:
        raise UsageError(f"Expected a folder of runs, but {str(store.folder)!r} has no records.")
    return records


def _method_of(record: RunRecord) -> tuple[str, str]:
    return record.key.task, record.key.reported.method


def _public_command(command: str, names: set[str]) -> str:
    """Return a command with ``…`` for values that do not describe the study, and folders by their last part.

    Args:
        command: The command as typed.
        names: The models and datasets that the published records name.
    """
    words, flag = [], ""
    try:
        typed = shlex.split(command)
    except ValueError:  # not a command line
        return "…"
    for word in typed:
        head, value = "", word
        if word.startswith("--"):
            flag, equals, value = word.partition("=")
            head = flag + equals
        words.append(
            head + (value if not value or value in names else _public_value(flag[2:].replace("-", "_"), value))
        )
    return shlex.join(words)


def _public_value(name: str, value: str) -> str:
    if name in PLACES:
        return PurePath(value.partition("?")[0]).name
    plain = name in CHOICES | WORDS or NUMBER.fullmatch(value)
    return value if plain and not PLACE.search(value) else "…"
