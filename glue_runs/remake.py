"""From the records of a GLUE study to the commands that make it again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from typing import Any

from glue_runs.protocol import ARGUMENTS, BERT, GLUE, MAX_LENGTH, MIXINGS, PADDINGS, TASK_NAMES
from hf_elmix.losses.registry import mixing_of
from hf_elmix.study.spec import RunRecord

__all__ = ["study_commands"]

# Settings of a task, the flag of each, and the value that needs none.
FLAGS = {
    "model": ("--model_name_or_path", BERT),
    "dataset": ("--dataset_name", GLUE),
    "max_length": ("--max_seq_length", MAX_LENGTH),
    "padding": ("--padding", PADDINGS[0]),
    "max_train_samples": ("--max_train_samples", None),
    "max_eval_samples": ("--max_eval_samples", None),
}


def study_commands(records: Iterable[RunRecord], folder: str) -> list[str]:
    """What to type to have the runs of a folder done again, one command for each set of settings.

    Args:
        records: The runs.
        folder: Where they are, for ``--output_dir``.
    """
    groups: dict[str, list[RunRecord]] = {}
    for record in records:
        groups.setdefault(shlex.join(_flags(record.settings)), []).append(record)
    return [
        f"glue-runs study --output_dir {shlex.quote(folder)} {_grid(group)} {flags}".rstrip()
        for flags, group in groups.items()
    ]


def _grid(records: list[RunRecord]) -> str:
    """The flags that say which runs."""
    tasks, methods, seeds = ({getattr(r.key, part) for r in records} for part in ("task", "method", "seed"))
    mixed = all(mixing_of(record.settings["loss"]) is not None for record in records)
    lists = {
        "--tasks": _in_order(tasks, TASK_NAMES),
        "--seeds": [str(seed) for seed in sorted(seeds)],
        "--mixings" if mixed else "--losses": _in_order(methods, MIXINGS),
    }
    return " ".join(f"{flag} {shlex.join(values)}" for flag, values in lists.items())


def _in_order(names: set[str], known: tuple[str, ...]) -> list[str]:
    return sorted(names, key=lambda name: (known.index(name) if name in known else len(known), name))


def _flags(settings: dict[str, Any]) -> list[str]:
    """The flags that differ from the protocol."""
    words = []
    for name, (flag, default) in FLAGS.items():
        if settings.get(name, default) != default:
            words += [flag, str(settings[name])]
    for name, value in settings.get("arguments", {}).items():
        if name not in ARGUMENTS or value != ARGUMENTS[name]:
            words += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
    return words
