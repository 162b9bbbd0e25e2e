"""What other capabilities use of vectors: who is near, in which scope, as of when."""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pytest
import redis
from numpy.typing import NDArray

from redis_tiered import Tiers
from redis_tiered.errors import InvalidInput, TierError, TierUnavailable
from redis_tiered.flow import Command, Flow, Redis
from redis_tiered.vectors.document import Document
from redis_tiered.vectors.engine import Near
from redis_tiered.vectors.neighbours import Neighbours
from tests.servers import RedisServer, redis_options
from tests.waiting import wait_until

T = TypeVar("T")
Vector = NDArray[np.float32]

DIMS = 16
HOUR = 3_600_000
_names = itertools.count()


class Where(NamedTuple):
    """`redis`: valkey, cluster, or search: one with the search module, and the algorithm there."""

    redis: str
    durable: str
    algorithm: str = "flat"

    def __str__(self) -> str:
        return "-".join(self)


PLACES = [
    Where("valkey", "none"),
    Where("valkey", "sqlite"),
    Where("cluster", "postgres"),
    Where("search", "none"),
    Where("search", "sqlite", "hnsw"),
]
LOCAL = [place for place in PLACES if place.redis == "valkey"]


class Bench:
    """Neighbours of a fresh tenant, as two processes have them."""

    def __init__(self, tiers: Tiers, other: Tiers, url: str, place: Where) -> None:
        tenant = f"n{next(_names)}-{secrets.token_hex(3)}"
        self.tiers, self.other = tiers.tenant(tenant), other.tenant(tenant)
        self.url = url
        self.place = place
        self.options: dict[str, Any] = {
            "engine": "redisvl" if place.redis == "search" else "local",
            "algorithm": place.algorithm,
        }
        self.here, self.there = self.made(), self.made(self.other)

    def made(self, tiers: Tiers | None = None, name: str = "n", dims: int = DIMS) -> Neighbours:
        return Neighbours(tiers or self.tiers, name, dims, **self.options)

    def run(self, flow: Flow[T]) -> T:
        return self.tiers.run(flow)

    def put(self, *texts: str, scope: str = "s", ttl: int | None = HOUR, **metadata: Any) -> None:
        for text in texts:
            self.run(self.here.put(text, vector(text), text, metadata, scope, ttl))

    def ids(self, text: str, k: int = 10, scope: str | None = "s") -> list[str]:
        """As the second process finds them."""
        found = self.other.run(self.there.near(vector(text), k, scope))
        return [near.id for near in found]

    def lose(self) -> None:
        """Redis forgets this tenant."""
        with redis.Redis.from_url(self.url, **redis_options()) as client:
            for key in list(client.scan_iter(f"*{self.tiers.keys.tenant}*")):
                client.delete(key)


def vector(text: str) -> Vector:
    """The same text has the same."""
    seed = int.from_bytes(text.encode(), "big")
    return np.random.default_rng(seed).standard_normal(DIMS).astype(np.float32)


def kept(given: Vector) -> NDArray[np.float64]:
    """A vector as it must be kept."""
    doubles = given.astype(np.float64)
    return (doubles / np.linalg.norm(doubles)).astype(np.float16).astype(np.float64)


def cosine(one: NDArray[Any], other: NDArray[Any]) -> float:
    a, b = one.astype(np.float64), other.astype(np.float64)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def told(neighbours: Neighbours, text: str, k: int = 10) -> Flow[list[Near]]:
    """What is near, asked in a round trip with something else."""
    mine, *replies = yield Redis((_other(neighbours), *neighbours.ask()))
    assert mine is None
    return (yield from neighbours.near(vector(text), k, "s", neighbours.told(replies)))


def _other(neighbours: Neighbours) -> Command:
    return ("GET", neighbours._place.keys.meta + b":other")


def at_once(flow: Flow[T]) -> T:
    """The result of a flow that takes no step."""
    try:
        step = flow.send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    raise AssertionError(f"{step} was asked for")


def _once(step: Any) -> Flow[Any]:
    return (yield step)


def _answers(tiers: Tiers) -> bool:
    try:
        tiers.run(_once(Redis((("EXISTS", "any"),))))
    except TierError:
        return False
    return True


