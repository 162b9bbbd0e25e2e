"""Output schemas that LangChain names only by `<class 'app.Answer'>`.

`ChatOpenAI.with_structured_output(Answer)` puts the class itself into the call's arguments, and
its repr into the cache key (langchain-openai 1.7): two schemas of one qualified name look alike.
What the provider is sent is the JSON schema; so that is what belongs into a fingerprint.
"""

from __future__ import annotations

import gc
import sys
from contextlib import suppress
from itertools import chain
from operator import attrgetter
from threading import Lock
from time import monotonic
from types import ModuleType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, WeakSet, ref

from pydantic import BaseModel

from redis_tiered.errors import Uncacheable
from redis_tiered.llm_cache.fingerprint import canonical, key_order

__all__ = ["Schemas"]

_qualname = attrgetter("__qualname__")


# `model_rebuild` gives a class a new one of these: a schema made before no longer holds. Unlike the
# core schema it can be referred to weakly: what we know of a class must not keep it alive.
_BUILT = "__signature__"

_PATIENCE = 60.0  # seconds


class _Known(NamedTuple):
    built: ref[Any]
    doc: str | None
    content: bytes


class Schemas:
    """Find the JSON schema of a class by what its repr says, without importing anything.

    A repr cannot tell a class from an older one of the same name: a notebook cell that was run
    again, or `create_model` called twice, leaves both alive and perhaps both in use. So every
    resolution looks at all live models. That walk is not memoised, because nothing cheap says
    that no class was made since: 0.4 ms for the 1,300 models of langchain, langgraph, openai
    and llama-index together, spent only on requests that carry a class.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._known: WeakKeyDictionary[type[BaseModel], _Known] = WeakKeyDictionary()
        self._survivors: WeakSet[type[Any]] = WeakSet()
        self._collected = -_PATIENCE

    def resolve(self, path: str) -> bytes:
        """Canonical bytes of the schema, name and docstring of the class at `path`.

        Args:
            path: module and qualified name as `repr(cls)` joins them, `"app.Answer"`.

        Raises:
            Uncacheable: `unresolved_schema` where no live pydantic model has this name;
                `ambiguous_schema` where several have it and their schemas differ.
        """
        found = self._contents(path, _live(path))
        if len(found) > 1 and self._collect(path):
            found = self._contents(path, _live(path))
        if not found:
            raise Uncacheable("unresolved_schema", path)
        if len(found) > 1:
            raise Uncacheable("ambiguous_schema", path)
        return found.pop()

    def _contents(self, path: str, classes: set[type[Any]]) -> set[bytes]:
        bound = _bound(path)
        if isinstance(bound, type) and bound not in classes and _name(bound) == path:
            # A dataclass, a TypedDict: nothing says how it becomes a schema, nor whether it or
            # the model it displaced is meant.
            raise Uncacheable("ambiguous_schema" if classes else "unresolved_schema", path)
        return {self._content(path, found) for found in classes}

    def _content(self, path: str, found: type[Any]) -> bytes:
        if not issubclass(found, BaseModel):  # pydantic.v1
            raise Uncacheable("unresolved_schema", path)
        built, doc = vars(found).get(_BUILT), found.__doc__
        with self._lock:
            known = self._known.get(found)
        if known is not None and known.built() is built and known.doc == doc:
            return known.content
        try:
            schema = found.model_json_schema()
        except Exception as error:  # whatever a model's own hooks raise
            raise Uncacheable("unresolved_schema", f"{path}: {type(error).__name__}") from None
        content = canonical(
            {"name": found.__name__, "doc": doc, "schema": schema, "order": key_order(schema)}
        )
        # Built anew meanwhile, by another thread or since it was deferred: not worth keeping.
        if built is not None and vars(found).get(_BUILT) is built:
            with suppress(TypeError), self._lock:  # an older pydantic's has no weak references
                self._known[found] = _Known(ref(built), doc, content)
        return content

    def _collect(self, path: str) -> bool:
        """Collect garbage, since a replaced class lingers in reference cycles until then.

        Not for rivals that lived through an earlier collection, except once a minute.
        """
        rivals = _live(path)
        with self._lock:
            recent = monotonic() - self._collected < _PATIENCE
            if recent and all(rival in self._survivors for rival in rivals):
                return False
        del rivals
        gc.collect()
        alive = _live(path)
        with self._lock:
            self._survivors.update(alive)
            self._collected = monotonic()
        return True


def _name(cls: type[Any]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _live(path: str) -> set[type[Any]]:
    """Every live pydantic model of this name, function-local ones too."""
    parts = path.split(".")
    # Where the module ends and the qualified name begins the text does not say.
    names = {".".join(parts[i:]) for i in range(1, len(parts))}
    level: list[type[Any]] = [BaseModel]
    v1 = sys.modules.get("pydantic.v1.main")
    if v1 is not None:
        level.append(v1.BaseModel)
    found: set[type[Any]] = set()
    while level:
        # All of a level at C speed; a generator per class would double the time.
        level = list(chain.from_iterable(map(type.__subclasses__, level)))
        if len(level) > 10_000:  # diamonds repeat their subclasses
            level = list(set(level))
        if not names.isdisjoint(map(_qualname, level)):
            found.update(cls for cls in level if cls.__qualname__ in names and _name(cls) == path)
    return found


def _bound(path: str) -> object:
    """What the module that `path` begins with holds under the rest of it, or None."""
    parts = path.split(".")
    for end in range(len(parts) - 1, 0, -1):
        module = sys.modules.get(".".join(parts[:end]))
        if isinstance(module, ModuleType):
            value: object = module
            for part in parts[end:]:
                # vars(), not getattr: a module's or class's __getattr__ may run or import code.
                space = getattr(value, "__dict__", {})
                if part not in space:
                    return None
                value = space[part]
            return value
    return None
