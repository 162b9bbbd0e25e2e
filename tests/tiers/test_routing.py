"""Where commands go, by stepping the generators: each `Send` is answered by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from redis_tiered.endpoint import Address
from redis_tiered.errors import TierError, TierUnavailable
from redis_tiered.flow import Command, Redis
from redis_tiered.tiers.routing import ClusterRouter, Moved, Routing, Send, find_primary

A, B, C = ("10.0.0.1", 7000), ("10.0.0.2", 7000), ("10.0.0.3", 7000)
TABLE = [
    [0, 5460, [b"10.0.0.1", 7000, b"id"], [b"replica", 1, b"id"]],
    [5461, 10922, [b"10.0.0.2", 7000, b"id"]],
    [10923, 16383, [b"10.0.0.3", 7000, b"id"]],
]
DOWN = TierUnavailable("redis", "refused")
Answer = Callable[[Send], Any]


def drive(routing: Routing, answer: Answer) -> tuple[Any, list[Send]]:
    """Run to the end; `answer` returns replies or an error to throw in."""
    sent: list[Send] = []
    try:
        send = next(routing)
        while True:
            sent.append(send)
            replies = answer(send)
            send = (
                routing.throw(replies) if isinstance(replies, TierError) else routing.send(replies)
            )
    except StopIteration as stop:
        return stop.value, sent


def owner(key: bytes) -> Address:
    slot = key_slot(key)
    return A if slot <= 5460 else B if slot <= 10922 else C


def cluster(send: Send) -> Any:
    """A healthy cluster: the key of each command comes back with its owner checked."""
    if send.commands[0][0] == "CLUSTER":
        return [TABLE]
    replies = []
    for command in send.commands:
        assert owner(_key(command)) == send.address
        replies.append(_key(command))
    return replies


def _key(command: Command) -> bytes:
    key = command[3] if command[0] == "EVAL" else command[1]
    return key if isinstance(key, bytes) else str(key).encode()


def asks(sent: list[Send]) -> list[Address]:
    return [send.address for send in sent if send.commands[0][0] == "CLUSTER"]


# Sentinel.


def test_the_first_sentinel_that_knows_the_primary_wins() -> None:
    answers = {A: DOWN, B: [None], C: [[b"primary", b"6380"]]}
    found, sent = drive(find_primary([A, B, C], "mymaster"), lambda send: answers[send.address])
    assert found == ("primary", 6380)
    assert [send.address for send in sent] == [A, B, C]
    assert sent[0].commands == (("SENTINEL", "get-master-addr-by-name", "mymaster"),)


@pytest.mark.parametrize("answer", [DOWN, [None]])
def test_no_sentinel_knows(answer: Any) -> None:
    with pytest.raises(TierUnavailable, match="no sentinel"):
        drive(find_primary([A, B], "s"), lambda _: answer)


# Cluster.


@given(st.lists(st.binary(min_size=1, max_size=6), min_size=1, max_size=12))
def test_a_pipeline_over_slots_goes_to_their_nodes_and_keeps_its_order(keys: list[bytes]) -> None:
    commands = tuple(
        ("EVAL", "script", 1, key, "x") if index % 2 else ("GET", key)
        for index, key in enumerate(keys)
    )
    replies, sent = drive(ClusterRouter([A]).execute(Redis(commands), fresh=False), cluster)
    assert replies == keys
    requests = sent[1:]
    assert len(requests) == len({owner(key) for key in keys})


def test_the_table_is_asked_once_and_anew_when_nothing_is_trusted() -> None:
    router = ClusterRouter([A])
    step = Redis((("GET", "k"),))
    _, first = drive(router.execute(step, fresh=False), cluster)
    _, second = drive(router.execute(step, fresh=False), cluster)
    _, third = drive(router.execute(step, fresh=True), cluster)
    assert [asks(first), asks(second), asks(third)] == [[A], [], [A]]
    assert all(send.fresh for send in third)


def test_a_seed_that_is_down_is_passed_over_and_known_nodes_are_asked_first() -> None:
    router = ClusterRouter([("seed1", 1), ("seed2", 1)])
    dead = {("seed1", 1)}

    def answer(send: Send) -> Any:
        return DOWN if send.address in dead else cluster(send)

    _, sent = drive(router.execute(Redis((("GET", "k"),)), fresh=False), answer)
    assert asks(sent) == [("seed1", 1), ("seed2", 1)]
    dead |= {A, ("seed2", 1)}
    found, sent = drive(router.primaries(), answer)
    assert asks(sent) == [A, B]
    assert found == [A, B, C]


def test_with_every_node_down_the_first_failure_is_told() -> None:
    failures = iter([TierUnavailable("redis", "timeout"), DOWN])
    with pytest.raises(TierUnavailable) as raised:
        drive(ClusterRouter([A, B]).primaries(), lambda _: next(failures))
    assert raised.value.kind == "timeout"
    with pytest.raises(TierUnavailable):
        drive(ClusterRouter([]).primaries(), cluster)


def test_a_slot_that_nobody_serves() -> None:
    step = Redis((("GET", "k"),))
    slot = key_slot(b"k")
    rest = [[0, slot - 1, [b"h", 1]], [slot + 1, 16383, [b"h", 1]]]
    for table in (rest, []):
        with pytest.raises(TierUnavailable) as raised:
            drive(ClusterRouter([A]).execute(step, fresh=False), lambda _, table=table: [table])
        assert raised.value.kind == "clusterdown"


def test_an_empty_host_means_the_node_that_was_asked() -> None:
    table = [[0, 16383, [b"", 7001]]]
    found, _ = drive(ClusterRouter([("myself", 7000)]).primaries(), lambda _: [table])
    assert found == [("myself", 7001)]


def test_commands_for_one_node_and_for_all() -> None:
    router = ClusterRouter([A])

    def answer(send: Send) -> Any:
        return [TABLE] if send.commands[0][0] == "CLUSTER" else [send.address]

    seen = [
        drive(router.execute(Redis((("SCAN", 0),), node=node), fresh=False), answer)[0]
        for node in range(4)
    ]
    assert seen == [[A], [B], [C], [A]]
    everywhere = Redis((("INFO", "server"),), everywhere=True)
    assert drive(router.execute(everywhere, fresh=False), answer)[0] == [A, B, C]


@pytest.mark.parametrize(
    ("message", "address"),
    [
        ("MOVED 3999 127.0.0.1:6381", ("127.0.0.1", 6381)),
        ("ASK 3999 [::1]:6381", ("::1", 6381)),
        ("MOVED 1 host.name:1", ("host.name", 1)),
    ],
)
def test_a_redirection_is_read(message: str, address: Address) -> None:
    moved = Moved(message)
    assert moved.address == address
    assert moved.ask == message.startswith("ASK")


def _cluster_where(moves: dict[bytes, str]) -> Answer:
    """Each key of `moves` answers with that redirection, unless it is asked at its target."""

    def answer(send: Send) -> Any:
        if send.commands[0][0] == "CLUSTER":
            return [TABLE]
        replies: list[Any] = []
        asking = False
        for command in send.commands:
            if command[0] == "ASKING":
                asking = True
                replies.append(b"OK")
                continue
            key = _key(command)
            word = moves.get(key)
            if word is not None:
                moved = Moved(word)
                if send.address != moved.address or (moved.ask and not asking):
                    return moved
            elif send.address != owner(key):
                raise AssertionError(f"{key!r} asked at {send.address}")
            asking = False
            replies.append(key)
        return replies

    return answer


@pytest.mark.parametrize("word", ["MOVED 1 10.0.0.9:7000", "ASK 1 10.0.0.9:7000"])
@given(keys=st.lists(st.sampled_from([b"a", b"b", b"c", b"{a}1", b"{a}2"]), min_size=1, max_size=6))
def test_a_redirected_command_of_a_pipeline_is_sent_where_it_belongs(
    word: str, keys: list[bytes]
) -> None:
    router = ClusterRouter([A])
    step = Redis(tuple(("GET", key) for key in keys))
    replies, _ = drive(router.execute(step, fresh=False), _cluster_where({b"{a}1": word}))
    assert replies == keys
    _, later = drive(router.execute(Redis((("GET", "b"),)), fresh=False), cluster)
    moved = word.startswith("MOVED") and b"{a}1" in keys
    assert bool(asks(later)) == moved


def test_redirections_that_do_not_end() -> None:
    turn = iter(range(1000))

    def answer(send: Send) -> Any:
        if send.commands[0][0] == "CLUSTER":
            return [TABLE]
        return Moved(f"MOVED 1 10.0.0.{next(turn)}:7000")

    with pytest.raises(TierUnavailable) as raised:
        drive(ClusterRouter([A]).execute(Redis((("GET", "k"),)), fresh=False), answer)
    assert raised.value.kind == "clusterdown"
    assert next(turn) < 20


def test_a_node_that_fails_fails_the_step() -> None:
    def answer(send: Send) -> Any:
        return [TABLE] if send.commands[0][0] == "CLUSTER" else TierUnavailable("redis", "timeout")

    with pytest.raises(TierUnavailable) as raised:
        drive(ClusterRouter([A]).execute(Redis((("GET", "k"),)), fresh=False), answer)
    assert raised.value.kind == "timeout"
