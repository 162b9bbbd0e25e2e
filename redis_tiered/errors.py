"""Every error this project raises.

RedisTieredError
├── InvalidInput            (ValueError)   an argument has a wrong type or value
│   ├── ConfigurationError                 a setting, URL or environment variable has
│   └── NotEnoughData                      what was given cannot show what is asked of it
├── MissingExtra            (ImportError)  an optional dependency is not installed
├── TierError                              a tier could not do what it was asked
│   ├── TierUnavailable                    it cannot be reached, or refuses every such request
│   │   └── ClosedError                    it is used after close()
│   └── TierReplyError                     it answered this one request with an error
├── SchemaError                            the durable tier holds something we must not touch
└── EmbeddedServerError                    the embedded server cannot be started or joined

The private `Uncacheable` and `Unreadable` are not errors of a user: they carry the counted
reason why a request is not stored, or why stored bytes are a miss.
"""

from __future__ import annotations

__all__ = [
    "ClosedError",
    "ConfigurationError",
    "EmbeddedServerError",
    "InvalidInput",
    "MissingExtra",
    "NotEnoughData",
    "RedisTieredError",
    "SchemaError",
    "TierError",
    "TierReplyError",
    "TierUnavailable",
    "Uncacheable",
    "Unreadable",
]


class RedisTieredError(Exception):
    """Base of every error raised by this project."""


class InvalidInput(RedisTieredError, ValueError):
    """An argument was refused before anything was read or written."""


class ConfigurationError(InvalidInput):
    """A setting, URL or environment variable cannot be used."""


class NotEnoughData(InvalidInput):
    """The data cannot show that wrong answers stay within the target; nothing is guessed.

    Attributes:
        more: about how many more prompts or pairs would do; None: more of the same would not.
    """

    def __init__(self, message: str, more: int | None = None) -> None:
        super().__init__(message)
        self.more = more

    def __reduce__(self) -> tuple[type[NotEnoughData], tuple[str, int | None]]:
        return type(self), (str(self), self.more)


class MissingExtra(RedisTieredError, ImportError):
    """An optional dependency is absent; the message says which `pip install` brings it."""

    def __init__(self, extra: str, what: str) -> None:
        super().__init__(
            f"{what} needs an optional dependency: pip install 'redis-tiered[{extra}]'"
        )
        self.extra = extra
        self.what = what

    def __reduce__(self) -> tuple[type[MissingExtra], tuple[str, str]]:
        return type(self), (self.extra, self.what)


class TierError(RedisTieredError):
    """A tier failed. Flows catch it and decide what that means.

    Attributes:
        tier: `"redis"`, `"durable"` or `"embedder"`.
        kind: what happened, in one word, as `stats()` counts it: `"refused"`, `"timeout"`, ...
    """

    def __init__(self, tier: str, kind: str, detail: str = "") -> None:
        super().__init__(f"{tier} tier: {kind}" + (f": {detail}" if detail else ""))
        self.tier = tier
        self.kind = kind
        self.detail = detail

    def __reduce__(self) -> tuple[type[TierError], tuple[str, str, str]]:
        return type(self), (self.tier, self.kind, self.detail)


class TierUnavailable(TierError):
    """The tier cannot be reached, or refuses every request of this sort for now."""


class ClosedError(TierUnavailable):
    """A `Tiers` was used after `close()`."""


class TierReplyError(TierError):
    """The tier is up and answered this one request with an error."""


class SchemaError(RedisTieredError):
    """The database is newer than this version, not a database, or holds foreign tables."""


class EmbeddedServerError(RedisTieredError):
    """The embedded server cannot be found, started or joined."""


class Uncacheable(Exception):
    """This request or answer must not be stored; `reason` is what `stats()` counts."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class Unreadable(Exception):
    """Stored bytes are corrupt, foreign, truncated or newer; the lookup is a counted miss."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
