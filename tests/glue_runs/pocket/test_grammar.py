from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from glue_runs.pocket.grammar import (
    Clause,
    altered,
    draw_clause,
    generalised,
    opposed,
    passive,
    question,
    reworded,
    statement,
    without,
)
from glue_runs.pocket.lexicon import HYPERNYMS, OPPOSITES, SYNONYMS, WORDS

NURSE = Clause("nurse", "hide", "apple", "two", adjective="old", place="in the park", time="at noon")


def test_a_clause_is_said_in_every_way() -> None:
    assert statement(NURSE) == "the nurse hid two old apples in the park at noon ."
    assert statement(NURSE, fronted=True) == "in the park the nurse hid two old apples at noon ."
    assert statement(without(NURSE, "place"), fronted=True) == "at noon the nurse hid two old apples ."
    assert statement(replace(NURSE, negated=True)) == "the nurse did not hide two old apples in the park at noon ."
    assert passive(NURSE) == "two old apples were hidden by the nurse in the park at noon ."
    assert question(without(NURSE, "place"), "where") == "where did the nurse hide two old apples at noon ?"


def test_one_thing_takes_its_article_and_a_singular_verb() -> None:
    one = replace(NURSE, count="a")
    assert statement(one).startswith("the nurse hid an old apple ")
    assert passive(replace(one, adjective="big", negated=True)).startswith("a big apple was not hidden ")


def test_every_drawn_clause_stays_within_the_lexicon() -> None:
    rng = Random(0)
    said = [way(draw_clause(rng)) for _ in range(300) for way in (statement, passive)]
    assert {word for sentence in said for word in sentence[:-2].split()} <= set(WORDS)


def test_rewording_changes_words_and_keeps_their_meaning() -> None:
    rng = Random(1)
    changed = 0
    for _ in range(100):
        clause = draw_clause(rng)
        other = reworded(rng, clause)
        changed += clause != other
        for slot in ("subject", "verb", "thing", "adjective"):
            word, now = getattr(clause, slot), getattr(other, slot)
            assert now == word or now in SYNONYMS[word]
    assert changed > 50


@pytest.mark.parametrize("slot", ["subject", "verb", "thing", "adjective", "count", "place", "time"])
def test_altering_changes_the_meaning_of_that_slot_alone(slot) -> None:
    rng = Random(2)
    for _ in range(50):
        other = altered(rng, NURSE, [slot])
        now = getattr(other, slot)
        assert now != getattr(NURSE, slot)
        assert now not in SYNONYMS.get(getattr(NURSE, slot), ())
        assert replace(other, **{slot: getattr(NURSE, slot)}) == NURSE


def test_an_altered_thing_stays_of_its_kind() -> None:
    rng = Random(3)
    assert {HYPERNYMS[altered(rng, NURSE, ["thing"]).thing] for _ in range(50)} == {"fruit"}


def test_opposites_and_kinds() -> None:
    assert opposed(Random(4), NURSE).verb in OPPOSITES["hide"]
    assert generalised(NURSE, "thing").thing == "fruit"
    assert generalised(NURSE, "subject").subject == "person"
