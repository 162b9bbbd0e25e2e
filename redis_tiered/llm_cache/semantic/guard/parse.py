"""Finds the parts of a text in one pass over its words."""

# ruff: noqa: RUF001 - punctuation of other languages
from __future__ import annotations

import re
from collections.abc import Set
from typing import Any

from redis_tiered.llm_cache.semantic.guard.chunks import Chunks
from redis_tiered.llm_cache.semantic.guard.lexicon import Lexicon, Mark, Word
from redis_tiered.llm_cache.semantic.guard.parsed import Parsed
from redis_tiered.llm_cache.semantic.guard.skeleton import scripts, skeleton
from redis_tiered.llm_cache.semantic.normal import hidden

__all__ = ["Parser"]

_MARKS = frozenset("\"“”„«»`'‘’「」『』")
_QUOTED = re.compile(
    r"\"\"?([^\"]+)\"\"?|“([^”]+)”|„([^“”]+)[“”]|«([^»]+)»|`([^`]+)`|「([^」]+)」|『([^』]+)』"
    r"|(?<![^\s(\[])['‘]([^'’\s](?:[^'’]|(?<=\w)['’](?=\w))*)['’](?![\w])"
)
_BACKTICKS = re.compile("`+")
_FENCED = re.compile(r"```(.*?)(?:```|\Z)", re.DOTALL)
_INDENTED = re.compile(r"^[ \t]+\S.*$", re.MULTILINE)
_TENS = frozenset(("20", "30", "40", "50", "60", "70", "80", "90"))
_HALVES = frozenset(("am", "pm"))

# marks that need no further look in a text
_LISTED = ~(Mark.FUNCTION | Mark.SUBJECT | Mark.ENDS | Mark.DENYING)
_NUMBERS = Mark.NUMBER | Mark.SCALE
_NAMES = Mark.CODE | Mark.MEMBER | Mark.CAPITAL
_SKIPPED = Mark.ARTICLE | Mark.FILLER
_KEPT = Mark.NEGATION | Mark.CAPITAL


class Parser:
    """Makes `Parsed` of texts with one lexicon."""

    def __init__(self, lexicon: Lexicon) -> None:
        self._lexicon = lexicon
        self._chunks = Chunks(lexicon)

    def parse(self, text: str) -> Parsed:
        """The parts of `text`, in time linear in its length."""
        found = Parsed()
        found.hidden, found.scripts = hidden(text), scripts(text)
        if "\n" in text:
            found.code = (*_FENCED.findall(text), *_INDENTED.findall(text))
        words: list[Word] = []
        read = self._chunks.words
        for raw in skeleton(text).split():
            words.extend(read(raw))
        if not _MARKS.isdisjoint(text):
            found.quotes = self._quotes(text)
        _Pass(found, self._lexicon, _with_phrases(words)).run()
        return found

    def _quotes(self, text: str) -> frozenset[tuple[str, ...]]:
        found = set()
        for match in _QUOTED.finditer(_BACKTICKS.sub("`", text)):
            chunks = skeleton(match[match.lastindex or 0]).split()
            stems = tuple([word.stem for chunk in chunks for word in self._chunks.words(chunk)])
            if stems:
                found.add(stems)
        return frozenset(found)


