"""Documents on their way into a vector store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any
from uuid import uuid4

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from redis_tiered.checks import integer, seconds
from redis_tiered.errors import InvalidInput
from redis_tiered.vectors.document import Document as CoreDocument
from redis_tiered.vectors.document import drafted

__all__ = ["Batch"]


class Batch:
    """Documents that were checked, and get their vectors.

    Attributes:
        ids: of each document, in the order they came.
        ttl: seconds until they expire; None: what the collection says.

    Raises:
        InvalidInput: one cannot be stored; the error names it.
    """

    def __init__(
        self,
        documents: list[CoreDocument],
        ids: Iterable[str | None] | None,
        ttl: float | None,
        size: int | None,
    ) -> None:
        given = [None] * len(documents) if ids is None else listed("ids", ids, "str or None")
        if len(given) != len(documents):
            raise InvalidInput(
                f"ids must be one for each of {len(documents)} documents, got {len(given)}"
            )
        for number, id_ in enumerate(given):
            if id_ is not None:
                documents[number] = replace(documents[number], id=_id(f"ids[{number}]", id_))
        documents = [
            document if document.id else replace(document, id=str(uuid4()))
            for document in documents
        ]
        self.ids = [document.id for document in documents]
        self.ttl = None if ttl is None else seconds("ttl", ttl)
        self._documents = documents
        self._size = max(1, len(documents)) if size is None else integer("batch_size", size, 1)
        self._vectors: list[Any] = []
        # What cannot be stored is found before anybody pays for its vector.
        drafted([replace(document, vector=(1.0,)) for document in documents], 1, "ip", 0, None)

    @classmethod
    def of_documents(
        cls,
        documents: Iterable[Document],
        ids: Iterable[str | None] | None,
        ttl: float | None,
        size: int | None,
    ) -> Batch:
        made = []
        for number, document in enumerate(listed("documents", documents, "Document")):
            where = f"documents[{number}]"
            if not isinstance(document, Document):
                raise InvalidInput(f"{where} must be a Document, got {type(document).__name__}")
            more = type(document).model_fields.keys() - Document.model_fields.keys()
            if more or document.__pydantic_extra__:
                raise InvalidInput(
                    f"{where} must be a Document, got {type(document).__name__}, which has more "
                    "fields; put them into its metadata"
                )
            made.append(
                CoreDocument(
                    id="" if document.id is None else _id(f"{where}.id", document.id),
                    text=_exact(document.page_content),
                    metadata=document.metadata,
                )
            )
        return cls(made, ids, ttl, size)

    @classmethod
    def of_texts(
        cls,
        texts: Iterable[str],
        metadatas: Iterable[Mapping[str, Any] | None] | None,
        ids: Iterable[str | None] | None,
        ttl: float | None,
        size: int | None,
    ) -> Batch:
        plain = listed("texts", texts, "str")
        rest = [None] * len(plain) if metadatas is None else listed("metadatas", metadatas, "dict")
        if len(rest) != len(plain):
            raise InvalidInput(
                f"metadatas must be one for each of {len(plain)} texts, got {len(rest)}"
            )
        made = []
        for number, (text, metadata) in enumerate(zip(plain, rest, strict=True)):
            if not isinstance(text, str):
                raise InvalidInput(f"texts[{number}] must be a str, got {type(text).__name__}")
            if not (metadata is None or isinstance(metadata, Mapping)):
                raise InvalidInput(
                    f"metadatas[{number}] must be a dict or None, got {type(metadata).__name__}"
                )
            made.append(CoreDocument(text=_exact(text), metadata=metadata or {}))
        return cls(made, ids, ttl, size)

    def texts(self) -> Iterator[list[str]]:
        """What the embedding is to be given, one list at a time."""
        for start in range(0, len(self._documents), self._size):
            yield [document.text for document in self._documents[start : start + self._size]]

    def embedded(self, embedding: Embeddings, texts: list[str], vectors: Any) -> None:
        """Take what the embedding made of texts.

        Raises:
            InvalidInput: not a vector for each.
        """
        if isinstance(vectors, str | bytes | Mapping) or not isinstance(vectors, Iterable):
            got = type(vectors).__name__
        else:
            made = list(vectors)
            if len(made) == len(texts):
                self._vectors += made
                return
            got = str(len(made))
        raise InvalidInput(
            f"embedding must give a vector for each of {len(texts)} texts, "
            f"got {got} from {type(embedding).__name__}"
        )

    def documents(self) -> list[CoreDocument]:
        """All of them with their vectors."""
        return [
            replace(document, vector=vector)
            for document, vector in zip(self._documents, self._vectors, strict=True)
        ]


def listed(name: str, given: object, of: str) -> list[Any]:
    """What an iterable yields; a str is none.

    Raises:
        InvalidInput: not an iterable of several.
    """
    if isinstance(given, str | bytes | Mapping | Document) or not isinstance(given, Iterable):
        raise InvalidInput(f"{name} must be a list of {of}, got {type(given).__name__}")
    return list(given)


def _id(name: str, given: object) -> str:
    if not isinstance(given, str):
        raise InvalidInput(f"{name} must be a str or None, got {type(given).__name__}")
    if not given:
        raise InvalidInput(f"{name} must have at least 1 character, or be None")
    return _exact(given)


def _exact(text: str) -> str:
    """Without its subclass, such as the TextAccessor that `message.text` is."""
    return str.__str__(text)
