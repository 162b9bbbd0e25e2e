"""Which requests may be answered by the answer to another wording, and for how long.

Left out by default: what changes by the hour (volatile), holds data of a person, asks for something
new each time (creative, high temperature), or hangs on more than its own words (long conversations,
tool calls). The exact cache is not concerned: it knows the whole request.

Word lists are those of `Words`; with lists of another language, the rules that need words follow it.
"""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, NamedTuple

from redis_tiered.checks import integer, seconds
from redis_tiered.errors import InvalidInput
from redis_tiered.llm_cache.semantic.guard.skeleton import bare, skeleton
from redis_tiered.llm_cache.semantic.personal import KINDS, personal
from redis_tiered.llm_cache.semantic.words import Words

__all__ = ["REASONS", "Asked", "CacheRules", "Verdict"]

REASONS = {
    "": "the request may be answered by the answer to another wording",
    "empty": "the prompt holds no words",
    "too_long": "the prompt is longer than `max_characters`",
    "tools": "the model may call tools, so the answer is an action and not a text",
    "temperature": "the temperature asks for another answer each time",
    "long_conversation": "so many turns came before that another wording of the last one is no repeat",
    "personal.email": "the prompt holds an e-mail address",
    "personal.phone": "the prompt holds a phone number",
    "personal.card": "the prompt holds the number of a payment card",
    "personal.iban": "the prompt holds the number of a bank account",
    "personal.national_id": "the prompt holds a national id number",
    "volatile": "the prompt asks for something that changes with time, such as a price or the weather",
    "creative": "the prompt asks for something new each time, such as a poem or an idea",
    "action": "the prompt asks to do something, such as to cancel an order",
    "static": "the prompt asks for a definition or another fact that hardly ever changes",
}


class Asked(NamedTuple):
    """What the rules look at.

    Attributes:
        prompt: text of the last user turn.
        turns: user turns so far, this one among them.
        temperature: of the request; None: the model's own.
        tools: whether the model may call tools.
    """

    prompt: str
    turns: int = 1
    temperature: float | None = None
    tools: bool = False


class Verdict(NamedTuple):
    """What the rules say.

    Attributes:
        allowed: the request may be answered and stored semantically.
        reason: one of `REASONS`; empty where nothing is out of the ordinary.
        ttl: seconds for which the answer may be used; None: as long as the cache says.
    """

    allowed: bool
    reason: str
    ttl: float | None


_SENTENCE = re.compile(r"(?<=[.?!;])\s+")


@dataclass(frozen=True)
class CacheRules:
    """The rules. Called with `Asked`, gives a `Verdict`.

    Attributes:
        volatile_ttl: seconds for what changes with time; 300 to 900 suits live data; 0: left out.
        static_ttl: seconds for definitions and facts that hardly ever change; None: as all others.
        actions: `"skip"` requests to do something, or `"allow"` them: a bot without tools
            answers "cancel my order" with a text that fits all who ask so.
        creative: the same for requests for something new.
        personal: kinds of personal data that are left out, of `personal.KINDS`.
        max_temperature: above it a request is left out; None: never.
        max_turns: user turns above which it is; None: never.
        tools: the same as `actions` for requests in which the model may call tools.
        max_characters: prompts that are longer are left out.
        words: the lists.

    Raises:
        InvalidInput: a value cannot be used.
    """

    volatile_ttl: float = 0.0
    static_ttl: float | None = 7 * 86_400.0
    actions: Literal["skip", "allow"] = "skip"
    creative: Literal["skip", "allow"] = "skip"
    personal: Set[str] = frozenset(KINDS)
    max_temperature: float | None = 1.0
    max_turns: int | None = 5
    tools: Literal["skip", "allow"] = "skip"
    max_characters: int = 8_000
    words: Words = field(default_factory=lambda: Words.of("en"), repr=False)

    def __post_init__(self) -> None:
        if self.volatile_ttl != 0 or isinstance(self.volatile_ttl, bool):
            seconds("volatile_ttl", self.volatile_ttl)
        if self.static_ttl is not None:
            seconds("static_ttl", self.static_ttl)
        for name in ("actions", "creative", "tools"):
            if getattr(self, name) not in ("skip", "allow"):
                raise InvalidInput(f"{name} must be 'skip' or 'allow', got {getattr(self, name)!r}")
        if isinstance(self.personal, str) or not set(self.personal) <= set(KINDS):
            raise InvalidInput(
                f"personal must be a set of {', '.join(KINDS)}, got {self.personal!r:.100}"
            )
        object.__setattr__(self, "personal", frozenset(self.personal))
        limit = self.max_temperature
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int | float)):
            raise InvalidInput(
                f"max_temperature must be a number or None, got {type(limit).__name__}"
            )
        if self.max_turns is not None:
            integer("max_turns", self.max_turns, 1)
        integer("max_characters", self.max_characters, 1)
        if not isinstance(self.words, Words):
            raise InvalidInput(f"words must be Words, got {type(self.words).__name__}")
        object.__setattr__(self, "_reading", _reading(self.words))

    def __call__(self, asked: Asked) -> Verdict:
        prompt, turns, temperature, tools = asked
        if len(prompt) > self.max_characters:
            return Verdict(False, "too_long", None)
        if tools and self.tools == "skip":
            return Verdict(False, "tools", None)
        if not self._cool(temperature):
            return Verdict(False, "temperature", None)
        if self.max_turns is not None and turns > self.max_turns:
            return Verdict(False, "long_conversation", None)
        reading: _Reading = self._reading  # type: ignore[attr-defined]
        said = reading.words(prompt)
        if not said:
            return Verdict(False, "empty", None)
        if self.personal:
            for found in personal(prompt):
                if found.kind in self.personal:
                    return Verdict(False, f"personal.{found.kind}", None)
        if self.creative == "skip" and reading.creative(said):
            return Verdict(False, "creative", None)
        if self.actions == "skip" and reading.action(said):
            return Verdict(False, "action", None)
        if reading.volatile(said, prompt):
            ttl = self.volatile_ttl or None
            return Verdict(ttl is not None, "volatile", ttl)
        if self.static_ttl is not None and reading.static(said):
            return Verdict(True, "static", self.static_ttl)
        return Verdict(True, "", None)

    def _cool(self, temperature: float | None) -> bool:
        if temperature is None or self.max_temperature is None:
            return True
        return temperature <= self.max_temperature


