from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from glue_runs.pocket import pairs
from glue_runs.pocket.lexicon import (
    ADJECTIVES,
    COUNTS,
    HYPERNYMS,
    PEOPLE,
    PLACES,
    THINGS,
    TIMES,
    VERBS,
    participle,
    past,
    plural,
)

# An independent reading of what a generated sentence means, from its words alone.
SENSES = {
    form: group[0]
    for group in PEOPLE + THINGS + VERBS + ADJECTIVES
    for word in group
    for form in (word, plural(word), past(word), participle(word))
}
SENSES |= {form: kind for kind in HYPERNYMS.values() for form in (kind, plural(kind))}
SENSES |= {word: word for word in COUNTS if word != "a"}


def senses(text: str) -> Counter[str]:
    """How often each meaning of a noun, verb, adjective or number occurs; synonyms and inflections count as one."""
    return Counter(SENSES[word] for word in text.split() if word in SENSES)


def kinds(meanings: Counter[str]) -> Counter[str]:
    """The same, with each noun replaced by the name of its kind."""
    return Counter({HYPERNYMS.get(word, word): 1 for word in meanings})


def says_where(text: str) -> bool:
    """Whether a place is named."""
    return any(place in text for place in PLACES)


def says_when(text: str) -> bool:
    """Whether a time is named."""
    return any(time in text for time in TIMES)


HARD = pytest.mark.parametrize("hard", [False, True])
ROUNDS = 150


def drawn(maker, label, hard):
    rng = Random(5)
    return [maker(rng, label, hard) for _ in range(ROUNDS)]


@HARD
@pytest.mark.parametrize(
    ("maker", "labels"),
    [
        (pairs.paraphrase, ("not_equivalent", "equivalent")),
        (pairs.duplicate, ("not_duplicate", "duplicate")),
    ],
)
def test_two_texts_mean_the_same_exactly_when_labelled_so(maker, labels, hard) -> None:
    for place, label in enumerate(labels):
        assert all((senses(one) == senses(other)) == bool(place) for one, other in drawn(maker, label, hard))


@HARD
def test_an_rte_hypothesis_is_covered_by_its_premise_exactly_when_it_follows(hard) -> None:
    for label in ("entailment", "not_entailment"):
        for premise, hypothesis in drawn(pairs.entailment, label, hard):
            covered = kinds(senses(hypothesis)) <= kinds(senses(premise)) and _names_no_other(premise, hypothesis)
            assert covered == (label == "entailment")


def _names_no_other(premise: str, hypothesis: str) -> bool:
    known = senses(premise) + kinds(senses(premise))
    return all(word in known for word in senses(hypothesis))


@HARD
def test_a_qnli_sentence_answers_exactly_when_labelled_so(hard) -> None:
    for label in ("entailment", "not_entailment"):
        for question, sentence in drawn(pairs.answer, label, hard):
            asks_where = question.startswith(("where", "at which place"))
            given = says_where(sentence) if asks_where else says_when(sentence)
            assert (given and senses(question) <= senses(sentence)) == (label == "entailment")


def test_easy_inference_shows_in_the_words() -> None:
    for premise, hypothesis in drawn(pairs.inference, "entailment", False):
        assert set(hypothesis.split()) - {"a", "an"} < set(premise.split())
    for premise, hypothesis in drawn(pairs.inference, "neutral", False):
        assert set(premise.split()) - {"a", "an"} < set(hypothesis.split())
    assert all(" did not " in hypothesis for _, hypothesis in drawn(pairs.inference, "contradiction", False))


def test_hard_inference_goes_by_kinds_and_opposites() -> None:
    for premise, hypothesis in drawn(pairs.inference, "entailment", True):
        assert _names_no_other(premise, hypothesis)
        assert senses(premise) != senses(hypothesis)
    for premise, hypothesis in drawn(pairs.inference, "neutral", True):
        assert _names_no_other(hypothesis, premise)
        assert senses(premise) != senses(hypothesis)
    for premise, hypothesis in drawn(pairs.inference, "contradiction", True):
        assert len(senses(premise) - senses(hypothesis)) == 1


@pytest.mark.parametrize("maker", [pairs.hedged, pairs.hedged_answer])
def test_a_hedge_says_perhaps_in_one_text(maker) -> None:
    one, other = maker(Random(6))
    assert one.startswith("perhaps ") != other.startswith("perhaps ")


@pytest.mark.parametrize("maker", [pairs.vaguer_statement, pairs.vaguer_question])
def test_a_vaguer_text_says_less_and_nothing_else(maker) -> None:
    rng = Random(7)
    for _ in range(50):
        one, other = maker(rng)
        assert senses(other) < senses(one)
