"""Rows of the seven generated tasks: which recipe serves which task, and in which shares its rows come.

The samples that the mixed loss is about are put in on purpose, and named: an *ambiguous* row supports two labels and
carries one of them by chance, a *mislabelled* row carries a wrong one. Both occur in training only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from zlib import crc32

from glue_runs.pocket.pairs import (
    TOWN,
    answer,
    duplicate,
    entailment,
    hedged,
    hedged_answer,
    inference,
    paraphrase,
    vaguer_question,
    vaguer_statement,
)
from glue_runs.pocket.single import acceptability, sentiment, split_agreement, split_opinion
from glue_runs.tasks import TASKS

__all__ = ["AMBIGUOUS", "HARD", "KINDS", "MISLABELLED", "RECIPES", "Recipe", "Row", "held_out", "make_rows"]

HARD = 0.4
"""Share of hard rows among those that are not ambiguous, in training and in validation."""
AMBIGUOUS = 0.10
"""Share of training rows that support two labels."""
MISLABELLED = 0.05
"""Share of training rows that carry a wrong label."""
KINDS = ("clean", "ambiguous", "mislabelled")

Texts = tuple[str, ...]
_PATIENCE = 10_000


@dataclass(frozen=True)
class Row:
    """One sample.

    Attributes:
        texts: The task's text columns, in the task's order.
        label: Id of the label that the row carries.
        idx: Position in its split, from 0.
        kind: ``"clean"``, ``"ambiguous"`` or ``"mislabelled"``.
        difficulty: ``"easy"`` or ``"hard"``; an ambiguous row is hard.
    """

    texts: Texts
    label: int
    idx: int
    kind: str
    difficulty: str


@dataclass(frozen=True)
class Recipe:
    """How the rows of a task are made.

    Attributes:
        clean: Makes the texts that a label is true of, easy or hard.
        ambiguous: Makes texts that two labels can be claimed for.
        torn: Names of these two labels.
    """

    clean: Callable[[Random, str, bool], Texts]
    ambiguous: Callable[[Random], Texts]
    torn: tuple[str, str]


RECIPES: dict[str, Recipe] = {
    "cola": Recipe(acceptability, split_agreement, ("unacceptable", "acceptable")),
    "sst2": Recipe(sentiment, split_opinion, ("negative", "positive")),
    "mrpc": Recipe(paraphrase, vaguer_statement, ("not_equivalent", "equivalent")),
    "qqp": Recipe(duplicate, vaguer_question, ("not_duplicate", "duplicate")),
    "mnli": Recipe(inference, hedged, ("entailment", "neutral")),
    "qnli": Recipe(answer, hedged_answer, ("entailment", "not_entailment")),
    "rte": Recipe(entailment, hedged, ("entailment", "not_entailment")),
}


def held_out(texts: Texts) -> bool:
    """Whether these texts are kept for validation: one eighth of all texts, chosen by their checksum.

    Training rows and the encoder's pre-training text take only the others, whatever the seed, so that neither ever
    meets a validation row.
    """
    return crc32("\n".join(texts).encode()) % 8 == 0


def make_rows(task: str, split: str, size: int, seed: int = 0) -> list[Row]:
    """Generate one split of one task; no two of its rows have the same texts.

    Args:
        task: Name of a task in ``glue_runs.tasks.TASKS``.
        split: ``"train"`` or one of the task's evaluation splits.
        size: How many rows.
        seed: The same seed gives the same rows in any process.

    Raises:
        KeyError: If there is no such task.
        ValueError: If the task has no such split.
    """
    splits = ("train", *TASKS[task].splits)
    if split not in splits:
        raise ValueError(f"{task} has the splits {', '.join(splits)}; got {split!r}")
    rng = Random(f"{seed}/{task}/{split}")
    recipe, labels = _recipe(task, split), TASKS[task].labels
    seen: set[Texts] = set()
    rows = []
    for idx, slot in enumerate(_plan(rng, size, labels, training=split == "train")):
        texts = _unseen(partial(_texts, rng, recipe, slot), seen, validation=split != "train")
        label = labels.index(_carried(rng, recipe, labels, slot))
        rows.append(Row(texts, label, idx, slot.kind, "hard" if slot.hard else "easy"))
    return rows


@dataclass(frozen=True)
class _Slot:
    kind: str
    hard: bool
    truth: str


def _recipe(task: str, split: str) -> Recipe:
    recipe = RECIPES[task]
    return replace(recipe, clean=partial(inference, things=TOWN)) if split == "validation_mismatched" else recipe


def _plan(rng: Random, size: int, labels: tuple[str, ...], training: bool) -> list[_Slot]:
    ambiguous, mislabelled = (round(share * size) if training else 0 for share in (AMBIGUOUS, MISLABELLED))
    others = size - ambiguous
    hard = [place < round(HARD * others) for place in range(others)]
    rng.shuffle(hard)
    kinds = ["ambiguous"] * ambiguous + ["mislabelled"] * mislabelled + ["clean"] * (others - mislabelled)
    truths = [labels[place % len(labels)] for place in range(size)]
    slots = [_Slot(*parts) for parts in zip(kinds, [True] * ambiguous + hard, truths, strict=True)]
    rng.shuffle(slots)
    return slots


def _texts(rng: Random, recipe: Recipe, slot: _Slot) -> Texts:
    return recipe.ambiguous(rng) if slot.kind == "ambiguous" else recipe.clean(rng, slot.truth, slot.hard)


def _carried(rng: Random, recipe: Recipe, labels: tuple[str, ...], slot: _Slot) -> str:
    if slot.kind == "ambiguous":
        return rng.choice(recipe.torn)
    wrong = [label for label in labels if label != slot.truth]
    return rng.choice(wrong) if slot.kind == "mislabelled" else slot.truth


def _unseen(draw: Callable[[], Texts], seen: set[Texts], validation: bool) -> Texts:
    for _ in range(_PATIENCE):
        texts = draw()
        if texts not in seen and held_out(texts) == validation:
            seen.add(texts)
            return texts
    raise ValueError(f"the grammar has run out of new sentences after {len(seen)} rows; ask for fewer")
