"""Objects of LlamaIndex that get abilities and keep their class: copies, of a subclass made for it."""

from __future__ import annotations

import threading
from typing import Any, Final
from weakref import ReferenceType, WeakKeyDictionary, ref

from llama_index.core.bridge.pydantic import BaseModel

from redis_tiered.errors import InvalidInput

__all__ = ["Subclasses", "plain", "put_state", "state_of"]

_STATE: Final = "_redis_tiered_state"


class Subclasses:
    """The subclass of each class, as long as anybody uses it.

    Args:
        ability: a class that comes before the object's own among the bases. Its methods are not in the
            dict of the class that is made, so LlamaIndex puts no span around them.
        argument: what the object is called in errors.
        instead: what to do where a class can have no subclass.
    """

    def __init__(self, ability: type[Any], argument: str, instead: str) -> None:
        self._ability = ability
        self._argument = argument
        self._instead = instead
        self._lock = threading.Lock()
        self._made: WeakKeyDictionary[type[Any], ReferenceType[type[Any]]] = WeakKeyDictionary()

    def __call__(self, given: BaseModel, state: object) -> Any:
        """A copy of an object, with the ability and what that needs.

        Raises:
            InvalidInput: its class cannot have subclasses, or its objects cannot change their class.
        """
        copy = given.model_copy()
        try:
            object.__setattr__(copy, "__class__", self._of(type(given)))
        except Exception as error:  # whatever a class raises that shall have no subclasses
            raise InvalidInput(
                f"{self._argument} must be of a class that can have subclasses, got "
                f"{type(given).__name__} ({type(error).__name__}); {self._instead}"
            ) from None
        put_state(copy, state)
        return copy

    def _of(self, kind: type[Any]) -> type[Any]:
        with self._lock:
            known = self._made.get(kind)
            found = None if known is None else known()
            if found is None:
                # Of the same name: what is saved by name is loaded as the object it is.
                names = {
                    "__module__": kind.__module__,
                    "__qualname__": kind.__qualname__,
                    "__doc__": kind.__doc__,
                    "__redis_tiered_plain__": kind,
                }
                made: Any = type(kind)
                found = made(kind.__name__, (self._ability, kind), names)
                self._made[kind] = ref(found)
            return found


def put_state(given: BaseModel, state: object) -> None:
    """Among the private attributes: pydantic copies them, and dumps none."""
    private = {**(given.__pydantic_private__ or {}), _STATE: state}
    object.__setattr__(given, "__pydantic_private__", private)


def state_of(given: BaseModel) -> Any:
    """What the ability needs; None: made by somebody who called the class of such an object."""
    return (given.__pydantic_private__ or {}).get(_STATE)


def plain(given: BaseModel) -> Any:
    """A copy of its own class, without the ability."""
    copy = given.model_copy()
    kind = type(given).__redis_tiered_plain__  # type: ignore[attr-defined]
    private = {**(copy.__pydantic_private__ or {})}
    private.pop(_STATE, None)
    object.__setattr__(copy, "__class__", kind)
    # A class without private attributes has None there.
    kept = private if private or kind.__private_attributes__ else None
    object.__setattr__(copy, "__pydantic_private__", kept)
    return copy