@pytest.fixture(scope="module")
def open_tiers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Tiers]]:
    opened: dict[tuple[str, str, int], Tiers] = {}
    urls: dict[str, str | None] = {
        "none": None,
        "sqlite": f"sqlite:///{tmp_path_factory.mktemp('neighbours') / 'durable.db'}",
    }
    made: list[Any] = []

    def get(url: str, durable: str, process: int) -> Tiers:
        if durable not in urls:
            made.append(request.getfixturevalue("_postgres"))
            urls[durable] = made[-1].create_database()
        if (url, durable, process) not in opened:
            opened[url, durable, process] = Tiers(
                url, urls[durable], redis_timeout=5, durable_timeout=10
            )
        tiers = opened[url, durable, process]
        # A test before this one may have killed the server.
        wait_until(lambda: _answers(tiers), what="Redis to be asked again")
        return tiers

    yield get
    for tiers in opened.values():
        tiers.close()
    for server in made:
        server.drop_database(str(urls["postgres"]))


@pytest.fixture
def new_bench(
    request: pytest.FixtureRequest, open_tiers: Callable[..., Tiers]
) -> Iterator[Callable[[Where], Bench]]:
    made: list[Bench] = []

    def new(place: Where) -> Bench:
        if place.redis == "search":
            url = request.getfixturevalue("search_url")
        elif place.redis == "cluster":
            url = request.getfixturevalue("redis_cluster").url
        else:
            url = request.getfixturevalue("valkey").url
        first, second = (open_tiers(url, place.durable, process) for process in (1, 2))
        made.append(Bench(first, second, url, place))
        return made[-1]

    yield new
    for bench in made:
        if bench.place.redis == "search":
            bench.run(bench.here.clear())
            bench.lose()


@pytest.fixture(params=PLACES, ids=str)
def bench(request: pytest.FixtureRequest, new_bench: Callable[[Where], Bench]) -> Bench:
    return new_bench(request.param)


@pytest.fixture(params=LOCAL, ids=str)
def local(request: pytest.FixtureRequest, new_bench: Callable[[Where], Bench]) -> Bench:
    return new_bench(request.param)


@pytest.fixture
def lasting(new_bench: Callable[[Where], Bench]) -> Bench:
    return new_bench(PLACES[1])


# What is found.


def test_nothing_is_near_where_nothing_is(bench: Bench) -> None:
    assert bench.ids("a") == []
    assert bench.run(bench.here.count()) == 0
    assert bench.run(bench.here.oldest(3)) == []
    bench.run(bench.here.remove(["a"]))
    bench.run(bench.here.change("a", {"b": 1}))
    bench.run(bench.here.clear())
    assert bench.ids("a") == []


def test_the_nearest_come_first_with_exact_cosines(bench: Bench) -> None:
    texts = [f"text {number}" for number in range(40)]
    bench.put(*texts, answer="x", e=1_700_000_000_000)
    asked = vector("asked")
    wanted = sorted((-cosine(kept(vector(text)), asked), text) for text in texts)[:7]
    found = bench.other.run(bench.there.near(asked, 7, "s"))
    assert [near.id for near in found] == [text for _, text in wanted]
    assert [near.text for near in found] == [text for _, text in wanted]
    assert [near.cosine for near in found] == pytest.approx([-c for c, _ in wanted], abs=1e-6)
    assert all(near.metadata == {"answer": "x", "e": 1_700_000_000_000} for near in found)


def test_equally_near_ones_come_by_id(bench: Bench) -> None:
    for id in ("b", "d", "a", "c"):
        bench.run(bench.here.put(id, vector("same"), id, {}, "s", HOUR))
    assert bench.ids("other") == ["a", "b", "c", "d"]
    assert len(bench.ids("other", 2)) == 2
    assert bench.ids("other", 0) == []


def test_a_vector_need_not_have_norm_1(bench: Bench) -> None:
    for id, factor in (("huge", 1e20), ("small", 1e-20), ("one", 1.0)):
        bench.run(bench.here.put(id, vector("same") * np.float32(factor), id, {}, "s", HOUR))
    for factor in (1e20, 1e-20, 1.0):
        asked = vector("same") * np.float32(factor)
        found = bench.run(bench.here.near(asked, 5, "s"))
        assert [near.id for near in found] == ["huge", "one", "small"]
        assert [near.cosine for near in found] == pytest.approx([1.0] * 3, abs=1e-6)


