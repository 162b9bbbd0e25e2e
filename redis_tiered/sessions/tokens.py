"""How many tokens a message has: by an encoding found on disk, or by an approximation.

Never by the network: tiktoken would fetch an encoding it does not find.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import stat
import tempfile
import threading
from binascii import a2b_base64
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import orjson

from redis_tiered.errors import InvalidInput
from redis_tiered.sessions.message import Message

if TYPE_CHECKING:
    from tiktoken import Encoding

__all__ = [
    "TextCounter",
    "TokenCounter",
    "approximate",
    "callable_name",
    "counted",
    "load_encoding",
    "resolve",
]

_OVERHEAD: Final = 3  # the marks around a message, as OpenAI's chat models have them
# What LlamaIndex's Memory assumes; the true number depends on the model and the attachment.
_MEDIA: Final = {"image": 256, "audio": 256, "video": 256, "document": 2048}
_MAX_NAME: Final = 100
_MAX_COUNT: Final = 2**31 - 1
_PIECE: Final = 4096
_PIECES: Final = 64


class TokenCounter(Protocol):
    """Counts the tokens of messages.

    Attributes:
        name: stored beside each count; a count under another name is made again. At most 100
            printable characters.
    """

    @property
    def name(self) -> str: ...

    def count(self, message: Message) -> int: ...


def _is_name(name: object) -> bool:
    return isinstance(name, str) and 0 < len(name) <= _MAX_NAME and name.isprintable()


class TextCounter:
    """A `TokenCounter` from a function of text.

    Counts text, thinking, name and tool calls (name and compact JSON), 3 for the message itself,
    256 for each image, audio and video, 2048 for each document.

    Args:
        name: changes whenever the function counts otherwise; see `callable_name`.
        count_text: the number of tokens of a text.

    Raises:
        InvalidInput: a name that cannot be stored, or nothing to call.
    """

    __slots__ = ("_count_text", "_name")

    def __init__(self, name: str, count_text: Callable[[str], int]) -> None:
        if not _is_name(name):
            raise InvalidInput(
                f"name must be a str of 1 to {_MAX_NAME} printable characters, got {name!r:.100}"
            )
        if not callable(count_text):
            raise InvalidInput(
                f"count_text must be a function of a str, got {type(count_text).__name__}"
            )
        self._name = name
        self._count_text = count_text

    def __repr__(self) -> str:
        return f"<TextCounter {self._name!r}>"

    @property
    def name(self) -> str:
        return self._name

    def count(self, message: Message) -> int:
        total = _OVERHEAD + sum(_MEDIA.get(kind, 0) for kind in message.media)
        for text in (message.text, message.thinking, message.name):
            if text:
                total += self._count_text(text)
        for call in message.tool_calls:
            arguments = call.arguments
            total += self._count_text(call.name) + self._count_text(
                arguments if isinstance(arguments, str) else _json(arguments)
            )
        return total


def resolve(given: object = None) -> TokenCounter:
    """The counter a caller means.

    Args:
        given: None: tiktoken, if it is installed and `o200k_base` or `cl100k_base` is on disk:
            in `$TIKTOKEN_CACHE_DIR`, `$DATA_GYM_CACHE_DIR`, tiktoken's folder for temporary
            files, or within LlamaIndex or LiteLLM; else the approximation. This is looked up
            once per process. `"approximate"`: the approximation. A `TokenCounter`: itself.

    Raises:
        InvalidInput: it is none of these.
    """
    if given is None:
        return _on_disk() or _APPROXIMATE
    if isinstance(given, str):
        if given == "approximate":
            return _APPROXIMATE
        raise InvalidInput(f"token_counter must be {_ACCEPTED}, got {given!r:.100}")
    kind = type(given).__name__
    if isinstance(given, type) or not callable(getattr(given, "count", None)):
        raise InvalidInput(f"token_counter must be {_ACCEPTED}, got {kind}")
    if not _is_name(name := getattr(given, "name", None)):
        raise InvalidInput(
            f"token_counter.name must be a str of 1 to {_MAX_NAME} printable characters,"
            f" got {name!r:.100} of {kind}"
        )
    return given  # type: ignore[return-value]


_ACCEPTED: Final = '"approximate", None, or an object with a name and a method count(message)'


def counted(counter: TokenCounter, message: Message) -> int:
    """Count with a counter that may be a user's.

    Raises:
        InvalidInput: it raised, or what it returned is no number of tokens.
    """
    try:
        count = counter.count(message)
    except Exception as error:
        raise InvalidInput(
            f"token_counter raised {type(error).__name__}: {error!s:.200}"
        ) from error
    if isinstance(count, bool) or not isinstance(count, int):
        raise InvalidInput(
            f"token_counter must return an int of 0 to {_MAX_COUNT}, got {type(count).__name__}"
        )
    if not 0 <= count <= _MAX_COUNT:
        got = "a negative one" if count < 0 else "a larger one"
        raise InvalidInput(f"token_counter must return an int of 0 to {_MAX_COUNT}, got {got}")
    return int(count)


def approximate(text: str) -> int:
    """Estimate the tokens of a text from its kinds of characters, without an encoding.

    Sums a weight per character by its script, and one per start of a word or number, line and
    change of case. The weights were fitted to o200k_base, to err rather high than low.
    Estimate / truth, by text: English 1.03-1.19, Python and JavaScript 1.1-1.3, JSON 0.95-1.25,
    Markdown 1.03-1.26, numbers and identifiers 0.98-1.24, Chinese, Japanese and Korean 0.87-1.15,
    Russian 1.1-1.25, German 1.02-1.1, other languages 0.85-1.25 (Vietnamese to 1.7), emoji 1.07.
    Passages of 1500 characters stray further: 0.75-1.7; random lower-case letters: 0.35.
    Models of cl100k_base make more of what is not English: there it is 0.7-0.9 for Chinese,
    Japanese, Korean, Russian and German, 0.35-0.55 for Arabic, Hebrew, Hindi, Thai and Greek.
    5 to 20 us per kB, where tiktoken takes 50 to 120.
    """
    return _sampled(_approximate, text)


# One letter per kind of character; UTF-8 tells the kind by the first byte, the others are dropped.
def _kind(first: int) -> str:
    character = chr(first)
    if first < 0x80:
        if character.islower():
            return "a"
        if character.isupper():
            return "A"
        if character.isdigit():
            return "0"
        if character == "\n":
            return "\n"
        return " " if character.isspace() else "."
    for below, kind in _LEADING:
        if first < below:
            return kind
    return "e"


_LEADING: Final = (
    (0xC4, "l"),  # Latin-1
    (0xCD, "m"),  # Latin of Central Europe, Turkish, Vietnamese; phonetic
    (0xD0, "g"),  # Greek
    (0xD5, "c"),  # Cyrillic
    (0xE0, "h"),  # Armenian, Hebrew, Arabic
    (0xE1, "i"),  # of India, Thai
    (0xE2, "v"),  # more of Vietnamese; Georgian, Ethiopic, Khmer
    (0xE3, "s"),  # dashes, quotes, symbols
    (0xEA, "z"),  # Chinese, Japanese
    (0xEE, "k"),  # Korean
    (0xF0, "w"),  # private, presentation forms, full-width
)
_KINDS: Final = "".join(map(_kind, range(256))).encode()
_FOLLOWING: Final = bytes(range(0x80, 0xC0))
# Letters, digits, and all that may stand before a word or a number.
_COARSE: Final = bytes.maketrans(b"A.\n", b"a  ")
_WEIGHTS: Final = {
    "l": 1.3, "m": 2.0, "g": 0.53, "c": 0.38, "h": 0.47, "i": 0.44, "v": 0.3, "s": 1.5,
    "z": 0.87, "k": 0.87, "w": 1.2, "e": 1.6,
}  # fmt: skip
_OTHER_SCRIPTS: Final = tuple((kind.encode(), weight) for kind, weight in _WEIGHTS.items())


def _approximate(text: str) -> int:
    # A space in front: the first word starts as all others do.
    kinds = b" " + text.encode("utf-8", "surrogatepass").translate(_KINDS, _FOLLOWING)
    total = 0.0
    others = 0
    if not text.isascii():
        for kind, weight in _OTHER_SCRIPTS:
            if many := kinds.count(kind):
                others += many
                total += many * weight
    spaces, lines, marks = kinds.count(b" "), kinds.count(b"\n"), kinds.count(b".")
    total += spaces * 0.02 + lines + marks * 0.48
    if lines:
        total += kinds.count(b"\n ") * 0.7
    if upper := kinds.count(b"A"):
        total += upper * 0.36 + kinds.count(b"aA") * 0.95
    coarse = kinds.translate(_COARSE)
    if digits := kinds.count(b"0"):
        mixed = coarse.count(b"a0") + coarse.count(b"0a")
        total += digits * 0.45 + (coarse.count(b" 0") + mixed) * 0.75
    lower = len(kinds) - others - spaces - lines - marks - upper - digits
    if (rare := kinds.count(b"v")) > lower:
        total += rare  # no Vietnamese, which has few of them between plain letters
    return int(total + lower * 0.18 + coarse.count(b" a") * 0.41) + 1


_APPROXIMATE: Final = TextCounter("approximate-1", approximate)


def _sampled(count: Callable[[str], int], text: str) -> int:
    """Count a text in pieces; beyond 64 pieces of 4096 characters, as many and scale.

    Bounds the time: a megabyte would hold up an event loop for 0.1 to 0.3 s. In pieces, since
    the time that an encoding takes for one long word grows faster than its length.
    """
    if len(text) <= _PIECE:
        return count(text) if text else 0
    if len(text) <= _PIECE * _PIECES:
        return sum([count(text[i : i + _PIECE]) for i in range(0, len(text), _PIECE)])
    starts = [(len(text) - _PIECE) * i // (_PIECES - 1) for i in range(_PIECES)]
    sample = sum([count(text[i : i + _PIECE]) for i in starts])
    return -(-sample * len(text) // (_PIECE * _PIECES))


class _Published(NamedTuple):
    """An encoding as tiktoken publishes it; its file is named by the SHA-1 of its address."""

    name: str
    file: str
    size: int
    sha256: str
    special: dict[str, int]
    pattern: str


# From tiktoken_ext.openai_public, whose functions would fetch the ranks. The special tokens are
# never made (text that spells one is counted as text), but belong to the encoding.
_PUBLISHED: Final = (
    _Published(
        "o200k_base",
        "fb374d419588a4632f3f557e76b4b70aebbca790",
        3_613_922,
        "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
        {"<|endoftext|>": 199999, "<|endofprompt|>": 200018},
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    _Published(
        "cl100k_base",
        "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
        1_681_126,
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        {
            "<|endoftext|>": 100257,
            "<|fim_prefix|>": 100258,
            "<|fim_middle|>": 100259,
            "<|fim_suffix|>": 100260,
            "<|endofprompt|>": 100276,
        },
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+"
        r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
    ),
)


def load_encoding() -> None:
    """Load what `resolve(None)` counts with, in any thread, before it is needed.

    Without this the first count loads it: 0.3 to 0.6 s, once per process. Does nothing if there
    is no encoding on disk.
    """
    if (counter := _on_disk()) is not None:
        counter.load()


class _OnDisk(TextCounter):
    """Counts with an encoding whose file was found and verified.

    Holds the file's bytes until it is loaded: a name that was given out must stay true, whatever
    becomes of the file.
    """

    __slots__ = ("_data", "_encoding", "_published")

    def __init__(self, published: _Published, data: bytes) -> None:
        super().__init__(f"tiktoken:{published.name}", self._tokens)
        self._published = published
        self._data: bytes | None = data
        self._encoding: Encoding | None = None

    def load(self) -> Encoding:
        if (encoding := self._encoding) is not None:
            return encoding
        with _lock:
            if self._encoding is None:
                assert self._data is not None
                self._encoding = _encoding(self._published, self._data)
                self._data = None
            return self._encoding

    def _tokens(self, text: str) -> int:
        encode = self.load().encode_ordinary
        return _sampled(lambda piece: len(encode(piece)), text)


def _encoding(published: _Published, data: bytes) -> Encoding:
    from tiktoken import Encoding

    lines = (line.split() for line in data.splitlines())
    return Encoding(
        published.name,
        pat_str=published.pattern,
        mergeable_ranks={a2b_base64(token): int(rank) for token, rank in lines},
        special_tokens=published.special,
    )


_lock = threading.Lock()


def _forked() -> None:
    # Another thread of the parent may have held it.
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def _on_disk() -> _OnDisk | None:
    with _lock:
        return _search()


@functools.cache
def _search() -> _OnDisk | None:
    try:
        # Here, not at the first count: by then its name has been given out.
        import tiktoken  # noqa: F401
    except ImportError:
        return None
    folders = list(_folders())
    for published in _PUBLISHED:
        for folder in folders:
            if (data := _verified(folder / published.file, published)) is not None:
                return _OnDisk(published, data)
    return None


def _folders() -> Iterator[Path]:
    for variable in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        if folder := os.environ.get(variable):
            yield Path(folder)
    try:
        yield Path(tempfile.gettempdir(), "data-gym-cache")
    except OSError:
        pass  # no folder for temporary files: nothing is in it
    for package, inside in (
        ("llama_index", "core/_static/tiktoken_cache"),
        ("litellm", "litellm_core_utils/tokenizers"),
    ):
        try:
            spec = importlib.util.find_spec(package)
        except (ImportError, ValueError):
            continue  # half an installation, or a stand-in of that name
        for folder in (spec and spec.submodule_search_locations) or ():
            yield Path(folder, inside)


def _verified(path: Path, published: _Published) -> bytes | None:
    try:
        # Folders for temporary files are everyone's: a pipe there must not be waited for.
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size != published.size:
            return None
        data = path.read_bytes()
    except (OSError, ValueError):
        return None  # absent, unreadable, or no path at all: tiktoken would fetch another
    return data if hashlib.sha256(data).hexdigest() == published.sha256 else None


def callable_name(function: Callable[..., Any]) -> str:
    """A name for a user's function that changes when the function does.

    Its module and qualified name, and a hash of its bytecode, constants, defaults and the plain
    values it closes over. The same in every process that runs the same code under the same
    version of Python. Globals and an object's attributes are not looked into: of an object, it
    tells the type and the code of `__call__`.
    """
    if not callable(function):
        raise InvalidInput(f"function must be callable, got {type(function).__name__}")
    inner = function.__func__ if isinstance(function, MethodType) else function
    named: Any = inner.func if isinstance(inner, functools.partial) else inner
    if not isinstance(getattr(named, "__qualname__", None), str):
        named = type(named)
    name = _qualified(named)
    description = _steady(inner, 12)
    if description == name and len(name) <= _MAX_NAME:
        return name
    digest = hashlib.sha256(f"{name} {description}".encode()).hexdigest()[:12]
    return f"{name[-(_MAX_NAME - len(digest) - 1) :]}-{digest}"


def _steady(value: object, depth: int) -> str:
    """What a value is, without addresses and without an order that differs by process."""
    if value is None or value is ... or isinstance(value, bool | int | float | complex | bytes):
        return repr(value)
    if isinstance(value, str):
        return ascii(value)
    if depth == 0:  # a function may close over itself
        return "..."
    inner = functools.partial(_steady, depth=depth - 1)
    if isinstance(value, tuple | list):
        return f"({','.join(map(inner, value))})"
    if isinstance(value, set | frozenset):
        return f"{{{','.join(sorted(map(inner, value)))}}}"
    if isinstance(value, dict):
        return f"{{{','.join(f'{inner(k)}:{inner(v)}' for k, v in value.items())}}}"
    if isinstance(value, CodeType):
        code = value.co_code.hex() + value.co_exceptiontable.hex()
        return f"{code}{inner(value.co_names)}{inner(value.co_consts)}"
    if isinstance(value, FunctionType):
        return inner(
            (
                value.__code__,
                value.__defaults__,
                value.__kwdefaults__,
                tuple(map(_contents, value.__closure__ or ())),
            )
        )
    if isinstance(value, MethodType):
        return inner(value.__func__)
    if isinstance(value, functools.partial):
        return inner((value.func, value.args, value.keywords))
    if isinstance(getattr(value, "__qualname__", None), str):
        return _qualified(value)
    kind = type(value)
    call: object = kind.__call__
    return _qualified(kind) + (inner(call) if isinstance(call, FunctionType) else "")


def _qualified(named: Any) -> str:
    name = f"{getattr(named, '__module__', None) or 'builtins'}.{named.__qualname__}"
    return "".join(c if c.isprintable() else "?" for c in name)


def _contents(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:
        return None  # not assigned yet


def _json(arguments: dict[str, Any]) -> str:
    try:
        return orjson.dumps(arguments).decode()
    except orjson.JSONEncodeError:
        return repr(arguments)  # `pack` will refuse it, and says why
