"""Token ids of rows, computed once and then read from the cache of `datasets` by any process."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from importlib.metadata import version
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from datasets.config import HF_DATASETS_CACHE
from transformers import PreTrainedTokenizerBase

from hf_elmix.errors import UsageError
from hf_elmix.text.rows import digest
from hf_elmix.text.tasks import TextTask

__all__ = ["count_tokens", "tokenise"]

SOFTWARE = ("datasets", "tokenizers", "transformers")
LAST_CALL = ("truncation", "padding")  # state of a tokenizer's last call, not part of its definition


def tokenise(
    rows: DatasetDict, task: TextTask, tokenizer: PreTrainedTokenizerBase, max_length: int, *, in_memory: bool = False
) -> DatasetDict:
    """Tokenise the text of each row without padding; only the model's inputs and any labels are kept.

    Args:
        rows: The splits.
        task: The task, which names the text columns.
        tokenizer: The tokenizer.
        max_length: Tokens to which a row is truncated.
        in_memory: Hold the tokens in memory, so that a pickle contains them rather than the path of a file.

    Raises:
        UsageError: If the length is below 1.
    """
    if max_length < 1:
        raise UsageError(f"Expected --max_seq_length to be 1 or more, but got {max_length}.")
    paths = {split: str(_tokenised(part, task, tokenizer, max_length)) for split, part in rows.items()}
    return DatasetDict({split: Dataset.from_file(path, in_memory=in_memory) for split, path in paths.items()})


def count_tokens(rows: Dataset) -> int:
    """Number of tokens in all rows together."""
    ids = rows.with_format("arrow")[:].column("input_ids")
    return sum(len(chunk.flatten()) for chunk in ids.chunks)


def _tokenised(rows: Dataset, task: TextTask, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Path:
    """The cached file with the tokens of some rows, which is written if it does not exist or is damaged."""
    software = {name: version(name) for name in SOFTWARE}
    labels = repr(rows.features.get("label"))
    contents = [software, digest(rows, task), labels, task.columns, max_length, _definition(tokenizer)]
    name = hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:32]
    path = Path(HF_DATASETS_CACHE, "hf_elmix", f"{name}.arrow")
    if _is_whole(path, len(rows)):
        return path

    def encode(batch: dict[str, list[Any]]) -> dict[str, Any]:
        return dict(tokenizer(*(batch[column] for column in task.columns), truncation=True, max_length=max_length))

    path.parent.mkdir(parents=True, exist_ok=True)
    # Written under another name first, so that an interruption or another process does no harm.
    draft = path.with_name(f"{name}-{uuid.uuid4().hex}.arrow")
    drop = [column for column in rows.column_names if column != "label"]
    try:
        # The name stands for the contents, so `datasets` need not compute a fingerprint.
        rows.map(encode, batched=True, remove_columns=drop, cache_file_name=str(draft), new_fingerprint=name)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def _definition(tokenizer: PreTrainedTokenizerBase) -> list[Any]:
    """The rules of a tokenizer as JSON values, which are equal for equal tokenizers in any process."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # a tokenizer written in Python may keep its rules anywhere, so it never equals another
        return [uuid.uuid4().hex]
    rules = {name: value for name, value in json.loads(backend.to_str()).items() if name not in LAST_CALL}
    return [type(tokenizer).__qualname__, rules, tokenizer.model_input_names, tokenizer.truncation_side]


def _is_whole(path: Path, count: int) -> bool:
    try:
        rows = Dataset.from_file(str(path))
        rows.data.table.validate(full=True)
    except Exception:  # it does not exist or is damaged, which shows in many ways
        return False
    return len(rows) == count