def test_scopes_never_mix(bench: Bench) -> None:
    scopes = ["s", "S", "t", "s ", "{s}", "s|t", "*", "é", "s\0", "x" * 1024]
    for number, scope in enumerate(scopes):
        bench.put(f"{number}", scope=scope)
    for number, scope in enumerate(scopes):
        assert bench.ids("anything", scope=scope) == [f"{number}"]
    assert bench.ids("anything", scope="none") == []
    assert sorted(bench.ids("anything", scope=None, k=20)) == sorted(map(str, range(len(scopes))))
    assert bench.run(bench.here.count()) == len(scopes)


def test_few_of_many_scopes_are_found_as_well(bench: Bench) -> None:
    for number in range(60):
        bench.put(f"{number:02}", scope=f"scope {number % 20}")
    for scope in (0, 7, 19):
        assert sorted(bench.ids("x", scope=f"scope {scope}")) == [
            f"{scope + more:02}" for more in (0, 20, 40)
        ]


@pytest.mark.parametrize("text", ["", "ö\0\n'\"", "x" * 100_000], ids=["empty", "odd", "long"])
def test_texts_and_metadata_come_back_as_they_were(bench: Bench, text: str) -> None:
    metadata = {"a": "é", "n": None, "list": ["x", 1, 2.5], "big": 2**60}
    bench.run(bench.here.put("id \0:{}", vector("a"), text, metadata, "s", HOUR))
    [near] = bench.other.run(bench.there.near(vector("a"), 3, "s"))
    assert near == Near("id \0:{}", pytest.approx(1.0, abs=1e-6), text, metadata)


# Changes.


def test_another_process_sees_every_change_at_once(bench: Bench) -> None:
    bench.put("a")
    for number in range(20):
        bench.put(f"more {number}")
        assert bench.ids(f"more {number}", 1) == [f"more {number}"]
    bench.run(bench.here.remove(["a", "more 3", "never"]))
    assert set(bench.ids("a", 100)) == {f"more {n}" for n in range(20) if n != 3}
    bench.other.run(bench.there.put("theirs", vector("theirs"), "t", {}, "s", None))
    assert bench.run(bench.here.near(vector("theirs"), 1, "s"))[0].id == "theirs"
    bench.run(bench.here.clear())
    assert bench.ids("a") == []
    assert bench.other.run(bench.there.count()) == 0
    bench.put("after")
    assert bench.ids("a") == ["after"]


def test_a_text_that_is_put_again_replaces_itself(bench: Bench) -> None:
    bench.put("a", scope="old")
    bench.run(bench.here.put("a", vector("b"), "new text", {"v": 2}, "s", HOUR))
    assert bench.ids("a", scope="old") == []
    [near] = bench.other.run(bench.there.near(vector("b"), 3, "s"))
    assert (near.text, near.metadata) == ("new text", {"v": 2})
    assert bench.run(bench.here.count()) == 1


def test_change_keeps_all_but_the_metadata(bench: Bench) -> None:
    bench.put("a", "b", answer="1")
    bench.run(bench.here.put("short", vector("short"), "short", {}, "s", 300))
    for id in ("a", "short"):
        bench.run(bench.here.change(id, {"answer": "2", "more": [1]}))
    found = {near.id: near for near in bench.other.run(bench.there.near(vector("a"), 9, "s"))}
    assert found["a"].metadata == {"answer": "2", "more": [1]}
    assert found["a"].text == "a"
    assert found["a"].cosine == pytest.approx(1.0, abs=1e-6)
    assert found["b"].metadata == {"answer": "1"}
    wait_until(lambda: sorted(bench.ids("a")) == ["a", "b"], timeout=5)  # it expired nevertheless


def test_what_is_gone_is_not_changed(bench: Bench) -> None:
    bench.put("a", "b")
    bench.run(bench.here.remove(["a"]))
    bench.run(bench.here.change("a", {"x": 1}))
    bench.run(bench.here.change("never", {"x": 1}))
    assert bench.ids("a") == ["b"]
    assert bench.run(bench.here.count()) == 1


