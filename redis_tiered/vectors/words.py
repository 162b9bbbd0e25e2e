"""Words of texts, as full-text search sees them in every tier."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

__all__ = ["words"]

# A text may be longer, its index must not: PostgreSQL's tsvector has at most a megabyte.
_MAX_TEXT: Final = 100_000
_MAX_WORDS: Final = 16_383
_MAX_WORD: Final = 64
# Chinese and Japanese do not part words: each of their letters is one. Languages of India write
# vowels as marks, which `\w` leaves out.
_LETTER: Final = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD: Final = re.compile(rf"[{_LETTER}]|(?:[^\W{_LETTER}]|[\u0900-\u0963\u0966-\u0dff])+")
_ASCII_WORD: Final = re.compile(r"\w+", re.ASCII)


def words(text: str) -> tuple[str, ...]:
    """The words of a text in order, without regard to case or to how letters are composed.

    They consist of letters, digits, marks and `_`. Of a text the first 100,000 characters and
    16,383 words count, of a word the first 64 characters.
    """
    if text.isascii():
        found: list[str] = _ASCII_WORD.findall(text[:_MAX_TEXT].lower())
    else:
        folded = unicodedata.normalize("NFKC", text[:_MAX_TEXT]).casefold()
        found = _WORD.findall(folded[:_MAX_TEXT])
    return tuple([word[:_MAX_WORD] for word in found[:_MAX_WORDS]])