class _Phrases:
    """A list of words and phrases, looked for in a text's words."""

    def __init__(self, listed: str) -> None:
        names = [bare(name.lower()) for name in listed.split()]
        self._words = frozenset(name for name in names if "_" not in name)
        self._phrases: dict[str, list[list[str]]] = {}
        for name in names:
            if "_" in name:
                phrase = name.split("_")
                self._phrases.setdefault(phrase[0], []).append(phrase)

    def among(self, words: list[str]) -> bool:
        if not self._words.isdisjoint(words):
            return True
        phrases = self._phrases
        return any(self._at(words, at) for at, word in enumerate(words) if word in phrases)

    def opens(self, words: list[str]) -> int:
        """How many words at the beginning make one of the phrases; 0: none."""
        if not words:
            return 0
        return max(1 if words[0] in self._words else 0, self._at(words, 0))

    def _at(self, words: list[str], at: int) -> int:
        """Length of the longest phrase that begins there."""
        longest = 0
        for phrase in self._phrases.get(words[at], ()):
            if len(phrase) > longest and words[at : at + len(phrase)] == phrase:
                longest = len(phrase)
        return longest


class _Reading:
    """The lists of `Words` that the rules need, made ready."""

    _WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?|[^\W_]*[$€£][^\W_]*")

    def __init__(self, words: Words) -> None:
        self._volatile = _Phrases(words.volatile)
        self._if_asked = _Phrases(words.volatile_if_asked)
        self._timeless = _Phrases(words.timeless)
        self._subjects = frozenset(words.subjects.split())
        self._creative = _Phrases(words.creative)
        self._polite = _Phrases(words.polite)
        self._static = _Phrases(words.static)
        self._questions = _Phrases(words.asking)
        listed = words.actions.split()
        speakers = " ".join(group.partition(":")[2] for group in (*words.persons, *words.speakers))
        self._owned = frozenset(speakers.split()) - frozenset(self._static_words(words.static))
        self._actions = frozenset(one for one in listed if not one.endswith("+"))
        self._with_object = frozenset(one[:-1] for one in listed if one.endswith("+"))
        self._objects = frozenset(words.objects.split())
        expanded = (pair.partition("=") for pair in words.contractions.split())
        self._contractions = {short: long.split("_") for short, _, long in expanded}

    @staticmethod
    def _static_words(listed: str) -> list[str]:
        return listed.replace("_", " ").split()

    def words(self, prompt: str) -> list[str]:
        found: list[str] = []
        for word in self._WORD.findall(bare(skeleton(prompt).lower())):
            found.extend(self._contractions.get(word) or (word,))
        return found

    def volatile(self, words: list[str], prompt: str) -> bool:
        """Whether it asks for what changes; a report of what happened today does not."""
        if self._volatile.among(words):
            return True
        if not self._if_asked.among(words):
            return False
        for sentence in _SENTENCE.split(prompt):
            said = self.words(sentence)
            asked = self._asked(said)
            if not self._if_asked.among(said) or self._timeless.opens(asked):
                continue
            if not asked or asked[0] not in self._subjects:
                return True
        return False

    def creative(self, words: list[str]) -> bool:
        return self._creative.among(words) and not self._questions.opens(self._asked(words))

    def action(self, words: list[str]) -> bool:
        rest = self._asked(words)
        if not rest or self._questions.among(rest[1:] if len(rest) > 1 else []):
            return False
        if rest[0] in self._actions:
            return True
        return (
            rest[0] in self._with_object
            and len(rest) > 1
            and (rest[1] in self._objects or rest[1].isdigit())
        )

    def static(self, words: list[str]) -> bool:
        """A definition; one about the user's own things is none."""
        return self._static.opens(words) > 0 and self._owned.isdisjoint(words)

    def _asked(self, words: list[str]) -> list[str]:
        """`words` without what politeness puts before them."""
        for _ in range(6):
            count = self._polite.opens(words)
            if not count:
                break
            words = words[count:]
        return words


@lru_cache(8)
def _reading(words: Words) -> _Reading:
    return _Reading(words)
