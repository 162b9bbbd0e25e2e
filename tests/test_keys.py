"""Keys: no two (namespace, tenant, name, digest) meet, no part breaks out of its scope."""

from __future__ import annotations

import fnmatch
import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from redis.crc import key_slot

from redis_tiered.errors import InvalidInput
from redis_tiered.keys import Keyspace, LLMKeys, MapKeys, SessionKeys, part

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
NASTY = TEXT | st.sampled_from(
    ["a:b", "a", "b", ":", "{a}", "}", "{", "%3A", "%", "*", "!", "a!", "\0", " ", "é", "e\u0301"]
)
DIGEST = st.text("0123456789abcdef", min_size=32, max_size=32)
EPOCH = st.from_regex(r"[0-9a-f]{12}(\.[0-9a-f]{8})?", fullmatch=True)
SCOPE = st.tuples(NASTY, NASTY, NASTY)


def keys_of(scope: tuple[str, str, str]) -> LLMKeys:
    namespace, tenant, name = scope
    return Keyspace(namespace, tenant).llm(name)


def every_key(scope: tuple[str, str, str], epoch: str, digest: str, tag: str) -> list[bytes]:
    keys = keys_of(scope)
    entry = keys.entry(epoch, digest)
    return [keys.epoch, keys.stats, entry, keys.lease(entry), keys.tag(epoch, tag)]


@given(SCOPE, EPOCH, DIGEST, NASTY, SCOPE, EPOCH, DIGEST, NASTY)
@example(("a", "b:c", "d"), "0" * 12, "0" * 32, "t", ("a:b", "c", "d"), "0" * 12, "0" * 32, "t")
@example(("a", "b", "c"), "0" * 12, "0" * 32, "t", ("a!", "b", "c"), "0" * 12, "0" * 32, "t")
def test_no_two_keys_of_different_scopes_meet(
    scope: tuple[str, str, str],
    epoch: str,
    digest: str,
    tag: str,
    other: tuple[str, str, str],
    other_epoch: str,
    other_digest: str,
    other_tag: str,
) -> None:
    mine = every_key(scope, epoch, digest, tag)
    assert len(set(mine)) == len(mine)
    theirs = every_key(other, other_epoch, other_digest, other_tag)
    if scope != other:
        assert not set(mine) & set(theirs)
        assert keys_of(scope).scope != keys_of(other).scope
    if (scope, epoch, digest) != (other, other_epoch, other_digest):
        assert mine[2] != theirs[2]
        assert mine[3] != theirs[3]
    if (scope, epoch, tag) != (other, other_epoch, other_tag):
        assert mine[4] != theirs[4]


@given(SCOPE, EPOCH, DIGEST, NASTY)
def test_every_key_is_under_its_namespace_and_tenant(
    scope: tuple[str, str, str], epoch: str, digest: str, tag: str
) -> None:
    namespace, tenant = (part("x", text).encode() for text in scope[:2])
    for key in every_key(scope, epoch, digest, tag):
        assert re.match(rb"%b!?:%b:" % (re.escape(namespace), re.escape(tenant)), key), key


@given(SCOPE, EPOCH, DIGEST)
def test_what_memory_holds_is_announced_and_the_rest_is_not(
    scope: tuple[str, str, str], epoch: str, digest: str
) -> None:
    space = Keyspace(*scope[:2])
    keys = space.llm(scope[2])
    entry = keys.entry(epoch, digest)
    assert entry.startswith(space.prefix)
    assert keys.epoch.startswith(space.prefix)
    for quiet in (keys.lease(entry), keys.stats, keys.tag(epoch, "t")):
        assert not quiet.startswith(space.prefix)


@given(SCOPE, EPOCH, DIGEST)
def test_an_entry_and_its_lease_share_a_slot(
    scope: tuple[str, str, str], epoch: str, digest: str
) -> None:
    keys = keys_of(scope)
    entry = keys.entry(epoch, digest)
    assert key_slot(entry) == key_slot(keys.lease(entry)) == key_slot(digest.encode())


@given(SCOPE, EPOCH, DIGEST, EPOCH, SCOPE)
def test_a_pattern_finds_the_entries_of_its_epoch_alone(
    scope: tuple[str, str, str],
    epoch: str,
    digest: str,
    other_epoch: str,
    other: tuple[str, str, str],
) -> None:
    assume(epoch != other_epoch)
    assume(not other_epoch.startswith(epoch + "."))
    keys = keys_of(scope)
    pattern = re.compile(fnmatch.translate(keys.pattern(epoch).decode()).encode())
    assert pattern.match(keys.entry(epoch, digest))
    assert not pattern.match(keys.entry(other_epoch, digest))
    assert not pattern.match(keys.epoch)
    if other != scope:
        assert not pattern.match(keys_of(other).entry(epoch, digest))


