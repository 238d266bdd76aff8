"""Class ids for the labels of rows: by name, whatever the file and the model call their classes, never by position."""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetDict
from transformers import PreTrainedConfig

from hf_elmix.columns import listed
from hf_elmix.errors import UsageError
from hf_elmix.text.files import as_word
from hf_elmix.text.tasks import TextTask

__all__ = ["class_names", "for_model", "model_classes", "with_ids"]

CLASSES = (pa.types.is_integer, pa.types.is_boolean, pa.types.is_string, pa.types.is_large_string)
WHOLE = re.compile(r"-?(0|[1-9]\d*)")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
DIGITS = re.compile(r"\d+")
SIGNED = re.compile(r"[+-]?\d{1,30}")
FEW = 10  # numbers that may be classes
UNKNOWN = -1  # as datasets mark the labels of test rows
ODD = 0.05  # share of rows up to which words among numbers, or numbers among words, are a mistake
OFTEN = 20  # a class of one row is reported where classes have this many on average


def class_names(dataset: Dataset, column: str, where: str) -> tuple[str, ...]:
    """Names of the classes in a column of labels in the order of their ids: declared, else sorted; empty for numbers.

    Args:
        dataset: The rows.
        column: The column.
        where: What to call the rows in an error.

    Raises:
        UsageError: If a row has no label or several, or an odd one, or there are fewer than two classes.
    """
    feature, kind = dataset.features[column], dataset.with_format("arrow")[:][column].type
    if isinstance(feature, ClassLabel):
        _check_names(feature.names, where)
        if len(feature.names) < 2:
            raise UsageError(
                f"Expected two classes or more in the column {column!r} of {where}, but it declares "
                f"{listed(feature.names) or 'none'}."
            )
        return tuple(feature.names)
    words = _words(dataset, column)
    if None in words:
        row, count = words.index(None), words.count(None)
        raise UsageError(f"Expected a label in each row of {where}, but row {row} has none ({count} rows).")
    if pa.types.is_floating(kind):
        _warn_of_whole(words, where)
        return ()
    if not any(is_kind(kind) for is_kind in CLASSES):
        several = (
            " Several labels at once (multi-label) have no single true class." if pa.types.is_nested(kind) else ""
        )
        raise UsageError(
            f"Expected one class or number in the column {column!r} of {where}, but it holds {kind}.{several}"
        )
    counts = Counter(word for word in words if word is not None)
    _check_odd(words, counts, where)
    if all(map(NUMBER.fullmatch, counts)) and not all(name.lstrip("+-").isdigit() for name in counts):
        _warn_of_whole(words, where)
        return ()
    names = tuple(sorted(counts, key=int if all(map(WHOLE.fullmatch, counts)) else None))
    if len(names) < 2:
        found = f"all rows are of the class {names[0]!r}" if names else "it has no rows"
        raise UsageError(f"Expected two classes or more in the column {column!r} of {where}, but {found}.")
    return names


def with_ids(
    dataset: Dataset, column: str, labels: Sequence[str], where: str, *, strict: bool = True, ids: bool = False
) -> Dataset:
    """Replace a column of labels by the column ``label`` with class ids or, for a regression, with numbers.

    Labels are the names of classes, in any case where that is clear.

    Args:
        dataset: The rows.
        column: Their column of labels.
        labels: Names of the classes; empty for a regression.
        where: What to call the rows in an error.
        strict: Refuse a label that is not among the classes, rather than replace it by -1.
        ids: Whether all labels may be class ids instead, from 0, unless the names are numbers themselves.

    Raises:
        UsageError: If a label is not among the classes.
    """
    # Names such as LABEL_0 are those of nobody, so the ids that a dataset declares stand for themselves.
    words = _words(dataset, column, declared=not (ids and _numbered(labels)))
    values: list[Any] = dataset.with_format("arrow")[:][column].to_pylist()
    if labels:
        known = _ids({word for word in words if word is not None}, labels, numbers=ids)
        values = [UNKNOWN if word is None else known.get(word, UNKNOWN) for word in words]
    elif any(isinstance(value, str) for value in values):
        values = [float(word) if word and NUMBER.fullmatch(word) else None for word in words]
    unknown = [row for row, value in enumerate(values) if value == (UNKNOWN if labels else None)]
    row = next((row for row in unknown if words[row] not in (None, str(UNKNOWN))), next(iter(unknown), None))
    # Rows to predict may have no labels at all.
    if row is not None and (strict or len(unknown) < len(words) or words[row] not in (None, str(UNKNOWN))):
        found = f"row {row} has {'no label' if words[row] is None else repr(words[row])} ({len(unknown)} such rows)"
        if strict:
            wanted = f"among {listed(labels)}" if labels else "numbers"
            by_id = ", or as its class ids, from 0" if _ids_are_clear(labels) else ""
            hint = f" Write the labels as the model does{by_id}." if ids and labels else ""
            raise UsageError(f"Expected the labels of {where} to be {wanted}, but {found}.{hint}")
        warnings.warn(f"The labels of {where} are not used: {found}.", stacklevel=2)
    rest = dataset.remove_columns(list({column, "label"} & set(dataset.column_names)))
    return rest.add_column("label", values)


