"""Values as plain data, without what says who asks.

An object that cannot be told from another of its class makes a request uncacheable.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import fields as dataclass_fields
from dataclasses import is_dataclass
from enum import Enum
from functools import lru_cache
from hashlib import blake2b
from os import PathLike
from types import CodeType, FunctionType
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from llama_index.core.tools.types import BaseTool
from pydantic import BaseModel, SecretBytes, SecretStr

from redis_tiered.errors import Uncacheable
from redis_tiered.llm_cache.fingerprint import canonical

__all__ = ["address", "is_credential", "plain"]

# `eos_token` and its like are no credentials.
_SPECIAL_TOKEN: Final = re.compile(
    r"(?:^|_)(?:[be]os|pad|sep|unk|cls|mask|stop|start|end|begin|image|audio|tool|think\w*|"
    r"special|next|first|last)_token$"
)
_CREDENTIAL: Final = re.compile(
    r"(?:^|_)(?:api_?keys?|key_?id|(?:access|secret|private|subscription|account|auth)_key"
    r"|\w*secret|token|token_provider|password|passwd|passphrase"
    r"|credentials?|credentials_profile_name|credentials_path|auth|authorization|cookies?)$"
)
_CREDENTIAL_VALUE: Final = re.compile(r"(?:bearer|basic|token|apikey|key)\s+\S", re.IGNORECASE)
_HIDDEN: Final = (SecretStr, SecretBytes)
_URL: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")
_SCALARS: Final = frozenset({bool, int, float})
_MAX_DEPTH: Final = 50


def is_credential(name: Any, value: Any, *, header: bool = False) -> bool:
    """Whether something of this name says who asks, not what.

    What has parts is looked into instead: a schema may have a property of any name.
    """
    if not isinstance(name, str):
        return False
    if isinstance(value, bool | int | float | Mapping | list | tuple | set | frozenset):
        return False
    if _names_a_credential(name):
        return True
    return header and isinstance(value, str) and _CREDENTIAL_VALUE.match(value) is not None


@lru_cache(maxsize=4096)
def _names_a_credential(name: str) -> bool:
    word = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).replace("-", "_").lower()
    return _CREDENTIAL.search(word) is not None and _SPECIAL_TOKEN.search(word) is None


def plain(value: Any, where: str, depth: int = 0, *, shown: bool = False) -> Any:
    """A value in terms that `canonical` knows, without credentials.

    Args:
        value: of a field, or an argument of a call.
        where: what to call it.
        depth: how far in.
        shown: the model is shown this, so that there are no credentials in it.

    Raises:
        Uncacheable: as `parameters_of`; or `too_deep`.
    """
    kind = type(value)
    if value is None or kind in _SCALARS:
        return value
    if isinstance(value, Enum):
        return _object(value, where, depth + 1, shown)
    if isinstance(value, bool | int | float | bytes | bytearray):
        return value
    if isinstance(value, str):
        return str.__str__(value) if shown else _without_credentials(str.__str__(value))
    if depth > _MAX_DEPTH:
        raise Uncacheable("too_deep", where[:200])
    if isinstance(value, Mapping):
        return _mapping(value, where, depth + 1, shown)
    if isinstance(value, list | tuple):
        return [plain(item, where, depth + 1, shown=shown) for item in value]
    if isinstance(value, set | frozenset):
        items = [plain(item, where, depth + 1, shown=shown) for item in value]
        return {"\0set": sorted(items, key=canonical)}
    if isinstance(value, type):
        return _class(value, where)
    return _object(value, where, depth + 1, shown)


def _mapping(value: Mapping[Any, Any], where: str, depth: int, shown: bool) -> dict[Any, Any]:
    header = "headers" in where[-20:]
    content = {}
    for key, item in value.items():
        if isinstance(key, str) and key.startswith("\0"):
            raise Uncacheable("unresolved_parameter", f"{where[:150]}: a key that begins with NUL")
        if not isinstance(key, str | int | float | bytes | None):
            raise Uncacheable("unresolved_parameter", f"{where[:150]}: {type(key).__name__}")
        if shown or not is_credential(key, item, header=header):
            content[key] = plain(item, f"{where}.{key!r}", depth, shown=shown)
    return content


def _object(value: Any, where: str, depth: int, shown: bool) -> Any:
    named = f"{type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, Enum):
        if isinstance(value, str):  # what the provider gets is the text
            return str.__str__(value)
        return {"\0enum": named, "value": plain(value.value, where, depth, shown=shown)}
    if isinstance(value, BaseTool):
        about = value.metadata
        schema = None if about.fn_schema is None else _class(about.fn_schema, where)
        return {"\0tool": [about.name, about.description, schema]}
    if isinstance(value, _HIDDEN):  # not named as a credential: the provider may be sent it
        raise Uncacheable("unresolved_parameter", f"{where[:150]}: a secret")
    if isinstance(value, BaseModel):
        state = {**value.__dict__, **(value.__pydantic_extra__ or {})}
        return {"\0model": named, "fields": plain(state, where, depth, shown=shown)}
    if is_dataclass(value):
        state = {field.name: getattr(value, field.name) for field in dataclass_fields(value)}
        return {"\0data": named, "fields": plain(state, where, depth, shown=shown)}
    if isinstance(value, FunctionType):
        return {"\0function": [value.__module__, value.__qualname__, _code(value, where, depth)]}
    if isinstance(value, PathLike):
        return {"\0path": str(value)}
    raise Uncacheable("unresolved_parameter", f"{where[:150]}: {type(value).__name__}")


def _class(kind: type[Any], where: str) -> Any:
    """A class by its schema, if it has one: what the provider is sent."""
    if not issubclass(kind, BaseModel):
        return {"\0class": f"{kind.__module__}.{kind.__qualname__}"}
    try:
        schema = kind.model_json_schema()
    except Exception as error:  # whatever a model's own hooks raise
        detail = f"{where[:150]}: {type(error).__name__}"
        raise Uncacheable("unresolved_schema", detail) from None
    return {"\0schema": schema, "name": kind.__name__, "doc": kind.__doc__}


def _code(function: FunctionType, where: str, depth: int) -> Any:
    """What tells a function from one that stood in its place before, as in a notebook."""
    digest = blake2b(digest_size=16)
    _digest_code(function.__code__, digest.update)
    cells = [plain(cell.cell_contents, where, depth + 1) for cell in function.__closure__ or ()]
    defaults = plain([function.__defaults__, function.__kwdefaults__], where, depth + 1)
    return [digest.hexdigest(), cells, defaults]


def _digest_code(code: CodeType, update: Callable[[bytes], object]) -> None:
    update(code.co_code)
    update(repr(code.co_names).encode())
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            _digest_code(constant, update)
        else:
            update(repr(constant).encode(errors="surrogatepass"))


def _without_credentials(text: str) -> str:
    """The text; of a URL without user, password and secrets of its query."""
    if not _URL.match(text):
        return text
    try:
        parts = urlsplit(text)
    except ValueError:
        return text
    if parts.username is None and parts.password is None and "=" not in parts.query:
        return text
    host = parts.netloc.rpartition("@")[2]
    query = "&".join(
        pair
        for pair in parts.query.split("&")
        if not is_credential(pair.partition("=")[0], "") and not pair.lower().startswith("sig=")
    )
    return urlunsplit((parts.scheme, host, parts.path, query, parts.fragment))


def address(value: Any) -> str:
    """A URL without credentials; "" if it is none."""
    if not isinstance(value, str) or not _URL.match(value):
        return ""
    return _without_credentials(value).rstrip("/")
