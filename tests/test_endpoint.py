"""Endpoints from URLs and from clients; no credential is ever shown."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from hypothesis import example, given
from hypothesis import strategies as st

from redis_tiered.endpoint import Endpoint
from redis_tiered.errors import ConfigurationError
from redis_tiered.tiers.connections import ConnectionFactory
from tests.servers import RedisCluster3


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://", Endpoint("single", (("localhost", 6379),))),
        ("redis://h", Endpoint("single", (("h", 6379),))),
        ("redis://h:1/0", Endpoint("single", (("h", 1),))),
        ("redis://h:1/3", Endpoint("single", (("h", 1),), options={"db": 3})),
        ("redis://h?db=3", Endpoint("single", (("h", 6379),), options={"db": 3})),
        ("REDIS://H", Endpoint("single", (("h", 6379),))),
        ("redis://[::1]:1", Endpoint("single", (("::1", 1),))),
        ("redis://[::1]", Endpoint("single", (("::1", 6379),))),
        ("redis://:p@h", Endpoint("single", (("h", 6379),), options={"password": "p"})),
        (
            "redis://u:p%40%3A%2F%3F%23@h",
            Endpoint("single", (("h", 6379),), options={"username": "u", "password": "p@:/?#"}),
        ),
        ("redis://u@h", Endpoint("single", (("h", 6379),), options={"username": "u"})),
        (
            "rediss://h?ssl_cert_reqs=none&ssl_check_hostname=False",
            Endpoint(
                "single",
                (("h", 6379),),
                tls=True,
                options={"ssl_cert_reqs": "none", "ssl_check_hostname": False},
            ),
        ),
        (
            "redis://h?protocol=3&decode_responses=true&socket_timeout=9&max_connections=1",
            Endpoint("single", (("h", 6379),)),
        ),
        ("unix:///tmp/r.sock", Endpoint("single", (("/tmp/r.sock", 0),), unix=True)),
        (
            "unix://u:p@/tmp/a%20b%40c.sock?db=2",
            Endpoint(
                "single",
                (("/tmp/a b@c.sock", 0),),
                unix=True,
                options={"db": 2, "username": "u", "password": "p"},
            ),
        ),
        (
            "redis+sentinel://a,b:1,[::1]:2/mymaster/4?sentinel_password=s",
            Endpoint(
                "sentinel",
                (("a", 26379), ("b", 1), ("::1", 2)),
                "mymaster",
                options={"db": 4},
                sentinel_options={"password": "s"},
            ),
        ),
        (
            "rediss+cluster://a:1,b",
            Endpoint("cluster", (("a", 1), ("b", 6379)), tls=True),
        ),
    ],
)
def test_urls(url: str, expected: Endpoint) -> None:
    endpoint = Endpoint.of(url)
    assert endpoint == expected
    assert pickle.loads(pickle.dumps(endpoint)) == endpoint
    assert Endpoint.of(endpoint) is endpoint
    ConnectionFactory(endpoint, 1.0).check()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "h:6379",
        "localhost",
        "http://h",
        "redis+ring://h",
        "unix+cluster:///tmp/x",
        "redis://h:99999",
        "redis://h:0",
        "redis://h:port",
        "redis://[::1",
        "redis://a,b",
        "redis://a,,b",
        "redis://h#x",
        "redis://h/x",
        "redis://h/-1",
        "redis://h/1/2",
        "redis://h/" + "9" * 5000,
        "redis://h?db=" + "9" * 5000,
        "redis://h?db=one",
        "redis://h?nonsense=1",
        "redis://h?a&b",
        "redis://h\0",
        "redis://a%00b",
        "redis://a..b",
        "redis://" + "a" * 64,
        "redis://\ud800",
        "unix://",
        "unix://host/tmp/x",
        "unix:///tmp/%00",
        "redis+sentinel://h",
        "redis+sentinel://h/",
        "redis+sentinel://:a/b@h/service",
        "redis+cluster://h/1",
        "redis+cluster://h?db=1",
    ],
)
def test_urls_that_cannot_be_used(url: str) -> None:
    with pytest.raises(ConfigurationError, match="redis URL"):
        Endpoint.of(url)


def test_options_that_redis_py_does_not_take_are_refused_before_connecting() -> None:
    for option in ("ssl_nonsense=1", "ssl_cert_reqs=sometimes"):
        with pytest.raises(ConfigurationError, match="options") as raised:
            ConnectionFactory(Endpoint.of(f"rediss://:hunter2@h?{option}"), 1.0).check()
        assert "hunter2" not in str(raised.value)


URLS = st.one_of(
    st.text(max_size=40),
    st.text("redis+clusntl:/@,[]?#%&=.0123456789ab \0", max_size=40),
    st.builds(
        "{}://{}".format,
        st.sampled_from(["redis", "rediss", "unix", "redis+sentinel", "redis+cluster"]),
        st.text(max_size=40) | st.text("ab1:@/,[]?#%&=.", max_size=40),
    ),
)


@given(URLS)
def test_any_text_gives_an_endpoint_or_a_configuration_error(url: str) -> None:
    try:
        endpoint = Endpoint.of(url)
    except ConfigurationError:
        return
    assert endpoint.describe()
    assert pickle.loads(pickle.dumps(endpoint)) == endpoint


PASSWORD = "hunter2"
AROUND = st.text("ab1:@/,[]?#%&=.", max_size=6)


@given(
    st.sampled_from(["redis", "rediss", "unix", "redis+sentinel", "redis+cluster", "http", "re"]),
    AROUND,
    AROUND,
    st.sampled_from(["@h", "@h:1/0", "@/s", "@h/service", "@h?db=x", "@h?bad=1", "@[::1", "@h:x"]),
)
@example("redis", "a?", "", "@h")
@example("redis", "a?x=", "", "@h")
@example("redis", "a?", "=1", "@h")
@example("redis+sentinel", "a/", "", "@h/service")
@example("redis+sentinel", "a:1/", "", "@h/service")
@example("redis", "", "#", "@h")
@example("unix", "@/", "", "@h")
def test_no_message_holds_the_password_however_badly_it_is_written(
    scheme: str, before: str, after: str, rest: str
) -> None:
    try:
        shown = repr(Endpoint.of(f"{scheme}://u:{before}{PASSWORD}{after}{rest}"))
    except ConfigurationError as error:
        shown = f"{error} {error.__cause__} {error.args}"
    assert PASSWORD not in shown


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_a_percent_encoded_password_arrives_whole_and_is_not_shown(password: str) -> None:
    endpoint = Endpoint.of(f"redis://u:{quote(password, safe='')}@h:1")
    assert endpoint.options["password"] == password
    assert repr(endpoint) == "Endpoint('redis://h:1')"


# Clients.


def _of(client: Any) -> Endpoint:
    endpoint = Endpoint.of(client)
    ConnectionFactory(endpoint, 1.0).check()
    assert "hunter2" not in repr(endpoint) + endpoint.describe()
    assert pickle.loads(pickle.dumps(endpoint)) == endpoint
    # What redis-py fills in by itself, in some versions.
    filled_in = {"socket_keepalive": True}
    options = {n: v for n, v in endpoint.options.items() if filled_in.get(n) != v}
    return dataclasses.replace(endpoint, options=options)


KINDS = pytest.mark.parametrize("module", [redis, redis.asyncio], ids=["sync", "async"])


@KINDS
@pytest.mark.parametrize(
    "settings", [{}, {"decode_responses": True}, {"protocol": 2}, {"protocol": 3}], ids=repr
)
def test_a_client_is_read_whatever_its_protocol_and_decoding(
    module: Any, settings: dict[str, Any]
) -> None:
    client = module.Redis(
        host="h", port=7, db=2, username="u", password="hunter2", socket_timeout=99, **settings
    )
    assert _of(client) == Endpoint(
        "single",
        (("h", 7),),
        options={"db": 2, "username": "u", "password": "hunter2"},
    )


@KINDS
def test_a_client_from_a_url_or_with_defaults(module: Any) -> None:
    assert _of(module.Redis()) == Endpoint("single", (("localhost", 6379),))
    client = module.Redis.from_url("redis://u:hunter2@h:7/1")
    assert _of(client).addresses == (("h", 7),)
    assert _of(client).options["password"] == "hunter2"


@KINDS
def test_a_client_over_tls(module: Any) -> None:
    client = module.Redis(host="h", ssl=True, ssl_cert_reqs="none", ssl_check_hostname=False)
    endpoint = _of(client)
    assert endpoint.tls
    assert endpoint.options["ssl_cert_reqs"] == "none"


@KINDS
def test_a_client_on_a_unix_socket(module: Any) -> None:
    endpoint = _of(module.Redis(unix_socket_path="/tmp/r.sock", db=1))
    assert endpoint == Endpoint("single", (("/tmp/r.sock", 0),), unix=True, options={"db": 1})


@pytest.mark.parametrize("module", [redis.sentinel, redis.asyncio.sentinel], ids=["sync", "async"])
def test_a_client_of_sentinel(module: Any) -> None:
    sentinel = module.Sentinel(
        [("a", 1), ("b", 2)], sentinel_kwargs={"password": "hunter2s"}, password="hunter2"
    )
    endpoint = _of(sentinel.master_for("mymaster", db=3))
    assert endpoint == Endpoint(
        "sentinel",
        (("a", 1), ("b", 2)),
        "mymaster",
        options={"password": "hunter2", "db": 3},
        sentinel_options={"password": "hunter2s"},
    )
    with pytest.raises(ConfigurationError, match="replicas"):
        Endpoint.of(sentinel.slave_for("mymaster"))


def test_an_asyncio_cluster_client_that_never_connected() -> None:
    client = redis.asyncio.RedisCluster(host="h", port=7, password="hunter2")
    endpoint = _of(client)
    assert endpoint.topology == "cluster"
    assert endpoint.addresses == (("h", 7),)
    assert endpoint.options["password"] == "hunter2"


@pytest.mark.parametrize(
    "source", [None, 1, b"redis://h", object(), redis.Redis, redis.ConnectionPool(), {}]
)
def test_other_objects_are_refused_by_their_type(source: object) -> None:
    with pytest.raises(ConfigurationError, match=type(source).__name__):
        Endpoint.of(source)


def test_a_client_with_connections_of_its_own_class_is_refused() -> None:
    class Mine(redis.Connection):
        pass

    client = redis.Redis(connection_pool=redis.ConnectionPool(connection_class=Mine))
    with pytest.raises(ConfigurationError, match="Mine"):
        Endpoint.of(client)


def test_the_embedded_one_shows_no_path() -> None:
    endpoint = Endpoint("embedded", directory=Path("/home/me"))
    assert repr(endpoint) == "Endpoint('embedded')"
    assert pickle.loads(pickle.dumps(endpoint)) == endpoint


def test_a_sync_cluster_client(redis_cluster: RedisCluster3) -> None:
    with redis_cluster.client(protocol=3, decode_responses=True) as client:
        endpoint = _of(client)
    assert endpoint.topology == "cluster"
    assert not endpoint.tls
    assert {port for _, port in endpoint.addresses} & {node.port for node in redis_cluster.nodes}