def model_classes(config: PreTrainedConfig) -> tuple[str, ...] | None:
    """Names of the classes of a trained classifier in the order of its logits; empty for a regression.

    None for a model without a trained head: it names no classes, and was not saved as a classifier.

    Raises:
        UsageError: If it does not say which logit belongs to which class.
    """
    given = {place: str(name) for place, name in sorted((config.id2label or {}).items())}
    names = tuple(given.values())
    trained = any(name.endswith("ForSequenceClassification") for name in config.architectures or ())
    if not trained and _numbered(names):
        return None
    back = config.label2id or {}
    otherwise = any(str(back.get(name, place)) != str(place) for place, name in given.items())
    if list(given) != list(range(len(names))) or len(set(names)) < len(names) or otherwise:
        raise UsageError(
            "Expected the model's config.json to name each class once, from 0, but it has the "
            f"id2label {given} and the label2id {back}. Correct them."
        )
    return () if len(names) == 1 or config.problem_type == "regression" else names


def for_model(
    config: PreTrainedConfig, task: TextTask, rows: DatasetDict, *, trains: bool
) -> tuple[TextTask, DatasetDict]:
    """The task and its rows with the class ids of a model that has the same classes, by name.

    A model that was fine-tuned on MNLI elsewhere may have its three classes in another order, or in capital letters.
    If it is not trained any further, it may also have classes that the rows lack.

    Args:
        config: Of the model.
        task: The task.
        rows: Its rows, with class ids.
        trains: Whether the model will be trained on the rows: then it may have had other classes before.

    Raises:
        UsageError: If the model is not trained on the rows, and does not have their classes, one for each row.
    """
    try:
        theirs = model_classes(config)
    except UsageError as error:
        if not trains:
            raise
        warnings.warn(f"{error} The head is trained further.", stacklevel=2)
        return task, rows
    if config.problem_type == "multi_label_classification" and not trains:
        raise UsageError("Expected a model with one class for each row, but it was trained for several (multi-label).")
    if theirs is None or theirs == task.labels:
        return task, rows
    ids = _ids(set(task.labels), theirs, numbers=not trains)
    same = bool(theirs) and len(set(ids.values())) == len(task.labels)
    # Ids that a dataset declares stand for themselves where the model has no names.
    unnamed = not ids and _numbered(theirs) and len(theirs) == len(task.labels)
    if unnamed or (trains and not (same and len(theirs) == len(ids))):
        if not unnamed and len(theirs) == len(task.labels):
            kept = f"The head that the model has for {listed(theirs)} is trained further, for {listed(task.labels)}."
            warnings.warn(kept, stacklevel=2)
        return task, rows
    if not (same and task.labels):
        # Assigning the classes in their order would be a guess.
        raise UsageError(
            f"Expected rows of the model's classes ({listed(theirs) or 'none: it predicts numbers'}), but got "
            f"{listed(task.labels) or 'numbers'}. Write the labels as the model does, or as its class ids, from 0, "
            "or name its classes (id2label in its config.json) as the rows do."
        )
    spelled = {place: name for name, place in ids.items()}  # a model that is trained gets the names of the rows
    labels = tuple(spelled[k] for k in range(len(theirs))) if trains else theirs
    positive = labels[ids[task.labels[1]]] if "f1" in task.metrics else ""
    places = [ids[name] for name in task.labels]
    labelled = {split: part for split, part in rows.items() if "label" in part.features}
    aligned = {
        split: part.remove_columns("label").add_column("label", [places[k] for k in part["label"]])
        for split, part in labelled.items()
    }
    return replace(task, labels=labels, positive=positive), DatasetDict({**rows, **aligned})


