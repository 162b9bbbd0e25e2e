"""The rules of the guard: each looks at two parsed texts and names a reason, or None.

All are symmetric. What only one of two texts holds may be a matter of wording; what speaks against
a candidate is mostly that each of the two holds something that the other one lacks.
"""

from __future__ import annotations

from redis_tiered.llm_cache.semantic.guard.lexicon import Lexicon
from redis_tiered.llm_cache.semantic.guard.parsed import Parsed

__all__ = [
    "alike",
    "antonyms",
    "identifiers",
    "logic",
    "names",
    "names_strictly",
    "negation",
    "numbers",
    "numbers_strictly",
    "persons",
    "questions",
    "quotations",
    "status",
    "unseen",
]

ALIKE = 0.75  # shared content from which on two texts say the same but for what differs
ALIKE_INVERTED = 0.6
ALIKE_BUT_FOR_NUMBERS = 0.4
COINCIDENCE = 12  # words of their own from which on two texts hold antonyms by chance
_NONE: frozenset[str] = frozenset()


def alike(a: Parsed, b: Parsed) -> float:
    """Jaccard index of the words with content, 0 to 1."""
    one, two = set(a.content), set(b.content)
    return len(one & two) / (len(one | two) or 1)


def unseen(a: Parsed, b: Parsed, _: Lexicon) -> str | None:
    if a.hidden or b.hidden:
        return "hidden"
    if not a.stems or not b.stems:
        return "wordless"
    if a.scripts != b.scripts:
        return "script"
    return "code" if a.code != b.code else None


def numbers(a: Parsed, b: Parsed, _: Lexicon) -> str | None:
    """Each has a number that the other lacks, or one of two that say much the same has none."""
    if a.numbers != b.numbers:
        ours, theirs = set(a.numbers), set(b.numbers)
        if ours != theirs:
            crossed = not (ours <= theirs or theirs <= ours)
            if crossed or alike(a, b) >= ALIKE_BUT_FOR_NUMBERS:
                return "number"
    if a.counted != b.counted:
        for value, unit in a.counted - b.counted:
            others = {u for v, u in b.counted if v == value}
            if others and unit not in others:
                return "unit"
    return None


def numbers_strictly(a: Parsed, b: Parsed, _: Lexicon) -> str | None:
    return "number" if set(a.numbers) != set(b.numbers) else None


def quotations(a: Parsed, b: Parsed, _: Lexicon) -> str | None:
    """A quoted text may stand in the other one without its marks."""
    if a.quotes != b.quotes:
        for one, other in ((a, b), (b, a)):
            if not all(other.stems.issuperset(stems) for stems in one.quotes - other.quotes):
                return "quoted"
    return None


def identifiers(a: Parsed, b: Parsed, _: Lexicon) -> str | None:
    if a.codes != b.codes and not (a.codes <= b.stems and b.codes <= a.stems):
        return "identifier"
    return "symbol" if a.symbols != b.symbols else None


def names(a: Parsed, b: Parsed, lexicon: Lexicon) -> str | None:
    """Each text names somebody or something that the other one does not."""
    if a.names != b.names:
        ours, theirs = _only(a, b), _only(b, a)
        # "Japan" and "Japanese" are one thing
        if ours and theirs and not (ours <= b.stems and theirs <= a.stems):
            return "name"
    if a.members != b.members:
        ours = {kind for kind, _ in a.members - b.members}
        theirs = {kind for kind, _ in b.members - a.members}
        for kind in sorted(ours & theirs):
            if not _about_the_kind(a, b, kind, lexicon):
                return lexicon.reasons[kind]
    return None


def names_strictly(a: Parsed, b: Parsed, lexicon: Lexicon) -> str | None:
    """Something that is named in one text only will do."""
    if not (_only(a, b) <= b.stems and _only(b, a) <= a.stems):
        return "name"
    for kind, _ in sorted(set(a.members) ^ set(b.members)):
        if not _about_the_kind(a, b, kind, lexicon):
            return lexicon.reasons[kind]
    return None


def _only(a: Parsed, b: Parsed) -> set[str]:
    """The stems of names whose very word is not in the other text."""
    return {stem for key, stem in a.names if key not in b.stems}


def _about_the_kind(a: Parsed, b: Parsed, kind: str, lexicon: Lexicon) -> bool:
    """ "My dog eats rice. Is that normal for animals?" is the same about a cat."""
    general = lexicon.general.get(kind, _NONE)
    return not general.isdisjoint(a.stems) and not general.isdisjoint(b.stems)


