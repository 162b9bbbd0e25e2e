"""Whether two questions that an embedding finds alike differ in a word that matters.

A guard is asked with the new prompt and a stored one and names the reason why the stored answer must not
be served, or None. The next candidate is tried then.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from redis_tiered.errors import InvalidInput
from redis_tiered.llm_cache.semantic.guard import order, rules
from redis_tiered.llm_cache.semantic.guard.lexicon import Lexicon
from redis_tiered.llm_cache.semantic.guard.parse import Parser
from redis_tiered.llm_cache.semantic.guard.parsed import Parsed
from redis_tiered.llm_cache.semantic.normal import normal
from redis_tiered.llm_cache.semantic.words import Words

__all__ = ["REASONS", "Guard", "LexicalGuard", "default_guard", "guard_of", "strict_guard"]

Guard = Callable[[str, str], "str | None"]

REASONS = {
    "hidden": "one of the two holds characters that nobody sees",
    "wordless": "one of the two holds no words",
    "script": "the two are written in different scripts, or letters of another script are mixed in",
    "code": "the two hold different code",
    "number": "the numbers differ",
    "unit": "a number has another unit",
    "date": "the two name different days or months",
    "quoted": "the quotations differ",
    "identifier": "the two hold different identifiers, addresses or file names",
    "symbol": "the operators or emoji differ",
    "name": "the two name different people, places or things",
    "kind": "the two speak of different things of one kind",
    "negation": "one denies what the other says",
    "antonym": "a word of one is the opposite of a word of the other",
    "question_word": "the two ask for different things: who, when, where, how many ...",
    "pronoun": "he and she are exchanged",
    "person": "mine and yours are exchanged",
    "logic": "one says and where the other says or",
    "status": "one speaks of what was, the other of what is",
    "tense": "one speaks of what was, the other of what is or will be",
    "role": "the same things play other parts",
    "order": "the same words stand in another order",
    "modifier": "the two are the same but for a word that one of them lacks",
    "substitution": "the two are the same but for one word",
    "long": "the two are long and differ",
}

_DEFAULT = (
    rules.unseen,
    rules.numbers,
    rules.quotations,
    rules.identifiers,
    rules.names,
    rules.negation,
    rules.antonyms,
    rules.questions,
    rules.persons,
    rules.logic,
    rules.status,
    order.roles,
    order.edits,
)
_STRICT = (
    *_DEFAULT,
    rules.numbers_strictly,
    rules.names_strictly,
    order.edits_strictly,
    order.order_strictly,
)

_LONGEST = 20_000
_SHORT = 1_000
_REMEMBERED = 4_096
_REMEMBERED_LONG = 16


@dataclass(frozen=True)
class LexicalGuard:
    """A guard that compares words; called with two prompts.

    Attributes:
        words: the lists it knows.
        level: `"default"` or `"strict"`.
        ignore: reasons that do not count.
    """

    words: Words = field(default_factory=lambda: Words.of("en"))
    level: Literal["default", "strict"] = "default"
    ignore: Set[str] = frozenset()

    def __post_init__(self) -> None:
        if not isinstance(self.words, Words):
            raise InvalidInput(f"words must be Words, got {type(self.words).__name__}")
        if self.level not in ("default", "strict"):
            raise InvalidInput(f"level must be 'default' or 'strict', got {self.level!r}")
        if not isinstance(self.ignore, Set):
            raise InvalidInput(f"ignore must be a set of reasons, got {type(self.ignore).__name__}")
        object.__setattr__(self, "ignore", frozenset(self.ignore))
        if unknown := self.ignore - set(REASONS):
            raise InvalidInput(
                f"ignore holds unknown reasons: {', '.join(sorted(map(str, unknown)))}"
            )
        lexicon = Lexicon(self.words)
        read = Parser(lexicon).parse
        for name, value in (
            ("_lexicon", lexicon),
            ("_rules", _STRICT if self.level == "strict" else _DEFAULT),
            ("_parse", lru_cache(_REMEMBERED)(read)),
            ("_parse_long", lru_cache(_REMEMBERED_LONG)(read)),
        ):
            object.__setattr__(self, name, value)

    def __call__(self, asked: str, stored: str) -> str | None:
        """The reason why the answer to `stored` must not be given to `asked`; None: it may."""
        if asked == stored:
            return None
        if len(asked) > _LONGEST or len(stored) > _LONGEST:
            return None if _one_form(asked, stored) else "long"
        a, b = self.parsed(asked), self.parsed(stored)
        for rule in self._rules:  # type: ignore[attr-defined]
            reason: str | None = rule(a, b, self._lexicon)  # type: ignore[attr-defined]
            if reason is not None and reason not in self.ignore:
                return None if _one_form(asked, stored) else reason
        return None

    def parsed(self, text: str) -> Parsed:
        """The parts of `text`; the last ones are remembered."""
        remembered = self._parse if len(text) <= _SHORT else self._parse_long  # type: ignore[attr-defined]
        return remembered(text)  # type: ignore[no-any-return]

    def __getstate__(self) -> dict[str, Any]:
        return {"words": self.words, "level": self.level, "ignore": self.ignore}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)
        self.__post_init__()


def _one_form(one: str, two: str) -> bool:
    """Whether both have the same normal form; that they have not is mostly seen at a glance."""
    if one.isascii() and two.isascii() and _glance(one) != _glance(two):
        return False
    return normal(one) == normal(two)


def _glance(text: str) -> str:
    return "".join(text.split()).lower().rstrip("?.!")


def default_guard(language: str = "en") -> LexicalGuard:
    """The guard that costs next to no true paraphrase."""
    return LexicalGuard(Words.of(language))


def strict_guard(language: str = "en") -> LexicalGuard:
    """The guard that doubts every single changed word."""
    return LexicalGuard(Words.of(language), level="strict")


def guard_of(value: object) -> Guard | None:
    """The guard that a setting names.

    Args:
        value: `"off"`, `"default"`, `"strict"`, or a callable of two prompts.

    Raises:
        InvalidInput: it is something else.
    """
    if value is None or value == "off":
        return None
    if value == "default":
        return default_guard()
    if value == "strict":
        return strict_guard()
    if callable(value):
        return value
    raise InvalidInput(
        "guard must be 'off', 'default', 'strict' or a callable (asked, stored) -> reason | None, "
        f"got {value!r}"
    )
