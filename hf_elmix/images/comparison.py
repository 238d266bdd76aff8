"""Images as the task of a comparison: compared on validation rows; a test set is only scored at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from torch import Tensor

from hf_elmix.columns import listed
from hf_elmix.comparison.split import TRAIN, VALIDATION, counted_rows, hold_out, on_validation, with_validation
from hf_elmix.images.data import ImageRows, image_sizes, labelled_rows, read_image_rows
from hf_elmix.images.recipes import Recipe
from hf_elmix.images.study import image_task
from hf_elmix.study.spec import Task, TrainerInputs

__all__ = ["ARGUMENTS", "comparison_task"]

MODEL, LARGEST = "resnet20", 64  # 0.3 M parameters; larger images would take minutes for an epoch of some thousand
RECIPE = Recipe((MODEL,), epochs=20, drops=(), batch=32)

# Those of the paper's recipes, but for fewer images, and with a schedule that any method may replace.
ARGUMENTS: dict[str, Any] = {**RECIPE.arguments, "lr_scheduler_type": "cosine"}


def comparison_task(
    rows: DatasetDict,
    name: str,
    model: str | None = None,
    *,
    origin: Mapping[str, Any],
    image_column: str | None = None,
    label_column: str | None = None,
    size: int | None = None,
    epoch: str = "last",
    resample: bool = False,
) -> tuple[Task, str]:
    """Make the task of a comparison from images, and describe it in one line.

    Args:
        rows: The splits ``train`` and, if there are any, ``validation`` and ``test`` (see `named_splits`).
        name: What to call the task.
        model: Name of an architecture (see `hf_elmix.images.recipes.ARCHITECTURES`); by default a small one.
        origin: Settings that say where the rows come from.
        image_column: See `read_images`.
        label_column: See `read_images`.
        size: Height and width to which images are cut; by default 64, or none if all have one size up to that.
        epoch: Which evaluation counts, ``last`` or ``best``.
        resample: Divide training and validation rows anew for each seed.

    Raises:
        UsageError: If the rows or the model cannot be used.
    """
    model = MODEL if model is None else model
    used, classes = labelled_rows(rows, name, image_column=image_column, label_column=label_column)
    sizes = image_sizes(used[TRAIN], name)
    if size is None and (len(sizes) > 1 or max(max(each) for each in sizes) > LARGEST):
        size = LARGEST
    divided = with_validation(used)
    parts = read_image_rows(divided, name, size)
    select = on_validation("accuracy", epoch, divided)
    task = image_task(name, parts, len(classes), model, RECIPE, select=select)
    task = replace(task, settings={**task.settings, **origin})
    if resample:
        inputs = partial(_divided_anew, parts, task)
        task = replace(task, inputs=inputs, settings={**task.settings, "resample": True})
    height, width = parts[TRAIN].pixels[0].shape[1:]
    about = (
        f"{name}: images of {width} x {height} pixels{' (cut and scaled)' * (size is not None)}; "
        f"{counted_rows(divided, VALIDATION not in used, resample)}; label: {listed(classes)}; model {model}, not "
        f"pre-trained; score: accuracy, {epoch} epoch"
    )
    return task, about


def _divided_anew(parts: Mapping[str, ImageRows], task: Task, seed: int) -> TrainerInputs:
    """The inputs of a Trainer with training and validation rows that were divided by the seed."""
    sizes = [len(parts[TRAIN]), len(parts[VALIDATION])]
    labels = torch.cat([parts[TRAIN].labels, parts[VALIDATION].labels])
    places = Dataset.from_dict({"place": range(sum(sizes)), "label": labels.tolist()})
    train, held_out = (part["place"][:] for part in hold_out(places, sizes[1], seed))
    both = [parts[TRAIN], parts[VALIDATION]]
    divided = {**parts, TRAIN: _chosen(both, train), VALIDATION: _chosen(both, held_out)}
    made = image_task(task.name, divided, task.settings["images"]["classes"], task.settings["model"], RECIPE)
    return made.inputs(seed)


def _chosen(parts: list[ImageRows], places: list[int]) -> ImageRows:
    """The rows of two splits at places in both together."""
    labels = torch.cat([part.labels for part in parts])[places]
    pixels = [part.pixels for part in parts]
    if all(isinstance(part, Tensor) for part in pixels):
        return ImageRows(torch.cat(pixels)[places], labels, "")  # type: ignore[arg-type]
    return ImageRows(_Places(pixels, places), labels, "")


class _Places(Sequence[Tensor]):
    """Images at places in several sequences together, read whenever they are needed."""

    def __init__(self, parts: Sequence[Sequence[Tensor] | Tensor], places: Sequence[int]) -> None:
        self.places = places
        self.found = [(part, row) for part in parts for row in range(len(part))]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, row: Any) -> Any:
        part, place = self.found[self.places[row]]
        return part[place]
