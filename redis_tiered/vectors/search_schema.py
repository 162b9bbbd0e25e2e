"""How a collection lies in a Redis with the search module: the index, and a document's hash.

The definition of the index is written by redisvl. Names of our own fields begin with `__`; fields
that the user declares have the names that they have in the metadata.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from enum import Enum
from typing import Any, Final, NamedTuple, get_args

import numpy as np

from redis_tiered.checks import integer
from redis_tiered.errors import InvalidInput, MissingExtra, Unreadable
from redis_tiered.flow import Command
from redis_tiered.vectors import tokens
from redis_tiered.vectors.document import Metric, Row, Vector, loaded_metadata
from redis_tiered.vectors.engine import Word, content, loaded_content
from redis_tiered.vectors.words import words

__all__ = [
    "ALGORITHMS",
    "CONTENT",
    "DTYPES",
    "EF_RUNTIME",
    "EXPIRES",
    "HEAD",
    "TEXT",
    "TOKENS",
    "VECTOR",
    "VERSION",
    "Schema",
    "id_of",
    "key_part",
    "require_redisvl",
]

VECTOR: Final = "__v"
TOKENS: Final = "__f"  # what filters ask for; see `redis_tiered.vectors.tokens`
TEXT: Final = "__t"  # words; the text itself is in CONTENT
VERSION: Final = "__n"  # decimal; written by `scripts.APPLY`
EXPIRES: Final = "__x"  # milliseconds since 1970; not there: never
HEAD: Final = "__m"  # of `_HEAD`, the parent's id, the metadata
CONTENT: Final = "__p"

ALGORITHMS: Final[Mapping[str, Mapping[str, int]]] = {
    "flat": {"block_size": 1 << 20, "initial_cap": 1 << 30},
    "hnsw": {"ef_construction": 1 << 16, "ef_runtime": 1 << 16, "initial_cap": 1 << 30, "m": 512},
    "svs-vamana": {
        "construction_window_size": 1 << 16,
        "graph_max_degree": 1 << 10,
        "initial_cap": 1 << 30,
        "search_window_size": 1 << 16,
        "training_threshold": 1 << 30,
    },
}
DTYPES: Final = ("float32", "float16")

# When it expires (0: never), length of the parent's id, exponent of two that the vector's numbers
# were divided by.
_HEAD: Final = struct.Struct(">QHh")
# Of tags in one value. No value that holds it is indexed as a tag.
_SEPARATOR: Final = "\x1f"
# The parser would take them for options of the field before. `weight` is put where it is not one.
_OPTIONS: Final = frozenset(
    {
        *("as", "casesensitive", "indexempty", "indexmissing", "noindex", "nostem", "phonetic"),
        *("separator", "sortable", "unf", "withsuffixtrie"),
    }
)
_MAX_FIELDS: Final = 100
# How many candidates HNSW looks at. redisvl's 10 finds 2 of 3 where vectors are not in clusters.
EF_RUNTIME: Final = 64
_MAX_FLOAT16: Final = 65_504
# Exponents between which the module finds the length of a vector without loss.
_FLOAT16_RANGE: Final = (-6, 15)
_FLOAT32_RANGE: Final = (-100, 126)
_PLACE: Final = re.compile(
    r"\s*([-+]?\d{1,3}(?:\.\d+)?)\s*,\s*([-+]?\d{1,2}(?:\.\d+)?)\s*", re.ASCII
)
_MAX_LATITUDE: Final = 85.05112878


class Schema(NamedTuple):
    """What all documents of a collection have in common; make it with `Schema.checked`.

    Attributes:
        metric: how vectors are compared.
        algorithm: `"hnsw"`, `"flat"` or `"svs-vamana"`.
        dtype: `"float32"` or `"float16"`, of vectors in Redis.
        contents: whether texts and payloads are in Redis.
        fields: types of declared metadata fields by name: tag, text, numeric or geo.
        options: of the algorithm.
        lean: whether a document has but its vector and one value with the rest, and is found by
            vector and parent alone.
    """

    metric: Metric
    algorithm: str
    dtype: str
    contents: bool
    fields: Mapping[str, str]
    options: Mapping[str, int]
    lean: bool = False

    @classmethod
    def checked(
        cls,
        metric: Metric,
        *,
        algorithm: str,
        dtype: str,
        contents: bool,
        fields: Mapping[str, str] | None,
        options: Mapping[str, int] | None,
        lean: bool = False,
    ) -> Schema:
        """A schema of a user's arguments.

        Raises:
            InvalidInput: one is none that the search module knows.
        """
        if metric not in get_args(Metric):
            raise InvalidInput(f"metric must be one of {get_args(Metric)}, got {metric!r}")
        if algorithm not in ALGORITHMS:
            raise InvalidInput(f"algorithm must be one of {tuple(ALGORITHMS)}, got {algorithm!r}")
        if dtype not in DTYPES:
            raise InvalidInput(f"dtype must be one of {DTYPES}, got {dtype!r}")
        known = ALGORITHMS[algorithm]
        for name, value in (options or {}).items():
            if name not in known:
                raise InvalidInput(
                    f"algorithm_options of {algorithm!r} are {sorted(known)}, got {name!r}"
                )
            integer(f"algorithm_options[{name!r}]", value, 1, known[name])
        checked = _checked_fields(fields)
        return cls(metric, algorithm, dtype, contents, checked, dict(options or {}), lean)

    def layout(self, dims: int) -> str:
        """See `Engine.layout`."""
        return json.dumps(
            {
                "algorithm": self.algorithm,
                "dims": dims,
                "dtype": self.dtype,
                "engine": "redisvl",
                "fields": dict(self.fields),
                "metric": self.metric,
                "options": dict(self.options),
                "payload": "redis" if self.contents else "durable",
                **({"values": "together"} if self.lean else {}),
            },
            sort_keys=True,
        )

    # The index.

    def definition(self, name: bytes, prefix: bytes, dims: int) -> Command:
        """The command that makes the index.

        Args:
            name: of the index.
            prefix: of the keys of its documents.
            dims: length of the vectors.
        """
        from redisvl.schema import IndexSchema

        text = {"name": TEXT, "type": "text", "attrs": {"no_stem": True}}
        rest = [
            *([text] if self.contents else []),
            {"name": VERSION, "type": "numeric", "attrs": {"sortable": True}},
            {"name": EXPIRES, "type": "numeric"},
        ]
        schema = IndexSchema.from_dict(
            {
                "index": {"name": name.decode(), "prefix": prefix.decode(), "storage_type": "hash"},
                "fields": [
                    {"name": VECTOR, "type": "vector", "attrs": self._vector_attributes(dims)},
                    {"name": TOKENS, "type": "tag", "attrs": {"case_sensitive": True}},
                    *([] if self.lean else rest),
                    *(
                        {"name": name, "type": kind, "attrs": _ATTRIBUTES[kind]}
                        for name, kind in self._fields_in_order()
                    ),
                ],
            }
        )
        described = [word for field in schema.redis_fields for word in field.redis_args()]
        return (
            *("FT.CREATE", name, "ON", "HASH", "PREFIX", 1, prefix, "STOPWORDS", 0, "SCHEMA"),
            *(word.value if isinstance(word, Enum) else word for word in described),
        )

    def differs(self, info: Sequence[Any], prefix: bytes, dims: int) -> str:
        """In what an index is another one than `definition` makes; empty: in nothing.

        Args:
            info: what FT.INFO says of it.
            prefix, dims: as for `definition`.
        """
        said = _paired(info)
        if _paired(said["index_definition"]).get("prefixes") != [prefix]:
            return "prefix"
        there = {}
        for described in said["attributes"]:
            # After the pairs there may be flags.
            attribute = _paired(described[: len(described) // 2 * 2])
            there[_text(attribute["identifier"])] = attribute
        types = {name: _text(attribute["type"]).lower() for name, attribute in there.items()}
        wanted = {VECTOR: "vector", TOKENS: "tag"}
        if not self.lean:
            wanted |= {VERSION: "numeric", EXPIRES: "numeric"}
            wanted |= {TEXT: "text"} if self.contents else {}
        wanted |= self.fields
        if types != wanted:
            return f"fields {sorted(types.items())}"
        vector = there[VECTOR]
        asked = {
            "algorithm": self.algorithm,
            "data_type": self.dtype,
            "dim": str(dims),
            "distance_metric": self.metric,
        }
        for name, value in asked.items():
            if name in vector and _text(vector[name]).lower() != value:
                return f"{name} {_text(vector[name])}"
        return ""

    def _vector_attributes(self, dims: int) -> dict[str, Any]:
        return {
            "algorithm": self.algorithm,
            "datatype": self.dtype,
            "dims": dims,
            "distance_metric": self.metric,
            **({"ef_runtime": EF_RUNTIME} if self.algorithm == "hnsw" else {}),
            **self.options,
        }

    def _fields_in_order(self) -> list[tuple[str, str]]:
        return sorted(self.fields.items(), key=lambda field: (field[0].lower() != "weight", field))

    # Documents.

    def words(self, row: Row) -> tuple[Word, ...]:
        """A document as fields and values, in turns.

        Raises:
            InvalidInput: a number of its vector is too large for float16.
        """
        vector, exponent = self.vector(np.frombuffer(row.vector, "<f4"))
        expires = row.expires or 0
        if self.lean:
            head = _HEAD.pack(expires, len(row.parent), exponent) + row.parent
            head += len(row.text).to_bytes(4, "big") + row.text + row.metadata
            return VECTOR, vector, HEAD, head, TOKENS, tokens.parent_token(row.parent.decode())
        metadata = loaded_metadata(row.metadata)
        head = _HEAD.pack(expires, len(row.parent), exponent) + row.parent + row.metadata
        found: list[Word] = [VECTOR, vector, HEAD, head]
        named = tokens.tokens(metadata, row.id.decode(), row.parent.decode())
        found += (TOKENS, ",".join(named))
        if expires:
            found += (EXPIRES, expires)
        if self.contents:
            found += (CONTENT, content(row))
            if row.text:
                found += (TEXT, " ".join(words(row.text.decode())))
        for name, kind in self.fields.items():
            if (value := _VALUES[kind](metadata.get(name))) is not None:
                found += (name, value)
        return tuple(found)

    def row(self, id: bytes, fields: Mapping[bytes, bytes]) -> Row:
        """What `words` made; without a vector or a content that is not among the fields."""
        expires, length, exponent = _HEAD.unpack_from(head := fields[b"__m"])
        parent_end = end = _HEAD.size + length
        text, payload = loaded_content(fields[b"__p"]) if b"__p" in fields else (b"", b"")
        if self.lean:
            start = end + 4
            end = start + int.from_bytes(head[end:start], "big")
            text = head[start:end]
        vector = fields.get(b"__v", b"")
        if vector and (exponent or self.dtype == "float16"):
            stored = np.frombuffer(vector, "<f2" if self.dtype == "float16" else "<f4")
            vector = np.ldexp(stored.astype("<f4"), exponent).astype("<f4").tobytes()
        return Row(
            int(fields[b"__n"]),
            id,
            vector,
            head[end:],
            text,
            payload,
            head[_HEAD.size : parent_end],
            expires or None,
        )

    def vector(self, vector: Vector) -> tuple[bytes, int]:
        """A vector as the index has it, and the exponent of two that it was divided by.

        The length of a vector has no part in its cosine, but the module cannot find it where the
        numbers are very large or very small.

        Raises:
            InvalidInput: a number is too large for float16.
        """
        half, exponent = self.dtype == "float16", 0
        if half or self.metric == "cosine":
            largest = float(np.abs(vector).max())
            if self.metric == "cosine":
                low, high = _FLOAT16_RANGE if half else _FLOAT32_RANGE
                exponent = math.frexp(largest)[1]
                if low <= exponent <= high:
                    exponent = 0
                else:
                    vector = np.ldexp(vector, -exponent)
            elif largest > _MAX_FLOAT16:
                raise InvalidInput(
                    f"vector must hold numbers from -{_MAX_FLOAT16} to {_MAX_FLOAT16} for "
                    f'dtype="float16", got {largest:g}'
                )
        return self.numbers(vector), exponent

    def numbers(self, vector: Vector) -> bytes:
        """A vector as the index has it, where its numbers are neither large nor small."""
        return vector.astype("<f2" if self.dtype == "float16" else "<f4").tobytes()

    def lean_document(
        self, id: bytes, head: bytes
    ) -> tuple[tuple[str, str, dict[str, Any]] | None, int]:
        """Id, text and metadata of what `words` made of a lean document, None if that cannot be read;
        and when it expires (0: never)."""
        expires, length, _ = _HEAD.unpack_from(head)
        start = _HEAD.size + length + 4
        end = start + int.from_bytes(head[start - 4 : start], "big")
        try:
            return (id.decode(), head[start:end].decode(), loaded_metadata(head[end:])), expires
        except (Unreadable, UnicodeDecodeError):
            return None, expires

    def cosines(self, stored: Sequence[bytes], query: Vector) -> list[float]:
        """Of vectors as the index has them, whatever they were divided by, to a query of norm 1."""
        if not stored:
            return []
        numbers = np.frombuffer(b"".join(stored), "<f2" if self.dtype == "float16" else "<f4")
        rows, wanted = numbers.reshape(len(stored), -1).astype(np.float64), query.astype(np.float64)
        # Not by BLAS, where what comes of a row depends on its place.
        products = np.einsum("ij,j->i", rows, wanted)
        squares = np.einsum("ij,ij->i", rows, rows)
        cosines: list[float] = (products / np.sqrt(squares)).tolist()
        return cosines


def key_part(id: bytes) -> bytes:
    """An id as the end of a key, as `scripts.APPLY` makes it: the module reads a key up to NUL."""
    return id.replace(b"%", b"%25").replace(b"\0", b"%00")


def id_of(part: bytes) -> bytes:
    """The id that `key_part` encoded."""
    return part.replace(b"%00", b"\0").replace(b"%25", b"%") if b"%" in part else part


def require_redisvl() -> None:
    """Import redisvl, which takes a second.

    Raises:
        MissingExtra: it is not.
    """
    try:
        import redisvl.query
        import redisvl.schema  # noqa: F401
    except ImportError:
        raise MissingExtra("search", 'engine="redisvl"') from None


def _checked_fields(fields: Mapping[str, str] | None) -> dict[str, str]:
    if fields is None:
        return {}
    if not isinstance(fields, Mapping):
        raise InvalidInput(f"fields must be a mapping, got {type(fields).__name__}")
    if len(fields) > _MAX_FIELDS:
        raise InvalidInput(f"fields must be at most {_MAX_FIELDS}, got {len(fields)}")
    for name, kind in fields.items():
        if not isinstance(name, str) or not name.isidentifier() or len(name) > 256:
            raise InvalidInput(
                "fields must be named by letters, digits and underscores, as redisvl does not "
                f"escape names; got {name!r}"
            )
        if name.startswith("__") or name.lower() in _OPTIONS:
            raise InvalidInput(f"fields must not have the name {name!r}, which is reserved")
        if not isinstance(kind, str) or kind not in _VALUES:
            raise InvalidInput(f"fields[{name!r}] must be one of {tuple(_VALUES)}, got {kind!r}")
    return dict(fields)


# What the index makes of a declared field. A value that does not fit must not be there at all: the
# module would leave the whole document out of the index.


def _tag(value: Any) -> str | None:
    values = value if isinstance(value, list) else [value]
    tags = [str(v).lower() if type(v) is bool else v for v in values]
    if not tags or not all(type(tag) is str and _SEPARATOR not in tag for tag in tags):
        return None
    return _SEPARATOR.join(tags)


def _full_text(value: Any) -> str | None:
    return value if type(value) is str else None


def _numeric(value: Any) -> str | None:
    if type(value) is int or type(value) is float:
        try:
            number = float(value)
        except OverflowError:
            return None
        return repr(number) if math.isfinite(number) else None
    if isinstance(value, datetime):
        moment = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
        return repr(moment.timestamp())
    if isinstance(value, date):
        return repr(datetime(value.year, value.month, value.day, tzinfo=UTC).timestamp())
    return None


def _geo(value: Any) -> str | None:
    found = _PLACE.fullmatch(value) if type(value) is str else None
    if found is None or abs(float(found[1])) > 180 or abs(float(found[2])) > _MAX_LATITUDE:
        return None
    return f"{found[1]},{found[2]}"


_VALUES: Final[Mapping[str, Callable[[Any], str | None]]] = {
    "tag": _tag,
    "text": _full_text,
    "numeric": _numeric,
    "geo": _geo,
}
_ATTRIBUTES: Final[Mapping[str, Mapping[str, Any]]] = {
    "tag": {"separator": _SEPARATOR, "index_missing": True, "index_empty": True},
    "text": {"index_missing": True, "index_empty": True},
    "numeric": {"index_missing": True},
    "geo": {"index_missing": True},
}


def _paired(words: Sequence[Any]) -> dict[str, Any]:
    return {_text(name): value for name, value in zip(words[::2], words[1::2], strict=False)}


def _text(word: Any) -> str:
    return word.decode() if isinstance(word, bytes) else str(word)