def test_a_change_that_a_removal_overtook_does_nothing(new_bench: Callable[[Where], Bench]) -> None:
    bench = new_bench(PLACES[0])
    bench.put("a", "b")
    change = bench.here.change("a", {"x": 1})
    step, reply = change.send(None), None
    while not (isinstance(step, Redis) and step.write):
        reply = bench.run(_once(step))
        step = change.send(reply)
    bench.run(bench.here.remove(["a"]))
    bench.run(_once(step))
    assert bench.ids("a") == ["b"]


def test_what_expired_is_not_there(bench: Bench) -> None:
    bench.put("stays", ttl=None)
    bench.put("goes", ttl=150)
    wait_until(lambda: bench.ids("goes") == ["stays"], timeout=5)
    assert bench.other.run(bench.there.count()) == 1
    bench.put("goes", ttl=HOUR)
    assert bench.ids("goes") == ["goes", "stays"]


def test_what_expired_is_dropped_in_background(lasting: Bench) -> None:
    lasting.put("goes", ttl=1)
    shared = lasting.here._shared
    assert shared._sweeps_until > 0
    wait_until(lambda: time.time() * 1000 > shared._sweeps_until, timeout=5)
    assert shared._sweep() is None
    assert lasting.run(lasting.here.oldest(5)) == []


def test_oldest_gives_what_was_written_first(bench: Bench) -> None:
    bench.put("c", "a", "b")
    assert bench.other.run(bench.there.oldest(2)) == ["c", "a"]
    bench.run(bench.here.change("c", {"x": 1}))
    assert bench.other.run(bench.there.oldest(9)) == ["a", "b", "c"]
    assert bench.run(bench.here.oldest(0)) == []


# News that come with another round trip.


def test_news_of_another_round_trip_give_the_same(bench: Bench) -> None:
    bench.put(*(f"{number}" for number in range(30)))
    assert bench.ids("x") == [near.id for near in bench.other.run(told(bench.there, "x"))]
    bench.put("late", "x")
    bench.run(bench.here.remove(["3", "4"]))
    found = bench.other.run(told(bench.there, "x", 100))
    assert found == bench.other.run(bench.there.near(vector("x"), 100, "s"))
    assert {near.id for near in found} == {"x", "late", *map(str, range(30))} - {"3", "4"}


def test_a_known_text_costs_no_round_trip(local: Bench) -> None:
    local.put("a", "b", answer="x")
    assert local.ids("a") == ["a", "b"]
    replies = local.other.run(_once(Redis(local.there.ask())))
    local.ids("a")  # the durable tier was asked just now
    news = local.there.told(replies)
    found = at_once(local.there.near(vector("a"), 5, "s", news))
    assert [near.id for near in found] == ["a", "b"]
    assert found[0].metadata == {"answer": "x"}
    # Once: after that Redis is asked again.
    with pytest.raises(AssertionError, match="was asked for"):
        at_once(local.there.near(vector("a"), 5, "s", news))


def test_news_that_come_late_do_not_take_anything_back(local: Bench) -> None:
    local.put("a")
    local.ids("a")
    replies = local.other.run(_once(Redis(local.there.ask())))
    local.put("b")
    local.run(local.here.remove(["a"]))
    assert local.ids("a") == ["b"]
    news = local.there.told(replies)
    assert [n.id for n in local.other.run(local.there.near(vector("a"), 5, "s", news))] == ["b"]
    assert local.ids("a") == ["b"]


def test_news_of_an_index_that_is_gone_are_not_used(local: Bench) -> None:
    local.put("a", "b")
    local.ids("a")
    replies = local.other.run(_once(Redis(local.there.ask())))
    local.there._place.chosen.drop_copy()  # type: ignore[union-attr]
    assert local.there.ask() == ()
    local.ids("a")
    local.there._place.chosen.drop_copy()  # type: ignore[union-attr]
    news = local.there.told(replies)
    found = local.other.run(local.there.near(vector("a"), 5, "s", news))
    assert [near.id for near in found] == ["a", "b"]


def test_there_is_nothing_to_ask_before_there_is_an_index(bench: Bench) -> None:
    bench.put("a")
    assert bench.there.ask() == ()
    assert bench.there.told([]) is None
    bench.ids("a")
    assert bool(bench.there.ask()) == (bench.place.redis != "search")


# Redis lost.


