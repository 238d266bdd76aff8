"""The methods that a command line names: losses, training arguments in words or in a YAML file, and sweeps."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_elmix.cli.study import study_training_arguments
from hf_elmix.errors import UsageError

if TYPE_CHECKING:
    from hf_elmix.study.spec import Method

__all__ = ["PROG", "parse_methods", "parse_sweeps"]

PROG = "elmix compare"


def parse_methods(
    losses: Iterable[str],
    methods: Iterable[str],
    candidates: tuple[Mapping[str, Any], ...] = (),
    defaults: Mapping[str, Any] | None = None,
) -> list[Method]:
    """The methods that a command line names.

    Args:
        losses: Losses, each a method of the same name; sets such as ``table4`` are expanded.
        methods: ``name:argument=value,…`` or paths of YAML files.
        candidates: Training arguments to try in every method, from `parse_sweeps`.
        defaults: Training arguments that apply where a method has no others.

    Raises:
        UsageError: If a loss or an argument does not exist, or a value is not valid.
    """
    from hf_elmix.losses.registry import expand_losses
    from hf_elmix.study.spec import Method

    described = [(name, {"loss": name}) for name in expand_losses(losses)]
    for text in methods:
        described += _in_file(text) if Path(text).suffix in (".yaml", ".yml") else [_in_words(text)]
    for name, values in described:
        if both := sorted({swept for candidate in candidates for swept in candidate} & set(values)):
            raise UsageError(f"Expected {both[0]} in --sweep or in the method {name!r}, but got both. Leave one out.")
    return [Method(name, _typed(values, defaults or {}), values["loss"], candidates) for name, values in described]


def parse_sweeps(
    sweeps: Iterable[str],
    given: Iterable[str] = (),
    defaults: Mapping[str, Any] | None = None,
    prog: str = PROG,
) -> tuple[dict[str, Any], ...]:
    """Every combination of the values of ``argument=value,value``, each as training arguments; none without sweeps.

    Args:
        sweeps: An argument with its values, each.
        given: Names of the training arguments that are given by other flags.
        defaults: Training arguments that apply where no other is given.
        prog: Name of the command.

    Raises:
        UsageError: If an argument does not exist, a value is not valid, or an argument is given by another flag, too.
    """
    axes = [_sweep(text, defaults or {}, prog) for text in sweeps]
    names = [pairs[0][0] for pairs in axes]
    for name in names:
        if name in given:
            raise UsageError(f"Expected --{name} or --sweep {name}=…, but got both. Leave one out.")
        if names.count(name) > 1:
            raise UsageError(f"Expected --sweep {name}=… once, with all values, but got it {names.count(name)} times.")
    return tuple(dict(pairs) for pairs in itertools.product(*axes)) if axes else ()


def _sweep(text: str, defaults: Mapping[str, Any], prog: str) -> list[tuple[str, Any]]:
    """The values of an argument, from ``learning_rate=1e-5,2e-5``."""
    name, equals, values = text.partition("=")
    if name.strip() == "loss":
        raise UsageError(f"Expected --sweep with a training argument, but got {text!r}. Type --losses instead.")
    if not equals or not all(values.split(",")):
        raise UsageError(f"Expected --sweep like learning_rate=1e-5,2e-5, but got {text!r}.")
    name = name.strip()
    return [(name, _typed({name: value}, defaults, prog)[name]) for value in dict.fromkeys(values.split(","))]


def _in_words(text: str) -> tuple[str, dict[str, str]]:
    """Name and arguments of a method, from ``ls:loss=focal:gamma=2,alpha=0.25,label_smoothing_factor=0.1``.

    A part that names no training argument continues the loss before it, whose arguments have commas, too.
    """
    from dataclasses import fields

    from transformers import TrainingArguments

    name, colon, rest = text.partition(":")
    if not colon or not name.strip() or "=" not in rest:
        raise UsageError(f"Expected --method like 'wd:weight_decay=0.1', but got {text!r}.")
    known, values, last = {field.name for field in fields(TrainingArguments)} | {"loss"}, {"loss": "ce"}, ""
    given: set[str] = set()
    for part in rest.split(","):
        key, equals, value = part.partition("=")
        if last == "loss" and key.strip() not in known:
            values["loss"] += f",{part}"
        elif equals:
            last = key.strip()
            if last in given:
                raise UsageError(
                    f"Expected each argument once, but {last!r} is given twice in {text!r}. Leave one out."
                )
            given.add(last)
            values[last] = value
        else:
            raise UsageError(f"Expected --method like 'wd:weight_decay=0.1', but got {part!r} in {text!r}.")
    return name.strip(), values


def _in_file(path: str) -> list[tuple[str, dict[str, str]]]:
    """Names and arguments of methods, from a YAML file that maps each name to its arguments."""
    from hf_elmix.cli.argument_files import read_arguments

    methods = read_arguments(path)
    if not isinstance(methods, dict) or not all(isinstance(values, dict) for values in methods.values()):
        raise UsageError(f"Expected {path!r} to map each method to its arguments, as in 'wd: {{weight_decay: 0.1}}'.")
    texts = {
        str(name): {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
        for name, values in methods.items()
    }
    return [(name, {"loss": "ce", **values}) for name, values in texts.items()]


def _typed(values: Mapping[str, str], defaults: Mapping[str, Any], prog: str = PROG) -> dict[str, Any]:
    """Training arguments with values of their types, without the loss."""
    words = [word for name, value in values.items() if name != "loss" for word in (f"--{name}", value)]
    return study_training_arguments(words, prog, defaults)
