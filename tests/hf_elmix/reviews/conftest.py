from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hf_elmix.reviews.data import Reviews, read_reviews

WORDS = {"good": ("lovely", "soft", "perfect", "great"), "bad": ("itchy", "torn", "cheap", "awful")}


@pytest.fixture(scope="session")
def frame() -> pd.DataFrame:
    """120 reviews of two classes, of 2 to 9 words; the first word tells the class."""
    rng = np.random.default_rng(0)
    labels = ["good", "bad"] * 60
    rest = [rng.choice(["it", "fits", "the", "dress"], rng.integers(1, 9)) for _ in labels]
    texts = [" ".join([rng.choice(WORDS[label]), *words]) for label, words in zip(labels, rest, strict=True)]
    return pd.DataFrame({"text": texts, "label": labels})


@pytest.fixture(scope="session")
def reviews_file(frame, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("reviews") / "mine.csv"
    frame.to_csv(path, index=False)
    return path


@pytest.fixture(scope="session")
def reviews(reviews_file) -> Reviews:
    return read_reviews(str(reviews_file), text_column="text", label_column="label")
