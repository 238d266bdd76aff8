"""Rows that took time to make, kept in the cache of `datasets` for every process and every session after."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from datasets import Dataset
from datasets.config import HF_DATASETS_CACHE
from transformers import PreTrainedTokenizerBase

__all__ = ["identity", "in_memory", "kept", "name_of"]

# The state of a tokenizer's last call, which is no part of what it is.
LAST_CALL = ("truncation", "padding")


def kept(name: str, count: int, make: Callable[[str], Dataset]) -> Dataset:
    """The rows kept under a name; they are made where there are none, or no whole file.

    Args:
        name: Stands for the contents (see `name_of`).
        count: How many rows there must be.
        make: Given the path of a file that it writes, makes the rows.
    """
    path = Path(HF_DATASETS_CACHE, "glue_runs", f"{name}.arrow")
    found = _read(path, count)
    if found is not None:
        return found
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written under another name first: one that stops on the way, or works beside this one, does no harm.
    draft = path.with_name(f"{name}-{uuid.uuid4().hex}.arrow")
    try:
        make(str(draft))
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return Dataset.from_file(str(path))


def in_memory(rows: Dataset) -> Dataset:
    """The same rows in memory: pickled, they take their contents along, and not the path of a file."""
    (file,) = rows.cache_files
    return Dataset.from_file(file["filename"], in_memory=True)


def name_of(*parts: Any) -> str:
    """A name for what is made of these parts, plain JSON values, with the software that is installed."""
    software = {name: version(name) for name in ("datasets", "tokenizers", "transformers")}
    return hashlib.sha256(json.dumps([software, *parts]).encode()).hexdigest()[:32]


def identity(tokenizer: PreTrainedTokenizerBase) -> list[Any]:
    """What a tokenizer does, as plain JSON values: equal for equal tokenizers, in any process."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # one written in Python may keep its rules anywhere: it is never taken for another
        return [uuid.uuid4().hex]
    rules = {name: value for name, value in json.loads(backend.to_str()).items() if name not in LAST_CALL}
    return [type(tokenizer).__qualname__, rules, tokenizer.model_input_names, tokenizer.truncation_side]


def _read(path: Path, count: int) -> Dataset | None:
    try:
        rows = Dataset.from_file(str(path))
        rows.data.table.validate(full=True)
    except Exception:  # There is none, or it is damaged; what is wrong with it shows in many ways.
        return None
    return rows if len(rows) == count else None
