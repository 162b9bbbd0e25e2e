"""Texts as a person sees them: what `normal` folds, and look-alikes of Latin letters as well.

The look-alikes are the single letters of Cyrillic, Greek and a few other scripts that Unicode's
`confusables.txt` (UTS #39) maps to an ASCII letter. A text is compared by its skeleton and by the
scripts it is written in: so "not" with a Cyrillic letter in it is a negation, and yet another word.
"""

# ruff: noqa: RUF001 - look-alikes are what this is about
from __future__ import annotations

import re
import unicodedata

from redis_tiered.llm_cache.semantic.normal import folded

__all__ = ["bare", "scripts", "skeleton"]

_LOOK_ALIKE = str.maketrans(
    dict(
        zip(
            "авекмнорстухіјѕԁһԛԝҽԍᴀᴄᴅᴇᴊᴋᴍᴏᴘᴛᴜᴠᴡᴢɑɡɩʟʀоѐёїүһ"
            "АВЕКМНОРСТУХІЈЅԌԚԜҮΑΒΕΖΗΙΚΜΝΟΡΤΥΧορνικυαχτ"
            "ոսօհցքզԱՍՕՏ",
            "abekmhopctyxijsdhqweGacdejkmoptuvwzagilroeeiyh"
            "ABEKMHOPCTYXIJSGQWYABEZHIKMNOPTYXopvikuaxt"
            "nuohgpqUSOS",
            strict=True,
        )
    )
    | {"’": "'", "‘": "'", "ʼ": "'", "＇": "'", "´": "'", "`": "'"}
    | dict(zip("‐‑‒–—−", "------", strict=True))
    | dict(zip("“”„‟", '""""', strict=True))
)
_LAID_OVER = re.compile("[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff]")
_SPACED = re.compile(r"(?<!\S)[^\W\d_](?: [^\W\d_]){2,}(?!\S)")
_SUPERSCRIPTS = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
# first letters of blocks, and the scripts that begin there; neighbours of one script are one row
_BLOCKS = (
    (0x0250, ""),
    (0x0370, "greek"),
    (0x0400, "cyrillic"),
    (0x0530, "armenian"),
    (0x0590, "hebrew"),
    (0x0600, "arabic"),
    (0x0700, "other"),
    (0x0900, "indic"),
    (0x0E00, "thai"),
    (0x0F00, "other"),
    (0x10A0, "georgian"),
    (0x1100, "korean"),
    (0x1200, "ethiopic"),
    (0x1380, "other"),
    (0x1D00, "phonetic"),
    (0x1E00, ""),
    (0x1F00, "greek"),
    (0x2000, ""),
    (0x2C00, "other"),
    (0x3040, "japanese"),
    (0x3130, "korean"),
    (0x31A0, "han"),
    (0xA000, "other"),
    (0xA640, "cyrillic"),
    (0xA6A0, "other"),
    (0xA720, ""),
    (0xA800, "other"),
    (0xAC00, "korean"),
    (0xD800, "other"),
    (0xF900, "han"),
    (0xFB00, "other"),
    (0x1D400, "mathematical"),
    (0x1D800, "other"),
    (0x20000, "han"),
    (0x32000, "other"),
)
_FOREIGN = re.compile("[^\x00-\u024f\u1e00-\u1eff]")


def skeleton(text: str) -> str:
    """`text` with one character for all that look alike; cases are kept."""
    if text.isascii():
        return _joined(text.replace("`", "'"))
    text = _SUPERSCRIPTS.sub(lambda match: "^" + unicodedata.normalize("NFKC", match[0]), text)
    shown = _LAID_OVER.sub("", folded(text)).translate(_LOOK_ALIKE)
    if not unicodedata.is_normalized("NFKC", shown):
        shown = unicodedata.normalize("NFKC", shown)
    return _joined(shown)


def _joined(text: str) -> str:
    """`N O T` is `NOT`."""
    return _SPACED.sub(lambda match: match[0].replace(" ", ""), text)


def bare(word: str) -> str:
    """`word` without the accents of Latin, Greek and Cyrillic letters."""
    if word.isascii():
        return word
    parts = unicodedata.normalize("NFD", word)
    kept = [c for c in parts if not "\u0300" <= c <= "\u036f"]
    return unicodedata.normalize("NFC", "".join(kept)).translate(_LOOK_ALIKE)


def scripts(text: str) -> frozenset[str]:
    """The scripts other than Latin that the letters of `text` belong to."""
    if text.isascii():
        return frozenset()
    found = set()
    for character in set(_FOREIGN.findall(text)):
        if character.isalpha():
            name = ""
            for first, script in _BLOCKS:
                if ord(character) < first:
                    break
                name = script
            if name:
                found.add(name)
    return frozenset(found)
