"""The words of what stands between two blanks: numbers with units, file names, `C++`, `isn't` ..."""

# ruff: noqa: RUF001 - punctuation of other languages
from __future__ import annotations

import re
from functools import lru_cache

from redis_tiered.llm_cache.semantic.guard.lexicon import Lexicon, Mark, Word
from redis_tiered.llm_cache.semantic.guard.skeleton import bare

__all__ = ["Chunks"]

_REMEMBERED = 16_384
_LONGEST = 64
_OPENS = "([{<\"'«‹¿¡*_~|,;:"
_CLOSES = ".,;:!?)]}>\"'»›*_~|…。，？！、；："
_ENDS = frozenset(".!?:;。？！")
_POSSESSIVES = frozenset(("s", ""))
_SHORTENED = frozenset(("s", "re", "ve", "ll", "d", "m", ""))
_HALVES = frozenset(("am", "pm"))
_SYMBOLS = frozenset("+*/=<>^%|×÷≤≥≠~\\")
_LETTERS = re.compile(r"[^\W\d_]+")
_PIECES = re.compile(r"[^\W_]+(?:['.][^\W_]+)*|[+*/=<>^%|&×÷≤≥≠]+")
_NUMBER = re.compile(
    r"([^\w\s.,+-]{0,2})([+-]?(?:\d+(?:,\d{3})+|\d+)(?:\.\d+)?)(%|°?[^\W\d_]{0,9}|[^\w\s.,+-]{0,2})"
)
_NAMED = re.compile(
    r"\.?[^\W\d_]+[+#]{1,2}|\.[^\W\d_]+\d*|--?[^\W\d_][\w-]*|[#@$][^\W\d]\w*|[^\W\d_]{1,3}-\d{1,4}"
)
_CLOCK = re.compile(r"\d{1,2}:\d\d(?::\d\d)?([ap]m)?")
_FULL_HOUR = re.compile(r":00(?=[ap]m)")
_DATED = re.compile(r"\d+(?:[-/.:]\d+){2,}")
_DOTTED = re.compile(r"[^\W\d_](?:\.[^\W\d_])+")
_FILE = re.compile(
    r"[\w.-]+\.(?:ai|bat|c|cfg|com|conf|cpp|cs|css|csv|db|de|dll|docx?|edu|eu|exe|gif|go|gov|h|html?"
    r"|ini|io|ipynb|jar|java|jpe?g|jsx?|json|key|kt|lock|log|md|mp[34]|net|org|parquet|pdf|pem|php|png"
    r"|pptx?|ps1|py|rb|rs|sh|sql|svg|tar|toml|tsx?|txt|uk|wav|xlsx?|xml|ya?ml|zip|gz)"
)
_WITHOUT_BLANKS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_UNSPACED = re.compile(f"[{_WITHOUT_BLANKS}]")
_CHARACTERS = re.compile(f"[{_WITHOUT_BLANKS}]|[^{_WITHOUT_BLANKS}]+")
_OPERATORS = re.compile(r"([-/+*=<>^×÷:,()]+|\.(?=\D)|(?<=\D)\.)")


