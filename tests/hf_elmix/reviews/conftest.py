from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hf_elmix.reviews.data import Reviews, read_reviews

PRAISE, BLAME = ("lovely", "soft", "perfect", "great"), ("itchy", "torn", "cheap", "awful")


def reviews_frame(count: int = 120) -> pd.DataFrame:
    """Reviews of two classes, of 2 to 9 words; praise or blame is the first word."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    texts = [
        " ".join([rng.choice(PRAISE if label else BLAME), *rng.choice(["it", "fits", "the", "dress"], rng.integers(1, 9))])
        for label in labels
    ]
    return pd.DataFrame({"text": texts, "label": np.where(labels, "good", "bad")})


@pytest.fixture(scope="session")
def reviews_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("reviews") / "mine.csv"
    reviews_frame().to_csv(path, index=False)
    return path


@pytest.fixture(scope="session")
def reviews(reviews_file) -> Reviews:
    return read_reviews(str(reviews_file), text_column="text", label_column="label")
