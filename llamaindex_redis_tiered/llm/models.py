"""What a model of LlamaIndex is asked with, whatever the call: its class, what it tells of itself, its
fields.

Out stay who asks, how the provider is reached, and what LlamaIndex does before or after.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from llama_index.core.base.llms.base import BaseLLM

from llamaindex_redis_tiered.llm.plain import address, is_credential, plain
from redis_tiered.errors import Uncacheable
from redis_tiered.llm_cache.fingerprint import canonical, key_order

__all__ = ["Model", "Models", "model_of"]

# Fields that decide how a client reaches its provider or reports on it, never what is asked. Compared
# with LlamaIndex's classes for OpenAI, Azure, Anthropic, Bedrock, Gemini, Ollama, Mistral, Hugging Face.
_TRANSPORT: Final = frozenset(
    {
        *("timeout", "request_timeout", "default_request_timeout", "stream_chunk_timeout"),
        *("max_retries", "num_retries", "reuse_client", "verbose"),
        *("callback_manager", "rate_limiter"),
        # They act before a request is made, or on its answer.
        *("output_parser", "pydantic_program_mode"),
        # By what they make of the request: see `shaped_by`.
        *("messages_to_prompt", "completion_to_prompt"),
    }
)
# Objects that carry requests; what can be read of such a name is a parameter like any other.
_CARRIER: Final = re.compile(
    r"(?:^|_)(?:client|session|transport|executor|pool|lock|logger|tokenizer)$|^boto"
)
_PLACE: Final = re.compile(r"(?:^|_)(?:base|url|uri|host|endpoint)$")
# An int of such a name tells how often a model was asked.
_COUNTER: Final = re.compile(
    r"_?(?:n_|num_|total_)?(?:calls|invocations|requests)(?:_made)?|_?(?:call_)?count(?:er)?"
    r"|_?times_called"
)
# A model of which this is true sends what follows its last answer: a hit would leave it behind.
_STATEFUL: Final = ("track_previous_responses",)
# Fields that hold parameters under the provider's own names.
_GENERATION: Final = ("additional_kwargs", "generate_kwargs", "model_kwargs")
_SCALARS: Final = frozenset({str, bool, int, float, type(None)})
_CONTAINERS: Final = frozenset({dict, list, tuple})
_NUMBERS: Final = frozenset({bool, int, float})
_MOST: Final = 64


class Model(NamedTuple):
    """The part of a request that is the model's.

    Attributes:
        content: canonical bytes.
        given: where parameters are named, what counts most first.
    """

    content: bytes
    given: tuple[Mapping[str, Any], ...]


def model_of(llm: BaseLLM) -> Model:
    """Read a model.

    Raises:
        Uncacheable: `unresolved_parameter`, an object stands in a field where a value should;
            `stateful_model`, it hangs on what was said to it before.
    """
    return _model(llm, dict(llm.to_payload()), _addresses(llm), _kept_private(llm))


class _Known(NamedTuple):
    """A model that was read, and what it was then."""

    kind: type[Any]
    fields: dict[str, Any]
    empty: tuple[str, ...]
    said: dict[str, Any]
    elsewhere: list[str]
    model: Model

    def still(self, llm: BaseLLM, said: dict[str, Any], elsewhere: list[str]) -> bool:
        state = llm.__dict__
        return (
            self.kind is type(llm)
            and self.fields.keys() == state.keys()
            and all(state[name] is value for name, value in self.fields.items())
            and not any(state[name] for name in self.empty)
            and self.said == said
            and self.elsewhere == elsewhere
        )


class Models:
    """Remembers what was read of models whose fields hold nothing that can change unnoticed.

    Reading all fields of one takes longer than everything else that a hit in memory does. Private
    attributes are read once, for models note in them what happens to them.

    Args:
        llm: the first of them; the others are copies of it.
    """

    def __init__(self, llm: BaseLLM) -> None:
        self._known: dict[int, _Known] = {}
        self._private = _kept_private(llm)

    def of(self, llm: BaseLLM) -> Model:
        """As `model_of`."""
        said, elsewhere = dict(llm.to_payload()), _addresses(llm)
        known = self._known.get(id(llm))
        if known is not None and known.still(llm, said, elsewhere):
            return known.model
        model = _model(llm, said, elsewhere, self._private)
        state = dict(llm.__dict__)
        changing = {name for name, value in state.items() if _may_change(name, value)}
        empty = tuple(name for name in changing if not state[name])
        if len(empty) == len(changing) and not llm.__pydantic_extra__:
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[id(llm)] = _Known(type(llm), state, empty, said, elsewhere, model)
        return model


def _may_change(name: str, value: Any) -> bool:
    if type(value) in _SCALARS or name in _TRANSPORT:
        return False
    # An object that carries requests has no part in a model, nor has a credential.
    return type(value) in _CONTAINERS or not is_credential(name, value)


def _model(
    llm: BaseLLM, said: dict[str, Any], elsewhere: list[str], private: dict[str, str]
) -> Model:
    fields = {}
    for name, value in _fields(llm):
        if name in _TRANSPORT or is_credential(name, value):
            continue
        if (value is None and _carries(name)) or _is_counter(llm, name, value):
            continue
        if name in _STATEFUL and value:
            raise Uncacheable("stateful_model", name)
        try:
            fields[name] = plain(value, name)
        except Uncacheable:
            if not _carries(name):
                raise
        if type(value) is str and _is_place(name):
            fields[name] = fields[name].rstrip("/")
    kind = getattr(type(llm), "__redis_tiered_plain__", type(llm))
    content = {
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "said": plain(said, "to_payload()"),
        "fields": fields,
        "elsewhere": elsewhere,
        "private": private,
    }
    named = (fields.get(name) for name in _GENERATION)
    return Model(
        canonical([content, key_order(content)]),
        (*(each for each in named if type(each) is dict), fields),
    )


def _is_counter(llm: BaseLLM, name: str, value: Any) -> bool:
    """Whether a model notes there what happens to it."""
    if type(value) is int:
        return _COUNTER.fullmatch(name) is not None
    field = type(llm).model_fields.get(name)
    return type(value) is list and field is not None and field.exclude is True


def _kept_private(llm: BaseLLM) -> dict[str, str]:
    """What a class keeps of its settings in private attributes, as far as it can be read.

    Numbers and lists there are counters and logs; what matters of them is told by `to_payload`.
    """
    kept = {}
    for name, value in sorted((llm.__pydantic_private__ or {}).items()):
        if value is None or type(value) in _NUMBERS or isinstance(value, list):
            continue
        if _carries(name) or is_credential(name, value):
            continue
        try:
            content = canonical(plain(value, name))
        except (Uncacheable, ValueError):  # a client, a lock; an empty cell of a function
            continue
        kept[name] = blake2b(content, digest_size=16).hexdigest()
    return kept


def _fields(llm: BaseLLM) -> list[tuple[str, Any]]:
    """Declared ones and extras; what a class caches in itself is none."""
    state = llm.__dict__
    declared = [(name, state[name]) for name in type(llm).model_fields if name in state]
    return [*declared, *(llm.__pydantic_extra__ or {}).items()]


@lru_cache(maxsize=4096)
def _carries(name: str) -> bool:
    return _CARRIER.search(name) is not None


@lru_cache(maxsize=4096)
def _is_place(name: str) -> bool:
    return _PLACE.search(name) is not None


def _addresses(llm: BaseLLM) -> list[str]:
    """Addresses of clients that were handed to the model ready made, where no field tells them."""
    state = llm.__dict__
    clients = list((llm.__pydantic_private__ or {}).values())
    clients += [value for name, value in state.items() if _carries(name)]
    found = set()
    for client in clients:
        if client is None or type(client) in _SCALARS or type(client) in _CONTAINERS:
            continue
        given = getattr(client, "base_url", None)
        if given is not None and not callable(given):
            found.add(address(str(given)))
    if not found:
        return []
    told = {address(value) for value in state.values()}
    azure = address(state.get("azure_endpoint"))  # its client goes to a path below
    return sorted(
        place
        for place in found
        if place and place not in told and not (azure and place.startswith(azure))
    )
