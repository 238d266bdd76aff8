"""Token ids of rows, computed once and then read from the cache of `datasets` by any process."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from datasets.config import HF_DATASETS_CACHE
from transformers import PreTrainedTokenizerBase

from hf_elmix.errors import UsageError, in_one_line
from hf_elmix.text.rows import digest
from hf_elmix.text.tasks import TextTask

__all__ = ["count_tokens", "tokenise"]

SOFTWARE = ("datasets", "tokenizers", "transformers")
LAST_CALL = ("truncation", "padding")  # state of a tokenizer's last call, not part of its definition
SAMPLE = 1000  # rows of each split in which unknown tokens are counted
REFUSED, WARNED = 0.9, 0.05  # shares of unknown tokens; an empty vocabulary has 1


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
        UsageError: If the length leaves no token for a text, or the tokenizer does not know the words of a split.
    """
    added = tokenizer.num_special_tokens_to_add(pair=len(task.columns) == 2)
    if max_length <= added:
        marks = f", of which {added} mark the ends of texts" if added else ""
        raise UsageError(f"Expected --max_seq_length to be {added + 1} or more{marks}, but got {max_length}.")
    for split, part in rows.items():
        _check_vocabulary(part, split, task, tokenizer, max_length)
    paths = {split: str(_tokenised(part, task, tokenizer, max_length)) for split, part in rows.items()}
    return DatasetDict({split: Dataset.from_file(path, in_memory=in_memory) for split, path in paths.items()})


def count_tokens(rows: Dataset) -> int:
    """Number of tokens in all rows together."""
    ids = rows.with_format("arrow")[:].column("input_ids")
    return sum(len(chunk.flatten()) for chunk in ids.chunks)


def _check_vocabulary(
    rows: Dataset, split: str, task: TextTask, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> None:
    """Refuse a tokenizer that does not know the words of the first rows, and warn if it does not know some.

    For a model without a tokenizer, transformers makes one with an empty vocabulary: each word is unknown or, in
    byte-level tokenizers, no token at all.
    """
    texts = [text for column in task.columns for text in rows[column][:SAMPLE] if text.strip()]
    name = tokenizer.name_or_path
    try:
        options: dict[str, Any] = {"add_special_tokens": False, "truncation": True, "max_length": max_length}
        found = tokenizer(texts, **options)["input_ids"] if texts else []
    except Exception as error:  # the base class is what `tokenizers` raises
        raise UsageError(
            f"Cannot tokenise the split {split!r} with the tokenizer of {name!r}: {in_one_line(error)}"
        ) from error
    blank = tokenizer.convert_tokens_to_ids("▁")  # what T5's tokenizer puts before each word, known or not
    ignored = {blank} - {tokenizer.unk_token_id}
    tokens = [token for ids in found for token in ids or [None] if token not in ignored]
    share = sum(token in (None, tokenizer.unk_token_id) for token in tokens) / max(len(tokens), 1)
    if share <= WARNED:
        return
    unknown = f"{share:.0%} of the tokens in the split {split!r} (first {min(SAMPLE, len(rows)):,} rows) are unknown"
    if share < REFUSED:
        warnings.warn(f"{unknown} to the tokenizer of {name!r}: it may be that of another language.", stacklevel=3)
        return
    raise UsageError(
        f"Expected the tokenizer of {name!r} to know the words of the data, but {unknown} to it, so the model cannot "
        "distinguish texts. Check that the model has its tokenizer's files, such as tokenizer.json, and that both are "
        "for the language of the data."
    )


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
