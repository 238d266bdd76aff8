"""Rows of the seven generated tasks: the recipe of each task, and the shares of its kinds of rows.

Two kinds of rows that matter to the mixed loss are included on purpose and marked: an *ambiguous* row supports two
labels and has one of them by chance, a *mislabelled* row has an incorrect one. Both occur in training only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from zlib import crc32

from glue_runs.pocket import pairs, single
from glue_runs.tasks import TASKS

__all__ = ["AMBIGUOUS", "HARD", "KINDS", "MISLABELLED", "RECIPES", "Recipe", "Row", "held_out", "make_rows"]

HARD = 0.4  # share of hard rows among those that are not ambiguous, in training and in validation
AMBIGUOUS = 0.10  # share of training rows that support two labels
MISLABELLED = 0.05  # share of training rows with an incorrect label
KINDS = ("clean", "ambiguous", "mislabelled")

Texts = tuple[str, ...]
_PATIENCE = 10_000  # draws until the grammar is taken to have no new sentence


@dataclass(frozen=True)
class Row:
    """One sample.

    Attributes:
        texts: The task's text columns, in the task's order.
        label: Id of the label.
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
    """How the rows of a task are generated.

    Attributes:
        clean: Generates easy or hard texts for a label.
        ambiguous: Generates texts that support two labels.
        candidates: Names of these two labels.
    """

    clean: Callable[[Random, str, bool], Texts]
    ambiguous: Callable[[Random], Texts]
    candidates: tuple[str, str]


RECIPES: dict[str, Recipe] = {
    "cola": Recipe(single.acceptability, single.split_agreement, ("unacceptable", "acceptable")),
    "sst2": Recipe(single.sentiment, single.split_opinion, ("negative", "positive")),
    "mrpc": Recipe(pairs.paraphrase, pairs.vaguer_statement, ("not_equivalent", "equivalent")),
    "qqp": Recipe(pairs.duplicate, pairs.vaguer_question, ("not_duplicate", "duplicate")),
    "mnli": Recipe(pairs.inference, pairs.hedged, ("entailment", "neutral")),
    "qnli": Recipe(pairs.answer, pairs.hedged_answer, ("entailment", "not_entailment")),
    "rte": Recipe(pairs.entailment, pairs.hedged, ("entailment", "not_entailment")),
}


def held_out(texts: Texts) -> bool:
    """Whether texts are reserved for validation: one eighth of all texts, chosen by their checksum.

    Training rows and the text for pre-training the encoder use only the others, whatever the seed, so that neither
    ever contains a validation row.
    """
    return crc32("\n".join(texts).encode()) % 8 == 0


def make_rows(task: str, split: str, size: int, seed: int = 0) -> list[Row]:
    """Generate one split of one task; no two of its rows have the same texts.

    Args:
        task: Name of a task in ``glue_runs.tasks.TASKS``.
        split: ``"train"`` or one of the task's evaluation splits.
        size: Number of rows.
        seed: Seed of the rows, which are the same in any process.

    Raises:
        KeyError: If there is no such task.
        ValueError: If the task has no such split.
    """
    splits = ("train", *TASKS[task].splits)
    if split not in splits:
        raise ValueError(f"Expected one of the splits {', '.join(splits)} of {task}, but got {split!r}.")
    rng = Random(f"{seed}/{task}/{split}")
    recipe, labels = RECIPES[task], TASKS[task].labels
    if split == "validation_mismatched":
        recipe = replace(recipe, clean=partial(pairs.inference, things=pairs.TOWN))
    seen: set[Texts] = set()
    rows = []
    for idx, (kind, hard, label) in enumerate(_plan(rng, size, labels, training=split == "train")):
        draw = partial(recipe.ambiguous, rng) if kind == "ambiguous" else partial(recipe.clean, rng, label, hard)
        texts = _unseen(draw, seen, validation=split != "train")
        if kind == "ambiguous":
            label = rng.choice(recipe.candidates)
        elif kind == "mislabelled":
            label = rng.choice([other for other in labels if other != label])
        rows.append(Row(texts, labels.index(label), idx, kind, "hard" if hard else "easy"))
    return rows


def _plan(rng: Random, size: int, labels: tuple[str, ...], training: bool) -> list[tuple[str, bool, str]]:
    """The kind of each row, whether it is hard, and the label for which its texts are generated."""
    ambiguous, mislabelled = (round(share * size) if training else 0 for share in (AMBIGUOUS, MISLABELLED))
    others = size - ambiguous
    hard = [place < round(HARD * others) for place in range(others)]
    rng.shuffle(hard)
    kinds = ["ambiguous"] * ambiguous + ["mislabelled"] * mislabelled + ["clean"] * (others - mislabelled)
    balanced = [labels[place % len(labels)] for place in range(size)]
    plan = list(zip(kinds, [True] * ambiguous + hard, balanced, strict=True))
    rng.shuffle(plan)
    return plan


def _unseen(draw: Callable[[], Texts], seen: set[Texts], validation: bool) -> Texts:
    """Draw until the texts are new to the split, and `held_out` if they are for validation."""
    for _ in range(_PATIENCE):
        texts = draw()
        if texts not in seen and held_out(texts) == validation:
            seen.add(texts)
            return texts
    raise ValueError(f"Expected fewer rows: the grammar has run out of new sentences after {len(seen)}.")
