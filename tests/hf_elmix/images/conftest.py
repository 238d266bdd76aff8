"""Small generated images."""

from __future__ import annotations

import io

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from PIL import Image as PillowImage


def png(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """Pixels (H, W, 3) or (H, W), uint8, as a file."""
    file = io.BytesIO()
    PillowImage.fromarray(pixels).save(file, kind)
    return file.getvalue()


def generated(rows: int, size: int = 16, seed: int = 0) -> Dataset:
    """Images of three classes, each with a colour of its own."""
    rng = np.random.default_rng(seed)
    labels = [row % 3 for row in range(rows)]
    pixels = [rng.integers(0, 120, (size, size, 3), dtype=np.uint8) for _ in labels]
    for label, image in zip(labels, pixels, strict=True):
        image[..., label] += 100
    cells = [{"bytes": png(image), "path": None} for image in pixels]
    features = Features({"image": Image(), "label": ClassLabel(names=["red", "green", "blue"])})
    return Dataset.from_dict({"image": cells, "label": labels}, features=features)


@pytest.fixture(scope="session")
def dataset() -> DatasetDict:
    """40 images to train on and 9 to evaluate, 16 x 16 pixels."""
    return DatasetDict({"train": generated(40), "test": generated(9, seed=1)})