@given(NASTY)
def test_an_encoded_part_holds_no_letter_with_a_meaning(text: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_.~@+=%-]+", part("tenant", text))


@given(TEXT, TEXT)
def test_encoding_is_injective(one: str, two: str) -> None:
    assert (part("x", one) == part("x", two)) == (one == two)


@pytest.mark.parametrize("value", [None, 1, b"bytes", "", "x" * 257, "\ud800", "a\udfff", ["a"]])
@pytest.mark.parametrize("argument", ["namespace", "tenant", "name", "tags"])
def test_a_part_that_cannot_be_used_is_refused_by_name(argument: str, value: object) -> None:
    def make() -> None:
        given = {"namespace": "n", "tenant": "t", "name": "c", "tags": "g", argument: value}
        keys = Keyspace(given["namespace"], given["tenant"]).llm(given["name"])  # type: ignore[arg-type]
        keys.tag("e", given["tags"])  # type: ignore[arg-type]

    with pytest.raises(InvalidInput, match=argument):
        make()


def test_the_longest_part_is_accepted() -> None:
    assert part("name", "x" * 256) == "x" * 256


# Sessions.

SESSION_EPOCH = st.from_regex(r"[0-9a-f]{12}(\.[0-9a-f]{8})?", fullmatch=True) | st.sampled_from(
    ["0", "summary"]
)
IDS = NASTY | st.sampled_from(["q05", "{q05}", "q05}:a", "index", "summary", "0", "queue", "llm"])
SESSION = st.tuples(NASTY, NASTY, IDS)


def session_of(scope: tuple[str, str, str]) -> SessionKeys:
    namespace, tenant, id = scope
    return Keyspace(namespace, tenant).session(id)


def own_keys(scope: tuple[str, str, str], epoch: str) -> list[bytes]:
    """What belongs to one session, as it is with and without a queue."""
    keys = session_of(scope)
    return [*keys.window(epoch, queued=False), *keys.window(epoch, queued=True)]


def common_keys(scope: tuple[str, str, str]) -> list[bytes]:
    """What all sessions of a tenant have in common."""
    keys = session_of(scope)
    return [keys.index, *(key for shard in SessionKeys.SHARDS for key in keys.queue(shard))]


@given(SESSION, SESSION_EPOCH, SESSION, SESSION_EPOCH, DIGEST, NASTY)
@example(("a", "b:c", "d"), "0", ("a:b", "c", "d"), "0", "0" * 32, "t")
@example(("a", "b", "c"), "0", ("a!", "b", "c"), "0", "0" * 32, "t")
@example(("a", "b", "q05"), "0", ("a", "b", "a"), "0", "0" * 32, "t")
@example(("a", "session", "c"), "0", ("a", "llm", "c"), "0", "0" * 32, "t")
def test_no_two_keys_of_different_sessions_meet(
    scope: tuple[str, str, str],
    epoch: str,
    other: tuple[str, str, str],
    other_epoch: str,
    digest: str,
    tag: str,
) -> None:
    mine, theirs = own_keys(scope, epoch), own_keys(other, other_epoch)
    assert len({*mine, *common_keys(scope)}) == len(mine) + len(common_keys(scope))
    assert not set(mine) & set(common_keys(other))
    if (scope, epoch) != (other, other_epoch):
        assert not set(mine) & set(theirs)
    if scope[:2] != other[:2]:
        assert not set(common_keys(scope)) & set(common_keys(other))
        assert session_of(scope).scope != session_of(other).scope
    elif scope != other:
        assert session_of(scope).session != session_of(other).session
    assert (session_of(scope).trust == session_of(other).trust) == (scope[0] == other[0])
    caches = every_key(other, other_epoch, digest, tag)
    assert not {*mine, *common_keys(scope)} & set(caches)
    assert not {session_of(scope).scope, session_of(scope).trust} & {keys_of(other).scope}


@given(SESSION, SESSION_EPOCH)
def test_keys_of_a_session_are_quiet_and_under_its_tenant(
    scope: tuple[str, str, str], epoch: str
) -> None:
    namespace, tenant = (part("x", text).encode() for text in scope[:2])
    for key in [*own_keys(scope, epoch), *common_keys(scope)]:
        assert key.startswith(b"%b!:%b:" % (namespace, tenant)), key
        assert not key.startswith(Keyspace(*scope[:2]).prefix)


@given(SESSION, SESSION_EPOCH)
def test_what_changes_together_shares_a_slot(scope: tuple[str, str, str], epoch: str) -> None:
    keys = session_of(scope)
    alone = {key_slot(key) for key in keys.window(epoch, queued=False)}
    assert alone == {key_slot(keys.session.encode())}
    queued = {key_slot(key) for key in keys.window(epoch, queued=True)}
    assert queued == {key_slot(key) for key in keys.queue(keys.shard)}
    assert len(queued) == 1