class Chunks:
    """Reads chunks with a lexicon; the words of the short ones are remembered."""

    def __init__(self, lexicon: Lexicon) -> None:
        self._lexicon = lexicon
        self._remembered = lru_cache(_REMEMBERED)(self._read)

    def words(self, raw: str) -> tuple[Word, ...]:
        """The words of `raw`, which holds no blank; none for mere punctuation."""
        return self._remembered(raw) if len(raw) <= _LONGEST else self._read(raw)

    def _read(self, raw: str) -> tuple[Word, ...]:
        core = raw.lstrip(_OPENS)
        body = core.rstrip(_CLOSES)
        if not body:
            return tuple(self._symbol(one) for one in raw if _is_symbol(one))
        if len(body) > 1 and body.isalpha() and not (body > "\u0e00" and _UNSPACED.search(body)):
            found = [self._lexicon.word(body)]
        elif len(body) > _LONGEST and not _UNSPACED.search(body):
            found = [_code(body)]
        else:
            found = self._pieces(body)
        if found and not _ENDS.isdisjoint(core[len(body) :]):
            found[-1] = found[-1].marked(Mark.ENDS)
        return tuple(found)

    def _pieces(self, body: str) -> list[Word]:
        if not body.isascii() and _UNSPACED.search(body):
            return self._unspaced(body)
        key, word = body.lower(), self._lexicon.word
        if key in self._lexicon.contractions:
            return [word(one) for one in self._lexicon.contractions[key].split("_")]
        if key.endswith("n't"):
            return [word(body[:-3]), word("not")]
        head, quote, end = body.rpartition("'")
        if quote and _LETTERS.fullmatch(head) and end.lower() in _SHORTENED:
            owned = Mark.OWNED if end.lower() in _POSSESSIVES else 0
            return [word(head).marked(owned)]
        if self._lexicon.knows(body) or self._lexicon.knows(key):
            return [word(body)]
        if _DOTTED.fullmatch(body):
            return [word(body.replace(".", ""))]
        if _is_code(body, key):
            return [_code(body if body[0] in "-/." else body.replace("-", ""))]
        if any(map(str.isdigit, body)):
            return self._numbers(body)
        if len(body) == 1:
            if _is_symbol(body):
                return [self._symbol(body)]
            return [word(body)] if body.isalpha() else []
        return self._split(body)

    def _unspaced(self, body: str) -> list[Word]:
        """Scripts that put no blanks between words: each character is compared for itself."""
        found: list[Word] = []
        for piece in _CHARACTERS.findall(body):
            if _UNSPACED.match(piece):
                found.append(self._lexicon.word(piece))
            else:
                found.extend(self.words(piece))
        return found

    def _split(self, body: str) -> list[Word]:
        found: list[Word] = []
        for piece in _PIECES.findall(body):
            if not piece[0].isalnum():
                if piece not in ("/", "&"):
                    found.append(self._symbol(piece))
            elif piece != body and "'" in piece:
                found.extend(self._read(piece))
            else:
                found.extend(map(self._lexicon.word, re.split("[.']", piece)))
        found.extend(self._symbol(one) for one in body if one > "\u2190" and _is_symbol(one))
        return found

    def _numbers(self, body: str) -> list[Word]:
        key = body.lower()
        if _CLOCK.fullmatch(key) or _DATED.fullmatch(key):
            return [_number(_FULL_HOUR.sub("", key))]
        if match := _NUMBER.fullmatch(key):
            return self._number(match)
        parts = _OPERATORS.split(body)
        if len(parts) == 1:
            return [_code(body)]
        found: list[Word] = []
        for part in filter(None, parts):
            if part[0].isalnum() or part[0] in "$€£¥":
                found.extend(self._pieces(part))
            elif part not in ("-", "/", ",", ".", ":"):
                found.append(self._symbol(part))
        return found

    def _number(self, match: re.Match[str]) -> list[Word]:
        before, digits, after = match.groups()
        value, unit = digits.replace(",", "").lstrip("+"), after
        if after in self._lexicon.scales:
            value, unit = f"{float(value) * self._lexicon.scales[after]:.12g}", ""
        elif after in self._lexicon.ordinals:
            unit = ""
        elif after in _HALVES or after in ("s", "x"):
            value, unit = value + after, ""
        elif after.isalnum() and not self._lexicon.knows(bare(after)):
            return [_code(match[0])]
        return [_number(value), *(self._symbol(one) for one in (before, unit) if one)]

    def _symbol(self, text: str) -> Word:
        if self._lexicon.knows(text):
            return self._lexicon.word(text)
        return Word(text, text, text, Mark.SYMBOL)


def _is_code(body: str, key: str) -> bool:
    if "://" in key or "@" in key or "_" in key or "\\" in key or key.startswith("www."):
        return True
    if body[0] == "/" or body[:2] in ("./", "~/"):
        return True
    return bool(_NAMED.fullmatch(body) or _FILE.fullmatch(key))


def _code(text: str) -> Word:
    key = text.lower()
    return Word(text, key, key, Mark.CODE)


def _number(value: str) -> Word:
    found = Word(value, value, value, Mark.NUMBER)
    found.value = value
    return found


def _is_symbol(character: str) -> bool:
    if character in _SYMBOLS:
        return True
    return character > "\u2190" and not (
        character.isalnum() or character.isspace() or character in _CLOSES
    )