def negation(a: Parsed, b: Parsed, lexicon: Lexicon) -> str | None:
    """One text denies what the other one says."""
    if not a.negations and not b.negations:
        if a.denials != b.denials and set(a.content) == set(b.content):
            return "negation"
        return None
    if a.negations and b.negations:
        if (a.negations + b.negations) % 2:
            return "negation" if alike(a, b) >= ALIKE else None
        if a.inverted or b.inverted or not a.denied.isdisjoint(b.denied):
            return None
        crossed = not a.denied.isdisjoint(b.said) and not b.denied.isdisjoint(a.said)
        return "negation" if crossed else None
    one, other = (a, b) if a.negations else (b, a)
    for word in one.doubtful:
        if not lexicon.opposed.get(word, _NONE).isdisjoint(other.stems):
            return None  # "not correct" is "incorrect"
        if word in other.roots and other.roots[word][0] in lexicon.negating:
            return None  # "not happy" is "unhappy"
    if alike(a, b) >= (ALIKE_INVERTED if one.inverted else ALIKE):
        return "negation"
    # "I can't verify it" and "I have trouble verifying it" both say that it fails
    return None if other.trouble or one.denied.isdisjoint(other.said) else "negation"


def antonyms(a: Parsed, b: Parsed, lexicon: Lexicon) -> str | None:
    """A word of one text stands against a word of the other, and neither has both."""
    if a.opposable and b.opposable:
        ours = [word for word in a.opposable if word not in b.stems]
        theirs = {word for word in b.opposable if word not in a.stems}
        if ours and theirs:
            for word in ours:
                for other in lexicon.opposed.get(word, _NONE) & theirs:
                    if (word in a.doubtful) == (other in b.doubtful) and not _by_chance(a, b):
                        return "antonym"
                for other in lexicon.particles.get(word, _NONE) & theirs:
                    if _beside(a, word) & _beside(b, other):
                        return "antonym"
    return "antonym" if (a.roots or b.roots) and _prefixed(a, b, lexicon) else None


def _by_chance(a: Parsed, b: Parsed) -> bool:
    return min(len(a.stems - b.stems), len(b.stems - a.stems)) > COINCIDENCE


def _prefixed(a: Parsed, b: Parsed, lexicon: Lexicon) -> bool:
    """`happy` and `unhappy`, `hypertension` and `hypotension`."""
    for one, other in ((a, b), (b, a)):
        for root, (prefix, stem) in one.roots.items():
            if stem in other.stems:
                continue
            if root in other.stems and root not in one.stems and prefix in lexicon.negating:
                alike_denied = (stem in one.doubtful) == (root in other.doubtful)
                if alike_denied:
                    return True
            instead, opposite = other.roots.get(root, ("", ""))
            opposed = lexicon.opposed_prefixes.get(prefix, _NONE)
            if opposite and opposite not in one.stems and instead in opposed:
                return True
    return False


def _beside(text: Parsed, word: str) -> set[tuple[int, str]]:
    """The words with content next to `word`, and on which side."""
    found = set()
    frame, content = text.frame, text.content
    for index, one in enumerate(frame):
        if one == word:
            if index and frame[index - 1] in content:
                found.add((-1, frame[index - 1]))
            if index + 1 < len(frame) and frame[index + 1] in content:
                found.add((1, frame[index + 1]))
    return found


def questions(a: Parsed, b: Parsed, _: Lexicon) -> str | None:
    if a.questions and b.questions and a.questions.isdisjoint(b.questions):
        return "question_word"
    return None


def persons(a: Parsed, b: Parsed, _: Lexicon) -> str | None:
    """He for she, my for your."""
    if a.genders != b.genders and ((a.genders and b.genders) or alike(a, b) >= ALIKE):
        return "pronoun"
    if a.owned != b.owned:
        for whose, what in a.owned - b.owned:
            for others, same in b.owned - a.owned:
                if what == same and whose != others:
                    return "person"
    return None


def logic(a: Parsed, b: Parsed, _: Lexicon) -> str | None:
    """The same two things are joined by "and" here and by "or" there."""
    if a.ands.isdisjoint(b.ors) and a.ors.isdisjoint(b.ands):
        return None
    return "logic"


def status(a: Parsed, b: Parsed, _: Lexicon) -> str | None:
    return "status" if a.status != b.status else None
