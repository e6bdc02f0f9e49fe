"""Ring hash, Maglev, bounded load and hash policies pick as Envoy does, request by request."""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from meshclient.balancing import Balancer, EndpointState, carry_over, make_balancer
from meshclient.model.cluster import Cluster
from meshclient.model.headers import HeaderMap
from meshclient.model.load_balancing import LoadBalancing
from meshclient.model.request import RequestHead
from meshclient.model.routes import HashPolicy
from meshclient.routing.hash_policy import compile_hash_policy, set_cookie

from .envoy import Envoy
from .hash_to_envoy import CONTEXT_HEADER, envoy_config
from .hash_world import (
    KEY,
    Server,
    Servers,
    cluster,
    combinations,
    shapes,
    table,
)

SERVERS = 9
CONNECTIONS = 8
Pairs = list[tuple[str, str]]
Routes = dict[str, tuple[str, tuple[HashPolicy, ...]]]


class Asked:
    """One request's hash, as a balancer reads it."""

    def __init__(self, hash64: int | None) -> None:
        self.hash64 = hash64
        self.subset = ()


class Connection:
    """One keep-alive connection to Envoy."""

    async def open(self, port: int) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", port)

    def send(self, host: str, path: str, headers: Iterable[tuple[str, str]]) -> None:
        lines = [f"GET {path} HTTP/1.1", f"Host: {host}", *(f"{n}: {v}" for n, v in headers)]
        self._writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))

    async def ask(
        self, host: str, path: str, headers: Iterable[tuple[str, str]]
    ) -> tuple[str, str]:
        """The body, and the ``set-cookie`` line."""
        self.send(host, path, headers)
        head = (await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), 20)).decode("latin-1")
        lines = [line.partition(": ") for line in head.split("\r\n")[1:]]
        values = {name.lower(): value for name, _, value in lines}
        body = await self._reader.readexactly(int(values["content-length"]))
        return body.decode(), values.get("set-cookie", "")

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):  # Envoy may have closed it first
            await self._writer.wait_closed()


class World:
    """Servers, Envoy in front of them, and our balancers over the same endpoints."""

    def __init__(self, clusters: dict[str, Cluster], envoy: Envoy) -> None:
        self._port = envoy.ports[0]
        self._connections: list[Connection] = []
        self.states = {name: carry_over((), c) for name, c in clusters.items()}
        self.balancers = {
            name: make_balancer(c, self.states[name], 1) for name, c in clusters.items()
        }

    async def connect(self, count: int) -> list[Connection]:
        connections = [Connection() for _ in range(count)]
        for connection in connections:
            await connection.open(self._port)
            self._connections.append(connection)
        return connections

    async def end(self) -> None:
        for connection in self._connections:
            await connection.close()


@contextlib.asynccontextmanager
async def world(
    build: Callable[[Servers], tuple[dict[str, Cluster], Routes]],
) -> AsyncIterator[World]:
    servers = Servers()
    with tempfile.TemporaryDirectory(prefix="hash-") as folder:
        await servers.start(SERVERS, Path(folder))
        clusters, routes = build(servers)
        made = envoy_config(table(routes), clusters)
        envoy = await asyncio.to_thread(Envoy, (), {}, made)
        here = World(clusters, envoy)
        try:
            yield here
        finally:
            await here.end()
            await asyncio.to_thread(envoy.close)
            await servers.close()


def our_pick(balancer: Balancer, hash64: int | None) -> str:
    def no_draw() -> int:
        raise AssertionError("nothing may be drawn for a request with a hash")

    state = balancer.pick(no_draw, 0.0, Asked(hash64))
    return "no healthy upstream" if state is None else state.key


def head_of(host: str, path: str, headers: Pairs) -> RequestHead:
    return RequestHead("GET", "http", host, 80, path, HeaderMap.of(headers))


def test_the_same_key_reaches_the_same_endpoint(seed: int) -> None:
    """Over every shape of cluster: sizes, weights, host names, keys, priorities, localities."""
    draw = random.Random(seed)
    each = 140

    async def check() -> tuple[int, int, list[str]]:
        found: dict[str, Cluster] = {}

        def build(servers: Servers) -> tuple[dict[str, Cluster], Routes]:
            found.update(shapes(servers.endpoints, seed))
            return found, {name: (name, (KEY,)) for name in found}

        async with world(build) as here:
            cases = [(name, f"k{draw.getrandbits(40):x}") for name in found for _ in range(each)]
            differences: list[str] = []

            async def work(connection: Connection, part: Sequence[tuple[str, str]]) -> None:
                for name, key in part:
                    theirs, _ = await connection.ask(f"{name}.test", "/", [("x-key", key)])
                    hash64 = hash_of((KEY,), [("x-key", key)])
                    ours = our_pick(here.balancers[name], hash64)
                    if ours != theirs:
                        differences.append(f"{name} {key}: envoy {theirs}, ours {ours}")

            connections = await here.connect(CONNECTIONS)
            parts = [cases[n::CONNECTIONS] for n in range(CONNECTIONS)]
            await asyncio.gather(*map(work, connections, parts))
        return len(found), len(cases), differences

    kinds, keys, differences = asyncio.run(check())
    assert not differences, f"{len(differences)} of {keys}: {differences[:10]}"
    assert kinds >= 40
    assert keys >= 5000


