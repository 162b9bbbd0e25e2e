"""One form for spellings of a prompt that no reader would tell apart.

Two prompts with one normal form share one stored answer without anybody being asked, so only what
carries no meaning is taken away:

- canonical and width variants of characters (NFC, full-width forms, ligatures), but not superscripts
  and fractions: NFKC would make `2⁵` and `25` one text;
- zero-width and other default-ignorable characters, a few of them at most: a text that hides many, or
  holds tag characters, is left alone, for a model may read what a person cannot see;
- upper case of a word that opens a sentence, and of `I`. Everywhere else case is kept: `US` and `us`,
  `IT` and `it`, `Polish` and `polish`, German `Ihr` and `ihr` are different words;
- runs of blanks, and `?`, `.` and `!` behind the last word (`C`, `C++` and `C#` stay apart, and so
  do `5!` and `5`).

A text of several lines keeps all of it: its blanks and cases may be code. So do blanks in a text with
quotation marks. Everything runs in time linear in the text's length.
"""

# ruff: noqa: RUF001 - punctuation of other languages
from __future__ import annotations

import re
import unicodedata

__all__ = ["folded", "hidden", "normal"]

_QUOTES = frozenset("\"'`´‘’‚‛“”„‟«»‹›「」『』")
_LINES = re.compile(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
# Default_Ignorable_Code_Point of Unicode 16, without the tags and the variation selectors beyond 16
_IGNORABLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0]"
)
_SELECTORS = frozenset(map(chr, range(0xFE00, 0xFE10)))
_JOINERS = _SELECTORS | {"\u200c", "\u200d"}
_SMUGGLED = re.compile("[\U000e0000-\U000e0fff]")
_HIDDEN_AT_MOST = 8
_SAME_LOOK = ("<wide>", "<narrow>", "<noBreak>", "<font>", "<compat>")
_OPENING = re.compile(r"(?:^|[.?!] )([^\W\d_]+)")
_I = re.compile(r"(?<!\S)I(?='|\u2019| )")
_ONE_LETTER = frozenset("AI")


def normal(text: str) -> str:
    """The form under which spellings of one prompt meet; `normal(normal(x)) == normal(x)`.

    Args:
        text: any string, lone surrogates and control characters included.
    """
    if _LINES.search(text.strip()) or hidden(text):
        return unicodedata.normalize("NFC", text)
    shown = folded(text)
    quoted = not _QUOTES.isdisjoint(shown)
    shown = shown.strip() if quoted else " ".join(shown.split())
    shown = _I.sub("i", _OPENING.sub(_lowered, shown) if not quoted else _first_lowered(shown))
    return _without_end(unicodedata.normalize("NFC", shown))


def folded(text: str) -> str:
    """`text` with one character for those that look the same in another width, font or form.

    NFC, and NFKC where that changes the look only; default-ignorable characters are gone, except
    joiners and variation selectors behind letters and emoji that need them.
    """
    if text.isascii():
        return text
    composed = unicodedata.normalize("NFC", text)
    if _IGNORABLE.search(composed):
        composed = _without_ignorable(composed)
    if not unicodedata.is_normalized("NFKC", composed):
        composed = "".join(map(_plain, composed))
    return unicodedata.normalize("NFC", composed)


def hidden(text: str) -> bool:
    """Whether `text` holds more that nobody sees than a keyboard or an editor leaves behind."""
    if text.isascii():
        return False
    if _SMUGGLED.search(text):
        return True
    found = 0
    for match in _IGNORABLE.finditer(text):
        before = text[match.start() - 1] if match.start() else " "
        bare = before < "\u0250" or (_IGNORABLE.match(before) and before not in _SELECTORS)
        if bare or match.group() not in _JOINERS:
            found += 1
            if found > _HIDDEN_AT_MOST:
                return True
    return False


def _plain(character: str) -> str:
    if character < "\x80":
        return character
    mapping = unicodedata.decomposition(character)
    if not mapping.startswith(_SAME_LOOK):
        return character
    return unicodedata.normalize("NFKC", character)


def _without_ignorable(text: str) -> str:
    kept: list[str] = []
    for character in text:
        if _IGNORABLE.match(character) and not (
            character in _JOINERS and kept and kept[-1] >= "\u0250"
        ):
            continue
        kept.append(character)
    return "".join(kept)


def _lowered(match: re.Match[str]) -> str:
    """The opening word in lower case, if it is written `Like` this; `US`, `C` and `iOS` stay."""
    word = match[1]
    if (len(word) > 1 and word[0].isupper() and word[1:].islower()) or word in _ONE_LETTER:
        start = match.start(1) - match.start()
        return match[0][:start] + word.lower()
    return match[0]


def _first_lowered(text: str) -> str:
    return _OPENING.sub(_lowered, text, count=1) if text[:1].isalpha() else text


def _without_end(text: str) -> str:
    """`text` without the punctuation behind its last word; punctuation by itself stays."""
    bare = text.rstrip("?.!")
    if len(bare) == len(text) or not bare or bare[-1].isspace():
        return text
    if not (bare[-1].isalnum() or bare[-1] in "+#)]%"):
        return text
    if bare[-1].isdigit() and "!" in text[len(bare) :]:
        return text
    return bare
