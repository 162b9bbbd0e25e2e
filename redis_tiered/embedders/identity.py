"""Which model an embedder embeds with: vectors of two models must never be compared."""

from __future__ import annotations

import hashlib
from typing import Any, Final

from redis_tiered.errors import InvalidInput

__all__ = ["Identity", "identify", "model_argument"]

_MAX_NAME: Final = 200
# Where the frameworks' classes keep the name, the first that is set counts. A deployment is looked
# at before them: on Azure it decides, and the model beside it is often a default nobody chose.
_NAMES: Final = ("model", "model_name", "model_id", "repo_id", "deployment")
_DEPLOYMENTS: Final = ("deployment", "azure_deployment", "deployment_name")
_UNNAMED: Final = frozenset({"", "unknown", "custom"})  # LlamaIndex's and redisvl's defaults
_DIMENSIONS: Final = ("dimensions", "dims", "output_dimensionality", "truncate_dim")
# Further settings under which one model makes other vectors.
_SHAPING: Final = (
    "query_instruction",
    "embed_instruction",
    "query_encode_kwargs",
    "encode_kwargs",
    "input_type",
    "task_type",
    "normalize",
    "pooling",
    "revision",
)
_MISSING: Final = (
    "model must be given: {kind} does not name its model. Vectors of two models must not be"
    ' compared, so give it a name that changes with the model: model="..."'
)


class Identity:
    """The names of an embedder's model, read anew at each access.

    Attributes:
        model: kind of the embedder, name of its model, dimensions and other settings that shape
            its vectors; or what the user gave, as it is.
        model_name: the model's own name, `@` and the dimensions behind it if they were chosen.
    """

    __slots__ = ("_given", "_wrapped")

    def __init__(self, wrapped: object, given: str | None) -> None:
        self._wrapped = wrapped
        self._given = given

    @property
    def model(self) -> str:
        return self._given if self._given is not None else identify(self._wrapped)[0]

    @property
    def model_name(self) -> str:
        return self._given if self._given is not None else identify(self._wrapped)[1]


def model_argument(model: object) -> str | None:
    """The argument `model`, checked.

    Raises:
        InvalidInput: it is no name.
    """
    if model is None:
        return None
    if not isinstance(model, str) or not 0 < len(model) <= _MAX_NAME or not model.isprintable():
        got = type(model).__name__ if not isinstance(model, str) else f"{model!r:.100}"
        raise InvalidInput(f"model must be 1 to {_MAX_NAME} printable characters, got {got}")
    return model


def identify(embedder: object) -> tuple[str, str]:
    """`Identity.model` and `Identity.model_name` of an embedder, from its class and attributes.

    Raises:
        InvalidInput: it does not name its model.
    """
    own = getattr(embedder, "_identity", None)
    if isinstance(own, Identity):  # of this project: it tells whose vectors it gives
        return own.model, own.model_name
    kind = type(embedder).__name__
    name = _name(embedder)
    if name is None:
        inner = getattr(
            embedder, "underlying_embeddings", None
        )  # LangChain's CacheBackedEmbeddings
        if inner is not None:
            return identify(inner)
        raise InvalidInput(_MISSING.format(kind=kind))
    dimensions = _first_set(embedder, _DIMENSIONS)
    if isinstance(dimensions, int) and not isinstance(dimensions, bool):
        name = f"{name}@{dimensions}"
    settings = "".join(
        f";{each}={_short(value)}"
        for each in _SHAPING
        if (value := getattr(embedder, each, None)) not in (None, "", {})
    )
    return f"{kind}:{name}{settings}", name


def _name(embedder: object) -> str | None:
    name = _first_set(embedder, _NAMES)
    deployment = _first_set(embedder, _DEPLOYMENTS)
    chosen = getattr(embedder, "model_fields_set", None)
    if isinstance(chosen, set) and not chosen.intersection(_DEPLOYMENTS):
        # LangChain's OpenAIEmbeddings have one nobody chose, whatever their model is.
        deployment = None
    for each in (deployment, name):
        if isinstance(each, str) and each.lower() not in _UNNAMED:
            return _short(each, _MAX_NAME)
    return None


def _first_set(embedder: object, names: tuple[str, ...]) -> Any:
    values = (getattr(embedder, name, None) for name in names)
    return next((value for value in values if value not in (None, "")), None)


def _short(value: object, most: int = 24) -> str:
    """A printable value of at most so many characters; a longer one by its hash."""
    text = str(value)
    if len(text) <= most and text.isprintable():
        return text
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
