"""What tells these very server processes of Redis from any earlier or other ones."""

from __future__ import annotations

import re
import secrets
from hashlib import blake2b

from redis_tiered.errors import TierReplyError
from redis_tiered.flow import Flow, Redis

__all__ = ["new_token", "servers"]

_RUN_ID = re.compile(rb"^run_id:(\w+)", re.MULTILINE)


def servers() -> Flow[str]:
    """A suffix for keys that names all primaries' processes; empty where that is not permitted.

    Raises:
        TierError: Redis failed.
    """
    try:
        replies = yield Redis((("INFO", "server"),), everywhere=True)
    except TierReplyError:
        return ""  # not permitted to this user: then a restart cannot be told
    found = sorted(match[1] for reply in replies if (match := _RUN_ID.search(reply)))
    return "." + blake2b(b",".join(found), digest_size=4).hexdigest() if found else ""


def new_token() -> str:
    return secrets.token_hex(6)
