"""The closed vocabulary of the generated tasks: every word, its inflections, synonyms and opposites.

A *group* is a tuple of synonyms (``("doctor", "physician")``), which the grammar exchanges freely. Everything is lower
case ASCII, and all collections are tuples or dicts in written order, so that a seed determines every draw.
"""

from __future__ import annotations

__all__ = ["ADJECTIVES", "ADVERBS", "ANIMALS", "COLLECTIVES", "COUNTS", "FRUITS", "HYPERNYMS", "INTRANSITIVES"]
__all__ += ["NEGATIVE", "OPPOSITES", "PEOPLE", "PLACES", "POSITIVE", "PUNCTUATION", "SYNONYMS", "THINGS", "TIMES"]
__all__ += ["TOOLS", "TOPICS", "VEHICLES", "VERBS", "WORDS", "article", "participle", "past", "plural", "third"]

Groups = tuple[tuple[str, ...], ...]


def _groups(text: str) -> Groups:
    return tuple(tuple(group.split()) for group in text.split("|"))


def _flat(groups: Groups) -> tuple[str, ...]:
    return tuple(word for group in groups for word in group)


PEOPLE = _groups(
    "doctor physician | teacher instructor | singer vocalist | student pupil | author writer | nurse | pilot"
)
ANIMALS = _groups("dog hound | rabbit bunny | horse | goat | duck")
FRUITS = _groups("apple | pear | lemon | plum | melon")
VEHICLES = _groups("car automobile | truck lorry | bike bicycle | tractor | boat")
TOOLS = _groups("shovel spade | hammer mallet | ladder | drill | saw")
THINGS = ANIMALS + FRUITS + VEHICLES + TOOLS
_KINDS = {"person": PEOPLE, "animal": ANIMALS, "fruit": FRUITS, "vehicle": VEHICLES, "tool": TOOLS}
HYPERNYMS: dict[str, str] = {word: kind for kind, groups in _KINDS.items() for word in _flat(groups)}
COLLECTIVES = ("team", "crowd", "family", "choir", "crew")

# Pairs of groups with opposite meanings.
_VERB_PAIRS = (
    ("buy purchase", "sell"),
    ("find discover", "lose misplace"),
    ("watch observe", "ignore neglect"),
    ("love adore", "hate detest"),
    ("choose select", "refuse reject"),
    ("hide conceal", "show display"),
    ("collect gather", "scatter disperse"),
)
_ADJECTIVE_PAIRS = (
    ("big large", "small little"),
    ("new modern", "old ancient"),
    ("cheap", "costly expensive"),
    ("wet", "dry"),
    ("heavy", "light"),
)
VERBS = tuple(_groups(side)[0] for pair in _VERB_PAIRS for side in pair)
ADJECTIVES = tuple(_groups(side)[0] for pair in _ADJECTIVE_PAIRS for side in pair)
SYNONYMS: dict[str, tuple[str, ...]] = {
    word: tuple(other for other in group if other != word)
    for group in PEOPLE + THINGS + VERBS + ADJECTIVES
    for word in group
}
OPPOSITES: dict[str, tuple[str, ...]] = {
    word: tuple(there.split())
    for one, other in _VERB_PAIRS + _ADJECTIVE_PAIRS
    for here, there in ((one, other), (other, one))
    for word in here.split()
}
INTRANSITIVES = ("sleep", "laugh", "wait", "rest", "work", "smile", "arrive", "run")

PLACES = (
    "in the park", "in the garden", "in the city", "at the market",
    "at the school", "at the station", "near the river", "near the library",
)  # fmt: skip
TIMES = ("yesterday", "last week", "on monday", "on friday", "in winter", "in summer", "at night", "at noon")
COUNTS = ("a", "two", "three", "five", "ten")

TOPICS = ("film", "movie", "plot", "story", "music", "cast", "scene", "ending", "show", "song", "book", "play")
POSITIVE = _groups(
    "great superb lovely charming brilliant funny clever fresh touching elegant delightful wonderful graceful "
    "exciting witty warm"
)[0]
NEGATIVE = _groups(
    "awful dreadful dull boring terrible clumsy silly weak tedious bland messy painful flat tired shallow hollow"
)[0]
ADVERBS = ("very", "really", "quite", "truly")
PUNCTUATION = (".", "?")

_FUNCTION_WORDS = _groups(
    "the a an this was were is felt seemed did not never and but by perhaps "
    "where when why which place time what reason at for"
)[0]
_PLURALS = {"person": "people"}
_PASTS = {
    "buy": "bought", "sell": "sold", "find": "found", "lose": "lost",
    "choose": "chose", "hide": "hid", "sleep": "slept", "run": "ran",
}  # fmt: skip
_PARTICIPLES = {"choose": "chosen", "hide": "hidden", "show": "shown"}


def plural(noun: str) -> str:
    """The plural of a noun: ``"boat"`` gives ``"boats"``."""
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return _PLURALS.get(noun, third(noun))  # nouns and verbs take the same ending


def third(verb: str) -> str:
    """The third person singular of a verb: ``"watch"`` gives ``"watches"``."""
    return verb + ("es" if verb.endswith(("s", "sh", "ch", "x")) else "s")


def past(verb: str) -> str:
    """The past tense of a verb: ``"buy"`` gives ``"bought"``."""
    return _PASTS.get(verb, verb + ("d" if verb.endswith("e") else "ed"))


def participle(verb: str) -> str:
    """The past participle of a verb: ``"hide"`` gives ``"hidden"``."""
    return _PARTICIPLES.get(verb, past(verb))


def article(word: str) -> str:
    """The indefinite article before a word: ``"an"`` before a vowel, ``"a"`` before anything else."""
    return "an" if word[0] in "aeiou" else "a"


_NOUNS = (*HYPERNYMS, *HYPERNYMS.values())
_FORMS = [form for verb in (*_flat(VERBS), *INTRANSITIVES) for form in (verb, past(verb), participle(verb))]
_PHRASES = [word for phrase in PLACES + TIMES for word in phrase.split()]
_OTHERS = (*_flat(ADJECTIVES), *POSITIVE, *NEGATIVE, *ADVERBS, *COUNTS, *COLLECTIVES, *TOPICS, *_FUNCTION_WORDS)
WORDS: tuple[str, ...] = tuple(
    sorted({*_NOUNS, *map(plural, _NOUNS), *_FORMS, *map(third, INTRANSITIVES), *_PHRASES, *_OTHERS})
)