@given(SESSION)
def test_a_session_is_found_by_its_encoded_id(scope: tuple[str, str, str]) -> None:
    keys = session_of(scope)
    again = Keyspace(*scope[:2]).session_of(keys.session)
    assert SessionKeys.name(keys.session) == scope[2]
    assert again.window("0", queued=True) == keys.window("0", queued=True)
    assert again.shard == keys.shard


@pytest.mark.parametrize("value", [None, 1, b"bytes", "", "x" * 257, "\ud800", "a\udfff", ["a"]])
def test_a_session_id_that_cannot_be_used_is_refused_by_name(value: object) -> None:
    with pytest.raises(InvalidInput, match="session_id"):
        Keyspace("n", "t").session(value)  # type: ignore[arg-type]


def test_a_session_id_that_no_index_takes_is_refused() -> None:
    assert Keyspace("n", "t").session("x" * 256)
    assert Keyspace("n", "t").session("\u4e00" * 170)
    with pytest.raises(InvalidInput, match="1600 bytes"):
        Keyspace("n", "t").session("\u4e00" * 180)
    with pytest.raises(InvalidInput, match="1600 bytes"):
        Keyspace("n", "\u4e00" * 90).session("\u4e00" * 90)


# Maps.


def map_of(scope: tuple[str, str, str]) -> MapKeys:
    namespace, tenant, name = scope
    return Keyspace(namespace, tenant).map(name)


def map_keys(scope: tuple[str, str, str], epoch: str, digest: str) -> list[bytes]:
    keys = map_of(scope)
    return [keys.epoch, *keys.values(epoch, [digest]), keys.index(epoch, digest[0])]


@given(SCOPE, EPOCH, DIGEST, SCOPE, EPOCH, DIGEST, NASTY)
@example(("a", "b:c", "d"), "0", "0" * 32, ("a:b", "c", "d"), "0", "0" * 32, "t")
@example(("a", "b", "c"), "0", "0" * 32, ("a!", "b", "c"), "0", "0" * 32, "t")
@example(("a", "map", "c"), "0", "0" * 32, ("a", "llm", "map"), "0", "0" * 32, "t")
def test_no_two_keys_of_different_maps_meet(
    scope: tuple[str, str, str],
    epoch: str,
    digest: str,
    other: tuple[str, str, str],
    other_epoch: str,
    other_digest: str,
    tag: str,
) -> None:
    mine = map_keys(scope, epoch, digest)
    theirs = map_keys(other, other_epoch, other_digest)
    assert len(set(mine)) == len(mine)
    if scope != other:
        assert not set(mine) & set(theirs)
        assert map_of(scope).scope != map_of(other).scope
    if (scope, epoch, digest) != (other, other_epoch, other_digest):
        assert mine[1] != theirs[1]
    others = [*every_key(other, other_epoch, other_digest, tag), *common_keys(other)]
    assert not set(mine) & {*others, *own_keys(other, other_epoch)}
    assert map_of(scope).scope not in {
        keys_of(other).scope,
        session_of(other).scope,
        session_of(other).trust,
    }


@given(SCOPE, EPOCH, DIGEST, DIGEST)
def test_keys_of_a_map(scope: tuple[str, str, str], epoch: str, digest: str, other: str) -> None:
    space = Keyspace(*scope[:2])
    keys = space.map(scope[2])
    [value] = keys.values(epoch, [digest])
    index = keys.index(epoch, digest[0])
    tenant = part("x", scope[1]).encode()
    assert value.startswith(space.prefix + tenant + b":")
    assert keys.epoch.startswith(space.prefix + tenant + b":")
    assert not index.startswith(space.prefix)
    assert index.startswith(space.prefix[:-1] + b"!:" + tenant + b":")
    assert key_slot(value) == key_slot(index)
    [second] = keys.values(epoch, [other])
    if digest[0] == other[0]:
        assert key_slot(second) == key_slot(value)


@pytest.mark.parametrize("value", [None, 1, b"bytes", "", "x" * 257, "\ud800", ["a"]])
def test_a_name_of_a_map_that_cannot_be_used_is_refused(value: object) -> None:
    with pytest.raises(InvalidInput, match="name"):
        Keyspace("n", "t").map(value)  # type: ignore[arg-type]


def test_a_map_that_no_index_takes_is_refused() -> None:
    assert Keyspace("n", "t").map("\u4e00" * 170)
    with pytest.raises(InvalidInput, match="1600 bytes"):
        Keyspace("n", "\u4e00" * 90).map("\u4e00" * 90)