@pytest.mark.parametrize("place", [PLACES[1], PLACES[4]], ids=str)
def test_redis_that_lost_everything_between_ask_and_near(
    new_bench: Callable[[Where], Bench], place: Where
) -> None:
    bench = new_bench(place)
    bench.put("a", "b")
    bench.ids("a")
    commands = bench.there.ask()
    replies = bench.other.run(_once(Redis(commands))) if commands else []
    bench.lose()
    news = bench.there.told(replies)
    found = bench.other.run(bench.there.near(vector("a"), 5, "s", news))
    assert [near.id for near in found] == ["a", "b"]
    assert found[0].cosine == pytest.approx(1.0, abs=1e-6)
    if commands:
        bench.lose()
        assert [near.id for near in bench.other.run(told(bench.there, "a"))] == ["a", "b"]
    bench.put("c")
    assert set(bench.ids("a")) == {"a", "b", "c"}
    assert bench.other.run(bench.there.count()) == 3
    place_there = bench.there._place
    wait_until(lambda: bench.ids("c", 1) == ["c"] and place_there.stats["rebuilt"] > 0, timeout=10)


def test_redis_killed_between_ask_and_near(lasting: Bench, valkey: RedisServer) -> None:
    lasting.put("a", "b")
    lasting.ids("a")
    replies = lasting.other.run(_once(Redis(lasting.there.ask())))
    valkey.kill()
    news = lasting.there.told(replies)
    found = lasting.other.run(lasting.there.near(vector("a"), 5, "s", news))
    assert [near.id for near in found] == ["a", "b"]
    with pytest.raises(TierUnavailable):
        lasting.other.run(told(lasting.there, "a"))  # its own command has nowhere to go
    assert lasting.ids("a") == ["a", "b"]
    lasting.put("c")
    assert set(lasting.ids("a")) == {"a", "b", "c"}
    lasting.run(lasting.here.change("c", {"x": 1}))
    lasting.run(lasting.here.remove(["a"]))
    assert set(lasting.ids("a")) == {"b", "c"}
    assert lasting.other.run(lasting.there.count()) == 2
    assert lasting.other.run(lasting.there.oldest(1)) == ["b"]
    valkey.start()
    wait_until(lambda: set(lasting.ids("a")) == {"b", "c"}, timeout=10)


def test_redis_alone_that_lost_everything_has_nothing(new_bench: Callable[[Where], Bench]) -> None:
    bench = new_bench(PLACES[0])
    bench.put("a")
    bench.ids("a")
    replies = bench.other.run(_once(Redis(bench.there.ask())))
    bench.lose()
    # As of when it was asked, it was there.
    news = bench.there.told(replies)
    assert [n.id for n in bench.other.run(bench.there.near(vector("a"), 5, "s", news))] == ["a"]
    assert bench.ids("a") == []
    bench.put("b")
    assert bench.ids("a") == ["b"]


def test_redis_alone_that_is_away_is_an_error(
    new_bench: Callable[[Where], Bench], valkey: RedisServer
) -> None:
    bench = new_bench(PLACES[0])
    bench.put("a")
    bench.ids("a")
    valkey.kill()
    with pytest.raises(TierError):
        bench.ids("a")
    valkey.start()


# Beside others.


def test_a_collection_of_the_same_name_is_another_one(bench: Bench) -> None:
    name = "n"
    collection = bench.tiers.collection(name, DIMS, engine=bench.options["engine"])
    collection.upsert([Document("theirs", vector("theirs"), "theirs", parent="s")])
    bench.put("ours")
    assert bench.ids("theirs") == ["ours"]
    assert [hit.document.id for hit in collection.search(vector("ours"))] == ["theirs"]
    bench.run(bench.here.clear())
    assert collection.count() == 1
    collection.delete_all()


def test_one_process_has_one_index(bench: Bench) -> None:
    again = bench.made()
    assert again._place is bench.here._place
    assert bench.made(name="another")._place is not bench.here._place
    assert bench.there._place is not bench.here._place


