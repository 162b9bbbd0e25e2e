"""The error tree, and what every module says it exports."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
import pkgutil
import subprocess
import sys

import pytest

import redis_tiered
from redis_tiered import errors
from redis_tiered.tiers.routing import Moved

MODULES = [
    name
    for _, name, _ in pkgutil.walk_packages(redis_tiered.__path__, "redis_tiered.")
    if not name.rpartition(".")[2].startswith("_")
]
ALL = [
    errors.RedisTieredError("m"),
    errors.InvalidInput("m"),
    errors.ConfigurationError("m"),
    errors.MissingExtra("postgres", "this"),
    errors.TierError("redis", "timeout", "detail"),
    errors.TierUnavailable("redis", "refused"),
    errors.ClosedError("durable", "closed", "detail"),
    errors.TierReplyError("redis", "reply", "detail"),
    errors.SchemaError("m"),
    errors.EmbeddedServerError("m"),
    errors.Uncacheable("reason", "detail"),
    errors.Uncacheable("reason"),
    errors.Unreadable("corrupt"),
    Moved("MOVED 12 10.0.0.1:6379"),
    Moved("ASK 12 [::1]:6379"),
]


@pytest.mark.parametrize("error", ALL, ids=repr)
@pytest.mark.parametrize("again", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy])
def test_errors_cross_process_boundaries(error: Exception, again: object) -> None:
    other = again(error)  # type: ignore[operator]
    assert type(other) is type(error)
    assert str(other) == str(error)
    assert vars(other) == vars(error)


def test_the_tree_is_as_drawn() -> None:
    drawn = [
        (errors.InvalidInput, (errors.RedisTieredError, ValueError)),
        (errors.ConfigurationError, (errors.InvalidInput,)),
        (errors.MissingExtra, (errors.RedisTieredError, ImportError)),
        (errors.TierError, (errors.RedisTieredError,)),
        (errors.TierUnavailable, (errors.TierError,)),
        (errors.ClosedError, (errors.TierUnavailable,)),
        (errors.TierReplyError, (errors.TierError,)),
        (errors.SchemaError, (errors.RedisTieredError,)),
        (errors.NotEnoughData, (errors.InvalidInput,)),
        (errors.EmbeddedServerError, (errors.RedisTieredError,)),
    ]
    assert {kind: kind.__bases__ for kind, _ in drawn} == dict(drawn)
    in_module = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and value.__module__ == errors.__name__
    }
    assert in_module == set(errors.__all__)
    for name in in_module - {"Uncacheable", "Unreadable"}:
        assert issubclass(getattr(errors, name), errors.RedisTieredError)
        assert name in (errors.__doc__ or "")


def test_messages_say_what_happened() -> None:
    assert str(errors.TierError("redis", "timeout")) == "redis tier: timeout"
    assert str(errors.TierError("redis", "reply", "WRONGTYPE")) == "redis tier: reply: WRONGTYPE"
    assert "pip install 'redis-tiered[postgres]'" in str(errors.MissingExtra("postgres", "this"))


@pytest.mark.parametrize("name", ["redis_tiered", *MODULES])
def test_all_is_sorted_and_honest(name: str) -> None:
    module = importlib.import_module(name)
    exported = getattr(module, "__all__", None)
    if exported is None:
        # A package that only groups modules exports nothing.
        assert (module.__file__ or "").endswith("__init__.py")
        return
    assert exported == sorted(exported, key=_as_ruff) or set(exported) == set(dir(module))
    assert len(set(exported)) == len(exported)
    for member in exported:
        assert getattr(module, member) is not None
    own = {
        member
        for member, value in vars(module).items()
        if not member.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == name
    }
    private = own - set(exported)
    used = "\n".join(
        inspect.getsource(importlib.import_module(other)) for other in MODULES if other != name
    )
    for member in private:
        assert f"import {member}\n" not in used, f"{name}.{member} is used, but not exported"


def _as_ruff(name: str) -> tuple[int, str]:
    kind = 0 if name.isupper() else 1 if name[:1].isupper() else 2
    return kind, name


def test_dir_lists_the_public_names_and_an_unknown_one_is_an_attribute_error() -> None:
    assert dir(redis_tiered) == sorted(redis_tiered.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = redis_tiered.nonsense


def test_importing_the_package_imports_no_framework_no_sqlalchemy_and_no_redis() -> None:
    script = (
        "import sys, redis_tiered; redis_tiered.cache_control; "
        "print(sorted({'redis', 'redisvl', 'sqlalchemy', 'langchain_core', 'llama_index', 'hiredis'}"
        " & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
