"""Read images: a dataset with a column of them and a column of classes, decoded once if they fit in memory."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict, Image
from PIL import Image as PillowImage
from PIL import ImageOps, UnidentifiedImageError
from torch import Tensor
from tqdm.auto import tqdm

from hf_elmix.columns import find_label
from hf_elmix.comparison.split import HELD_OUT, hold_out
from hf_elmix.errors import UsageError, in_one_line
from hf_elmix.text.labels import class_names, with_ids

__all__ = ["ImageRows", "Images", "image_sizes", "labelled_rows", "read_image_rows", "read_images"]

EVALUATION = ("validation", "valid", "val", "test")
MEMORY = 4 * 2**30  # bytes of images that are decoded once; more are decoded whenever they are needed
HELD = "held out"  # split of the training rows that are held out where there is no other
TOGETHER = 500  # rows that are read from the file together
SAMPLE = 64  # images from whose size that of all of them is estimated


@dataclass(frozen=True)
class ImageRows:
    """Images of one split, and their classes.

    Attributes:
        pixels: Each uint8, (3, H, W), in RGB; one tensor (rows, 3, H, W) if they have one size and fit in memory.
        labels: Class ids, (rows,), int64.
        digest: A fingerprint of both.
    """

    pixels: Sequence[Tensor] | Tensor
    labels: Tensor
    digest: str

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Images:
    """A dataset of images.

    Attributes:
        name: Its name.
        train: The training rows.
        evaluation: The rows to score.
        split: Name of the split of the rows to score.
        classes: Names of the classes in the order of their ids.
    """

    name: str
    train: ImageRows
    evaluation: ImageRows
    split: str
    classes: tuple[str, ...]


def read_images(
    rows: DatasetDict,
    name: str,
    *,
    split: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    size: int | None = None,
) -> Images:
    """The images and classes of a dataset.

    Args:
        rows: Its splits, as `hf_elmix.text.rows.read_dataset` reads them: ``train``, and one to score.
        name: What to call it.
        split: The split to score; by default ``validation``, ``valid``, ``val`` or ``test``, and if there is none, a
            fifth of the training rows, always the same.
        image_column: The column of images; by default the one that is declared to hold some.
        label_column: The column of classes; by default ``label``, ``labels`` or ``fine_label``.
        size: Reduce or enlarge images so that their shorter side has this many pixels, and keep the central square.

    Raises:
        UsageError: If a split or a column is missing, a label is missing or unknown, there is only one class, or a
            image cannot be decoded.
    """
    if "train" not in rows:
        raise UsageError(f"Expected {name} to have the split 'train', but it has only {', '.join(rows)}.")
    if split is not None and (split not in rows or split == "train"):
        others = ", ".join(each for each in rows if each != "train") or "none besides train"
        raise UsageError(f"Expected a split of {name} to score, but got {split!r}. It has {others}.")
    split = split or next((each for each in EVALUATION if each in rows), None)
    chosen = DatasetDict({each: rows[each] for each in ("train", split) if each is not None})
    parts, classes = labelled_rows(chosen, name, image_column=image_column, label_column=label_column)
    if split is None:
        split = HELD
        parts["train"], parts[split] = hold_out(parts["train"], HELD_OUT, seed=0)
    read = read_image_rows(parts, name, size)
    return Images(name, read["train"], read[split], split, classes)


def labelled_rows(
    rows: DatasetDict, name: str, *, image_column: str | None = None, label_column: str | None = None
) -> tuple[DatasetDict, tuple[str, ...]]:
    """The splits with only the columns ``image``, not decoded, and ``label``, with class ids; and the classes' names.

    Args:
        rows: The splits, with ``train`` among them.
        name: What to call them.
        image_column: See `read_images`.
        label_column: See `read_images`.

    Raises:
        UsageError: If a column is missing, a label is missing or unknown, or there is only one class.
    """
    train = rows["train"]
    images, labels = _image_column(train, image_column, name), find_label(train, label_column, name)
    if images == labels:
        raise UsageError(f"Expected images and labels in different columns, but {labels!r} is given for both.")
    classes = class_names(train, labels, f"split 'train' of {name}")
    if not classes:
        raise UsageError(f"Expected classes in the column {labels!r} of {name}, but it holds numbers.")
    parts = DatasetDict(
        {each: _labelled(part, images, labels, classes, _where(each, name)) for each, part in rows.items()}
    )
    found = set(parts["train"]["label"])
    if len(found) < 2:
        raise UsageError(f"Expected two classes or more in {name}, but all rows are of {classes[min(found)]!r}.")
    return parts, classes


def read_image_rows(rows: DatasetDict, name: str, size: int | None) -> dict[str, ImageRows]:
    """The images of each split of `labelled_rows`; for the arguments see `read_images`.

    Raises:
        UsageError: If an image cannot be decoded.
    """
    return {each: _image_rows(part, _where(each, name), size) for each, part in rows.items()}


def image_sizes(rows: Dataset, name: str) -> set[tuple[int, int]]:
    """Height and width of some images of `labelled_rows`."""
    decoded = _Decoded(rows, name, None)
    shapes = (decoded[row].shape for row in range(0, len(rows), max(1, len(rows) // SAMPLE)))
    return {(shape[1], shape[2]) for shape in shapes}


def decode(data: bytes, size: int | None = None) -> Tensor:
    """An image in RGB, uint8 (3, H, W), upright, without transparency; see `read_images` for its size."""
    with PillowImage.open(io.BytesIO(data)) as opened, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of details of the file that have no influence here
        image: Any = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut off at 255
            image = PillowImage.fromarray((np.asarray(image, np.int64).clip(0, 65535) >> 8).astype(np.uint8))
        if "transparency" in image.info:
            image = image.convert("RGBA")
        image = image.convert("RGB")
        if size is not None and image.size != (size, size):
            image = ImageOps.fit(image, (size, size), PillowImage.Resampling.BILINEAR)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


class _Decoded(Sequence[Tensor]):
    """Images that are decoded whenever they are needed, or in order."""

    def __init__(self, rows: Dataset, where: str, size: int | None) -> None:
        self.rows, self.where, self.size = rows, where, size

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: Any) -> Any:
        found = self.rows[row]
        return self._decode(found["row"], found["image"])

    def __iter__(self) -> Iterator[Tensor]:
        for start in range(0, len(self), TOGETHER):
            found = self.rows[start : start + TOGETHER]
            yield from map(self._decode, found["row"], found["image"])

    def files(self) -> Iterator[bytes]:
        """What identifies each image without decoding it: its bytes, or its path, size and time of change."""
        for start in range(0, len(self), TOGETHER):
            for cell in self.rows[start : start + TOGETHER]["image"]:
                yield cell["bytes"] or repr((cell["path"], Path(cell["path"]).stat()[-4:])).encode()

    def _decode(self, row: int, cell: Any) -> Tensor:
        try:
            if cell is None:
                raise ValueError("it is missing.")
            return decode(cell["bytes"] or Path(cell["path"]).read_bytes(), self.size)
        except Exception as error:  # Pillow raises errors of any type
            what = "it is not an image." if isinstance(error, UnidentifiedImageError) else in_one_line(error)
            path = cell.get("path") if cell else None
            raise UsageError(
                f"Cannot read the image in row {row}{f' ({path})' if path else ''} of {self.where}: {what} Replace "
                "it, or leave the row out."
            ) from error


def _where(split: str, name: str) -> str:
    return f"split {('train' if split == HELD else split)!r} of {name}"


def _image_column(rows: Dataset, given: str | None, name: str) -> str:
    if given is not None and given not in rows.column_names:
        raise UsageError(f"Expected a column {given!r} in {name}, but it has {', '.join(rows.column_names)}.")
    found = [column for column, feature in rows.features.items() if isinstance(feature, Image)]
    wanted = found if given is None else [column for column in found if column == given]
    if len(wanted) != 1:
        raise UsageError(
            f"Expected one column of images in {name}, but it has {', '.join(found) or 'none'} (all columns: "
            f"{', '.join(rows.column_names)}). Name it with --image_column_name."
        )
    return wanted[0]


def _labelled(rows: Dataset, images: str, labels: str, classes: Sequence[str], where: str) -> Dataset:
    """The rows with only the columns ``image``, not decoded, ``label``, with class ids, and ``row``, their numbers."""
    if not len(rows):
        raise UsageError(f"Expected rows in {where}, but it is empty.")
    for column in (images, labels):
        if column not in rows.column_names:
            raise UsageError(f"Expected a column {column!r} in {where}, but it has {', '.join(rows.column_names)}.")
    kept = rows.select_columns([images, labels]).cast_column(images, Image(decode=False))
    kept = with_ids(kept.rename_columns({images: "image", labels: "label"}), "label", classes, where)
    return kept.add_column("row", list(range(len(rows))))


def _image_rows(rows: Dataset, where: str, size: int | None) -> ImageRows:
    decoded = _Decoded(rows, where, size)
    labels = torch.tensor(rows["label"][:])
    sample = [decoded[row].numel() for row in range(0, len(rows), max(1, len(rows) // SAMPLE))]
    if np.mean(sample) * len(rows) > MEMORY:
        return ImageRows(decoded, labels, _digest(labels, decoded.files()))
    shown = tqdm(decoded, f"Decoding {where}", unit=" images", leave=False, disable=None, delay=1.0)
    pixels: Sequence[Tensor] | Tensor = list(shown)
    if len({image.shape for image in pixels}) == 1:
        pixels = torch.stack(list(pixels))
    return ImageRows(pixels, labels, _digest(labels, (image.numpy().tobytes() for image in pixels)))


def _digest(labels: Tensor, images: Iterator[bytes] | Sequence[bytes]) -> str:
    state = hashlib.sha256(labels.numpy().tobytes())
    for image in images:
        state.update(image)
    return state.hexdigest()[:16]
