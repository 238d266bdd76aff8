"""Read reviews: texts with a class each, divided into splits, as token ids of a vocabulary from the training rows."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from datasets import Dataset, DatasetDict
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.trainers import WordLevelTrainer
from torch.utils import data as torch_data
from transformers import PreTrainedTokenizerFast

from hf_elmix.comparison.split import hold_out
from hf_elmix.errors import UsageError
from hf_elmix.reviews.models import PAD
from hf_elmix.reviews.protocol import HELD_OUT, LABEL_COLUMN, LEAST_COUNT, MAX_LENGTH, TEXT_COLUMN
from hf_elmix.text.custom import custom_task
from hf_elmix.text.files import READERS, read_files
from hf_elmix.text.rows import digest, read_dataset, revision

__all__ = ["Reviews", "Rows", "read_reviews"]

SPLITS = ("train", "validation", "test")
PAD_TOKEN, UNKNOWN_TOKEN = "[PAD]", "[UNK]"


class Rows(torch_data.Dataset[dict[str, Any]]):
    """Rows of a split for a Trainer: token ids and a class id each."""

    def __init__(self, tokens: list[list[int]], labels: list[int]) -> None:
        self.tokens, self.labels = tokens, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"input_ids": self.tokens[row], "labels": self.labels[row]}


@dataclass(frozen=True)
class Reviews:
    """Reviews, ready for a model.

    Attributes:
        name: The file or dataset, without its configuration.
        config: The configuration of the dataset, if it has several.
        rows: By split.
        classes: Names of the classes in the order of their ids.
        tokenizer: Its vocabulary are the words of the training rows.
        digests: A fingerprint of the texts and labels of each split.
        revision: The commit of the dataset on the Hub, None for files.
    """

    name: str
    config: str | None
    rows: dict[str, Rows]
    classes: tuple[str, ...]
    tokenizer: PreTrainedTokenizerFast
    digests: dict[str, str]
    revision: str | None


def read_reviews(
    data: str,
    config: str | None = None,
    *,
    text_column: str = TEXT_COLUMN,
    label_column: str = LABEL_COLUMN,
    max_length: int = MAX_LENGTH,
) -> Reviews:
    """Read reviews and divide them.

    Args:
        data: A CSV, TSV, JSON or Parquet file, a dataset on the Hub, or a folder laid out like one. A split
            ``validation`` or ``test`` that it does not have is drawn from ``train``, with the same shares of each
            class, and always alike.
        config: Configuration of the dataset.
        text_column: The column of texts. In that of the paper's data, rows without a text are left out.
        label_column: The column of classes.
        max_length: Words that are read of a review.

    Raises:
        UsageError: If there are no such rows or columns, a text or a label is missing, labels are no classes, there is
            only one class, or a class has too few rows to be in every split.
    """
    path = Path(data).expanduser()
    is_file = path.is_file() or path.suffix.lower() in READERS
    given = read_files({"train": data}) if is_file and config is None else read_dataset(data, config)
    rows = DatasetDict({split: given[split] for split in SPLITS if split in given})
    if "train" not in rows:
        raise UsageError(f"Expected {data!r} to have the split 'train', but it has {', '.join(map(str, given))}.")
    rows = DatasetDict({split: _with_text(part, text_column, split, data) for split, part in rows.items()})
    evaluated = tuple(split for split in rows if split != "train")
    task, rows = custom_task(
        rows, repr(data), splits=evaluated, test_splits=(), text_columns=text_column, label_column=label_column
    )
    if task.regression:
        raise UsageError(f"Expected classes as labels of {data!r}, but got numbers. Write text or whole numbers.")
    parts = _divided(rows, data)
    texts = {split: list(part[task.columns[0]]) for split, part in parts.items()}
    tokenizer, tokens = _tokenised(texts, data, max_length)
    return Reviews(
        data,
        config,
        {split: Rows(tokens[split], list(part["label"])) for split, part in parts.items()},
        task.labels,
        tokenizer,
        {split: digest(part, task) for split, part in parts.items()},
        revision(given["train"]),
    )


def _with_text(rows: Dataset, column: str, split: str, name: str) -> Dataset:
    """The rows with a text; in another column than that of the paper's data each row must have one."""
    if column not in rows.column_names:
        raise UsageError(
            f"Expected a column {column!r} in {name!r}, but it has {', '.join(rows.column_names)}. Name the column of "
            "texts with --text_column_name."
        )
    texts = rows.with_format("arrow")[:][column]
    missing = pc.indices_nonzero(pc.is_null(texts)).to_pylist()
    if not missing:
        return rows
    if column == TEXT_COLUMN:
        print(f"{len(missing):,} of {len(rows):,} rows have no text and are left out.", file=sys.stderr)
        kept = rows.with_format("arrow")[:].filter(pc.is_valid(texts))
        return Dataset(kept, info=rows.info, split=rows.split)
    raise UsageError(_without_text(split, name, missing))


def _without_text(split: str, name: str, missing: list[int]) -> str:
    return (
        f"Expected a text in each row of split {split!r} of {name!r}, but row {missing[0]} has none "
        f"({len(missing)} such rows). Leave them out of the data."
    )


def _divided(rows: DatasetDict, name: str) -> DatasetDict:
    """The three splits; those that are not given are drawn from the training rows."""
    size = round(HELD_OUT * len(rows["train"]))
    for seed, split in enumerate(split for split in SPLITS if split not in rows):
        if not size:
            raise UsageError(f"Expected 10 rows or more in {name!r}, to draw {split} rows, but got fewer.")
        rows["train"], rows[split] = hold_out(rows["train"], size, seed)
    return DatasetDict({split: rows[split] for split in SPLITS})


def _tokenised(
    texts: Mapping[str, list[str]], name: str, max_length: int
) -> tuple[PreTrainedTokenizerFast, dict[str, list[list[int]]]]:
    """A tokenizer with the vocabulary of the training rows, and the token ids of each row by split."""
    tokenizer = Tokenizer(WordLevel(unk_token=UNKNOWN_TOKEN))
    tokenizer.normalizer, tokenizer.pre_tokenizer = Lowercase(), Whitespace()  # words, and runs of other characters
    special: dict[str, Any] = {"special_tokens": [PAD_TOKEN, UNKNOWN_TOKEN], "show_progress": False}
    trainer = WordLevelTrainer(vocab_size=2**31 - 1, min_frequency=LEAST_COUNT, **special)
    tokenizer.train_from_iterator(texts["train"], trainer)
    assert tokenizer.token_to_id(PAD_TOKEN) == PAD, "special tokens have the first ids"
    tokenizer.enable_truncation(max_length)
    tokens = {split: [encoding.ids for encoding in tokenizer.encode_batch(own)] for split, own in texts.items()}
    for split, rows in tokens.items():
        if empty := [row for row, ids in enumerate(rows) if not ids]:
            raise UsageError(_without_text(split, name, empty))
    inputs = {"pad_token": PAD_TOKEN, "unk_token": UNKNOWN_TOKEN, "model_input_names": ["input_ids"]}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length, **inputs), tokens
