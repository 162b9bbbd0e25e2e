"""Embeddings from OpenAI, or from a server that speaks as it does."""

from __future__ import annotations

import asyncio
import binascii
import os
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from redis_tiered.checks import integer, seconds, text
from redis_tiered.embedders.vectors import Vectors, texts_of, vectors_of
from redis_tiered.errors import InvalidInput, MissingExtra

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

__all__ = ["OpenAIEmbedder"]

# Of one request, by OpenAI's API reference.
_MOST_TEXTS: Final = 2048
_MOST_TOKENS: Final = 300_000
_AT_ONCE: Final = 4
_DEFAULTS: Final = {"timeout": 20.0, "max_retries": 2}


class OpenAIEmbedder:
    """Vectors of texts by OpenAI's embeddings API, blocking and with asyncio.

    Texts go out in requests of at most `batch_size` texts and 300,000 bytes: no text has more
    tokens than bytes, so OpenAI's limit of 300,000 tokens is kept without a tokenizer. From asyncio
    code up to four requests run at once. Vectors come in the order of the texts.

    Clients are made at first use: one for blocking code, one for each event loop, new ones in a
    forked child. A pickle holds the settings, never a key: what was made with a key, a client or a
    password in `base_url` cannot be pickled; with the key in `OPENAI_API_KEY` it can.

    Args:
        model: name of the model; at OpenAI also a text of at most 8,192 tokens is accepted, a longer
            one is an error of the API.
        dimensions: how many numbers a vector shall have; the model's own number if None.
        batch_size: texts per request, 1 to 2048.
        max_retries: further attempts after a lost connection, a timeout, or status 408, 409, 429
            or 5xx, with growing pauses or as long as the server says; 2 if None.
        timeout: seconds for one attempt; 20 if None.
        api_key: `OPENAI_API_KEY` of the environment if None.
        base_url: of another server; `OPENAI_BASE_URL` of the environment or OpenAI's if None.
        organization: `OPENAI_ORG_ID` of the environment if None.
        client: an `openai.OpenAI` (an `AzureOpenAI`, ...) to use and not to close. With it goes none of
            the five settings before: they are its own. Without an `async_client` asyncio code
            uses it in a thread.
        async_client: an `openai.AsyncOpenAI` likewise; alone it serves asyncio code only. Like
            every such client it belongs to one event loop.

    Raises:
        InvalidInput: a setting has a wrong type or value.
    """

    def __init__(
        self,
        model: str = "text-embedding-3-small",
        *,
        dimensions: int | None = None,
        batch_size: int = 512,
        max_retries: int | None = None,
        timeout: float | None = None,
        api_key: str | None = None,
        base_url: str | None = None,
        organization: str | None = None,
        client: OpenAI | None = None,
        async_client: AsyncOpenAI | None = None,
    ) -> None:
        self.model = text("model", model, least=1, most=200)
        self.dimensions = None if dimensions is None else integer("dimensions", dimensions, 1)
        self.batch_size = integer("batch_size", batch_size, 1, _MOST_TEXTS)
        settings = {
            "max_retries": None if max_retries is None else integer("max_retries", max_retries, 0),
            "timeout": None if timeout is None else seconds("timeout", timeout),
            "api_key": _secret("api_key", api_key),
            "base_url": _secret("base_url", base_url),
            "organization": _secret("organization", organization),
        }
        self._settings: dict[str, Any] = {
            name: value for name, value in settings.items() if value is not None
        }
        if self._settings and (client is not None or async_client is not None):
            raise InvalidInput(
                f"{' and '.join(self._settings)} must be set on the client that is given"
            )
        for name, given in (("client", client), ("async_client", async_client)):
            if given is not None and not hasattr(given, "embeddings"):
                raise InvalidInput(f"{name} must be one of openai's, got {type(given).__name__}")
        self._given = client
        self._async_given = async_client
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._client: OpenAI | None = None
        self._async_clients: dict[asyncio.AbstractEventLoop, AsyncOpenAI] = {}

    def __repr__(self) -> str:
        dimensions = "" if self.dimensions is None else f", dimensions={self.dimensions}"
        return f"OpenAIEmbedder({self.model!r}{dimensions})"

    @property
    def base_url(self) -> str:
        """Where the model is served; it may hold a password."""
        client = self._given or self._async_given
        if client is not None:
            return str(getattr(client, "base_url", ""))
        given = self._settings.get("base_url") or os.environ.get("OPENAI_BASE_URL")
        return str(given or "https://api.openai.com/v1")

    def __getstate__(self) -> dict[str, Any]:
        secret = "api_key" in self._settings or "@" in self._settings.get("base_url", "")
        if secret or self._given is not None or self._async_given is not None:
            raise InvalidInput(
                "an OpenAIEmbedder with a key or a client of its own cannot be pickled;"
                " with the key in OPENAI_API_KEY it can"
            )
        names = ("model", "dimensions", "batch_size", "_settings")
        return {name: self.__dict__[name] for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._given = self._async_given = None
        self._begin()

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One float64 array of one dimension per text.

        Raises:
            InvalidInput: a text is empty, which the API refuses; or the answer holds no vectors.
            MissingExtra: the package `openai` is not installed.
            openai.OpenAIError: the API refused, or could not be reached.
        """
        batches = list(self._batches(texts))
        if not batches:
            return []
        create = self._blocking().embeddings.create
        return [
            each for batch in batches for each in self._read(create(**self._asked(batch)), batch)
        ]

    async def aembed(self, texts: Sequence[str]) -> Vectors:
        """The same with asyncio."""
        batches = list(self._batches(texts))
        if not batches:
            return []
        if self._async_given is None and self._given is not None:
            return await asyncio.to_thread(self.embed, texts)
        create = self._awaiting().embeddings.create
        limit = asyncio.Semaphore(_AT_ONCE)

        async def ask(batch: list[str]) -> Vectors:
            async with limit:
                return self._read(await create(**self._asked(batch)), batch)

        tasks = [asyncio.create_task(ask(batch)) for batch in batches]
        try:
            return [each for made in await asyncio.gather(*tasks) for each in made]
        finally:
            for task in tasks:
                task.cancel()

    def close(self) -> None:
        """Close the blocking client; it is made anew when it is needed. One that was given stays."""
        client, self._client = self._client, None
        if client is not None and self._pid == os.getpid():
            client.close()

    async def aclose(self) -> None:
        """Close the blocking client and the one of this event loop."""
        self.close()
        client = self._async_clients.pop(asyncio.get_running_loop(), None)
        if client is not None and self._pid == os.getpid():
            await client.close()

    def _batches(self, texts: Sequence[str]) -> Iterator[list[str]]:
        batch: list[str] = []
        size = 0
        for i, each in enumerate(texts_of(texts)):
            if not each:
                raise InvalidInput(f"texts[{i}] is empty: the API embeds no empty text")
            length = len(text(f"texts[{i}]", each).encode())
            if batch and (len(batch) == self.batch_size or size + length > _MOST_TOKENS):
                yield batch
                batch, size = [], 0
            batch.append(each)
            size += length
        if batch:
            yield batch

    def _asked(self, batch: list[str]) -> dict[str, Any]:
        asked: dict[str, Any] = {"model": self.model, "input": batch, "encoding_format": "base64"}
        if self.dimensions is not None:
            asked["dimensions"] = self.dimensions
        return asked

    def _read(self, answer: Any, batch: list[str]) -> Vectors:
        data = sorted(getattr(answer, "data", None) or (), key=lambda each: each.index)
        if [each.index for each in data] != list(range(len(batch))):
            raise InvalidInput(
                f"the API must answer with one vector for each of {len(batch)} texts; got"
                f" {len(data)}, or some with the same index"
            )
        vectors = vectors_of([_decoded(each.embedding) for each in data], len(batch), "the API")
        if self.dimensions not in (None, len(vectors[0])):
            raise InvalidInput(
                f"dimensions: {self.model!r} answered with vectors of {len(vectors[0])} numbers,"
                f" not of {self.dimensions}"
            )
        return vectors

    def _blocking(self) -> OpenAI:
        if self._given is not None:
            return self._given
        if self._async_given is not None:
            raise InvalidInput("async_client can only be awaited: give a client too")
        self._look_for_fork()
        with self._lock:
            if self._client is None:
                self._client = _openai().OpenAI(**_DEFAULTS | self._settings)
            return self._client

    def _awaiting(self) -> AsyncOpenAI:
        if self._async_given is not None:
            return self._async_given
        self._look_for_fork()
        loop = asyncio.get_running_loop()
        with self._lock:
            client = self._async_clients.get(loop)
            if client is None:
                # A client refers to its loop, so a weak dictionary would keep both.
                for closed in [each for each in self._async_clients if each.is_closed()]:
                    del self._async_clients[closed]
                openai, settings = _openai(), _DEFAULTS | self._settings
                # openai's own one, when it is collected, closes itself in whatever loop runs then.
                http = openai.DefaultAsyncHttpxClient(timeout=settings["timeout"])
                client = openai.AsyncOpenAI(**settings, http_client=http)
                self._async_clients[loop] = client
            return client

    def _look_for_fork(self) -> None:
        # A child must not write into its parent's connections, nor wait for its threads' locks.
        if self._pid != os.getpid():
            self._begin()


def _openai() -> Any:
    try:
        import openai
    except ImportError:
        raise MissingExtra("openai", "OpenAIEmbedder") from None
    return openai


def _secret(name: str, value: object) -> str | None:
    """A str or None; an error does not show it."""
    if value is not None and (not isinstance(value, str) or not value):
        raise InvalidInput(f"{name} must be a str of at least 1 character or None")
    return value


def _decoded(embedding: object) -> Any:
    """Base64 of little-endian float32, or the numbers themselves: some servers know no base64."""
    if not isinstance(embedding, str):
        return embedding
    try:
        return np.frombuffer(binascii.a2b_base64(embedding), "<f4")
    except ValueError:
        raise InvalidInput("the API answered with a vector that is no base64 of float32") from None
