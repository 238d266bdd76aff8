"""The flags of `transformers.TrainingArguments` on a command line. Imports PyTorch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from transformers import HfArgumentParser, TrainingArguments

from hf_elmix.cli.base import OneLineParser, name_of_flag
from hf_elmix.errors import UsageError, in_one_line

__all__ = ["FlagParser", "check_arguments", "training_arguments"]


class FlagParser(OneLineParser, HfArgumentParser):
    """The parser of transformers, which makes flags of the fields of dataclasses, with one-line errors."""

    def __init__(self, kinds: Any, prog: str) -> None:
        super().__init__(kinds, prog=prog, allow_abbrev=False)


def check_arguments(args: TrainingArguments) -> None:
    """Refuse values that would only fail once training has begun.

    Raises:
        UsageError: If a value is outside its range.
    """
    sizes = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
    for name, least in {**dict.fromkeys(sizes, 1), "seed": 0}.items():
        if getattr(args, name) < least:
            raise UsageError(f"Expected --{name} to be {least} or more, but got {getattr(args, name)}.")
    for name in ("batch_eval_metrics", "prediction_loss_only"):
        if getattr(args, name):
            raise UsageError(f"--{name} leaves no predictions to compute the scores from. Leave it out.")


def training_arguments(words: Iterable[str], prog: str) -> dict[str, Any]:
    """Parse flags of `TrainingArguments` and return those that were given by name.

    Raises:
        UsageError: If a flag is unknown or its value is not valid.
    """
    words, parser = list(words), FlagParser(TrainingArguments, prog)
    parsed, unknown = parser.parse_known_args([*words, "--output_dir", "unused"])
    if unknown:
        parser.refuse(unknown[0])
    names = [name_of_flag(word) for word in words if word.startswith("--")]
    # A field that is true by default has a flag --no_NAME.
    fields = [name if hasattr(parsed, name) else name.removeprefix("no_") for name in names]
    arguments = {name: getattr(parsed, name) for name in fields}
    try:
        check_arguments(TrainingArguments(output_dir="unused", **arguments))
    except ValueError as error:
        raise UsageError(in_one_line(error)) from error
    return arguments
