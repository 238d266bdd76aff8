"""What the JSON files of a study may hold, checked once, where they are read.

The types are those of dataclasses and typed dictionaries. pydantic checks them, and reads JSON as strictly as the
standard demands.
"""

from __future__ import annotations

import functools
import json
from typing import Annotated, Any, Literal, NotRequired, TypeVar

from annotated_types import Ge, Le, Lt, MinLen
from pydantic import AfterValidator, ConfigDict, JsonValue, TypeAdapter, ValidationError
from typing_extensions import TypedDict

__all__ = [
    "FORMAT",
    "LARGEST",
    "Claim",
    "Declaration",
    "Manifest",
    "NewerFormat",
    "Provenance",
    "Record",
    "Settings",
    "parse",
]

K = TypeVar("K", bound=type)
T = TypeVar("T")

FORMAT = 1  # of records and declarations; one that earlier versions cannot read gets the next number


def _open(kind: K) -> K:
    """Let nothing be converted, NaN or infinite in a class that declares extra entries."""
    kind.__pydantic_config__ = ConfigDict(strict=True, allow_inf_nan=False)  # type: ignore[attr-defined]
    return kind


def _strict(kind: K) -> K:
    """As `_open`, and let no entry be unknown."""
    kind.__pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)  # type: ignore[attr-defined]
    return kind


def _finite(value: Any) -> Any:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        raise ValueError("expected no NaN or infinity") from None
    return value


Seed = Annotated[int, Ge(0), Lt(2**32)]  # as PyTorch and NumPy take it
Count = Annotated[int, Ge(0), Lt(2**53)]  # larger numbers do not fit the columns of tables
LARGEST = 1e100
Amount = Count | Annotated[float, Ge(0)]
# None for NaN and infinity. Sums of squares of what is larger than the bound would overflow in a report.
Number = Annotated[int, Ge(-(2**53)), Lt(2**53)] | Annotated[float, Ge(-LARGEST), Le(LARGEST)] | None
Json = Annotated[JsonValue, AfterValidator(_finite)]
UNIONS = {"constrained-int", "constrained-float", "float", "int", "str"}  # what pydantic calls the types of a union


@_strict
class Score(TypedDict):
    """A metric at the ``last`` and the ``best`` evaluation, and at all of them, with the steps completed at each."""

    last: Number
    best: Number
    epochs: list[Number]
    steps: list[Count]


@_open
class Log(TypedDict, extra_items=Number):  # type: ignore[call-arg]
    """Values that were logged at a step of the training."""

    step: Count


@_strict
class Text(TypedDict):
    """A text task, as `hf_elmix.text.tasks.TextTask` describes it."""

    name: str
    columns: Annotated[list[str], MinLen(1)]
    labels: list[str]
    metrics: Annotated[list[str], MinLen(1)]
    splits: Annotated[list[str], MinLen(1)]
    test_splits: list[str]
    positive: NotRequired[str]


@_open
class Arguments(TypedDict, total=False, extra_items=Json):  # type: ignore[call-arg]
    """Training arguments; those named here are read again by commands that look at a trained model."""

    per_device_train_batch_size: Count
    gradient_accumulation_steps: Count


@_open
class Settings(TypedDict, total=False, extra_items=Json):  # type: ignore[call-arg]
    """Everything that determines the result of a run; a task may add what it likes."""

    loss: str | None
    select: Json
    arguments: Arguments
    secondary_metrics: dict[str, str]
    text: Text
    model: str
    dataset: str
    config: str | None
    max_length: Count | None
    max_train_samples: Count | None
    max_eval_samples: Count | None


@_open
class Provenance(TypedDict, total=False, extra_items=Json):  # type: ignore[call-arg]
    """Where a result comes from; a task may add what it likes."""

    versions: dict[str, str | None]
    commit: str | None
    dirty: bool | None
    device: str
    data_rows: dict[str, Count] | None
    data_revision: str | None
    model_revision: str | None


@_open
class Cost(TypedDict, extra_items=Amount | None):  # type: ignore[call-arg]
    """Wall-clock seconds of training, and optimizer steps."""

    seconds: Amount
    steps_trained: Count
    steps_inherited: Count


@_strict
class Key(TypedDict):
    """The task, the method and the seed of a run."""

    task: str
    method: str
    seed: Seed


@_strict
class Record(TypedDict):
    """The result of a run: see `hf_elmix.study.spec.RunRecord`."""

    key: Key
    status: Literal["done", "failed", "diverged"]
    scores: dict[str, Score]
    training: list[Log]
    settings: Settings
    provenance: Provenance
    cost: Cost
    error: NotRequired[str | None]
    format: NotRequired[Literal[1]]


@_strict
class Grid(TypedDict):
    """Runs that were asked for: every task with every method and seed."""

    tasks: list[str]
    methods: list[str]
    seeds: list[Seed]


@_strict
class DeclaredMethod(TypedDict):
    """A loss in the notation of `parse_loss`, and the arguments that a method overrides."""

    loss: str
    arguments: dict[str, Json]


@_strict
class Declaration(TypedDict):
    """What a folder was declared to hold: runs, methods by name, settings by task, and the commands of the study."""

    grids: list[Grid]
    methods: dict[str, DeclaredMethod]
    settings: dict[str, Settings]
    commands: NotRequired[list[str]]
    format: NotRequired[Literal[1]]


@_strict
class Claim(TypedDict):
    """The process that works on a block."""

    host: str
    process: Count


@_strict
class SegmentCost(TypedDict):
    """What training a segment cost, and the method that it is attributed to."""

    method: str
    steps: Count
    seconds: Amount


@_strict
class Notes(TypedDict):
    """What a checkpoint says of the training that led to it."""

    costs: list[SegmentCost]


@_strict
class Manifest(TypedDict):
    """The files of a checkpoint, each with its digest."""

    files: Annotated[dict[str, str], MinLen(1)]
    notes: Notes


adapter = functools.cache(TypeAdapter)  # takes 50 ms to make


class NewerFormat(ValueError):
    """The file was written by a later version, which this one does not understand."""


def parse(kind: type[T], data: bytes) -> T:
    """Read JSON as a value of a class.

    Raises:
        NewerFormat: If its ``format`` is unknown.
        ValueError: If it is not JSON, or of other types, with the place in one line.
    """
    try:
        return adapter(kind).validate_json(data)  # type: ignore[arg-type]
    except ValidationError as error:
        raise _problem(error) from None


def _problem(error: ValidationError) -> ValueError:
    """The first of the errors that pydantic has found, in one line."""
    errors = [(".".join(str(part) for part in one["loc"] if part not in UNIONS), one) for one in error.errors()]
    if newer := [one["input"] for place, one in errors if place == "format"]:
        return NewerFormat(f"format {newer[0]!r:.20}")
    place, _ = errors[0]
    found = [one for there, one in errors if there == place][-1]  # of the types in a union, the last is the widest
    given = "" if found["type"] in ("json_invalid", "missing") else f", but got {found['input']!r:.60}"
    message = found["msg"].removeprefix("Value error, ")
    text = f"{message[0].lower()}{message[1:]}{given}"
    return ValueError(f"{place}: {text}" if place else text)
