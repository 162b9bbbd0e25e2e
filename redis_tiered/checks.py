"""Checks of arguments that more than one capability makes."""

from __future__ import annotations

from redis_tiered.errors import InvalidInput

__all__ = ["integer", "seconds", "text"]

_MAX_SECONDS = 100 * 365 * 86_400


def seconds(name: str, value: object) -> float:
    """A duration: a number of seconds, more than 0, at most 100 years."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInput(f"{name} must be a number of seconds, got {type(value).__name__}")
    if not 0 < value <= _MAX_SECONDS:
        raise InvalidInput(
            f"{name} must be more than 0 and at most {_MAX_SECONDS} seconds, got {value}"
        )
    return float(value)


def integer(name: str, value: object, least: int, most: int = (1 << 63) - 1) -> int:
    """An int within bounds; a bool is none."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidInput(f"{name} must be an int, got {type(value).__name__}")
    if not least <= value <= most:
        raise InvalidInput(f"{name} must be from {least} to {most}, got {value}")
    return value


def text(name: str, value: object, *, least: int = 0, most: int | None = None) -> str:
    """A str that UTF-8 can encode, within bounds of length."""
    if type(value) is not str:
        raise InvalidInput(f"{name} must be a str, got {type(value).__name__}")
    if len(value) < least or (most is not None and len(value) > most):
        bounds = f"at least {least}" if most is None else f"{least} to {most}"
        raise InvalidInput(f"{name} must have {bounds} characters, got {len(value)}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidInput(
                f"{name} holds a lone surrogate; any text that UTF-8 can encode is accepted"
            ) from None
    return value