class _Pass:
    """One pass over a text's words; what the last words have left open is kept here."""

    __slots__ = (
        "agent",
        "denying",
        "doubting",
        "found",
        "joined",
        "lexicon",
        "opening",
        "owner",
        "role",
        "skip",
        "words",
    )

    def __init__(self, found: Parsed, lexicon: Lexicon, words: list[Word]) -> None:
        self.found, self.lexicon, self.words = found, lexicon, words
        self.opening = True  # a sentence begins
        self.denying = self.doubting = False  # a negation waits for its object
        self.joined = 0  # "and" or "or" waits for its second part
        self.owner = self.role = ""
        self.agent = self.skip = -2

    def run(self) -> None:
        found = self.found
        frame, stems = found.frame, found.stems
        for index, word in enumerate(self.words):
            mask = word.mask
            stems.add(word.stem)
            if mask & Mark.OPPOSED:
                found.opposable.append(word.stem)
                mask ^= Mark.OPPOSED
            if not mask & ~Mark.ENDS:
                stems.add(word.key)
                frame.append(word.stem)
                if self.role == "from" or self.role == "to":
                    found.places.setdefault(word.stem, self.role)
                self.role = ""
                self._content(word.stem)
                self.opening = mask != 0
            elif mask & _LISTED:
                stems.add(word.key)
                self._listed(index, word, mask)
            else:  # grammar only
                frame.append(word.stem)
                self.role = word.key
                self.opening = mask & Mark.ENDS != 0
        self._finish()

    def _content(self, stem: str) -> None:
        found = self.found
        if self.denying:
            found.denied = _with(found.denied, stem)
            found.doubtful = _with(found.doubtful, stem)
            found.negations += 1
            self.denying, self.doubting = False, True
        elif self.doubting:
            found.doubtful = _with(found.doubtful, stem)
            self.doubting = False
        if self.joined:
            if found.content:
                pair = frozenset((found.content[-1], stem))
                if self.joined == Mark.AND:
                    found.ands = _with(found.ands, pair)
                else:
                    found.ors = _with(found.ors, pair)
            self.joined = 0
        if self.owner:
            found.owned = _with(found.owned, (self.owner, stem))
            self.owner = ""
        found.content.append(stem)

    def _listed(self, index: int, word: Word, mask: int) -> None:
        found = self.found
        if mask & _NUMBERS:
            self._number(index)
        elif mask & Mark.SYMBOL:
            found.symbols = _with(found.symbols, word.key)
            found.frame.append(word.stem)
        elif mask & _SKIPPED and not mask & _KEPT:
            if mask & Mark.ARTICLE and self.agent == index - 1:
                found.passive = True
            if not mask & Mark.ENDS:
                return
        else:
            found.frame.append(word.stem)
            if mask & _NAMES:
                self._name(index, word, mask)
            if mask & Mark.FUNCTION:
                self._function(index, word, mask)
            else:
                if mask & Mark.SYMMETRIC:
                    found.symmetric = True
                if mask & Mark.PREFIXED:
                    roots = found.roots or {}
                    for root, prefix in word.roots:
                        roots[root] = (prefix, word.stem)
                    found.roots = roots
                if self.role in ("from", "to"):
                    found.places.setdefault(word.stem, self.role)
                self.role = ""
                self._content(word.stem)
        self.opening = mask & Mark.ENDS != 0

    def _number(self, index: int) -> None:
        if index <= self.skip:
            return
        found = self.found
        value, self.skip = _value(self.words, index)
        after = self.words[self.skip + 1] if self.skip + 1 < len(self.words) else None
        unit = after.stem if after is not None and after.kind in self.lexicon.units else ""
        if unit:
            found.counted = _with(found.counted, (value, unit))
        if not unit or value != "1":  # "a week" is "1 week"
            found.numbers.append(value)
            found.frame.append(value)
            if not unit:
                found.places.setdefault(value, self.role)
            self._content(value)
        self.role = "from" if unit else ""

    def _name(self, index: int, word: Word, mask: int) -> None:
        found = self.found
        if mask & Mark.CODE:
            found.codes = _with(found.codes, word.key)
        elif mask & Mark.MEMBER:
            if word.kind in self.lexicon.counted and not mask & Mark.CAPITAL:
                return
            found.members = _with(found.members, (word.kind, word.stem))
            if mask & Mark.CAPITAL and not self.opening:
                found.names = _with(found.names, (word.key, word.stem))
        elif (
            self.opening
            and not mask & Mark.OWNED
            and (word.text[1:].islower() or len(word.text) == 1)
        ):
            following = self.words[index + 1].mask if index + 1 < len(self.words) else 0
            if mask & Mark.ENDS or not following & Mark.CAPITAL:
                return  # the sentence begins here, hence the capital
            found.names = _with(found.names, (word.key, word.stem))
        else:
            found.names = _with(found.names, (word.key, word.stem))
        found.places.setdefault(word.stem, self.role)
        found.passive = found.passive or self.agent == index - 1

    def _function(self, index: int, word: Word, mask: int) -> None:
        found = self.found
        if mask & Mark.NEGATION:
            if index + 2 == len(self.words) and self.words[-1].mask & Mark.SUBJECT:
                return  # "..., aren't you?"
            found.denials += 1
            if self._inverted(index):
                found.inverted = True
                found.negations += 1
            else:
                self.denying = True
        elif mask & Mark.QUESTION:
            # behind a word with content it joins clauses: "declined when I paid"
            if self.opening or not index or self.words[index - 1].mask & Mark.FUNCTION:
                found.questions = _with(found.questions, word.group)
        elif mask & Mark.GENDER and word.group not in found.genders:
            found.genders += (word.group,)
        if mask & Mark.OWNER:
            self.owner = word.group
        elif mask & Mark.SOURCE:
            self.role = "from"
        elif mask & Mark.TARGET:
            self.role = "to"
        else:
            self.role = word.key
        if mask & Mark.STATUS and not (index and self.words[index - 1].mask & Mark.BEING):
            found.status = _with(found.status, word.group)
        if mask & Mark.BEING:
            found.being = True
        elif mask & Mark.BY and found.being and found.content:
            self.agent = index
        if mask & Mark.SYMMETRIC:
            found.symmetric = True
        if mask & Mark.AND:
            self.joined = Mark.AND
        elif mask & Mark.OR:
            self.joined = Mark.OR

    def _inverted(self, index: int) -> bool:
        """Whether what is denied comes behind the subject: "why didn't my ...", "can't I ..."."""
        words = self.words
        following = words[index + 1].mask if index + 1 < len(words) else 0
        if words[index].mask & Mark.DENYING and following & Mark.SUBJECT:
            return True
        return any(word.group == "why" for word in words[max(0, index - 2) : index])

    def _finish(self) -> None:
        found, lexicon, frame = self.found, self.lexicon, self.found.frame
        found.said = frozenset(found.content) - found.denied
        found.trouble = not lexicon.trouble.isdisjoint(found.stems)
        if frame:
            compared = not lexicon.than.isdisjoint(found.stems)
            found.symmetric = found.symmetric and not compared  # "closer to it than"
            found.kinds_compared = compared and frame[0] in lexicon.plurals
            if frame[0] == "who" and len(frame) > 1:
                found.of_object = frame[1] in lexicon.auxiliaries


