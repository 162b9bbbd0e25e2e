"""When two answers of a model are the same: to a reader, not to a byte.

Three ways, cheapest first: `answer_key` is equal for answers that differ in nothing but look;
`SimilarAnswers` compares what they state and the vectors of their texts; a `SameAnswer` of the user's
decides the rest, for which a model as a judge fits. Each may be unsure.

Measured by `benchmarks/semantic_answers.py` on pairs of answers that a person called equal or not.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from redis_tiered.checks import integer
from redis_tiered.errors import InvalidInput
from redis_tiered.llm_cache.semantic.answer_facts import Facts, facts_of
from redis_tiered.llm_cache.semantic.answer_numbers import has_more
from redis_tiered.llm_cache.semantic.normal import folded

__all__ = [
    "Compared",
    "SameAnswer",
    "SimilarAnswers",
    "answer_key",
    "judge_of",
    "judged",
]

# A user's judge: whether two answers say the same, or None if it cannot tell. A coroutine function
# is awaited where the cache is used from asyncio code.
SameAnswer = Callable[[str, str], "bool | Awaitable[bool | None] | None"]

_CODE_SIGNS: Final = re.compile(r"[{}\[\]<>=\\$`|;]|\w\(|\w_|_\w|^\s*[#%]", re.MULTILINE)
_PAIRED: Final = (
    ("**", "**"), ('"', '"'), ("'", "'"), ("`", "`"), ("“", "”"), ("„", "“"), ("«", "»"),
)  # fmt: skip
_PUNCTUATION: Final = ".!?。"
_CLOSING: Final = "\"'`*”»)"


def answer_key(text: str) -> str:
    """32 hex digits, equal for answers that differ only in look.

    Left out are: Unicode's variants of one character, case, the amount of white space, quotation marks
    or bold marks around the whole answer, and a full stop, question or exclamation mark at its end.
    Case and the shape of lines are kept where the answer may be code. Numbers, signs and
    all other punctuation are kept: `C` and `C++`, `4` and `-4`, `1.5` and `15` are apart.
    """
    shown = _bare(folded(text).strip())
    if _CODE_SIGNS.search(shown):
        shown = "\n".join(line.rstrip() for line in shown.splitlines())
    else:
        shown = " ".join(shown.casefold().split())
    return blake2b(shown.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _bare(text: str) -> str:
    """A text without marks around it and punctuation behind it."""
    while True:
        before = text
        shorter = text.rstrip(_PUNCTUATION)
        if shorter and (shorter[-1].isalnum() or shorter[-1] in _CLOSING):
            factorial = shorter[-1].isdigit() and text[len(shorter) :].startswith("!")
            text = text if factorial else shorter
        for start, end in _PAIRED:
            inner = text[len(start) : len(text) - len(end)]
            if inner and text.startswith(start) and text.endswith(end) and start not in inner:
                text = inner.strip()
        if text == before:
            return text


class Compared(NamedTuple):
    """Whether two answers are the same, None if that is not clear, and why."""

    same: bool | None
    reason: str


# `same` and `different`, by model; the cosines of others live elsewhere.
_THRESHOLDS: Final = {"all-minilm-l6-v2": (0.87, 0.5)}
_NEAR: Final = 0.6
_SPREAD: Final = 2
_STRANGE: Final = 0.1
_FEW: Final = 3
_CLAUSE: Final = 100


@dataclass(frozen=True)
class SimilarAnswers:
    """Compares two answers by what they state and by the cosine of their vectors.

    - Not the same: each states a number, or holds code, that the other does not; one begins with yes and
      the other with no; a word of one is denied, or has its antonym, in otherwise near wording;
      the cosine is below `different`, or, without a cosine to go by, they share hardly a word.
    - The same: nothing of the above or below was found, and the wording is near or the cosine is
      at least `same`.
    - Unclear: only one of them states a number, a name, a denial or has code; one word is exchanged in
      a sentence of the same words, or their order is; or the cosine lies between.

    Attributes:
        same: the cosine from which answers in different words are the same. Above 1: never.
        different: the cosine below which they are not. Below -1: never.
        window: how many characters of an answer the model reads. Where one is longer its vector tells
            nothing about the rest: then no cosine makes them the same.
        language: of the word lists, see `words`.

    Raises:
        InvalidInput: a threshold is no number, or `same` is below `different`.
    """

    same: float = 2.0
    different: float = -2.0
    window: int = 1000
    language: str = "en"

    def __post_init__(self) -> None:
        for name in ("same", "different"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
                raise InvalidInput(f"{name} must be a number, got {value!r:.100}")
        integer("window", self.window, 0)
        if self.same < self.different:
            raise InvalidInput(
                f"same must be at least different, got {self.same} and {self.different}"
            )

    @classmethod
    def of_model(cls, model: str, *, language: str = "en") -> SimilarAnswers:
        """With the thresholds measured for an embedding model.

        For a model that was not measured the cosine decides nothing: what is then called the same
        is near in wording. `python -m benchmarks.semantic_answers` finds the thresholds of another.
        """
        name = model.lower().rpartition("/")[2].rpartition(":")[2]
        same, different = _THRESHOLDS.get(name, (cls.same, cls.different))
        return cls(same, different, language=language)

    def __call__(self, a: str, b: str, cosine: float | None = None) -> bool | None:
        """True, False, or None if it is not clear.

        Args:
            a, b: the answers' texts.
            cosine: of their vectors; None if there are none.
        """
        return self.compare(a, b, cosine).same

    def compare(self, a: str, b: str, cosine: float | None = None) -> Compared:
        """The same with the reason, in one word.

        Raises:
            InvalidInput: there are no word lists for `language`.
        """
        if answer_key(a) == answer_key(b):
            return Compared(True, "equal")
        one, other = facts_of(a, self.language), facts_of(b, self.language)
        return (
            _contradiction(one, other)
            or self._by_distance(cosine, one, other)
            or _addition(one, other)
            or _wording(one, other)
            or self._by_cosine(cosine, one, other)
        )

    def _by_distance(self, cosine: float | None, a: Facts, b: Facts) -> Compared | None:
        if cosine is not None and self.different >= -1:
            return Compared(False, "cosine") if cosine < self.different else None
        if min(len(a.weighty), len(b.weighty)) < _FEW:
            return None
        strange = len(a.weighty & b.weighty) <= _STRANGE * len(a.weighty | b.weighty)
        return Compared(False, "words") if strange else None

    def _by_cosine(self, cosine: float | None, a: Facts, b: Facts) -> Compared:
        if cosine is None or cosine < self.same:
            return Compared(None, "cosine")
        if not (a.readable and b.readable):
            return Compared(None, "language")
        if max(a.length, b.length) > self.window:
            return Compared(None, "length")
        return Compared(True, "cosine")


def _contradiction(a: Facts, b: Facts) -> Compared | None:
    """What speaks against them being the same whatever their vectors say."""
    if has_more(a.numbers, b.numbers) and has_more(b.numbers, a.numbers):
        return Compared(False, "numbers")
    if a.code - b.code and b.code - a.code:
        return Compared(False, "code")
    if a.opening is not None and b.opening is not None and a.opening != b.opening:
        return Compared(False, "yes_no")
    against = False if _is_near(a, b) else None
    if a.denials != b.denials and (_denied_in_one(a, b) or _denied_in_one(b, a)):
        return Compared(against, "denial")
    if a.opposes(b):
        return Compared(against, "antonym")
    if a.code and a.code == b.code and not a.prose and not b.prose:
        return Compared(True, "code")
    return None


def _addition(a: Facts, b: Facts) -> Compared | None:
    """What only one of them states, and who is named."""
    if has_more(a.numbers, b.numbers) or has_more(b.numbers, a.numbers):
        return Compared(None, "numbers")
    if a.code != b.code:
        return Compared(None, "code")
    names = bool(a.names - b.stems - b.names), bool(b.names - a.stems - a.names)
    if any(names):
        return Compared(False if all(names) and _is_near(a, b) else None, "names")
    if ("off" in a.turning) != ("off" in b.turning):
        return Compared(None, "turning")
    if _answers_otherwise(a, b) or _answers_otherwise(b, a):
        return Compared(None, "yes_no")
    return None


def _wording(a: Facts, b: Facts) -> Compared | None:
    """In near wording every difference counts; None where the wording is another."""
    spread = min(len(a.stems - b.stems), len(b.stems - a.stems)) >= _SPREAD
    if not _is_near(a, b) or spread:
        return None
    if a.weighty != b.weighty:
        return Compared(None, "words")
    if a.turning != b.turning or a.signs != b.signs:
        return Compared(None, "turning")
    return Compared(True, "wording") if _in_order(a, b) else Compared(None, "order")


def _denied_in_one(a: Facts, b: Facts) -> bool:
    return bool(a.denied & (b.stems - b.denied))


def _answers_otherwise(a: Facts, b: Facts) -> bool:
    """`a` begins with a yes or a no that `b`, which begins with neither, does not fit."""
    if a.opening is None or b.opening is not None:
        return False
    denies = b.denials > 0 or "only" in b.turning
    return denies and not a.denials if a.opening else not denies


def _is_near(a: Facts, b: Facts) -> bool:
    """Whether most words are common to both, or all but one of each."""
    shared = len(a.weighty & b.weighty)
    alone, others_alone = len(a.weighty) - shared, len(b.weighty) - shared
    if not shared + alone + others_alone:  # numbers and signs alone
        return bool(a.words) and bool(b.words)
    if shared and max(alone, others_alone) < _SPREAD:
        return True
    return shared >= _NEAR * (shared + alone + others_alone)


def _in_order(a: Facts, b: Facts) -> bool:
    """Whether their common words and numbers come in one order, or one clause was moved."""
    common = set(a.words) & set(b.words)
    x = [word for word in a.words if word in common]
    y = [word for word in b.words if word in common]
    if x == y:
        return True
    if len(x) != len(y) or sorted(x) != sorted(y):
        return False
    start = next(i for i in range(len(x)) if x[i] != y[i])
    end = len(x) - next(i for i in range(len(x)) if x[-1 - i] != y[-1 - i])
    x, y = x[start:end], y[start:end]
    # One word that moved alone may have changed places with another: "from Graz to Vienna".
    starts = (n for n in range(2, min(len(x), _CLAUSE) - 1) if x[n] == y[0])
    return any(y == x[n:] + x[:n] for n in starts)


def judge_of(value: object) -> SameAnswer | None:
    """A user's judge, checked.

    Raises:
        InvalidInput: it is not None and cannot be called with two answers.
    """
    if value is None:
        return None
    accepted = "same_answer must be a function of two answers that returns True, False or None"
    if isinstance(value, type) or not callable(value):
        raise InvalidInput(f"{accepted}, got {type(value).__name__}")
    try:
        inspect.signature(value).bind("", "")
    except TypeError:
        raise InvalidInput(f"{accepted}; this one does not take two") from None
    except ValueError:
        pass  # written in C: it does not tell what it takes
    return value


def judged(verdict: Any) -> bool | None:
    """What a judge returned, checked.

    Raises:
        InvalidInput: it is neither True, False nor None; a model's "yes" is not taken for one.
    """
    if verdict is None or isinstance(verdict, bool):
        return verdict
    if type(verdict).__name__ in ("bool", "bool_") and type(verdict).__module__ == "numpy":
        return bool(verdict)
    raise InvalidInput(f"same_answer must return True, False or None, got {type(verdict).__name__}")
