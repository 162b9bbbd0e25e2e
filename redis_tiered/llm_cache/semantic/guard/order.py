"""The rules of the guard that look at the order of words, and at texts that all but agree."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from redis_tiered.llm_cache.semantic.guard.lexicon import Lexicon
from redis_tiered.llm_cache.semantic.guard.parsed import Parsed
from redis_tiered.llm_cache.semantic.guard.rules import ALIKE, alike

__all__ = ["edits", "edits_strictly", "order_strictly", "roles"]

_LONG = 12  # words with content from which on the passive is not looked for
_NONE: frozenset[str] = frozenset()


def roles(a: Parsed, b: Parsed, lexicon: Lexicon) -> str | None:
    """The same things play other parts: who does it to whom, from where to where."""
    if a.symmetric or b.symmetric:
        return None
    if a.passive != b.passive and not (a.being and b.being) and _same_order(a.content, b.content):
        return "role"
    if a.of_object is not b.of_object and None not in (a.of_object, b.of_object):
        same = set(a.content) == set(b.content)
        if same:
            return "role"
    if len(a.frame) == len(b.frame) and a.content == b.content and _speakers(a, b, lexicon):
        return "role"
    if len(a.places) < 2 or len(b.places) < 2:
        return None
    return "role" if _any_exchanged(a, b) or _any_exchanged(b, a) else None


def _any_exchanged(a: Parsed, b: Parsed) -> bool:
    """Whether two neighbours among the parts of `a` have changed places in `b`."""
    stand = {one: index for index, one in enumerate(b.places)}
    for one, two in pairwise([one for one in a.places if one in stand]):
        if _joined(a, one, two) or _joined(b, one, two):
            continue
        if _exchanged(a, b, one, two, stand[one] < stand[two]):
            return True
    return False


def _same_order(one: Sequence[str], two: Sequence[str]) -> bool:
    """Whether both name the same things in one order; the verb may be another form."""
    if len(one) > _LONG or abs(len(one) - len(two)) > 1:
        return False
    common = set(one) & set(two)
    if len(common) < 2 or len(one) - len(common) > 1 or len(two) - len(common) > 1:
        return False
    return [x for x in one if x in common] == [x for x in two if x in common]


def _speakers(a: Parsed, b: Parsed, lexicon: Lexicon) -> bool:
    """ "Can you call me" and "can I call you"."""
    speakers = lexicon.speakers
    one = [speakers[word] for word in a.frame if word in speakers]
    two = [speakers[word] for word in b.frame if word in speakers]
    return one != two and len(one) == 2 and one == two[::-1]


def _joined(text: Parsed, one: str, two: str) -> bool:
    pair = frozenset((one, two))
    return pair in text.ands or pair in text.ors


def _exchanged(a: Parsed, b: Parsed, one: str, two: str, in_order: bool) -> bool:
    """Whether it goes from `one` to `two` in `a` only; `in_order`: so they stand in `b`."""
    here = _onwards(a.places[one], a.places[two])
    there = _onwards(b.places[one], b.places[two])
    if here is not None and there is not None:
        return here != there
    if here is None and there is None:
        before = (a.places[one], a.places[two])
        if before == (b.places[one], b.places[two]) and all(before) and before[0] != before[1]:
            return False  # "at 5 for 2" is "for 2 at 5"
        return alike(a, b) >= ALIKE and in_order == (a.passive != b.passive)
    if alike(a, b) < ALIKE:
        return False
    return (True if here is None else here) != (in_order if there is None else there)


def _onwards(one: str, two: str) -> bool | None:
    """Whether it goes from one to two, by the words before them."""
    if (one == "from") == (two == "from") and (one == "to") == (two == "to"):
        return None
    return one == "from" or two == "to"


def edits(a: Parsed, b: Parsed, lexicon: Lexicon) -> str | None:
    """Where two texts differ in one place only, that place is what is asked."""
    return _edit(a, b, lexicon, 1)


def edits_strictly(a: Parsed, b: Parsed, lexicon: Lexicon) -> str | None:
    """The same for up to three words in a row."""
    return _edit(a, b, lexicon, 3)


def _edit(a: Parsed, b: Parsed, lexicon: Lexicon, most: int) -> str | None:
    one, two = (a.frame, b.frame) if len(a.frame) <= len(b.frame) else (b.frame, a.frame)
    if len(two) - len(one) > most or len(one) < 2:
        return None
    start, end, limit = 0, 0, len(one)
    while start < limit and one[start] == two[start]:
        start += 1
    limit -= start
    while end < limit and one[-1 - end] == two[-1 - end]:
        end += 1
    left, right = one[start : len(one) - end], two[start : len(two) - end]
    content = {*a.content, *b.content}
    if not left:
        if a.denials != b.denials:
            return "negation"
        return None if content.isdisjoint(right) else "modifier"
    if len(left) == len(right) == 1:
        return _substituted(a, b, left[0], right[0], content, lexicon)
    swapped = [left[-1], *left[1:-1], left[0]] == right
    if swapped and left[0] in content and left[-1] in content:
        return _transposed(a, b, left)
    return None


def _substituted(
    a: Parsed, b: Parsed, one: str, two: str, content: set[str], lexicon: Lexicon
) -> str | None:
    if one not in content and two not in content:
        if two in lexicon.particles.get(one, _NONE) or two in lexicon.opposed.get(one, _NONE):
            return "antonym"
        return "tense" if two in lexicon.tenses.get(one, _NONE) else None
    if one in a.numbers + b.numbers and two in a.numbers + b.numbers:
        return "number"
    if two in lexicon.synonyms.get(one, _NONE):
        return None
    kind = one.partition(":")[0]
    if kind == two.partition(":")[0] and not lexicon.general.get(kind, _NONE).isdisjoint(a.stems):
        return None
    return "substitution"


def _transposed(a: Parsed, b: Parsed, words: list[str]) -> str | None:
    if a.symmetric or b.symmetric or a.ands or a.ors or b.ands or b.ors:
        return None
    if a.kinds_compared and b.kinds_compared:
        return None
    if len(words) == 2 and any(word.startswith("times:") or word.endswith("li") for word in words):
        return None  # "charged twice", "double charged"
    return "order"


def order_strictly(a: Parsed, b: Parsed, _: Lexicon) -> str | None:
    """The same words with content in another order, which no list and no passive explains."""
    if a.content == b.content or sorted(a.content) != sorted(b.content):
        return None
    if a.ands or a.ors or b.ands or b.ors or a.passive != b.passive:
        return None
    return None if a.symmetric or b.symmetric else "order"
