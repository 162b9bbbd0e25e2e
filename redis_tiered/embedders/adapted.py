"""`as_embedder`: what other packages call an embedding, as this project's flows ask for it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, NamedTuple, Protocol

import numpy as np

from redis_tiered.embedders.identity import Identity, model_argument
from redis_tiered.embedders.vectors import Vectors, texts_of, vectors_of
from redis_tiered.errors import InvalidInput

__all__ = ["NamedEmbedder", "as_embedder"]


class NamedEmbedder(Protocol):
    """An embedder of a flow's `Embed` step that knows its model.

    Attributes:
        model: tells models apart whose vectors must not be compared. Read anew at each access,
            for an application may change the model of an embedding object that it holds.
        model_name: the model's name as its maker calls it, `@` and the dimensions behind it if
            they were chosen: `"text-embedding-3-small@256"`.
    """

    @property
    def model(self) -> str: ...

    @property
    def model_name(self) -> str: ...

    def embed(self, texts: Sequence[str]) -> Vectors: ...

    async def aembed(self, texts: Sequence[str]) -> Vectors: ...


def as_embedder(value: object, *, model: str | None = None) -> NamedEmbedder:
    """An embedder of whatever makes vectors of texts.

    Every text is embedded as a *query*, in LangChain's and LlamaIndex's words. Questions, asked and
    stored, are compared with each other, so both must be embedded alike, and where a model treats
    queries and documents differently, a question is a query. Eight texts or more go out in one
    batch, as documents, if the first of them gets the same vector either way.

    asyncio code awaits the native method where there is one; a blocking one runs in a thread.

    Args:
        value: LangChain's `Embeddings`, LlamaIndex's `BaseEmbedding`, a redisvl vectorizer, an
            `OpenAIEmbedder`, any object with `embed(texts)` or `aembed(texts)`, or a function of a list
            of texts that returns one vector for each; a coroutine function can be used from
            asyncio code only.
        model: a name for the model, in place of the one that `value` tells. A function has none,
            so it must be given one. Two embedders of the same model need the same name to share
            what is stored: otherwise the class is part of it.

    Raises:
        InvalidInput: it is none of these, or nothing names its model.
    """
    given = model_argument(model)
    if isinstance(value, _Adapted):
        value = value.wrapped if given is not None else value
    adapted = value if isinstance(value, _Adapted) else _adapt(value, given)
    adapted.model  # noqa: B018 - raises if nothing names it
    return adapted


def _adapt(value: object, given: str | None) -> _Adapted:
    if value is None or isinstance(value, type | str | bytes):
        raise InvalidInput(_REFUSED.format(_kind(value)))
    for methods in (_LANGCHAIN, _LLAMAINDEX):
        if _has(value, methods.query) or _has(value, methods.aquery):
            return _Queries(value, given, methods)
    if _has(value, "embed_many"):
        return _Vectorizer(value, given)
    if _has(value, "embed") or _has(value, "aembed"):
        return _Own(value, given)
    if callable(value) and not _has(value, "encode"):  # a SentenceTransformer's call is another
        return _Function(value, given)
    raise InvalidInput(_REFUSED.format(_kind(value)))


_REFUSED: Final = (
    "embeddings must be LangChain's Embeddings, LlamaIndex's BaseEmbedding, a redisvl vectorizer,"
    " an OpenAIEmbedder, an object with embed(texts) or aembed(texts), or a function of a list of"
    " texts such as SentenceTransformer(...).encode; got {}"
)


def _kind(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def _has(value: object, method: str) -> bool:
    return callable(getattr(value, method, None))


class _Adapted:
    """Checks what goes in and what comes out; a subclass knows how to ask."""

    def __init__(self, wrapped: Any, given: str | None) -> None:
        self.wrapped = wrapped
        self._identity = Identity(wrapped, given)
        self._who = getattr(wrapped, "__qualname__", type(wrapped).__name__)

    def __repr__(self) -> str:
        return f"<embedder {self.model!r}>"

    @property
    def model(self) -> str:
        return self._identity.model

    @property
    def model_name(self) -> str:
        return self._identity.model_name

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One float64 array of one dimension per text.

        Raises:
            InvalidInput: what was given are no texts, what came are no vectors, or it can be
                awaited only.
        """
        asked = texts_of(texts)
        return vectors_of(self._embed(asked), len(asked), self._who) if asked else []

    async def aembed(self, texts: Sequence[str]) -> Vectors:
        """The same with asyncio."""
        asked = texts_of(texts)
        return vectors_of(await self._aembed(asked), len(asked), self._who) if asked else []

    def _embed(self, texts: list[str]) -> Any:
        raise NotImplementedError

    async def _aembed(self, texts: list[str]) -> Any:
        raise NotImplementedError

    def _now(self, function: Callable[..., Any] | None, argument: object) -> Any:
        """Call a function from blocking code."""
        made = function(argument) if function is not None else None
        if function is not None and not inspect.isawaitable(made):
            return made
        if inspect.iscoroutine(made):
            made.close()
        raise InvalidInput(
            f"{self._who} can only be awaited: use the asyncio methods, or give an embedder that"
            " has a blocking method too"
        )


class _Methods(NamedTuple):
    query: str
    aquery: str
    documents: str
    adocuments: str


_LANGCHAIN: Final = _Methods("embed_query", "aembed_query", "embed_documents", "aembed_documents")
_LLAMAINDEX: Final = _Methods(
    "get_query_embedding",
    "aget_query_embedding",
    "get_text_embedding_batch",
    "aget_text_embedding_batch",
)
_BULK: Final = 8
_AT_ONCE: Final = 8
# Batching changes the last digits, and a provider's hardware a few more; an instruction in front
# of a text, or another head of the model, changes much more.
_SAME: Final = 0.9995