def hash_of(policies: tuple[HashPolicy, ...], headers: Pairs, path: str = "/") -> int | None:
    compiled = compile_hash_policy(policies)
    assert compiled is not None
    key = compiled.key(head_of("c.test", path, headers), lambda: 0, "127.0.0.1")
    return None if key is None else key.value


def test_sources_combine_as_in_envoy(seed: int) -> None:
    """Headers with several values and rewrites, cookies, parameters, addresses, context."""
    draw = random.Random(seed + 1)
    policies = combinations(seed, 60)

    def build(servers: Servers) -> tuple[dict[str, Cluster], Routes]:
        wide = cluster("wide", servers.endpoints, LoadBalancing("maglev"))
        return {"wide": wide}, {f"c{n}": ("wide", p) for n, p in enumerate(policies)}

    async def check() -> tuple[int, int, list[str]]:
        differences = []
        none = 0
        async with world(build) as here:
            (connection,) = await here.connect(1)
            for number, sources in enumerate(policies):
                compiled = compile_hash_policy(sources)
                assert compiled is not None
                for _ in range(12):
                    path, headers, context = _request(draw)
                    host = f"c{number}.test"
                    head = head_of(host, path, headers)
                    key = compiled.key(head, lambda: 0, "127.0.0.1", context)
                    sent = [*headers, *((CONTEXT_HEADER, v) for v in context.values())]
                    theirs, _ = await connection.ask(host, path, sent)
                    if key is None:
                        none += 1
                        continue
                    ours = our_pick(here.balancers["wide"], key.value)
                    if ours != theirs:
                        differences.append(f"{sources} {path} {headers}: {theirs}, ours {ours}")
        return len(policies) * 12, none, differences

    total, none, differences = asyncio.run(check())
    assert not differences, f"{len(differences)} of {total}: {differences[:5]}"
    assert total - none >= 500


def _request(draw: random.Random) -> tuple[str, Pairs, dict[str, str]]:
    def word() -> str:
        return f"w{draw.randint(0, 99)}"

    headers: Pairs = []
    for name in ("x-a", "x-b"):
        headers += [(name, word()) for _ in range(draw.choice((0, 1, 1, 3)))]
    cookie = draw.choice(("", "", "c={}", 'a=1; c="{}"', "c=; c={}", "d={}; c"))
    if cookie:
        headers.append(("cookie", cookie.format(word())))
    path = draw.choice(("/", "/?q={}", "/p?q={}&q=2&r=%20{}", "/p?r&q=", "/p"))
    context = {"ctx": word()} if draw.random() < 0.5 else {}
    return path.replace("{}", word()), headers, context


COOKIES = {
    "session": HashPolicy("cookie", "c", 0.0),
    "hour": HashPolicy("cookie", "c", 3600.0, "/p"),
    "more": HashPolicy(
        "cookie", "c", 5.0, "/", attributes=(("SameSite", "Strict"), ("Secure", ""))
    ),
}


def test_a_missing_cookie_is_made_and_leads_back_to_the_same_endpoint() -> None:
    """The line that Envoy sets is the one that ours sets for the same value."""

    def build(servers: Servers) -> tuple[dict[str, Cluster], Routes]:
        members = servers.endpoints
        ring = cluster("ring", members, LoadBalancing("ring_hash"))
        one = cluster("one", members[:1], LoadBalancing("maglev"))
        turns = cluster("turns", members, LoadBalancing("round_robin"))
        routes: Routes = {name: ("ring", (KEY, policy)) for name, policy in COOKIES.items()}
        routes["one"] = ("one", (COOKIES["hour"],))
        routes["turns"] = ("turns", (COOKIES["hour"],))
        return {"ring": ring, "one": one, "turns": turns}, routes

    async def check() -> None:
        async with world(build) as here:
            connections = await here.connect(12)
            for name, policy in COOKIES.items():
                for connection in connections:
                    for headers in ([], [("x-key", "a")]):
                        await _check_cookie(here, connection, name, policy, headers)
            _, line = await connections[0].ask("one.test", "/", [])
            assert line, "a cluster of one endpoint makes cookies, too"
            _, line = await connections[0].ask("turns.test", "/", [])
            assert not line, "nobody asks for the hash there"

    asyncio.run(check())


