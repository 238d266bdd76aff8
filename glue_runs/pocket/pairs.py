"""The five tasks with two sentences: ``mrpc``, ``qqp``, ``mnli``, ``qnli`` and ``rte``.

A function for a task takes a ``random.Random``, the name of the label and whether the row is hard, and returns the two
texts. The sentences of a two-class task have the same form with either label, so that neither sentence alone gives the
label away; the hypotheses of ``mnli`` do contain hints ("did not", the name of a kind), as those written by people do.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

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
from glue_runs.pocket.lexicon import ANIMALS, FRUITS, PLACES, TIMES, TOOLS, VEHICLES

__all__ = ["ASKING", "HOME", "TOWN", "answer", "duplicate", "entailment", "hedged", "hedged_answer", "inference"]
__all__ += ["paraphrase", "vaguer_question", "vaguer_statement"]

Pair = tuple[str, str]
Groups = tuple[tuple[str, ...], ...]
HOME = ANIMALS + FRUITS
TOWN = VEHICLES + TOOLS

ASKING = {"place": ("where", "at which place"), "time": ("when", "at what time"), "": ("why", "for what reason")}


def paraphrase(rng: Random, label: str, hard: bool) -> Pair:
    """Two sentences of ``mrpc``.

    Easy: the same in synonyms, or a sentence about something else. Hard: the same in synonyms and perhaps in the
    passive voice, or a sentence that differs in two words.
    """
    clause = draw_clause(rng)
    other = clause if label == "equivalent" else _changed(rng, clause, hard)
    said = passive if hard and rng.random() < 0.5 else statement
    return statement(clause), said(reworded(rng, other))


def _changed(rng: Random, clause: Clause, hard: bool) -> Clause:
    return altered(rng, clause, rng.sample(("subject", "verb", "thing", "adjective"), 2)) if hard else draw_clause(rng)


def vaguer_statement(rng: Random) -> Pair:
    """Two sentences; the second says less, so that it is debatable whether it is a paraphrase."""
    clause = draw_clause(rng)
    return statement(clause), statement(reworded(rng, without(clause, "adjective", rng.choice(("place", "time")))))


def duplicate(rng: Random, label: str, hard: bool) -> Pair:
    """Two questions of ``qqp``.

    Easy: the same question in synonyms, or one about something else. Hard: the question word is paraphrased too, or
    the question differs in two words.
    """
    asked = rng.choice(tuple(ASKING))
    slots = (asked,) if asked else ()
    clause = without(draw_clause(rng), *slots)
    opening, again = rng.sample(ASKING[asked], 2) if hard else (ASKING[asked][0],) * 2
    other = clause if label == "duplicate" else without(_changed(rng, clause, hard), *slots)
    return question(clause, opening), question(reworded(rng, other), again)


def vaguer_question(rng: Random) -> Pair:
    """Two questions; the second is broader, so that it is debatable whether one answer fits both."""
    clause = without(draw_clause(rng), "place")
    return question(clause, "where"), question(reworded(rng, without(clause, "adjective", "time")), "where")


def inference(rng: Random, label: str, hard: bool, things: Groups = HOME) -> Pair:
    """A premise and a hypothesis of ``mnli``.

    | | easy | hard |
    |---|---|---|
    | entailment | says less | names the kind ("animal" for "dog"), with synonyms |
    | neutral | says more | names one of the kind ("dog" for "animal"), with synonyms |
    | contradiction | says that it did not happen | says the opposite ("sold" for "bought") |

    Objects are drawn from ``HOME`` for matched rows, and from ``TOWN`` for mismatched ones.
    """
    clause = draw_clause(rng, things)
    if label == "contradiction" and hard:
        other = reworded(rng, opposed(rng, clause))
    elif label == "contradiction":
        said = _shortened(rng, clause) if rng.choice((False, True)) else clause
        other = replace(said, negated=True)
    elif hard:
        other = reworded(rng, generalised(clause, rng.choice(("subject", "thing"))))
    else:
        other = _shortened(rng, clause)
    premise, hypothesis = (other, clause) if label == "neutral" else (clause, other)
    return statement(premise), statement(hypothesis)


def _shortened(rng: Random, clause: Clause) -> Clause:
    """The clause without its adjective, place or time."""
    return without(clause, rng.choice([slot for slot in ("adjective", "place", "time") if getattr(clause, slot)]))


def hedged(rng: Random) -> Pair:
    """A premise that begins with "perhaps", and a hypothesis that states part of it as a fact."""
    clause = draw_clause(rng, HOME)
    return f"perhaps {statement(clause)}", statement(_shortened(rng, clause))


def answer(rng: Random, label: str, hard: bool) -> Pair:
    """A question and a sentence of ``qnli``.

    Easy: the sentence answers the question, or is about something else. Hard: it answers in other words, or is about
    the same event but leaves out what was asked.
    """
    asked, kept = rng.sample(("place", "time"), 2)
    clause = _placed(rng)
    said = reworded(rng, clause) if hard else clause
    if label == "not_entailment":
        said = without(said, asked) if hard else _placed(rng)
    elif hard:
        said = without(said, kept)
    return question(without(clause, "place", "time"), rng.choice(ASKING[asked])), statement(said)


def _placed(rng: Random) -> Clause:
    return replace(draw_clause(rng), adjective="", place=rng.choice(PLACES), time=rng.choice(TIMES))


def hedged_answer(rng: Random) -> Pair:
    """A question, and an answer that begins with "perhaps"."""
    asked_about, said = answer(rng, "entailment", True)
    return asked_about, f"perhaps {said}"


def entailment(rng: Random, label: str, hard: bool) -> Pair:
    """Two sentences of ``rte``; the second is shorter.

    Easy: the second says less, or is about something else. Hard: it says less in other words, or also differs in two
    words.
    """
    clause = draw_clause(rng)
    other = clause if label == "entailment" else _changed(rng, clause, hard)
    short = without(other, "place", "time")
    if hard:
        short = reworded(rng, generalised(short, "thing") if rng.random() < 0.3 else short)
    return statement(clause), statement(short)
