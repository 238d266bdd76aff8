"""The two tasks with one sentence: ``cola`` (is it grammatical?) and ``sst2`` (is it positive?).

`acceptability` and `sentiment` take a ``random.Random``, the name of the label and whether the row is hard, and return
the text.
"""

from __future__ import annotations

from random import Random

from glue_runs.pocket.grammar import draw_clause, statement
from glue_runs.pocket.lexicon import (
    ADVERBS,
    COLLECTIVES,
    INTRANSITIVES,
    NEGATIVE,
    PEOPLE,
    PLACES,
    POSITIVE,
    TIMES,
    TOPICS,
    past,
    plural,
    third,
)

__all__ = ["acceptability", "sentiment", "split_agreement", "split_opinion"]

_PERSONS = tuple(noun for group in PEOPLE for noun in group)
_WORDS_OF = {"positive": POSITIVE, "negative": NEGATIVE}
_OTHER = {"positive": "negative", "negative": "positive"}


def acceptability(rng: Random, label: str, hard: bool) -> tuple[str]:
    """A sentence of ``cola``.

    Easy: two neighbouring words of an ordinary sentence are swapped, or not. Hard: a verb agrees with its subject, or
    with a noun of the other number in between; or the verb after "did not" is in its base form, or in the past tense.
    """
    good = label == "acceptable"
    if hard:
        return (rng.choice((_agreement, _auxiliary))(rng, good),)
    words = statement(draw_clause(rng), fronted=rng.random() < 0.3).split()
    if not good:  # swap two of the first five words, whose order is fixed; the full stop stays last
        at = rng.randrange(4)
        words[at], words[at + 1] = words[at + 1], words[at]
    return (" ".join(words),)


def _agreement(rng: Random, good: bool) -> str:
    subject, near = rng.sample(_PERSONS, 2)
    verb = rng.choice(INTRANSITIVES)
    many = rng.random() < 0.5
    noun, attractor = (plural(subject), near) if many else (subject, plural(near))
    return f"the {noun} near the {attractor} {verb if many == good else third(verb)} {rng.choice(PLACES)} ."


def _auxiliary(rng: Random, good: bool) -> str:
    subject, verb = rng.choice(_PERSONS), rng.choice(INTRANSITIVES)
    form = verb if good else past(verb)
    return f"the {subject} did not {form} {rng.choice(PLACES)} {rng.choice(TIMES)} ."


def split_agreement(rng: Random) -> tuple[str]:
    """A sentence on which speakers disagree: a collective noun with a plural verb, as in "the team work at noon"."""
    one, verb = rng.choice(COLLECTIVES), rng.choice(INTRANSITIVES)
    return (f"the {one} {verb} {rng.choice(PLACES)} {rng.choice(TIMES)} .",)


def sentiment(rng: Random, label: str, hard: bool) -> tuple[str]:
    """A sentence of ``sst2``.

    Easy: one or two words of the polarity of the label. Hard: a negated word of the other polarity, or both polarities
    around "but", where the second one decides.
    """
    # Negation is rare: if it were common, a few hundred rows would teach the model to trust no word.
    makers = (_negated, _contrasted, _contrasted, _contrasted) if hard else (_plain, _doubled, _doubled)
    return (rng.choice(makers)(rng, label),)


def _praise(rng: Random, polarity: str) -> str:
    adverb = rng.choice(("", *ADVERBS))
    return f"{adverb} {rng.choice(_WORDS_OF[polarity])}".strip()


def _plain(rng: Random, label: str) -> str:
    verb = rng.choice(("was", "is", "felt", "seemed"))
    return f"{rng.choice(('the', 'this'))} {rng.choice(TOPICS)} {verb} {_praise(rng, label)} ."


def _doubled(rng: Random, label: str) -> str:
    one, other = rng.sample(TOPICS, 2)
    return f"the {one} was {_praise(rng, label)} and the {other} was {_praise(rng, label)} ."


def _negated(rng: Random, label: str) -> str:
    verb = rng.choice(("was not", "is not", "was never", "is never"))
    return f"{rng.choice(('the', 'this'))} {rng.choice(TOPICS)} {verb} {_praise(rng, _OTHER[label])} ."


def _contrasted(rng: Random, label: str) -> str:
    one, other = rng.sample(TOPICS, 2)
    return f"the {one} was {_praise(rng, _OTHER[label])} but the {other} was {_praise(rng, label)} ."


def split_opinion(rng: Random) -> tuple[str]:
    """A sentence that praises one thing and criticises another."""
    one, other = rng.sample(TOPICS, 2)
    first, second = rng.sample(("positive", "negative"), 2)
    return (f"the {one} was {_praise(rng, first)} and the {other} was {_praise(rng, second)} .",)
