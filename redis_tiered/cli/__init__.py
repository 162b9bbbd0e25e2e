"""The command line: `redis-tiered semantic calibrate FILE.jsonl`, and its brothers."""

from __future__ import annotations

from redis_tiered.cli.command import main

__all__ = ["main"]