def _with(values: Set[Any], one: Any) -> Set[Any]:
    """`values` and `one`, in constant time; the shared empty set is never changed."""
    if isinstance(values, set):
        values.add(one)
        return values
    return {one}


def _with_phrases(words: list[Word]) -> list[Word]:
    found: list[Word] | None = None
    index = 0
    while index < len(words):
        word = words[index]
        if word.tails:
            for rest, phrase in word.tails:
                end = index + 1 + len(rest)
                if end > len(words) or words[index + 1].key != rest[0]:
                    continue
                if tuple([one.key for one in words[index + 1 : end]]) == rest:
                    found = words[:index] if found is None else found
                    marks = words[end - 1].mask & Mark.ENDS | word.mask & Mark.CAPITAL
                    found.append(phrase.marked(marks) if marks else phrase)
                    index = end - 1
                    break
            else:
                if found is not None:
                    found.append(word)
        elif found is not None:
            found.append(word)
        index += 1
    return words if found is None else found


def _value(words: list[Word], index: int) -> tuple[str, int]:
    """The number that begins at `index`, and the index of its last word."""
    word = words[index]
    if not word.mask & Mark.NUMBER or index + 1 == len(words):
        return word.value, index
    after = words[index + 1]
    if after.key in _HALVES and word.value.isdigit():
        return word.value + after.key, index + 1
    if after.mask & Mark.SCALE and _is_float(word.value):
        return f"{float(word.value) * float(after.value):.12g}", index + 1
    spelled = word.key.isalpha() and after.key.isalpha() and bool(after.mask & Mark.NUMBER)
    if spelled and word.value in _TENS and len(after.value) == 1:
        return str(int(word.value) + int(after.value)), index + 1
    return word.value, index


def _is_float(value: Any) -> bool:
    return bool(re.fullmatch(r"[+-]?\d+(?:\.\d+)?", value))
