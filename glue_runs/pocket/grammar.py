"""Sentences from the lexicon: small functions draw a clause, change it, and turn it into a sentence.

Every function that draws takes a ``random.Random``; no global state is read or changed. A slot is a field of `Clause`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from glue_runs.pocket.lexicon import (
    ADJECTIVES,
    COUNTS,
    HYPERNYMS,
    OPPOSITES,
    PEOPLE,
    PLACES,
    SYNONYMS,
    THINGS,
    TIMES,
    VERBS,
    article,
    participle,
    past,
    plural,
)

__all__ = ["Clause", "altered", "draw_clause", "filled", "generalised", "opposed", "passive", "question", "reworded"]
__all__ += ["statement", "without"]

Groups = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Clause:
    """Who did what to what, where and when; an empty adjective, place or time is left out.

    Attributes:
        subject: A person, singular.
        verb: A transitive verb, in its base form.
        thing: The object of the verb, singular.
        count: Number of things: ``"a"`` or a numeral.
        adjective: Describes the thing.
        place: Where, with its preposition.
        time: When, with its preposition.
        negated: Whether it did not happen.
    """

    subject: str
    verb: str
    thing: str
    count: str
    adjective: str = ""
    place: str = ""
    time: str = ""
    negated: bool = False


def _pick(rng: Random, groups: Groups) -> str:
    return rng.choice(rng.choice(groups))


def draw_clause(rng: Random, things: Groups = THINGS) -> Clause:
    """Draw a clause with an adjective and with a place, a time, or both; its object is one of the things."""
    place, time = rng.choice(((True, False), (False, True), (True, True)))
    return Clause(
        subject=_pick(rng, PEOPLE),
        verb=_pick(rng, VERBS),
        thing=_pick(rng, things),
        count=rng.choice(COUNTS),
        adjective=_pick(rng, ADJECTIVES),
        place=rng.choice(PLACES) if place else "",
        time=rng.choice(TIMES) if time else "",
    )


def filled(clause: Clause, **words: str) -> Clause:
    """The clause with other words in the named slots, as in ``filled(clause, place="in the park")``."""
    changes: dict[str, Any] = dict(words)
    return replace(clause, **changes)


def reworded(rng: Random, clause: Clause) -> Clause:
    """The same clause in other words: each word with a synonym is replaced by it with probability 1/2."""

    def other(word: str) -> str:
        same = SYNONYMS.get(word, ())
        return rng.choice(same) if same and rng.random() < 0.5 else word

    slots = ("subject", "verb", "thing", "adjective")
    return filled(clause, **{slot: other(getattr(clause, slot)) for slot in slots})


def altered(rng: Random, clause: Clause, slots: Sequence[str]) -> Clause:
    """The clause with another meaning in each of the named slots, none of which may be empty."""
    pools: dict[str, Sequence[str]] = {
        "subject": [noun for group in PEOPLE for noun in group],
        "verb": [verb for group in VERBS for verb in group],
        # Only a noun of the same kind: otherwise the kind alone would give the change away.
        "thing": [noun for group in THINGS for noun in group if HYPERNYMS[noun] == HYPERNYMS.get(clause.thing)],
        "adjective": [adjective for group in ADJECTIVES for adjective in group],
        "count": COUNTS,
        "place": PLACES,
        "time": TIMES,
    }

    def another(slot: str) -> str:
        word = getattr(clause, slot)
        taken = (word, *SYNONYMS.get(word, ()))
        return rng.choice([candidate for candidate in pools[slot] if candidate not in taken])

    return filled(clause, **{slot: another(slot) for slot in slots})


def opposed(rng: Random, clause: Clause) -> Clause:
    """The clause with its verb replaced by an opposite (``buy`` by ``sell``)."""
    return replace(clause, verb=rng.choice(OPPOSITES[clause.verb]))


def generalised(clause: Clause, slot: str) -> Clause:
    """The clause with a noun replaced by the name of its kind (``dog`` by ``animal``); ``slot`` holds that noun."""
    return filled(clause, **{slot: HYPERNYMS[getattr(clause, slot)]})


def without(clause: Clause, *slots: str) -> Clause:
    """The clause with the named slots (adjective, place, time) left out."""
    return filled(clause, **dict.fromkeys(slots, ""))


def statement(clause: Clause, fronted: bool = False) -> str:
    """The clause as a sentence in the past tense; if fronted, its place (or time if it has no place) comes first."""
    front = (clause.place or clause.time) if fronted else ""
    rest = replace(clause, place="", time=clause.time if clause.place else "") if front else clause
    verb = f"did not {clause.verb}" if clause.negated else past(clause.verb)
    return _joined(front, f"the {clause.subject} {verb}", _object(rest), rest.place, rest.time, ".")


def passive(clause: Clause) -> str:
    """The clause as a sentence in the passive voice: ``"two apples were bought by the nurse at noon ."``."""
    be = ("was" if clause.count == "a" else "were") + (" not" if clause.negated else "")
    agent = f"{be} {participle(clause.verb)} by the {clause.subject}"
    return _joined(_object(clause), agent, clause.place, clause.time, ".")


def question(clause: Clause, opening: str) -> str:
    """A question about a clause without the answer; it opens with ``"where"``, ``"at what time"`` and the like."""
    asked = f"{opening} did the {clause.subject} {clause.verb}"
    return _joined(asked, _object(clause), clause.place, clause.time, "?")


def _object(clause: Clause) -> str:
    if clause.count == "a":
        noun = _joined(clause.adjective, clause.thing)
        return f"{article(noun)} {noun}"
    return _joined(clause.count, clause.adjective, plural(clause.thing))


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)
