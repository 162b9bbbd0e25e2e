"""What an answer states, as far as it can be read off its letters: numbers, names, code, denials.

Embeddings see little of this: "within 14 days" and "within 30 days" are as near to each other as two
wordings of one of them. Two answers are compared by what only one of them states.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product
from typing import Final, NamedTuple

from redis_tiered.llm_cache.semantic.answer_numbers import Number, in_digits, numbers
from redis_tiered.llm_cache.semantic.normal import folded
from redis_tiered.llm_cache.semantic.words import Words

__all__ = ["Facts", "facts_of"]


_CODE: Final = re.compile(r"```[^\n`]*\n(.*?)```|`([^`\n]+)`", re.DOTALL)
_SQL: Final = re.compile(
    r"\s*(?:select\s.+\sfrom\s|insert\s+into\s|update\s+\S+\s+set\s|delete\s+from\s"
    r"|with\s+\S+\s+as\s*\(|(?:create|alter|drop)\s+(?:table|index|view)\s)",
    re.IGNORECASE | re.DOTALL,
)
_LIST_MARK: Final = re.compile(r"^[ \t]*(?:\d{1,2}[.)]|[-*+•])[ \t]+", re.MULTILINE)
_MARKUP: Final = re.compile(r"^#{1,6} |(?<!\w)[*_]+(?=\S)|(?<=\S)[*_]+(?!\w)", re.MULTILINE)
_SPACE: Final = re.compile(r"\s+")
# Operators, and what follows a name: C++, C#. A hyphen is too common to tell anything.
_SIGN: Final = re.compile(r"[<>=≠≤≥+*/^|~@#\u00d7÷]")
_WORD: Final = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_SENTENCE_END: Final = re.compile(r"(?:^|[.!?:\n]|\()[\s(*]*$")
_CLAUSE_END: Final = re.compile(r"[.;:!?\n]+(?=\s|$)|,\s|\b(?:but|and|so|because|although|since)\b")
# Small words that turn a sentence; English.
_TURNING: Final = frozenset(
    {"only", "must", "unless", "except", "if", "or", "off", "under", "over", "against", "least"}
    | {"most", "all", "every"}
)
# Words that an answer may hold or not without saying anything else; English.
_LIGHT: Final = (
    "yes sure sorry afraid unfortunately unfortunate glad happy welcome course great answer solution"
    " result mean means here follows following find get go make take give given use run look see say"
    " tell put become start last appear choose open bring simply immediately together always"
    " whenever maximum time"
)
# They are no denials here: an answer may state a rule with or without naming its exception first.
_CONDITIONS: Final = frozenset({"unless", "except", "excluding", "stop", "stopped", "stops"})
_DENIED: Final = 2
_SHORT: Final = 5
_FUNCTION: Final = 0.15
_NONE: Final[frozenset[str]] = frozenset()
_YES: Final = re.compile(r"\s*(?:yes|yeah|yep|of course|sure|certainly|correct|true)\b", re.I)
_NO: Final = re.compile(r"\s*(?:no|nope|not|incorrect|false)\b", re.I)


@dataclass(frozen=True)
class Facts:
    """What one answer states.

    Attributes:
        language: of the word lists.
        length: of the text, in characters.
        code: pieces of code, white space evened out.
        prose: the rest, without markup and marks of lists.
        words: its words in lower case, stemmed, and its numbers, in their order; function words are
            left out.
        numbers: its quantities; the number 1 is none, for it may hide in any word.
        names: stems of capitalised words that open no sentence, and of words with digits or
            capitals inside.
        denials: how many words of it deny, an opening no left out.
        denied: stems of the words they deny: up to two behind each within its clause, or before it
            if it ends the clause.
        turning: small words that turn a sentence, such as only, must, off.
        signs: operators and the like, in their order.
        opening: True, False or None: it begins with a yes, a no, neither.
        readable: whether it seems to be of the language whose words are known; if not, there may
            be denials and names in it that nobody sees.
    """

    language: str
    length: int
    code: frozenset[str]
    prose: str
    words: tuple[str, ...]
    numbers: frozenset[Number]
    names: frozenset[str]
    denials: int
    denied: frozenset[str]
    turning: frozenset[str]
    signs: tuple[str, ...]
    opening: bool | None
    readable: bool

    @cached_property
    def stems(self) -> frozenset[str]:
        """The words without the numbers."""
        return frozenset(word for word in self.words if not word[0].isdigit())

    @cached_property
    def weighty(self) -> frozenset[str]:
        """The words without those that add little."""
        return self.stems - _words_of(self.language).light

    def opposes(self, other: Facts) -> bool:
        """Whether one of them has a word whose antonym only the other has."""
        antonyms = _words_of(self.language).antonyms
        theirs = other.stems - self.stems
        return any(antonyms.get(word, _NONE) & theirs for word in self.stems - other.stems)


def facts_of(text: str, language: str = "en") -> Facts:
    """Read an answer, in time linear in its length.

    Raises:
        InvalidInput: there are no word lists for `language`.
    """
    words = _words_of(language)
    text = folded(text).replace("\u2019", "'")
    code, prose = _parted(text)
    prose = _MARKUP.sub("", _LIST_MARK.sub("", prose)).strip()
    clauses = [_plain(clause, words) for clause in _CLAUSE_END.split(prose)]
    plain = [word for clause in clauses for word in clause]
    opening = True if _YES.match(prose) else False if _NO.match(prose) else None
    return Facts(
        language=language,
        length=len(text),
        code=code,
        prose=prose,
        words=tuple(_sequence(prose, words)),
        numbers=frozenset(numbers(prose, words.numbers, words.scales)),
        names=frozenset(_names(prose, words)),
        denials=sum(word in words.negation for word in plain) - (opening is False),
        denied=frozenset(each for clause in clauses for each in _denied(clause, words)),
        turning=words.turning.intersection(plain),
        signs=tuple(_SIGN.findall(prose)),
        opening=opening,
        readable=_is_readable(plain, words),
    )


class _Lists(NamedTuple):
    numbers: dict[str, float]
    scales: dict[str, float]
    function: frozenset[str]
    negation: frozenset[str]
    turning: frozenset[str]
    contractions: dict[str, tuple[str, ...]]
    light: frozenset[str]
    antonyms: dict[str, set[str]]
    stem: Callable[[str], str]


@cache
def _words_of(language: str) -> _Lists:
    words = Words.of(language)

    def table(entries: str) -> dict[str, float]:
        pairs = (entry.partition("=") for entry in entries.split())
        return {name: float(value) for name, _, value in pairs}

    contractions = (entry.partition("=") for entry in words.contractions.split())
    stem: Callable[[str], str] = _stemmed if words.stemming == "english" else str
    light = f"{words.fillers} {words.polite} {_LIGHT}".replace("_", " ").split()
    antonyms: defaultdict[str, set[str]] = defaultdict(set)
    for entry in words.antonyms:
        left, _, right = entry.partition("|")
        for one, other in product(map(stem, left.split()), map(stem, right.split())):
            antonyms[one].add(other)
            antonyms[other].add(one)
    negation = frozenset(words.negation.split()) - _CONDITIONS
    return _Lists(
        numbers=table(words.numbers),
        scales=table(words.scales),
        function=frozenset(words.function.split()) - negation,
        negation=negation,
        turning=_TURNING,
        contractions={name: tuple(full.split("_")) for name, _, full in contractions},
        light=frozenset(map(stem, light)),
        antonyms=dict(antonyms),
        stem=stem,
    )


def _parted(text: str) -> tuple[frozenset[str], str]:
    """Code and prose of a text."""
    if _SQL.match(text) and "`" not in text:
        return frozenset({_even(text)}), ""
    pieces = [fenced or inline for fenced, inline in _CODE.findall(text)]
    return frozenset(map(_even, pieces)), _CODE.sub(" ", text)


def _even(code: str) -> str:
    """Code with white space evened out; SQL outside quotes in lower case."""
    if _SQL.match(code):
        parts = re.split(r"('[^']*'|\"[^\"]*\")", code.strip().rstrip("; "))
        even = (part if i % 2 else _SPACE.sub(" ", part.lower()) for i, part in enumerate(parts))
        return "".join(even)
    if "\n" not in code.strip("\n"):
        return " ".join(code.split())
    return "\n".join(line.rstrip() for line in code.strip("\n").splitlines() if line.strip())


def _plain(clause: str, words: _Lists) -> list[str]:
    """The words of a clause in lower case, contractions written out."""
    plain: list[str] = []
    for match in _WORD.finditer(clause):
        word = match.group().lower()
        if word in words.contractions:
            plain.extend(words.contractions[word])
        elif word.endswith("n't") and len(word) > 3:
            plain.extend((word[:-3], "not"))
        else:
            plain.append(word.partition("'")[0])
    return plain


def _is_readable(plain: list[str], words: _Lists) -> bool:
    """Whether enough of the words are function words; a short text needs none, but Latin letters."""
    if len(plain) < _SHORT:
        return any(word[0] < "\u0250" for word in plain)
    return sum(word in words.function for word in plain) >= _FUNCTION * len(plain)


def _sequence(prose: str, words: _Lists) -> Iterator[str]:
    for word in _plain(in_digits(prose, words.numbers, words.scales), words):
        if word[0].isdigit():
            yield word
        elif _has_content(word, words):
            yield words.stem(word)


def _denied(clause: list[str], words: _Lists) -> Iterator[str]:
    said = [word for word in clause if word in words.negation or _has_content(word, words)]
    for i, word in enumerate(said):
        if word in words.negation:
            after = said[i + 1 : i + 1 + _DENIED]
            for each in after or said[max(0, i - _DENIED) : i]:
                if each not in words.negation:
                    yield words.stem(each)


def _has_content(word: str, words: _Lists) -> bool:
    return not (
        word in words.function
        or word in words.negation
        or word in words.numbers
        or word in words.scales
        or word[0].isdigit()
    )


def _stemmed(word: str) -> str:
    """A word without the commonest English endings: enough to let its forms meet."""
    if word.endswith("'s"):
        word = word[:-2]
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    for ending in ("ingly", "edly", "ing", "ed", "ly", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            word = word[: -len(ending)]
            break
    if (
        len(word) > 3
        and word[-1] == word[-2]
        and word[-1] not in ("aeios" if len(word) > 5 else "aeiosl")
    ):
        word = word[:-1]
    return word[:-1] if len(word) > 3 and word[-1] in "ey" else word


def _names(prose: str, words: _Lists) -> Iterator[str]:
    for match in _WORD.finditer(prose):
        word = match.group().partition("'")[0]
        if word[0].isdigit() or (word.islower() and word.isalpha()):
            continue
        inside = any(c.isupper() or c.isdigit() for c in word[1:])
        capital = word[0].isupper() and word.lower() not in words.function
        if inside or (capital and not _opens(prose, match.start())):
            yield words.stem(word.lower())


def _opens(prose: str, start: int) -> bool:
    """Whether a sentence begins there; the C of °C opens none, and is no name either."""
    return (
        _SENTENCE_END.search(prose, max(0, start - 12), start) is not None
        or prose[start - 1 : start] == "°"
    )