def _words(dataset: Dataset, column: str, *, declared: bool = True) -> list[str | None]:
    """The labels as words; None where one is missing. Declared classes have names, or else their ids."""
    feature = dataset.features[column]
    values = dataset.with_format("arrow")[:][column].to_pylist()
    names = dict(enumerate(feature.names)) if declared and isinstance(feature, ClassLabel) else {}
    # A column of whole numbers in which one is missing has become one of floats.
    whole = ((int(v) if isinstance(v, float) and v.is_integer() else v) for v in values)
    words = [names.get(value) or as_word(value) for value in whole] if names else [as_word(value) for value in whole]
    return [
        None if word is None or not word.strip() or value != value else word
        for word, value in zip(words, values, strict=True)
    ]


def _ids(words: set[str], labels: Sequence[str], *, numbers: bool) -> dict[str, int]:
    """Class ids of the words that are names of classes, or class ids if none is a name."""
    ids = {name: place for place, name in enumerate(labels)}
    folded = {_folded(name): place for name, place in ids.items()}
    if len(folded) == len(labels) and not words <= ids.keys():
        ids = {word: folded[_folded(word)] for word in words if _folded(word) in folded}
    if numbers and not words & ids.keys() and _ids_are_clear(labels):
        ids = {str(place): place for place in range(len(labels))}
    return {word: ids[word] for word in words if word in ids}


def _check_odd(words: Sequence[str | None], counts: Mapping[str, int], where: str) -> None:
    """Refuse a few words among numbers, or a label in two spellings; warn of a class that has a single row."""
    numbers = {name for name in counts if NUMBER.fullmatch(name)}
    few, many = sorted((numbers, counts.keys() - numbers), key=lambda names: sum(counts[name] for name in names))
    rare = sum(counts[name] for name in few)
    odd = set(few) if rare <= max(1, ODD * len(words)) and len(words) > 2 * rare else set()
    spellings = {_folded(name): name for name in sorted(counts, key=lambda name: counts[name])}
    twice = [name for name in counts if spellings[_folded(name)] != name]
    if odd or twice:
        row = next(row for row, word in enumerate(words) if word in (odd or twice))
        other = min(many, key=lambda name: (-counts[name], name)) if odd else spellings[_folded(words[row] or "")]
        raise UsageError(
            f"Expected labels of one kind and spelling in {where}, but row {row} has {words[row]!r}, and other rows "
            f"have {other!r}. Correct the label, or delete the row."
        )
    lone = {name for name, count in counts.items() if count == 1}
    if lone and len(words) >= OFTEN * len(counts):
        row = next(row for row, word in enumerate(words) if word in lone)
        warnings.warn(f"Row {row} of {where} is the only one with the label {words[row]!r}.", stacklevel=3)


def _check_names(names: Sequence[str], where: str) -> None:
    """Refuse declared classes that nobody can tell apart."""
    known: dict[str, str] = {}
    for name in names:
        other = known.setdefault(_folded(name), name)
        if other != name:
            raise UsageError(f"Expected one spelling of each class of {where}, but got {other!r} and {name!r}.")


def _warn_of_whole(words: Sequence[str | None], where: str) -> None:
    """Warn of class ids that a program has written as floats, as pandas does where some are missing."""
    found = sorted(set(filter(None, words)), key=float)
    if 1 < len(found) <= FEW and all(float(word).is_integer() for word in found):
        warnings.warn(
            f"The labels of {where} ({listed(found)}) are taken for numbers to predict, not for classes, because of "
            "the decimal points. If they are classes, write them without.",
            stacklevel=4,
        )


def _folded(name: str) -> str:
    """The same for all spellings of a word or a whole number."""
    name = unicodedata.normalize("NFKC", name).strip().casefold()
    return str(int(name)) if SIGNED.fullmatch(name) else name


def _ids_are_clear(names: Sequence[str]) -> bool:
    """Whether numbers can only mean places among classes: 1 may also mean "1 star", which may have another place."""
    return all(digits in ([], [str(place)]) for place, digits in enumerate(map(DIGITS.findall, names))) and not any(
        map(NUMBER.fullmatch, names)
    )


def _numbered(names: Sequence[str]) -> bool:
    """Whether these are the names that transformers gives if nobody does."""
    return all(name == f"LABEL_{place}" for place, name in enumerate(names))
