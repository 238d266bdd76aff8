from __future__ import annotations

from random import Random

import pytest

from glue_runs.pocket.lexicon import COLLECTIVES, INTRANSITIVES, NEGATIVE, PEOPLE, POSITIVE, VERBS, past, plural, third
from glue_runs.pocket.single import acceptability, sentiment, split_agreement, split_opinion


def is_praise(sentence: str) -> bool:
    """Whether a review ends on praise: what follows "but" counts, and a negation turns it."""
    words = sentence.split(" but ")[-1].split()
    praise = sum(word in POSITIVE for word in words) - sum(word in NEGATIVE for word in words)
    return (praise > 0) != ("not" in words or "never" in words)


PERSONS = {noun for group in PEOPLE for noun in group}


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("label", ["negative", "positive"])
def test_a_review_says_what_its_label_says(label, hard) -> None:
    rng = Random(0)
    assert all(is_praise(*sentiment(rng, label, hard)) == (label == "positive") for _ in range(200))


def test_a_split_review_names_both_sides() -> None:
    rng = Random(1)
    for _ in range(100):
        one, other = split_opinion(rng)[0].split(" and ")
        assert is_praise(one) != is_praise(other)


def is_well_formed(sentence: str) -> bool:
    """Whether a hard sentence of cola agrees: its verb with its subject, or its base form with "did not"."""
    words = sentence.split()
    if words[2:4] == ["did", "not"]:
        return words[4] in INTRANSITIVES
    subject, verb = words[1], words[5]
    return (verb in INTRANSITIVES) if subject in map(plural, PERSONS) else (verb in map(third, INTRANSITIVES))


@pytest.mark.parametrize("label", ["unacceptable", "acceptable"])
def test_a_hard_sentence_is_as_well_formed_as_its_label_says(label) -> None:
    rng = Random(2)
    assert all(is_well_formed(*acceptability(rng, label, True)) == (label == "acceptable") for _ in range(300))


def begins_in_order(sentence: str) -> bool:
    """Whether "the" and a person stand side by side at the front, or after a place or a time, and then a verb."""
    words = sentence.split()
    at = next(place for place, word in enumerate(words) if word in PERSONS)
    return words[at - 1] == "the" and words[at + 1] in _verbs()


def _verbs() -> set[str]:
    return {past(verb) for group in VERBS for verb in group}


def test_an_acceptable_sentence_is_in_order() -> None:
    rng = Random(3)
    assert all(begins_in_order(*acceptability(rng, "acceptable", False)) for _ in range(200))


def test_an_unacceptable_easy_sentence_is_an_acceptable_one_with_two_neighbours_swapped() -> None:
    for seed in range(100):
        [good] = acceptability(Random(seed), "acceptable", False)
        [bad] = acceptability(Random(seed), "unacceptable", False)
        differing = [
            place for place, (one, other) in enumerate(zip(good.split(), bad.split(), strict=True)) if one != other
        ]
        assert len(differing) == 2
        assert differing[1] == differing[0] + 1


def test_speakers_differ_on_collective_nouns() -> None:
    words = split_agreement(Random(4))[0].split()
    assert words[1] in COLLECTIVES
    assert words[2] in INTRANSITIVES
