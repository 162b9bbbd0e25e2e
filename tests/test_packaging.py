"""What is installed, what imports what, and which versions live together."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

import redis_tiered

ROOT = Path(__file__).parent.parent
FRAMEWORKS = ("langchain_core", "llama_index", "sqlalchemy", "redisvl", "redis", "openai", "numpy")


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_importing_the_core_imports_no_framework_and_no_database() -> None:
    assert loaded_by("import redis_tiered").isdisjoint(FRAMEWORKS)


def test_building_tiers_without_a_durable_tier_needs_no_sqlalchemy() -> None:
    statement = "import redis_tiered; redis_tiered.Tiers('redis://localhost:1')"
    assert loaded_by(statement).isdisjoint(set(FRAMEWORKS) - {"redis"})


def test_the_langchain_adapter_imports_no_other_framework() -> None:
    assert loaded_by("import langchain_redis_tiered").isdisjoint(
        {"llama_index", "numpy", "redisvl"}
    )


@pytest.mark.parametrize(
    "package", ["redis_tiered", "langchain_redis_tiered", "llamaindex_redis_tiered"]
)
def test_every_package_is_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").exists()


def test_every_public_name_is_there_and_sorted() -> None:
    assert redis_tiered.__all__ == sorted(redis_tiered.__all__)
    for name in redis_tiered.__all__:
        assert getattr(redis_tiered, name) is not None
    assert set(dir(redis_tiered)) >= set(redis_tiered.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = redis_tiered.nothing


def test_the_version_is_the_distributions() -> None:
    assert importlib.metadata.version("redis-tiered") == redis_tiered.__version__


def test_the_frameworks_we_serve_live_together() -> None:
    statement = "import langchain_redis_tiered, llamaindex_redis_tiered, llama_index.core, redisvl"
    code = f"{statement}; from redisvl.extensions.cache.embeddings import EmbeddingsCache"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    for name, least in {
        "langchain-core": (1, 7),
        "llama-index-core": (0, 14),
        "redisvl": (0, 28),
    }.items():
        version = tuple(int(part) for part in importlib.metadata.version(name).split(".")[:2])
        assert version >= least, name
