"""Compare the settings of a study with those of the records in its folder, and declare the study there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from hf_elmix.errors import UsageError
from hf_elmix.study.claims import claim_name
from hf_elmix.study.schema import Settings, parse
from hf_elmix.study.spec import Method, RunRecord, Study
from hf_elmix.study.store import Store

__all__ = ["check_plain", "check_record", "declare", "is_missing", "withdraw"]


def check_plain(study: Study) -> None:
    """Refuse settings that a record cannot hold, with a `UsageError`."""
    for key, (task, method) in study.runs().items():
        if key.seed != study.seeds[0]:
            continue
        try:
            parse(Settings, json.dumps(study.settings(task, method)).encode())
        except (TypeError, ValueError) as error:
            raise UsageError(f"Expected the settings of {key} to be plain JSON values, but {error}.") from None


def check_record(study: Study, record: RunRecord, store: Store, declared: Mapping[str, Any] | None = None) -> None:
    """Refuse a record that was made under other settings, unless it failed and so has no result to compare.

    For a record of a method outside the study, `declared` holds the methods of the folder's declaration.
    """
    if record.status == "failed" or record.key.task not in {task.name for task in study.tasks}:
        return
    if difference := _difference(record.settings, _settings(study, record, declared)):
        raise UsageError(
            f"{store.folder} holds runs with other settings ({record.key}: {difference}). Choose another "
            "--output_dir, use the earlier settings, or delete those runs with --overwrite."
        )


def is_missing(study: Study, record: RunRecord | None, retry_failed: bool) -> bool:
    """Whether a run has no record, or failed and must be repeated, as it must if it failed under other settings."""
    if record is None or record.status != "failed":
        return record is None
    return retry_failed or bool(_difference(record.settings, _settings(study, record)))


def declare(study: Study, store: Store, command: str | None) -> None:
    """Add the study and its command to the declaration, unless a process uses the folder with other settings."""
    before = store.declaration()
    settings = {task.name: _plain(study.settings(task, Method("ce"))) for task in study.tasks}
    for name, now in settings.items():
        difference = _difference(before["settings"].get(name, now), now)
        if difference and (holder := _holder(store, name, before["grids"])):
            raise UsageError(
                f"In {store.folder}, {holder} is working on {name} with other settings ({difference}). Choose another "
                "--output_dir."
            )
    grid = {
        "tasks": [task.name for task in study.tasks],
        "methods": [method.name for method in study.candidates],
        "seeds": list(study.seeds),
    }
    methods = {
        method.name: {"loss": str(method.loss), "arguments": _plain(method.arguments)} for method in study.candidates
    }
    after = {
        "grids": before["grids"] if grid in before["grids"] else [*before["grids"], grid],
        "methods": {**before["methods"], **methods},
        "settings": {**before["settings"], **settings},
        "commands": list(dict.fromkeys([*before["commands"], *([command] if command else [])])),
    }
    if after != before:
        store.declare(after)


def withdraw(study: Study, store: Store) -> None:
    """Remove the study's tasks from the declaration of the folder, unless another process is working on them."""
    before, names = store.declaration(), {task.name for task in study.tasks}
    for name in names:
        if holder := _holder(store, name, before["grids"]):
            raise UsageError(f"{holder} is working on {name} in {store.folder}. Stop it first.")
    grids = [{**grid, "tasks": [name for name in grid["tasks"] if name not in names]} for grid in before["grids"]]
    left = [grid for grid in grids if grid["tasks"]]
    settings = {name: values for name, values in before["settings"].items() if name not in names}
    if grids:
        # Commands stay while other tasks do: the text of a command does not tell which tasks it asked for.
        store.declare({**before, "grids": left, "settings": settings, "commands": before["commands"] if left else []})


def _holder(store: Store, task: str, grids: Iterable[Mapping[str, Any]]) -> str | None:
    """The process that is working on a block of a task, or None."""
    seeds = {seed for grid in grids if task in grid["tasks"] for seed in grid["seeds"]}
    return next((holder for seed in sorted(seeds) if (holder := store.claims.holder(claim_name((task, seed))))), None)


def _settings(study: Study, record: RunRecord, declared: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The settings of a record's run in the study; its method may be outside the study."""
    task = next(task for task in study.tasks if task.name == record.key.task)
    name = record.key.method
    method = next((method for method in study.candidates if method.name == name), None)
    if method is not None:
        return study.settings(task, method)
    # The text of a loss is not parsed: a custom one may be known only where it was trained.
    known = (declared or {}).get(name, {})
    arguments = {**study.arguments, **known["arguments"]} if known else record.settings["arguments"]
    return {
        **study.settings(task, study.candidates[0]),
        **{"loss": known.get("loss", record.settings["loss"]), "arguments": arguments},
    }


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The difference between two settings as text, empty if they are equal."""
    there, here = _flat(_plain(before)), _flat(_plain(now))
    names = [name for name in sorted(there.keys() | here.keys()) if there.get(name) != here.get(name)]
    return "; ".join(f"{name} was {there.get(name)!r} and is now {here.get(name)!r}" for name in names)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they would be read from a file."""
    return json.loads(json.dumps(values))


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
