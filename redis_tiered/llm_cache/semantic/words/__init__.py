"""Word lists of a language, as data: what the guard and the rules of caching know about words.

One JSON file per language lies beside this module; its keys are the fields of `Words`. Another
language is a file of the same form: `Words.read("my/it.json")`. A single list is replaced with
`dataclasses.replace(Words.of("en"), negation="not no never")`. An absent list means that the
language has no such words: the rules that need them rest, the others go on.

Words are compared in lower case and without accents; one written with a capital is compared as it
stands (`US`). A list of words is one string with blanks between them, and `_` is the blank
within a phrase.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import orjson

from redis_tiered.errors import InvalidInput

__all__ = ["LANGUAGES", "WordClass", "Words"]

LANGUAGES = ("de", "en")


@dataclass(frozen=True)
class WordClass:
    """Words that name things of one kind: two texts that name different ones differ.

    Attributes:
        name: of the kind.
        reason: of the veto.
        members: one string per thing: all its names.
        general: words for the kind as a whole. Where both texts ask about the kind, they may name
            different members of it ("My dog eats rice. Is that normal for animals?").
        counted: the names count only next to a number (`5 days`).
    """

    name: str
    reason: str = "name"
    members: tuple[str, ...] = ()
    general: str = ""
    counted: bool = False


@dataclass(frozen=True)
class Words:
    """The lists of one language; see the module's text for their form.

    Attributes:
        language: its code.
        stemming: whose endings are cut before words are compared: `"english"` or none.
        capital_nouns: a capital letter is no sign of a name.
        numbers, scales: `two=2`, `hundred=100`.
        ordinals: endings behind digits (`3rd`).
        function: words without content of their own.
        acronyms: names that are function words in lower case.
        articles, fillers: may stand or be missing anywhere.
        contractions: `can't=can_not`.
        negation: each turns the meaning of its sentence.
        denying: the negations that go with a verb, before or behind its `subjects` ("can't I").
        trouble: words that say as well that something does not work.
        negating_prefixes: `un` (happy, unhappy). opposed_prefixes: `pre|post`.
        antonyms: `buy purchase|sell`, a word of the left excludes one of the right.
        particles: `on|off`, opposed only next to the same word.
        synonyms: `can could`, one for the other changes nothing.
        classes: kinds of things, see `WordClass`.
        questions: `when: when what_time`, what is asked for and the words that ask for it.
        pronouns, persons: `male: he him`, groups that are never exchanged.
        ands, ors: conjunctions. versus: words between two things of equal rank.
        symmetric: words for relations that hold in both directions.
        tenses: `is|was`. auxiliaries: that make "who did he see" of "who saw him".
        speakers: `first: i me`, who speaks and who is spoken to.
        by, being: the words of a passive ("was ... by"); than: of a comparison,
            and `plurals`: verbs that open a question about kinds ("are cats better than dogs").
        sources, targets: words before where something comes from and goes to.
        status: phrases that only one of two texts holds under the strict guard.
        volatile, volatile_if_asked, creative, static: of what changes with time, is new each time, hardly ever changes;
            the second list counts in questions and requests only ("I bought it today"), and not
            behind the `timeless` words ("why ... today").
        actions: verbs that open a request to do something; one with `+` only before one of `objects`
            (`book+`: "book a room", not "book prices").
        polite: what may stand before such a verb. asking: words of a question.
    """

    language: str = ""
    stemming: str = ""
    capital_nouns: bool = False
    numbers: str = ""
    scales: str = ""
    ordinals: str = ""
    function: str = ""
    acronyms: str = ""
    articles: str = ""
    fillers: str = ""
    contractions: str = ""
    negation: str = ""
    denying: str = ""
    subjects: str = ""
    trouble: str = ""
    negating_prefixes: str = ""
    opposed_prefixes: str = ""
    antonyms: tuple[str, ...] = ()
    particles: str = ""
    synonyms: tuple[str, ...] = ()
    classes: tuple[WordClass, ...] = ()
    questions: tuple[str, ...] = ()
    pronouns: tuple[str, ...] = ()
    persons: tuple[str, ...] = ()
    ands: str = ""
    ors: str = ""
    versus: str = ""
    symmetric: str = ""
    tenses: str = ""
    auxiliaries: str = ""
    speakers: tuple[str, ...] = ()
    by: str = ""
    being: str = ""
    than: str = ""
    plurals: str = ""
    sources: str = ""
    targets: str = ""
    status: tuple[str, ...] = ()
    volatile: str = ""
    volatile_if_asked: str = ""
    timeless: str = ""
    creative: str = ""
    actions: str = ""
    objects: str = ""
    polite: str = ""
    asking: str = ""
    static: str = ""

    @staticmethod
    def of(language: str) -> Words:
        """The lists that come with this package.

        Raises:
            InvalidInput: there are none for `language`.
        """
        if language not in LANGUAGES:
            raise InvalidInput(
                f"language must be one of {', '.join(LANGUAGES)}, or bring your own lists with "
                f"Words.read(path); got {language!r}"
            )
        return _shipped(language)

    @staticmethod
    def read(path: str | Path) -> Words:
        """Lists from a JSON file.

        Raises:
            InvalidInput: it cannot be read, or holds something else.
        """
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise InvalidInput(f"word lists cannot be read: {error}") from None
        return _words(content, str(path))


@cache
def _shipped(language: str) -> Words:
    file = resources.files(__package__) / f"{language}.json"
    return _words(file.read_bytes(), f"{language}.json")


def _words(content: bytes, name: str) -> Words:
    try:
        lists = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"{name} is not JSON: {error}") from None
    return Words(**_checked(lists, Words, name))


def _checked(lists: Any, kind: type, name: str) -> dict[str, Any]:
    if not isinstance(lists, dict):
        raise InvalidInput(f"{name} must hold a JSON object, got {type(lists).__name__}")
    defaults = {field.name: field.default for field in fields(kind)}
    found: dict[str, Any] = {}
    for key, value in lists.items():
        if key not in defaults:
            raise InvalidInput(f"{name}: {key!r} is no list; known are {', '.join(defaults)}")
        if key == "classes" and isinstance(value, list):
            found[key] = tuple(
                WordClass(**_checked(one, WordClass, f"{name}: a class")) for one in value
            )
        elif isinstance(value, list) and all(isinstance(one, str) for one in value):
            found[key] = tuple(value)
        elif isinstance(value, str | bool):
            found[key] = value
        if type(found.get(key)) is not type(defaults.get(key, "")) and key != "name":
            accepted = "a list of strings" if isinstance(defaults[key], tuple) else "a string"
            raise InvalidInput(f"{name}: {key!r} must be {accepted}, got {type(value).__name__}")
    if kind is WordClass and "name" not in found:
        raise InvalidInput(f"{name} needs a 'name'")
    return found