class _Queries(_Adapted):
    """LangChain's and LlamaIndex's interfaces: queries one by one, documents in batches."""

    def __init__(self, wrapped: Any, given: str | None, methods: _Methods) -> None:
        super().__init__(wrapped, given)
        self._methods = methods
        # Whether documents are embedded as queries are, and with which model that was seen.
        self._alike: tuple[str, bool] | None = None

    def _embed(self, texts: list[str]) -> Any:
        one = getattr(self.wrapped, self._methods.query, None)
        if len(texts) < _BULK or self._are_alike() is False:
            return [self._now(one, text) for text in texts]
        known, model = self._are_alike(), self.model
        first = None if known else self._now(one, texts[0])
        made = self._now(getattr(self.wrapped, self._methods.documents, None), texts)
        if known or self._seen(model, first, made, len(texts)):
            return made
        return [first, *(self._now(one, text) for text in texts[1:])]

    async def _aembed(self, texts: list[str]) -> Any:
        one = _awaiting(self.wrapped, self._methods.query, self._methods.aquery)
        if len(texts) < _BULK or self._are_alike() is False:
            return await _all(one, texts)
        known, model = self._are_alike(), self.model
        first = None if known else await one(texts[0])
        many = _awaiting(self.wrapped, self._methods.documents, self._methods.adocuments)
        made = await many(texts)
        if known or self._seen(model, first, made, len(texts)):
            return made
        return [first, *await _all(one, texts[1:])]

    def _are_alike(self) -> bool | None:
        seen = self._alike
        return seen[1] if seen is not None and seen[0] == self.model else None

    def _seen(self, model: str, query: object, documents: object, count: int) -> bool:
        """Compare the first text's vector as a query and as a document, and remember it."""
        [q] = vectors_of([query], 1, self._who)
        d = vectors_of(documents, count, self._who)[0]
        scale = np.linalg.norm(q) * np.linalg.norm(d)
        alike = q.shape == d.shape and bool(q @ d >= _SAME * scale > 0)
        self._alike = model, alike
        return alike


class _Vectorizer(_Adapted):
    """redisvl's interface: `embed_many`, `aembed_many`."""

    def _embed(self, texts: list[str]) -> Any:
        return self.wrapped.embed_many(texts, **self._options())

    async def _aembed(self, texts: list[str]) -> Any:
        if self._is_native():
            return await self.wrapped.aembed_many(texts, **self._options())
        return await asyncio.to_thread(self._embed, texts)

    def _options(self) -> dict[str, str]:
        # Cohere's insists on being told.
        cohere = any(kind.__name__ == "CohereTextVectorizer" for kind in type(self.wrapped).__mro__)
        return {"input_type": "search_query"} if cohere else {}

    def _is_native(self) -> bool:
        """Whether `aembed_many` awaits: without a method of its own it blocks the event loop."""
        if getattr(self.wrapped, "_aembed_func_many", ...) is None:
            return False  # a CustomVectorizer that was given none
        for kind in type(self.wrapped).__mro__:
            if "_aembed_many" in vars(kind) or "aembed_many" in vars(kind):
                return kind.__name__ != "BaseVectorizer"
        return False


class _Own(_Adapted):
    """Our own protocol, or one half of it."""

    def _embed(self, texts: list[str]) -> Any:
        made = self._now(getattr(self.wrapped, "embed", None), texts)
        return list(made) if inspect.isgenerator(made) else made  # as fastembed returns one

    async def _aembed(self, texts: list[str]) -> Any:
        if _has(self.wrapped, "aembed"):
            return await _awaiting(self.wrapped, "embed", "aembed")(texts)
        return await asyncio.to_thread(self._embed, texts)


class _Function(_Adapted):
    """A function, a coroutine function, or an object that can be called like one."""

    def _embed(self, texts: list[str]) -> Any:
        if _is_coroutine_function(self.wrapped):
            return self._now(None, texts)
        return self._now(self.wrapped, texts)

    async def _aembed(self, texts: list[str]) -> Any:
        return await _awaited(self.wrapped, texts)


def _is_coroutine_function(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(type(function), "__call__", None)  # noqa: B004 - its kind, not whether it has one
    )


async def _awaited(function: Callable[..., Any], argument: object) -> Any:
    """Await a coroutine function; call any other in a thread."""
    if _is_coroutine_function(function):
        return await function(argument)
    made = await asyncio.to_thread(function, argument)
    return await made if inspect.isawaitable(made) else made


def _awaiting(
    wrapped: object, blocking: str, native: str
) -> Callable[[Any], Coroutine[Any, Any, Any]]:
    """The native method of an object if it has one, else the blocking one in a thread."""
    function = getattr(wrapped, native, None)

    async def ask(argument: object) -> Any:
        if not callable(function):
            return await _awaited(getattr(wrapped, blocking), argument)
        made = function(argument)
        return await made if inspect.isawaitable(made) else made

    return ask


async def _all(function: Callable[[str], Awaitable[Any]], texts: list[str]) -> list[Any]:
    """A function of each text, eight at once; if one fails the others are given up."""
    limit = asyncio.Semaphore(_AT_ONCE)

    async def ask(text: str) -> Any:
        async with limit:
            return await function(text)

    if len(texts) == 1:
        return [await function(texts[0])]
    tasks = [asyncio.create_task(ask(text)) for text in texts]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
