"""Predictions on evaluation rows during training, one safetensors file per run, readable without PyTorch.

Tensors, each prefixed by the name of its evaluation set and a slash if it has a name (``matched/labels``): ``steps``
(T,) int64, ``epochs`` (T,) float64, ``labels`` (N,) int64, ``p_true`` (T, N) float16, ``correct`` (T, N) bool and
``logits`` (N, C) float32.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from hf_elmix.disk import read_regular, write_whole
from hf_elmix.errors import UsageError

__all__ = [
    "FILE",
    "LARGEST",
    "THRESHOLD",
    "Predictions",
    "check_class_labels",
    "from_bytes",
    "read_predictions",
    "to_bytes",
    "write_predictions",
]

FILE = "predictions.safetensors"
LARGEST = 4 * 2**30  # bytes; a million rows at a thousand points take 3 GB
THRESHOLD = 0.2  # p_y that separates incorrect rows near the boundary from those far; the paper's, for 100 classes
TYPES = {
    "steps": np.int64,
    "epochs": np.float64,
    "labels": np.int64,
    "p_true": np.float16,
    "correct": np.bool_,
    "logits": np.float32,
}
SERIES = ("steps", "epochs", "p_true", "correct")  # arrays with one entry per point


@dataclass(frozen=True)
class Predictions:
    """Predictions on one evaluation set, in the order of its rows, at T points of a training run ending with the last.

    Attributes:
        steps: Completed optimizer steps at each point, ascending, shape (T,).
        epochs: Completed epochs at each point, shape (T,).
        labels: True class ids, shape (N,).
        p_true: Probability of the true label, shape (T, N), in half precision: values below 6e-8 become 0.
        correct: Whether the true label had the largest logit, shape (T, N).
        logits: Logits at the last point, shape (N, C).
    """

    steps: np.ndarray
    epochs: np.ndarray
    labels: np.ndarray
    p_true: np.ndarray
    correct: np.ndarray
    logits: np.ndarray

    def __post_init__(self) -> None:
        for name, kind in TYPES.items():
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=kind))
        points, rows = self.p_true.shape if self.p_true.ndim == 2 else (-1, -1)
        expected = {"steps": (points,), "epochs": (points,), "labels": (rows,), "correct": (points, rows)}
        shapes = {field.name: getattr(self, field.name).shape for field in fields(self)}
        belong_together = expected.items() <= shapes.items() and shapes["logits"][:-1] == (rows,)
        if not belong_together or points < 1:
            raise ValueError(f"Expected arrays of T points, N rows and C classes, but got the shapes {shapes}.")

    @classmethod
    def from_logits(cls, logits: np.ndarray, labels: np.ndarray, step: int = 0, epoch: float = 0.0) -> Predictions:
        """Make predictions at a single point.

        Args:
            logits: Shape (N, C).
            labels: True class ids, shape (N,).
            step: Completed optimizer steps.
            epoch: Completed epochs.
        """
        exp = np.exp(logits - logits.max(axis=1, keepdims=True), dtype=np.float64)
        p_true = exp[np.arange(len(labels)), labels] / exp.sum(axis=1)
        correct = logits.argmax(axis=1) == labels
        return cls(np.array([step]), np.array([epoch]), labels, p_true[None], correct[None], logits)

    def at(self, points: np.ndarray) -> Predictions:
        """Keep the points at which `points`, of shape (T,), is True."""
        return replace(self, **{name: getattr(self, name)[points] for name in SERIES})

    def followed_by(self, point: Predictions) -> Predictions:
        """Append a single point of the same rows; recorded points at or after its step are dropped."""
        earlier = self.steps < point.steps[0]
        series = {name: np.concatenate((getattr(self, name)[earlier], getattr(point, name))) for name in SERIES}
        return replace(point, **series)


def check_class_labels(labels: np.ndarray, shape: tuple[int, ...]) -> None:
    """Refuse labels that are not class ids (N,) for logits of a shape (N, C).

    Raises:
        UsageError: If there are fewer than two classes, or labels are missing, of another type or out of range.
    """
    if len(shape) != 2 or shape[1] < 2 or labels.shape != shape[:1]:
        raise UsageError(
            "Expected logits of shape (N, C) with two classes or more, and labels of shape (N,), but got logits "
            f"{tuple(shape)} and labels {labels.shape}."
        )
    if labels.dtype.kind not in "iu":
        raise UsageError(f"Expected labels to be integer class ids, but got {labels.dtype}.")
    outside = labels[(labels < 0) | (labels >= shape[1])]
    if outside.size:
        raise UsageError(
            f"Expected class ids from 0 to {shape[1] - 1}, but got {outside[0]} ({outside.size} of {labels.size} "
            "labels are out of range). Leave out rows without a class (-100)."
        )


def to_bytes(sets: Mapping[str, Predictions]) -> bytes:
    """Serialise predictions, by the name of their evaluation set, as `write_predictions` writes them."""
    return save({_tensor_name(name, kind): getattr(one, kind) for name, one in sets.items() for kind in TYPES})


def from_bytes(data: bytes, source: str = "the file") -> dict[str, Predictions]:
    """Read the content of a predictions file; `source` names it in error messages.

    Raises:
        UsageError: If the data does not hold predictions.
    """
    try:
        tensors = load(data)
        if not tensors:
            raise ValueError("it is empty")
        names = dict.fromkeys(name.rpartition("/")[0] for name in sorted(tensors))
        sets = {name: {kind: tensors.pop(_tensor_name(name, kind)) for kind in TYPES} for name in names}
        if tensors:
            raise ValueError(f"{min(tensors)} is unknown")
        return {name: _checked(name, arrays) for name, arrays in sets.items()}
    except (SafetensorError, KeyError, ValueError) as error:
        raise UsageError(f"Expected {source} to hold predictions written by CohortCallback: {error}") from error


def _checked(set_name: str, arrays: Mapping[str, np.ndarray]) -> Predictions:
    """Predictions of the types and in the ranges that are written; a diverged run has NaN among them."""
    for kind, array in arrays.items():
        if array.dtype != TYPES[kind]:
            raise ValueError(f"{_tensor_name(set_name, kind)} is {array.dtype}, not {np.dtype(TYPES[kind])}")
    one = Predictions(**arrays)
    check_class_labels(one.labels, one.logits.shape)
    sound = {
        "steps": (one.steps >= 0).all() and (np.diff(one.steps) > 0).all(),
        "epochs": np.isfinite(one.epochs).all() and (one.epochs >= 0).all() and (np.diff(one.epochs) >= 0).all(),
        "p_true": (np.isnan(one.p_true) | ((one.p_true >= 0) & (one.p_true <= 1))).all(),
    }
    for kind in (kind for kind, is_sound in sound.items() if not is_sound):
        raise ValueError(f"{_tensor_name(set_name, kind)} is out of range or out of order")
    return one


def write_predictions(path: str | os.PathLike[str], sets: Mapping[str, Predictions]) -> None:
    """Write a predictions file, whole or not at all.

    Args:
        path: The file. Its folder is created if necessary.
        sets: Predictions by the name of their evaluation set; ``""`` if there is only one.

    Raises:
        OSError: If the file cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, to_bytes(sets))


def read_predictions(path: str | os.PathLike[str]) -> dict[str, Predictions]:
    """Read predictions by the name of their evaluation set (``""`` if there is only one).

    Args:
        path: A predictions file, or the folder of a run that contains one.

    Raises:
        UsageError: If the file does not exist or does not hold predictions.
    """
    path = Path(path) / FILE if Path(path).is_dir() else Path(path)
    try:
        data = read_regular(path, LARGEST)
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            f"Expected a file of predictions, but {str(path)!r} does not exist. --cohorts or "
            "CohortCallback writes one."
        ) from None
    except ValueError as error:
        raise UsageError(f"Expected {str(path)!r} to hold predictions, but {error}.") from None
    return from_bytes(data, repr(str(path)))


def _tensor_name(set_name: str, kind: str) -> str:
    return f"{set_name}/{kind}" if set_name else kind
