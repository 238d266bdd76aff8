from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from functools import cache

import pytest

from glue_runs.pocket.lexicon import PUNCTUATION, WORDS
from glue_runs.pocket.rows import AMBIGUOUS, HARD, KINDS, MISLABELLED, RECIPES, Row, held_out, make_rows
from glue_runs.tasks import TASKS

SPLITS = [(task.name, split) for task in TASKS.values() for split in ("train", *task.splits)]
SIZE = 240


@cache
def rows_of(task: str, split: str) -> list[Row]:
    return make_rows(task, split, SIZE)


def test_every_task_has_a_recipe_with_two_candidate_labels() -> None:
    assert set(RECIPES) == set(TASKS)
    for name, recipe in RECIPES.items():
        assert len(set(recipe.candidates) & set(TASKS[name].labels)) == 2


@pytest.mark.parametrize(("task", "split"), SPLITS)
def test_rows_have_the_tables_columns_and_labels(task, split) -> None:
    rows = rows_of(task, split)
    assert [row.idx for row in rows] == list(range(SIZE))
    assert {len(row.texts) for row in rows} == {len(TASKS[task].columns)}
    assert {row.label for row in rows} == set(range(len(TASKS[task].labels)))


@pytest.mark.parametrize(("task", "split"), SPLITS)
def test_the_shares_are_those_declared(task, split) -> None:
    rows = rows_of(task, split)
    shares = {kind: count / SIZE for kind, count in Counter(row.kind for row in rows).items()}
    noise = {"clean": 1 - AMBIGUOUS - MISLABELLED, "ambiguous": AMBIGUOUS, "mislabelled": MISLABELLED}
    assert shares == pytest.approx(noise if split == "train" else {"clean": 1.0})
    assert set(shares) <= set(KINDS)
    graded = [row.difficulty for row in rows if row.kind != "ambiguous"]
    assert graded.count("hard") == round(HARD * len(graded))


@pytest.mark.parametrize(("task", "split"), SPLITS)
def test_labels_are_about_balanced(task, split) -> None:
    fair = SIZE / len(TASKS[task].labels)
    counts = Counter(row.label for row in rows_of(task, split))
    # Exactly balanced before noise; mnli's ambiguous rows carry two of its three labels.
    allowed = 0.15 * SIZE if split == "train" else 0
    assert all(abs(count - fair) <= allowed for count in counts.values())


@pytest.mark.parametrize("task", TASKS)
def test_no_text_occurs_twice_in_a_task(task) -> None:
    texts = [row.texts for split in ("train", *TASKS[task].splits) for row in rows_of(task, split)]
    assert len(texts) == len(set(texts))


@pytest.mark.parametrize(("task", "split"), SPLITS)
def test_validation_alone_draws_on_the_held_out_texts(task, split) -> None:
    assert {held_out(row.texts) for row in rows_of(task, split)} == {split != "train"}


@pytest.mark.parametrize(("task", "split"), SPLITS)
def test_every_word_is_in_the_lexicon(task, split) -> None:
    words = {word for row in rows_of(task, split) for text in row.texts for word in text.split()}
    assert words <= {*WORDS, *PUNCTUATION}


def test_mismatched_rows_speak_of_other_things() -> None:
    matched, mismatched = (
        {word for row in rows_of("mnli", split) for text in row.texts for word in text.split()}
        for split in TASKS["mnli"].splits
    )
    assert {"animal", "fruit"} <= matched - mismatched
    assert {"vehicle", "tool"} <= mismatched - matched


def test_the_seed_alone_decides() -> None:
    assert make_rows("rte", "train", 40, seed=3) == make_rows("rte", "train", 40, seed=3)
    assert make_rows("rte", "train", 40, seed=3) != make_rows("rte", "train", 40, seed=4)


def test_rows_are_the_same_in_processes_that_hash_differently() -> None:
    code = "\n".join(
        (
            "from glue_runs.pocket.rows import make_rows",
            "from glue_runs.tasks import TASKS",
            "print([make_rows(task, 'train', 40) for task in TASKS])",
        )
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, check=True, capture_output=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert said[0]
    assert said[0] == said[1]


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="the splits train, validation_matched, validation_mismatched of mnli"):
        make_rows("mnli", "validation", 10)


def test_running_out_of_sentences_is_refused(monkeypatch) -> None:
    monkeypatch.setattr("glue_runs.pocket.rows._PATIENCE", 1)  # so that the first rejected draw is one too many
    with pytest.raises(ValueError, match="run out of new sentences"):
        make_rows("cola", "train", 400)