async def _check_cookie(
    here: World, connection: Connection, name: str, policy: HashPolicy, headers: Pairs
) -> None:
    answered, line = await connection.ask(f"{name}.test", "/", headers)
    value = line.split('"')[1]
    assert len(value) == 16
    assert line == set_cookie(policy, value)
    policies = (KEY, policy)
    compiled = compile_hash_policy(policies)
    assert compiled is not None
    made = compiled.key(head_of("c.test", "/", headers), lambda: int(value, 16))
    assert made is not None
    assert made.set_cookies == (line,)
    assert our_pick(here.balancers["ring"], made.value) == answered
    again = [*headers, ("cookie", f"c={value}")]
    assert await connection.ask(f"{name}.test", "/", again) == (answered, "")


def test_the_header_is_hashed_as_the_route_edits_it() -> None:
    """Envoy 1.40 edits the request before it looks for an endpoint."""
    edited = HashPolicy("header", "x-edited")

    def build(servers: Servers) -> tuple[dict[str, Cluster], Routes]:
        wide = cluster("wide", servers.endpoints, LoadBalancing("maglev"))
        return {"wide": wide}, {"edited": ("wide", (edited,))}

    async def check() -> None:
        async with world(build) as here:
            (connection,) = await here.connect(1)
            for number in range(30):
                answered, _ = await connection.ask("edited.test", "/", [("x-key", f"{number}")])
                hash64 = hash_of((edited,), [("x-edited", f"edited-{number}")])
                assert our_pick(here.balancers["wide"], hash64) == answered

    asyncio.run(check())


def test_retries_look_at_other_places_of_the_table(seed: int) -> None:
    """Five tries each, avoiding endpoints already tried: the same ones in the same order."""
    draw = random.Random(seed + 2)

    def build(servers: Servers) -> tuple[dict[str, Cluster], Routes]:
        members = servers.endpoints
        clusters = {
            "ring": cluster("ring", members, LoadBalancing("ring_hash")),
            "tiny": cluster("tiny", members, LoadBalancing("ring_hash", minimum_ring_size=4)),
            "table": cluster("table", members, LoadBalancing("maglev")),
            "small": cluster("small", members[:3], LoadBalancing("maglev", table_size=5)),
        }
        return clusters, {name: (name, (HashPolicy("header", "x-a"),)) for name in clusters}

    async def check() -> None:
        async with world(build) as here:
            (connection,) = await here.connect(1)
            for name, balancer in here.balancers.items():
                for number in range(40):
                    key = [("x-a", f"{draw.getrandbits(32):x}")]
                    path = f"/fail/{name}/{number}"
                    await connection.ask(f"{name}.test", path, key)
                    asked = Asked(hash_of((HashPolicy("header", "x-a"),), key))
                    tried: list[EndpointState] = []
                    for _ in range(5):
                        state = balancer.pick_other(lambda: 0, tried, 5, 0.0, asked)
                        assert state is not None
                        tried.append(state)
                    assert [s.key for s in tried] == Server.arrived[path], (name, key)

    asyncio.run(check())


def test_a_busy_endpoint_passes_requests_on_as_in_envoy(seed: int) -> None:
    """Requests that never end, one after the other: each lands at the same endpoint."""
    draw = random.Random(seed + 3)

    def build(servers: Servers) -> tuple[dict[str, Cluster], Routes]:
        members = servers.endpoints
        weighted = shapes(members, seed)["ring-weighted"].endpoints
        lb = partial(LoadBalancing, "ring_hash")
        clusters = {
            "even": cluster("even", members, lb(hash_balance_factor=100)),
            "loose": cluster("loose", members, lb(hash_balance_factor=160)),
            "weighted": cluster("weighted", weighted, lb(hash_balance_factor=120)),
            "table": cluster("table", members, LoadBalancing("maglev", hash_balance_factor=125)),
        }
        return clusters, {name: (name, (KEY,)) for name in clusters}

    async def check() -> None:
        async with world(build) as here:
            for name, balancer in here.balancers.items():
                keys = [f"{draw.randint(0, 5)}" for _ in range(70)]
                connections = await here.connect(len(keys))
                for number, (key, connection) in enumerate(zip(keys, connections, strict=True)):
                    path = f"/hold/{name}/{number}"
                    connection.send(f"{name}.test", path, [("x-key", key)])
                    theirs = await _arrival(path)
                    asked = Asked(hash_of((KEY,), [("x-key", key)]))
                    state = balancer.pick(lambda: 0, 0.0, asked)
                    assert state is not None
                    assert state.key == theirs, (name, number)
                    state.acquire()

    asyncio.run(check())


async def _arrival(path: str) -> str:
    for _ in range(4000):
        if path in Server.arrived:
            return Server.arrived[path][0]
        await asyncio.sleep(0.001)
    raise AssertionError(f"{path} never arrived")
