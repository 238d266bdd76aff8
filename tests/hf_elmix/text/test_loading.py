from __future__ import annotations

import errno
import os

import pytest

from hf_elmix.errors import UsageError
from hf_elmix.text import loading as module
from hf_elmix.text.loading import loading


@pytest.mark.parametrize(
    ("error", "place"),
    [
        (errno.EACCES, "/home/me/.cache/huggingface/datasets"),
        (errno.EROFS, "/home/me/.cache/huggingface"),
        (errno.ENOENT, "/home/me"),
        (errno.ENOTDIR, "/home/me/.cache"),
    ],
)
def test_a_home_folder_that_cannot_be_written_is_named(error, place, monkeypatch):
    monkeypatch.setattr(module, "HF_HOME", "/home/me/.cache/huggingface")
    with pytest.raises(UsageError, match="HF_HOME to a folder that can be written to"), loading("'a'", "Expected b."):
        raise OSError(error, os.strerror(error), place)


@pytest.mark.parametrize(
    "error",
    [FileNotFoundError(errno.ENOENT, "none", "/data/a.csv"), RuntimeError("x"), StopIteration(), KeyError("x")],
)
def test_any_other_error_says_what_was_expected(error):
    with pytest.raises(UsageError, match=r"Cannot load 'a': .* Expected b\.$"), loading("'a'", "Expected b."):
        raise error


def test_an_error_that_has_been_explained_stays():
    with pytest.raises(UsageError, match="^Expected c.$"), loading("'a'", "Expected b."):
        raise UsageError("Expected c.")
