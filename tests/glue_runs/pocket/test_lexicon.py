from __future__ import annotations

import pytest

from glue_runs.pocket.lexicon import (
    HYPERNYMS,
    NEGATIVE,
    OPPOSITES,
    POSITIVE,
    SYNONYMS,
    WORDS,
    article,
    participle,
    past,
    plural,
    third,
)


def test_the_words_are_few_lower_case_and_sorted() -> None:
    assert 200 < len(WORDS) <= 400
    assert all(word.isascii() and word.isalpha() and word.islower() for word in WORDS)
    assert list(WORDS) == sorted(set(WORDS))


@pytest.mark.parametrize(
    ("inflect", "word", "expected"),
    [
        (plural, "boat", "boats"),
        (plural, "bunny", "bunnies"),
        (plural, "person", "people"),
        (third, "watch", "watches"),
        (third, "hide", "hides"),
        (past, "buy", "bought"),
        (past, "love", "loved"),
        (past, "watch", "watched"),
        (participle, "hide", "hidden"),
        (participle, "find", "found"),
        (article, "apple", "an"),
        (article, "pear", "a"),
    ],
)
def test_inflections(inflect, word, expected) -> None:
    assert inflect(word) == expected


def test_synonymy_is_mutual_and_stays_within_a_kind() -> None:
    for word, same in SYNONYMS.items():
        assert word not in same
        assert all(word in SYNONYMS[other] for other in same)
        assert all(HYPERNYMS.get(word) == HYPERNYMS.get(other) for other in same)


def test_opposition_is_mutual_and_never_synonymy() -> None:
    for word, opposites in OPPOSITES.items():
        assert opposites
        assert all(word in OPPOSITES[other] and other not in SYNONYMS[word] for other in opposites)


def test_no_word_is_both_praise_and_blame() -> None:
    assert not set(POSITIVE) & set(NEGATIVE)
