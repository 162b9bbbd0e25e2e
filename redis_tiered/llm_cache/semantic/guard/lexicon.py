"""What is known about a word: its stem, and which of a language's lists it stands in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from redis_tiered.llm_cache.semantic.guard.skeleton import bare
from redis_tiered.llm_cache.semantic.words import Words

__all__ = ["Lexicon", "Mark", "Word"]


class Mark:
    """The lists that a word stands in, and what its place in a text adds; plain ints, for speed."""

    FUNCTION = 1 << 0
    ARTICLE = 1 << 1
    FILLER = 1 << 2
    NEGATION = 1 << 3
    DENYING = 1 << 4
    NUMBER = 1 << 5
    SCALE = 1 << 6
    MEMBER = 1 << 7
    QUESTION = 1 << 8
    GENDER = 1 << 9
    OWNER = 1 << 10
    AND = 1 << 11
    OR = 1 << 12
    SYMMETRIC = 1 << 13
    BY = 1 << 14
    BEING = 1 << 15
    SOURCE = 1 << 16
    TARGET = 1 << 17
    STATUS = 1 << 18
    SUBJECT = 1 << 19
    CODE = 1 << 20
    SYMBOL = 1 << 21
    CAPITAL = 1 << 22
    OWNED = 1 << 23
    ENDS = 1 << 24
    PREFIXED = 1 << 25
    OPPOSED = 1 << 26


class Word:
    """A word of a text. Immutable once made.

    Attributes:
        text, key: as written, and in lower case without accents.
        stem: what it is compared by; of a member of a class `class:thing`.
        mask: a sum of `Mark`.
        value: of a number.
        group: what a question word asks for, or a pronoun's group.
        kind: the class that it is a member of.
        roots: what is left without a prefix that turns a meaning, and that prefix.
        tails: phrases that begin with this word: the words that follow, and the phrase's.
    """

    __slots__ = ("group", "key", "kind", "mask", "roots", "stem", "tails", "text", "value")

    def __init__(self, text: str, key: str, stem: str, mask: int) -> None:
        self.text, self.key, self.stem, self.mask = text, key, stem, mask
        self.value = self.group = self.kind = ""
        self.roots: tuple[tuple[str, str], ...] = ()
        self.tails: tuple[tuple[tuple[str, ...], Word], ...] = ()

    def marked(self, mask: int) -> Word:
        """This word with further marks."""
        other = Word(self.text, self.key, self.stem, self.mask | mask)
        other.value, other.group, other.kind = self.value, self.group, self.kind
        other.roots, other.tails = self.roots, self.tails
        return other


class Lexicon:
    """The lists of `Words`, turned so that they can be asked word by word.

    Attributes:
        opposed: stem to the stems that exclude it.
        particles: the same for words that do so only next to the same word.
        synonyms: stem to the stems that may stand for it.
        speakers: words for who speaks and who is spoken to.
        general: class to the stems of words for the class as a whole.
        reasons: class to the reason of its veto. counted: classes that need a number.
        units: classes whose members go with a number.
    """

    def __init__(self, words: Words) -> None:
        self._masks: dict[str, int] = {}
        self._groups: dict[str, str] = {}
        self._phrases: dict[str, list[tuple[tuple[str, ...], str]]] = {}
        self._members: dict[str, tuple[str, str]] = {}
        self._stems = words.stemming == "english"
        self._capital_nouns = words.capital_nouns
        self._acronyms = frozenset(words.acronyms.split())
        self.values = pairs(words.numbers)
        self.scales = {word: float(value) for word, value in pairs(words.scales).items()}
        self.contractions = pairs(words.contractions)
        self.ordinals = frozenset(words.ordinals.split())
        self._list(words)
        self._list_groups(words)
        self._list_classes(words)
        self.opposed = _both_ways(words.antonyms, self.stem)
        self.particles = _both_ways(words.particles.split(), bare)
        self.tenses = _both_ways(words.tenses.split(), bare)
        self.negating = tuple(words.negating_prefixes.split())
        self.opposed_prefixes = _both_ways(words.opposed_prefixes.split(), bare)
        self._prefixes = (*self.negating, *self.opposed_prefixes)
        self.synonyms = _synonyms(words.synonyms, self.stem)
        self.trouble = frozenset(map(self.stem, words.trouble.split()))
        self.than, self.plurals = frozenset(words.than.split()), frozenset(words.plurals.split())
        self.auxiliaries = frozenset(words.auxiliaries.split())
        self.speakers = {
            word: name
            for name, _, listed in (group.partition(":") for group in words.speakers)
            for word in listed.split()
        }

    def knows(self, text: str) -> bool:
        """Whether a list holds `text` as it stands."""
        return text in self._masks

    def stem(self, word: str) -> str:
        """`word` in lower case without its ending; function words stay whole."""
        key = bare(word.lower())
        listed = self._masks.get(key, 0) & ~(Mark.MEMBER | Mark.SYMMETRIC)
        return key if listed or not self._stems else _english(key)

    def word(self, text: str) -> Word:
        """One word; `text` is a skeleton without punctuation."""
        key = bare(text.lower())
        exact = text if text in self._masks else key
        mask = self._masks.get(exact, 0)
        capital = bare(text) != key and not (self._capital_nouns and text.istitle())
        if text in self._acronyms:
            return Word(text, text, text, Mark.CAPITAL)  # "IT" is not "it", "WHO" not "who"
        found = Word(text, key, self.stem(text), mask)
        if capital and not mask & Mark.FUNCTION:
            found.mask |= Mark.CAPITAL
        if mask & Mark.MEMBER:
            found.kind, found.stem = self._members[exact]
        if mask & Mark.NUMBER:
            found.value = self.values[key]
        elif mask & Mark.SCALE:
            found.value = f"{self.scales[key]:.12g}"
        elif not mask & Mark.FUNCTION:
            found.roots = self._roots(found.stem)
            found.mask |= Mark.PREFIXED if found.roots else 0
        if found.stem in self.opposed or key in self.particles:
            found.mask |= Mark.OPPOSED
        found.group = self._groups.get(key, "")
        if key in self._phrases:
            listed = sorted(self._phrases[key], key=lambda phrase: -len(phrase[0]))
            found.tails = tuple((rest, self._phrase(name)) for rest, name in listed)
        return found

    def _phrase(self, name: str) -> Word:
        found = Word(name, name, name, self._masks[name])
        found.group = self._groups.get(name, "")
        if found.mask & Mark.MEMBER:
            found.kind, found.stem = self._members[name]
        return found

    def _roots(self, stem: str) -> tuple[tuple[str, str], ...]:
        return tuple(
            (stem[len(prefix) :], prefix)
            for prefix in self._prefixes
            if stem.startswith(prefix) and len(stem) > len(prefix) + 2
        )

    def _list(self, words: Words) -> None:
        function = Mark.FUNCTION
        for listed, mask in (
            (words.function, function),
            (words.articles, Mark.ARTICLE),
            (words.fillers, Mark.FILLER),
            (words.negation, Mark.NEGATION | function),
            (words.denying, Mark.DENYING),
            (words.subjects, Mark.SUBJECT | function),
            (words.ands, Mark.AND | function),
            (words.ors, Mark.OR | function),
            (words.versus, Mark.SYMMETRIC | function),
            (words.symmetric, Mark.SYMMETRIC),
            (words.by, Mark.BY | function),
            (words.being, Mark.BEING | function),
            (words.sources, Mark.SOURCE | function),
            (words.targets, Mark.TARGET | function),
            (" ".join(self.values), Mark.NUMBER),
            (" ".join(self.scales), Mark.SCALE),
        ):
            for word in listed.split():
                self._mark(word, mask)

    def _list_groups(self, words: Words) -> None:
        for groups, mask in (
            (words.questions, Mark.QUESTION),
            (words.pronouns, Mark.GENDER),
            (words.persons, Mark.OWNER),
            (words.status, Mark.STATUS),
        ):
            for group in groups:
                name, _, listed = group.partition(":")
                for word in listed.split():
                    self._mark(word, mask | Mark.FUNCTION)
                    self._groups[bare(word)] = name

    def _list_classes(self, words: Words) -> None:
        self.reasons = {one.name: one.reason for one in words.classes}
        self.counted = frozenset(one.name for one in words.classes if one.counted)
        self.units = frozenset(one.name for one in words.classes if one.reason == "unit")
        self.general = {
            one.name: frozenset(map(self.stem, one.general.split())) for one in words.classes
        }
        for kind in words.classes:
            for member in kind.members:
                names = member.split()
                for name in names:
                    self._members.setdefault(bare(name), (kind.name, f"{kind.name}:{names[0]}"))
                    self._mark(name, Mark.MEMBER)

    def _mark(self, listed: str, mask: int) -> None:
        name = bare(listed)
        self._masks[name] = self._masks.get(name, 0) | mask
        head, *rest = name.split("_")
        if rest and (tuple(rest), name) not in self._phrases.setdefault(head, []):
            self._phrases[head].append((tuple(rest), name))


def pairs(listed: str) -> dict[str, str]:
    """`one=1 two=2` as a dict."""
    parted = (pair.partition("=") for pair in listed.split())
    return {bare(word): value for word, _, value in parted}


def _both_ways(rows: Iterable[str], made: Callable[[str], str]) -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for row in rows:
        left, _, right = row.partition("|")
        one, two = frozenset(map(made, left.split())), frozenset(map(made, right.split()))
        for these, those in ((one, two), (two, one)):
            for word in these:
                found[word] = found.get(word, frozenset()) | (those - {word})
    return found


def _synonyms(rows: Iterable[str], stem: Callable[[str], str]) -> dict[str, frozenset[str]]:
    same: dict[str, frozenset[str]] = {}
    for row in rows:
        stems = frozenset(map(stem, row.split()))
        for one in stems:
            same[one] = same.get(one, frozenset()) | stems
    return same


_VOWEL = re.compile("[aeiouy]")


def _english(word: str) -> str:
    """Light: plurals, -ed, -ing, and the British spellings of -ize and -or."""
    if len(word) > 3 and word[-1] == "s" and _VOWEL.search(word, 0, len(word) - 1):
        if word.endswith("ies"):
            word = word[:-3] + "y"
        elif word.endswith(("sses", "shes", "ches", "xes", "zes")):
            word = word[:-2]
        elif word[-2] not in "su" and word[-3:] != "ois" and word[-2:] != "is":
            word = word[:-1]
    for ending in ("ed", "ing"):
        cut = word[: -len(ending)]
        if word.endswith(ending) and len(cut) > 1 and _VOWEL.search(cut):
            if cut[-1] == cut[-2] and cut[-1] not in "lsz" and len(cut) > 3:
                cut = cut[:-1]
            word = cut
            break
    if word.endswith("e") and len(word) > 3:
        word = word[:-1]
    if word.endswith("is") and len(word) > 5:
        word = word[:-2] + "iz"
    elif word.endswith("our") and len(word) > 4:
        word = word[:-3] + "or"
    return word[:-1] + "i" if word.endswith("y") and len(word) > 3 else word
