"""LangChain's `llm_string` as the parameters a provider is called with.

It comes in two forms (`BaseChatModel._get_llm_string`, langchain-core 1.7 and 1.8):

    A  json(serialized model) + "---" + str(sorted(call arguments))     serializable chat models
    B  str(sorted(invocation parameters and call arguments))            every other model, `BaseLLM`

Anything else is taken as it is (form C): a caller of the cache may use any text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from langchain_redis_tiered._literals import Items, NotLiteralError, Pairs, Repr, parse
from langchain_redis_tiered._memo import Memo
from langchain_redis_tiered._schemas import Schemas
from redis_tiered.errors import Uncacheable
from redis_tiered.llm_cache.fingerprint import canonical, key_order

__all__ = ["CALL_OPTIONS", "MODEL_OPTIONS", "Parameters", "parameters_from"]

# Constructor fields that decide how a client reaches its provider or reports on it, never what
# the provider is asked. Compared with the fields of ChatOpenAI 1.7, ChatAnthropic 1.7, ChatOllama
# 1.1, ChatGoogleGenerativeAI 4.4, ChatMistralAI 1.1, ChatGroq 1.1, ChatBedrockConverse 1.9. Not
# here, because another endpoint or account may answer otherwise: base URLs, proxies, headers,
# organization, project, location, region, `client_kwargs`, `config`.
MODEL_OPTIONS = frozenset(
    {
        # How long to wait, how often to try again, how many at once.
        "timeout",
        "request_timeout",
        "default_request_timeout",
        "stream_chunk_timeout",
        "max_retries",
        "max_concurrency",
        "max_concurrent_requests",
        "request_parallelism",
        # Connections; objects whose reprs hold addresses.
        "client",
        "async_client",
        "root_client",
        "root_async_client",
        "bedrock_client",
        "http_client",
        "http_async_client",
        "http_socket_options",
        # Who asks. Tenants are kept apart by the cache, not by their keys.
        "credentials",
        "credentials_profile_name",
        "azure_ad_token_provider",
        "azure_ad_async_token_provider",
        # Whether the same answer arrives in pieces.
        "streaming",
        "disable_streaming",
        "stream_usage",
        # LangChain's own bookkeeping.
        "cache",
        "callbacks",
        "callback_manager",
        "custom_get_token_ids",
        "metadata",
        "profile",
        "rate_limiter",
        "tags",
        "tiktoken_model_name",
        "validate_base_url",
        "validate_model_on_init",
        "verbose",
    }
)

# `name` is a trace label of every Runnable, but a model of the user's own may declare it anew;
# it is left out for LangChain's packages only.
_TRACE_LABEL = "name"

# The same among the arguments of one call, where a custom model's `metadata` or `client` could be
# anything: only what no provider's API takes as a parameter.
CALL_OPTIONS = frozenset(
    {
        "timeout",
        "request_timeout",
        "default_request_timeout",
        "stream_chunk_timeout",
        "max_retries",
        "http_client",
        "http_async_client",
    }
)

# ChatAnthropic declares `mcp_servers` a secret (langchain-anthropic 1.7): a placeholder stands for
# something the provider does see. Only fields named like a credential may be left out.
_CREDENTIAL = re.compile(r"(?:^|_)(?:api_?key|access_key(?:_id)?|secret|token|password)$")
_API_KEY = re.compile(r"(?:^|_)api_?key$")  # of a plain text: an `eos_token` is no credential

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_ADDRESS_IN_TEXT = re.compile(rb"<[^<>]{1,200} at 0x[0-9a-fA-F]{4,}>")
_CLASS = re.compile(r"<class '([^']+)'>")
_MASKED = re.compile(r"Secret(?:Str|Bytes)\(b?'\**'\)")
_DECODER = json.JSONDecoder()

_ENTRIES = 512
_CHARACTERS = 8 << 20


class Parameters(NamedTuple):
    """What one `llm_string` says.

    Attributes:
        chat: canonical bytes where the prompt is a conversation.
        text: canonical bytes where it is plain text; never equal to any `chat`.
        settled: whether equal strings have equal parameters at any time: no class is named.
        temperature: that is asked for; None: the model's own.
        tools: whether the model may call tools.
    """

    chat: bytes
    text: bytes
    settled: bool
    temperature: float | None
    tools: bool


class _Entry(NamedTuple):
    parameters: Parameters
    schemas: tuple[tuple[str, bytes], ...]


_schemas = Schemas()
_memo: Memo[str, _Entry] = Memo(
    entries=_ENTRIES,
    weight=_CHARACTERS,
    weigh=lambda text, entry: len(text) + len(entry.parameters.chat) * 2,
)


def parameters_from(llm_string: str) -> Parameters:
    """Canonical parameters of a model and one call to it.

    Raises:
        Uncacheable: a value is known only by a repr: `object_address`, `unresolved_schema`,
            `ambiguous_schema`, `unresolved_parameter`; or `too_deep`, `invalid_text`.
    """
    entry = _memo.get(llm_string)
    if entry is not None and all(_schemas.resolve(path) == was for path, was in entry.schemas):
        return entry.parameters
    try:
        entry = _parse(llm_string)
    except RecursionError:
        raise Uncacheable("too_deep", "llm_string") from None
    _memo.put(llm_string, entry)
    return entry.parameters


def _parse(llm_string: str) -> _Entry:
    schemas: _Found = []
    split = _model_node(llm_string)
    content: dict[str, Any]
    if split is not None:
        node, rest = split
        content = {"form": "a", "model": _model(node), "call": _call(rest, schemas)}
    elif llm_string.startswith("[(") or llm_string == "[]":
        content = {"form": "b", "call": _call(llm_string, schemas)}
    else:
        _refuse_reprs(llm_string)
        content = {"form": "c", "text": llm_string}
    content["order"] = key_order(content)
    content["schemas"] = [[where, schema.decode()] for where, _, schema in schemas]
    data = canonical(content)
    if _ADDRESS_IN_TEXT.search(data):  # str(object) passed as a parameter
        raise Uncacheable("object_address", "inside a text")
    return _Entry(
        Parameters(b"chat" + data, b"text" + data, not schemas, *_traits(content)),
        tuple({path: schema for _, path, schema in schemas}.items()),
    )


def _traits(content: dict[str, Any]) -> tuple[float | None, bool]:
    """Temperature and whether there are tools; a call's own arguments replace the model's."""
    model = content["model"]["kwargs"] if "model" in content else {}
    given = {**model, **content.get("call", {})}
    temperature = given.get("temperature")
    if isinstance(temperature, bool) or not isinstance(temperature, int | float):
        temperature = None
    tools = any(given.get(key) for key in ("tools", "functions"))
    return None if temperature is None else float(temperature), tools


def _refuse_reprs(text: str) -> None:
    if _ADDRESS.search(text):
        raise Uncacheable("object_address", "llm_string")
    if found := _CLASS.search(text):
        raise Uncacheable("unresolved_schema", found[1])


# --- the model of form A ---------------------------------------------------------------------


def _model_node(text: str) -> tuple[dict[str, Any], str] | None:
    """The serialized model and the call after it, or None if the text is not of form A."""
    if not text.startswith('{"'):
        return None
    try:
        node, end = _DECODER.raw_decode(text)
    except ValueError:
        return None
    if "lc" not in node or "type" not in node or not text.startswith("---[", end):
        return None
    return node, text[end + 3 :]


def _model(node: dict[str, Any]) -> dict[str, Any]:
    path, fields = node.get("id"), node.get("kwargs")
    if node["type"] != "constructor" or not isinstance(path, list) or not isinstance(fields, dict):
        raise Uncacheable("unresolved_parameter", "model")
    options = MODEL_OPTIONS
    if path and isinstance(path[0], str) and re.match(r"langchain(?:_|$)", path[0]):
        options |= {_TRACE_LABEL}
    # A field that is None stays: LangChain leaves out a None that is the default
    # (`_is_field_useful`), so this one replaces a default that is something else.
    kept = {key: value for key, value in fields.items() if key not in options}
    # `name` of the node is the Runnable's; `graph` is its picture.
    rest = {k: v for k, v in node.items() if k not in ("lc", "type", "kwargs", "name", "graph")}
    return rest | {"kwargs": _resolved(kept, "kwargs")}


def _resolved(value: Any, where: str) -> Any:
    """The value without credentials; every other placeholder is refused."""
    if isinstance(value, list):
        return [_resolved(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    if "lc" in value:
        if value.get("type") != "constructor":
            raise Uncacheable("unresolved_parameter", where)
    elif "__lc_escaped__" in value and len(value) == 1:
        return value  # a dict of the user that looks like a node; see langchain_core.load
    return {
        key: _resolved(item, f"{where}.{key}")
        for key, item in value.items()
        if not (_is_secret(item) and _CREDENTIAL.search(key))
    }


def _is_secret(value: Any) -> bool:
    return isinstance(value, dict) and "lc" in value and value.get("type") == "secret"


# --- the arguments of a call: Python reprs ---------------------------------------------------


# Where a class was met, its path, and the schema that it stands for.
_Found = list[tuple[list[Any], str, bytes]]


def _call(text: str, schemas: _Found) -> dict[str, Any]:
    try:
        pairs = parse(text)
    except NotLiteralError as error:
        _refuse_reprs(text)
        raise Uncacheable("unresolved_parameter", str(error)) from None
    if not isinstance(pairs, list):
        raise Uncacheable("unresolved_parameter", "not a list of pairs")
    call: dict[str, Any] = {}
    for pair in pairs:
        if not (type(pair) is tuple and len(pair) == 2 and isinstance(pair[0], str)):
            raise Uncacheable("unresolved_parameter", "not a list of pairs")
        key, value = pair
        if key in CALL_OPTIONS or _is_credential(key, value):
            continue
        # `stop` is always in the string. No other None is left out: an explicit None replaces
        # a model's own setting (ChatOpenAI(temperature=0).invoke(x, temperature=None)).
        if not (key == "stop" and value is None):
            call[key] = _value(value, [key], schemas)
    return call


def _is_credential(key: str, value: Any) -> bool:
    """Whether this is a SecretStr, or the plain text of an API key."""
    if isinstance(value, Repr):
        return _MASKED.fullmatch(value.text) is not None and _CREDENTIAL.search(key) is not None
    return isinstance(value, str) and _API_KEY.search(key) is not None


def _value(value: Any, where: list[Any], schemas: _Found) -> Any:
    match value:
        case Repr(text):
            return _stands_for(text, where, schemas)
        case Pairs(pairs):
            return _hashed(dict, _items(pairs, where, schemas), where)
        case Items(items):
            return _hashed(set, (_value(item, [*where, "{}"], schemas) for item in items), where)
        case list() | tuple():
            return [_value(item, [*where, i], schemas) for i, item in enumerate(value)]
        case _:
            return value


def _items(pairs: list[tuple[Any, Any]], where: list[Any], schemas: _Found) -> Any:
    for key, item in pairs:
        name = _value(key, [*where, "{}"], schemas)
        if isinstance(name, list):  # a tuple; lists cannot be keys
            name = tuple(name)
        if not (isinstance(name, str) and _is_credential(name, item)):
            yield name, _value(item, [*where, name], schemas)


def _hashed(kind: Callable[[Any], Any], items: Any, where: list[Any]) -> Any:
    try:
        return kind(items)
    except TypeError:  # nested containers where only hashable values can be
        raise Uncacheable("unresolved_parameter", _spell(where)) from None


def _stands_for(text: str, where: list[Any], schemas: _Found) -> None:
    """Note the schema of a class at its place; refuse every other repr."""
    if found := _CLASS.fullmatch(text):
        schemas.append((where, found[1], _schemas.resolve(found[1])))
        return
    # Only the kind of object is told: a repr may hold a secret.
    kind = re.match(r"<?[\w.]*", text)
    shown = f"{_spell(where)}: {kind[0] if kind else ''}" + ("(...)" if text.endswith(")") else "")
    raise Uncacheable("object_address" if _ADDRESS.search(text) else "unresolved_parameter", shown)


def _spell(where: list[Any]) -> str:
    return ".".join(str(part) for part in where)[:200]
