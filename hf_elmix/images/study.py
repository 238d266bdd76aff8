"""Images as tasks of a study: rows, an untrained classifier, and everything that a record must state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from fractions import Fraction
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainerCallback, TrainerState, TrainingArguments

from hf_elmix.errors import UsageError
from hf_elmix.images.augmentation import augment, centre, draw, erase
from hf_elmix.images.data import ImageRows, Images
from hf_elmix.images.models import ImageClassifier
from hf_elmix.images.recipes import Recipe
from hf_elmix.losses.registry import expand_losses
from hf_elmix.study.models import accuracy, predicted
from hf_elmix.study.spec import Method, Select, Study, Task, TrainerInputs

__all__ = ["RecipeCallback", "Rows", "image_task", "images_study"]

LARGE = 10**6  # parameters above which a recipe turns images: paper, Recognition in CIFAR100 and CINIC10
SAMPLE = 10_000  # training images whose mean and standard deviation normalize all
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and standard deviation in PyTorch's script


class Rows(Dataset[dict[str, Any]]):
    """Normalized images for a Trainer, (3, H, W) and a class id each, read a batch at a time.

    Args:
        images: The images.
        recipe: How to change them.
        scale: Mean and standard deviation of each channel, of pixels in [0, 1].
        seed: Training images are changed at random by this seed and their epoch; None for rows to evaluate.
    """

    def __init__(self, images: ImageRows, recipe: Recipe, scale: Sequence[Sequence[float]], seed: int | None) -> None:
        self.images, self.recipe, self.seed = images, recipe, seed
        self.mean, self.spread = (255 * torch.tensor(part)[:, None, None] for part in scale)
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # with processes that load rows
        self._numbers: tuple[int, Tensor] = (-1, torch.empty(0))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: list[int]) -> list[dict[str, Any]]:
        """Several rows at once, as a `DataLoader` asks for them."""
        pixels: Any = self.images.pixels
        chosen: Any = pixels[rows] if isinstance(pixels, Tensor) else [pixels[row] for row in rows]
        if not self.recipe.resized_crop and not isinstance(chosen, Tensor):
            chosen = torch.stack(chosen)
        if self.seed is not None:
            numbers = self._drawn(self.seed)[rows]
            normal = (augment(chosen, numbers, self.recipe) - self.mean) / self.spread
            normal = erase(normal, numbers, self.recipe.erasing) if self.recipe.erasing else normal
        else:
            size = self.recipe.size if self.recipe.resized_crop else None
            normal = ((chosen if size is None else centre(chosen, size)) - self.mean) / self.spread
        labels = self.images.labels[rows].tolist()
        return [{"pixel_values": x, "labels": label} for x, label in zip(normal.float(), labels, strict=True)]

    def _drawn(self, seed: int) -> Tensor:
        """The numbers of the current epoch."""
        epoch = int(self.epoch)
        if self._numbers[0] != epoch:
            self._numbers = epoch, draw(seed, epoch, len(self))
        return self._numbers[1]


class RecipeCallback(TrainerCallback):
    """Divides the learning rate by ten at the shares of a recipe, and tells the training rows their epoch.

    Args:
        rows: The training rows.
        shares: Shares of all steps after which the learning rate is divided by ten.
    """

    follows_state = True  # so a study can share training, see `hf_elmix.study.runner`

    def __init__(self, rows: Rows, shares: Iterable[Fraction]) -> None:
        self.rows, self.shares = rows, tuple(shares)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Give the scheduler of a constant learning rate the factor of each step; any other is a method's own."""

        def factor(step: int) -> float:
            return 0.1 ** sum(step >= share * state.max_steps for share in self.shares)

        if self.shares and args.lr_scheduler_type == "constant":
            scheduler = kwargs["lr_scheduler"]
            scheduler.lr_lambdas = [factor] * len(scheduler.lr_lambdas)

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Set the epoch."""
        self.rows.epoch.fill_(int(state.epoch or 0))


def images_study(
    images: Images,
    recipe: Recipe,
    seeds: Iterable[int],
    losses: Iterable[str],
    models: Iterable[str] = (),
    arguments: Mapping[str, Any] | None = None,
) -> Study:
    """The paper's study of images on one dataset, with a task for each architecture.

    Args:
        images: The dataset.
        recipe: How models are trained.
        seeds: The seeds.
        losses: The losses to compare.
        models: Names of architectures; by default those of the recipe.
        arguments: Training arguments that override the recipe's. With an ``lr_scheduler_type``, the learning rate
            follows that instead of the recipe's drops.

    Raises:
        UsageError: If a loss or an architecture does not exist, or an image is too small for it.
    """
    own = {**recipe.arguments, **(arguments or {})}
    shares = () if "lr_scheduler_type" in (arguments or {}) else recipe.shares
    parts = {"train": images.train, images.split: images.evaluation}
    tasks = [
        image_task(f"{images.name}-{model}", parts, len(images.classes), model, recipe, drops=shares)
        for model in models or recipe.models
    ]
    tasks.sort(key=lambda task: task.work)  # results come early
    return Study(tuple(tasks), tuple(map(Method, expand_losses(losses))), tuple(seeds), own)


def image_task(
    name: str,
    parts: Mapping[str, ImageRows],
    classes: int,
    model: str,
    recipe: Recipe,
    *,
    select: Select | str = "accuracy",
    drops: Sequence[Fraction] = (),
) -> Task:
    """Images and an architecture as a task.

    Args:
        name: Name of the task.
        parts: By split: ``train``, and one or more to evaluate. If these are several, `select` names one of them.
        classes: C, the number of classes.
        model: Name of the architecture.
        recipe: How training images are changed, and which regularization the model gets.
        select: Which number is the score; the only metric is ``accuracy``.
        drops: Shares of all steps after which the learning rate is divided by ten; needs a constant schedule.

    Raises:
        UsageError: If the architecture does not exist, or images have different sizes or are too small for it.
    """
    _check_sizes(parts, recipe)
    with torch.device("meta"):
        network = ImageClassifier(classes, model, not recipe.resized_crop, recipe.dropout)
    if recipe.rotation and sum(weight.numel() for weight in network.parameters()) <= LARGE:
        recipe = replace(recipe, rotation=0.0)
    shape = [3, recipe.size or 0, recipe.size or 0] if recipe.resized_crop else [*parts["train"].pixels[0].shape]
    work = _operations(network, shape, model) * len(parts["train"])
    scale = IMAGENET if recipe.resized_crop else _scale(parts["train"].pixels)
    changes = ("size", "resized_crop", "rotation", "erasing", "jitter", "dropout")
    settings = {
        "model": model,
        "images": {"classes": classes, "shape": shape, **{key: asdict(recipe)[key] for key in changes}},
        "learning_rate_drops": [str(share) for share in drops],
        "rows": {split: part.digest for split, part in parts.items()},
    }
    inputs = partial(_inputs, dict(parts), classes, model, recipe, scale, tuple(drops))
    return Task(name, select, inputs, settings, work=work)


def _inputs(
    parts: Mapping[str, ImageRows],
    classes: int,
    model: str,
    recipe: Recipe,
    scale: Sequence[Sequence[float]],
    drops: tuple[Fraction, ...],
    seed: int,
) -> TrainerInputs:
    train = Rows(parts["train"], recipe, scale, seed)
    evaluated = {split: Rows(part, recipe, scale, None) for split, part in parts.items() if split != "train"}
    trainer = {
        "model": ImageClassifier.seeded(seed, classes, model, not recipe.resized_crop, recipe.dropout),
        "train_dataset": train,
        "eval_dataset": evaluated if len(evaluated) > 1 else next(iter(evaluated.values())),
        "compute_metrics": accuracy,
        "preprocess_logits_for_metrics": predicted,
        "callbacks": [RecipeCallback(train, drops)],
    }
    return TrainerInputs(trainer, {"data_rows": {split: len(part) for split, part in parts.items()}})


def _check_sizes(parts: Mapping[str, ImageRows], recipe: Recipe) -> None:
    """Refuse images of different sizes in a recipe that leaves their size as it is."""
    if recipe.resized_crop:
        return
    pixels = [part.pixels for part in parts.values()]
    seen = [x if isinstance(x, list) else x[:1] if isinstance(x, Tensor) else _some(x) for x in pixels]
    sizes = sorted({(image.shape[2], image.shape[1]) for part in seen for image in part})
    if len(sizes) > 1:
        found = " and ".join(f"{width} x {height}" for width, height in (sizes[0], sizes[-1]))
        raise UsageError(
            f"Expected images of one size, but got {found} pixels. Type --image_size to make them square, such as "
            "--image_size 32."
        )


def _operations(network: ImageClassifier, shape: Sequence[int], model: str) -> float:
    """The arithmetic operations of a forward pass of one image."""
    counter = FlopCounterMode(display=False)
    try:
        with counter, torch.no_grad():
            network.eval()(torch.empty((1, *shape), device="meta"))
    except RuntimeError as error:
        raise UsageError(
            f"Expected images that are large enough for {model}, but they have {shape[2]} x {shape[1]} pixels. Type "
            "--image_size to enlarge them."
        ) from error
    return float(counter.get_total_flops())


def _some(pixels: Sequence[Tensor] | Tensor) -> Iterator[Tensor]:
    """At most about ten thousand of the images: enough for a mean, and quick where each must be decoded."""
    return (pixels[row] for row in range(0, len(pixels), max(1, len(pixels) // SAMPLE)))


def _scale(pixels: Sequence[Tensor] | Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of training images, of pixels in [0, 1]."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.zeros(3, 256, dtype=torch.float64)
    for image in _some(pixels):
        for channel in range(3):
            counts[channel] += torch.bincount(image[channel].flatten(), minlength=256)
    shares = counts / counts.sum(1, keepdim=True)
    mean = shares @ levels
    spread = (shares @ levels**2 - mean**2).clamp(min=0).sqrt()
    spread = torch.where(spread > 0, spread, 1.0)  # of a channel that is the same everywhere
    return tuple(mean.tolist()), tuple(spread.tolist())