@pytest.mark.parametrize("place", [PLACES[0], PLACES[3]], ids=str)
def test_asyncio_gives_the_same(new_bench: Callable[[Where], Bench], place: Where) -> None:
    bench = new_bench(place)

    async def used() -> list[Near]:
        async with Tiers(bench.url) as tiers:
            own = tiers.tenant(bench.tiers.keys.tenant)
            made = bench.made(own)
            await own.arun(made.put("a", vector("a"), "a", {"x": 1}, "s", HOUR))
            await own.arun(made.put("b", vector("b"), "b", {}, "s", HOUR))
            await own.arun(made.change("b", {"y": 1}))
            first = await own.arun(made.near(vector("a"), 5, "s"))
            assert await own.arun(told(made, "a", 5)) == first
            return first

    assert asyncio.run(used()) == bench.other.run(bench.there.near(vector("a"), 5, "s"))


def test_a_forked_child_can_look_and_put(lasting: Bench) -> None:
    lasting.put("a")
    lasting.ids("a")
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            assert lasting.ids("a") == ["a"]
            lasting.other.run(lasting.there.put("child", vector("child"), "", {}, "s", HOUR))
            assert [n.id for n in lasting.other.run(told(lasting.there, "child", 1))] == ["child"]
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert sorted(lasting.ids("a")) == ["a", "child"]


def test_both_engines_give_the_same(new_bench: Callable[[Where], Bench]) -> None:
    benches = [new_bench(PLACES[1]), new_bench(PLACES[3])]
    answers = []
    for bench in benches:
        bench.put(*(f"{number}" for number in range(50)), a=1)
        answers.append([bench.run(bench.here.near(vector(f"q{n}"), 10, "s")) for n in range(20)])
    for one, other in zip(*answers, strict=True):
        assert [near.id for near in one] == [near.id for near in other]
        assert [n.cosine for n in one] == pytest.approx([n.cosine for n in other], abs=1e-6)


# What is refused.


@pytest.mark.parametrize(
    "bad",
    [
        [1.0] * (DIMS - 1),
        [0.0] * DIMS,
        [float("nan")] * DIMS,
        np.full(DIMS, np.inf, np.float32),
        np.zeros(DIMS, np.float32),
        np.ones((1, DIMS), np.float32),
        "text",
        None,
    ],
    ids=["short", "zeros", "nan", "inf", "array-zeros", "matrix", "str", "none"],
)
def test_vectors_that_are_none_are_refused(lasting: Bench, bad: Any) -> None:
    lasting.put("a")
    with pytest.raises(InvalidInput, match="vector"):
        lasting.run(lasting.here.near(bad, 5, "s"))
    with pytest.raises(InvalidInput, match="vector"):
        lasting.run(lasting.here.put("b", bad, "b", {}, "s", HOUR))
    assert lasting.ids("a") == ["a"]


def test_other_dims_are_refused(lasting: Bench) -> None:
    lasting.put("a")
    other = lasting.made(lasting.other, dims=DIMS + 1)
    with pytest.raises(InvalidInput, match="dims must be 16"):
        lasting.other.run(other.near(np.ones(DIMS + 1, np.float32), 5, "s"))
    with pytest.raises(InvalidInput, match="dims must be 16"):
        lasting.other.run(other.put("b", np.ones(DIMS + 1, np.float32), "b", {}, "s", HOUR))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"dims": 0}, "dims"),
        ({"name": ""}, "name"),
        ({"engine": "faiss"}, "engine"),
        ({"algorithm": "svs"}, "algorithm"),
    ],
    ids=["dims", "name", "engine", "algorithm"],
)
def test_arguments_that_cannot_be_used_are_refused(
    lasting: Bench, arguments: dict[str, Any], named: str
) -> None:
    with pytest.raises(InvalidInput, match=named):
        Neighbours(lasting.tiers, **{"name": "n", "dims": DIMS, **arguments})


def test_scopes_ids_and_metadata_that_cannot_be_kept_are_refused(lasting: Bench) -> None:
    here, given = lasting.here, vector("a")
    for flow, named in (
        (here.put("", given, "", {}, "s", None), "id"),
        (here.put("a", given, "", {}, "", None), "scope"),
        (here.put("a", given, "", {}, "x" * 1025, None), "scope"),
        (here.put("a", given, "", {"x": object()}, "s", None), "metadata"),
        (here.change("a", {"x": object()}), "metadata"),
        (here.remove([""]), "ids"),
    ):
        with pytest.raises(InvalidInput, match=named):
            lasting.run(flow)
