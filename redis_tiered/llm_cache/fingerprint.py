"""What makes two requests the same: a canonical request and its fingerprint.

An adapter turns its framework's types into a `Request`; nothing here knows a framework.
"""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, NamedTuple

import orjson

from redis_tiered.errors import Uncacheable

__all__ = [
    "Fingerprint",
    "Request",
    "Traits",
    "canonical",
    "fingerprint",
    "key_order",
    "wording",
]

# Changes whenever the canonical form does, so that old entries are never misread as new ones.
_FORM = b"redis-tiered/1"
_MAX_DEPTH = 100


class Traits(NamedTuple):
    """What a policy may look at, and no fingerprint does: it is in the request's parts already.

    Attributes:
        turns: how many turns the user has had, this one included.
        temperature: that was asked for; None: the model's own.
        tools: whether the model may call tools.
    """

    turns: int = 1
    temperature: float | None = None
    tools: bool = False


class Request(NamedTuple):
    """One request to a model, split where the semantic cache compares.

    Params, context and prompt together determine everything the provider sees.

    Attributes:
        params: canonical bytes of the model, its parameters, tools, output schema, endpoint kind.
        context: canonical bytes of all turns, with the text of the last user turn left out.
        prompt: text of the last user turn, or None where the request does not end in one
            that is plain text; `context` then holds every turn whole.
        traits: what else is known of it.
    """

    params: bytes
    context: bytes
    prompt: str | None
    traits: Traits = Traits()


class Fingerprint(NamedTuple):
    """Hex digests of 128 bits: `digest` of the whole request, `scope` of all but its prompt."""

    digest: str
    scope: str


def fingerprint(request: Request) -> Fingerprint:
    """Digest a request; injective up to collisions of BLAKE2b-128.

    Raises:
        Uncacheable: the prompt holds a lone surrogate, which no provider can be sent.
    """
    params, context, prompt, _ = request
    scope = blake2b(_FORM, digest_size=16)
    # Lengths first: no byte can move from one part to the next without changing the digest.
    scope.update(b"%d:%d:" % (len(params), len(context)))
    scope.update(params)
    scope.update(context)
    whole = scope.copy()
    if prompt is not None:
        try:
            whole.update(b"p" + prompt.encode())
        except UnicodeEncodeError:
            raise Uncacheable("invalid_text", "the prompt holds a lone surrogate") from None
    return Fingerprint(whole.hexdigest(), scope.hexdigest())


def wording(mark: Fingerprint, normal: str) -> str:
    """Digest of all requests of one scope whose prompts have the same normal form; never that of a
    request."""
    text = normal.encode(errors="surrogatepass")
    return blake2b(b"%b/n%b:%b" % (_FORM, mark.scope.encode(), text), digest_size=16).hexdigest()


def canonical(value: Any) -> bytes:
    """Serialize plain data so that equal data gives equal bytes and unequal data never does.

    Accepts what a provider can be sent: None, bool, int, float, str, bytes, list, tuple, set,
    dict. Lists and tuples are the same (both are JSON arrays); 1, 1.0, True and "1" are not.

    Raises:
        Uncacheable: a value of another type, a non-finite number, nesting beyond 100 levels.
    """
    try:
        return orjson.dumps(_plain(value, 0), option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError as error:
        raise Uncacheable("invalid_text", str(error)) from None


def key_order(value: Any) -> list[Any]:
    """The order of keys in every `properties` mapping, which canonical bytes sort away.

    Providers generate the fields of an answer in the order of its schema's properties: a
    schema with `reasoning` before `answer` is not answered like one with `answer` first.
    """
    orders: list[Any] = []
    _collect_orders(value, orders)
    return orders


def _collect_orders(value: Any, orders: list[Any]) -> None:
    if isinstance(value, dict):
        for key in sorted(value, key=repr):
            item = value[key]
            if key == "properties" and isinstance(item, dict):
                orders.append(list(item))
            _collect_orders(item, orders)
    elif isinstance(value, list | tuple):
        for item in value:
            _collect_orders(item, orders)


def _plain(value: Any, depth: int) -> Any:
    if value is None or value is True or value is False:
        return value
    kind = type(value)
    if kind is str:
        return value
    if depth > _MAX_DEPTH:
        raise Uncacheable("too_deep", f"more than {_MAX_DEPTH} levels")
    if kind is int:
        # Beyond 64 bits orjson refuses; a tagged text keeps them apart from strings.
        return value if -(1 << 63) <= value < 1 << 64 else {"\0int": hex(value)}
    if kind is float:
        if not math.isfinite(value):
            return {"\0float": repr(value)}
        return value
    if isinstance(value, list | tuple):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, Mapping):
        return _plain_mapping(value, depth)
    if isinstance(value, bytes | bytearray):
        return {"\0bytes": b64encode(value).decode()}
    if isinstance(value, set | frozenset):
        return {"\0set": _in_order([_plain(item, depth + 1) for item in value])}
    if isinstance(value, str):  # str subclasses, string enums: what the provider gets is the text
        return str.__str__(value)
    raise Uncacheable("unsupported_type", kind.__name__)


def _plain_mapping(value: Mapping[Any, Any], depth: int) -> Any:
    plain: dict[str, Any] = {}
    for key, item in value.items():
        if not isinstance(key, str):
            pairs = [[_plain(k, depth + 1), _plain(v, depth + 1)] for k, v in value.items()]
            return {"\0map": _in_order(pairs)}
        # Our tags start with NUL; a user's key that does too is escaped with one more.
        key = str.__str__(key)
        plain["\0" + key if key.startswith("\0") else key] = _plain(item, depth + 1)
    return plain


def _in_order(values: list[Any]) -> list[Any]:
    # Sorted by their bytes, but nested as values: a text within a text within a text would
    # double its escapes at every level.
    return sorted(values, key=_bytes)


def _bytes(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
