"""A world for hash policies: servers that name themselves, and clusters of many shapes.
Nothing here knows which endpoint is right.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

from meshclient.model.cluster import Cluster, ClusterPolicy, LoadBalancing, Topology
from meshclient.model.endpoint import Endpoint, Locality
from meshclient.model.load_balancing import LocalityWeight
from meshclient.model.routes import (
    ForwardAction,
    HashPolicy,
    HeaderChange,
    HeaderOperations,
    Route,
    RouteConfiguration,
    VirtualHost,
    WeightedCluster,
)

KEY = HashPolicy("header", "x-key")


class Server(asyncio.Protocol):
    """Answers each request with its own name; ``/hold`` never, ``/fail`` with 503."""

    arrived: ClassVar[dict[str, list[str]]] = {}
    opened: ClassVar[list[asyncio.BaseTransport]] = []

    def __init__(self, name: str) -> None:
        self.name = name
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self.opened.append(transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        while b"\r\n\r\n" in self._data:
            head, _, self._data = self._data.partition(b"\r\n\r\n")
            path = head.split(b" ", 2)[1].decode()
            if path.startswith(("/hold", "/fail")):
                self.arrived.setdefault(path, []).append(self.name)
            if path.startswith("/hold"):
                continue
            status = b"503 No" if path.startswith("/fail") else b"200 OK"
            body = self.name.encode()
            answer = b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)
            assert isinstance(self._transport, asyncio.WriteTransport)
            self._transport.write(answer)


def _named(name: list[str]) -> Server:
    """The name is known only after the port is."""
    return Server(name[0])


class Servers:
    """``count`` servers on 127.0.0.1, one on ::1 and one on a unix socket."""

    def __init__(self) -> None:
        self.endpoints: list[Endpoint] = []
        self._servers: list[asyncio.AbstractServer] = []

    async def start(self, count: int, folder: Path) -> None:
        """Listen; ``endpoints`` are in the order named, addresses are their names."""
        loop = asyncio.get_running_loop()
        Server.arrived.clear()
        for host in ["127.0.0.1"] * count + ["::1"]:
            name = [""]
            server = await loop.create_server(partial(_named, name), host, 0)
            port = server.sockets[0].getsockname()[1]
            self.endpoints.append(Endpoint(host, port, hostname=f"host-{len(self.endpoints)}.test"))
            name[0] = str(self.endpoints[-1])
            self._servers.append(server)
        path = f"unix://{folder}/upstream.sock"
        self._servers.append(
            await loop.create_unix_server(lambda: Server(path), path.removeprefix("unix://"))
        )
        self.endpoints.append(Endpoint(path, 0, hostname="socket.test"))

    async def close(self) -> None:
        """Stop listening and end every connection."""
        for server in self._servers:
            server.close()
        for server in self._servers:
            await server.wait_closed()
        for transport in Server.opened:
            transport.close()
        Server.opened.clear()
        await asyncio.sleep(0.01)  # their connections are lost in a later turn of the loop


def shapes(endpoints: Sequence[Endpoint], seed: int) -> dict[str, Cluster]:
    """Clusters of many shapes over the same servers."""
    draw = random.Random(seed)
    ring, maglev = LoadBalancing("ring_hash"), LoadBalancing("maglev")
    weights = [draw.choice((1, 1, 2, 3, 5, 8, 40)) for _ in endpoints]

    def lb(base: LoadBalancing, **changes: object) -> LoadBalancing:
        fields = {name: getattr(base, name) for name in ("policy", "minimum_ring_size")}
        return LoadBalancing(**{**fields, **changes})

    settings = {
        "ring": ring,
        "ring-small": lb(ring, minimum_ring_size=3),
        "ring-12": lb(ring, minimum_ring_size=12),
        "ring-big": lb(ring, minimum_ring_size=20_000),
        "ring-capped": lb(ring, minimum_ring_size=10, maximum_ring_size=10),
        "ring-capped-big": lb(ring, minimum_ring_size=701, maximum_ring_size=701),
        "ring-murmur": lb(ring, hash_function="murmur_hash_2"),
        "ring-host": lb(ring, use_hostname_for_hashing=True),
        "ring-host-murmur": lb(ring, use_hostname_for_hashing=True, hash_function="murmur_hash_2"),
        "maglev": maglev,
        "maglev-2": lb(maglev, table_size=2),
        "maglev-11": lb(maglev, table_size=11),
        "maglev-101": lb(maglev, table_size=101),
        "maglev-5003": lb(maglev, table_size=5003),
        "maglev-host": lb(maglev, use_hostname_for_hashing=True),
    }
    found = {}
    for name, balancing in settings.items():
        # Envoy has host names for STRICT_DNS clusters only, and those have no sockets.
        members = (
            [e for e in endpoints if e.address == "127.0.0.1"] if "host" in name else endpoints
        )
        found[name] = cluster(name, members, balancing)
        weighted = [with_(e, weight=w) for e, w in zip(members, weights, strict=False)]
        draw.shuffle(weighted)
        found[f"{name}-weighted"] = cluster(f"{name}-weighted", weighted, balancing)
    for policy in (ring, maglev):
        keyed = [
            with_(e, labels=(("hash_key", f"key-{n}"),)) if n % 3 else e
            for n, e in enumerate(endpoints)
        ]
        found[f"{policy.policy}-keyed"] = cluster(f"{policy.policy}-keyed", keyed, policy)
        for count in (1, 2, 5):
            name = f"{policy.policy}-{count}-hosts"
            found[name] = cluster(name, endpoints[:count], policy)
        found |= _topologies(endpoints, weights, policy)
    return found


def _topologies(
    endpoints: Sequence[Endpoint], weights: Sequence[int], balancing: LoadBalancing
) -> dict[str, Cluster]:
    """Two thirds of priority 0 unhealthy; localities with weights, one of them 0."""
    name = balancing.policy
    sick = [
        with_(
            e,
            priority=n % 2,
            weight=weights[n],
            health="unhealthy" if n % 2 == 0 and n % 3 else "healthy",
        )
        for n, e in enumerate(endpoints)
    ]
    zones = [
        with_(e, locality=Locality("r", f"z{n % 4}"), weight=weights[n])
        for n, e in enumerate(endpoints)
    ]
    shares = tuple(LocalityWeight(Locality("r", f"z{n}"), w) for n, w in enumerate((3, 1, 0, 5)))
    return {
        f"{name}-priorities": cluster(f"{name}-priorities", sick, balancing),
        f"{name}-zones": Cluster(
            f"{name}-zones",
            endpoints=tuple(zones),
            policy=ClusterPolicy(
                load_balancing=balancing, topology=Topology(locality="locality_weighted")
            ),
            locality_weights=shares,
        ),
    }


def with_(endpoint: Endpoint, **changes: object) -> Endpoint:
    """A copy with changes."""
    values = {name: getattr(endpoint, name) for name in Endpoint.__dataclass_fields__}
    return Endpoint(**{**values, **changes})


def cluster(name: str, endpoints: Sequence[Endpoint], balancing: LoadBalancing) -> Cluster:
    """One cluster of the shape."""
    policy = ClusterPolicy(load_balancing=balancing)
    return Cluster(name, endpoints=tuple(endpoints), policy=policy)


def combinations(seed: int, count: int) -> list[tuple[HashPolicy, ...]]:
    """Lists of sources, some of them terminal."""
    draw = random.Random(seed)
    sources = [
        HashPolicy("header", "x-a"),
        HashPolicy("header", "x-b"),
        HashPolicy("header", "x-a", pattern="[0-9]+", substitution="n"),
        HashPolicy("header", ":path"),
        HashPolicy("header", "host"),
        HashPolicy("cookie", "c"),
        HashPolicy("query", "q"),
        HashPolicy("query", "r"),
        HashPolicy("source_ip"),
        HashPolicy("context", "ctx"),
    ]
    found = []
    for _ in range(count):
        chosen = [draw.choice(sources) for _ in range(draw.randint(1, 4))]
        found.append(tuple(_ended(policy, draw.random() < 0.3) for policy in chosen))
    return found


def _ended(policy: HashPolicy, terminal: bool) -> HashPolicy:
    return HashPolicy(
        policy.kind,
        policy.name,
        terminal=terminal,
        pattern=policy.pattern,
        substitution=policy.substitution,
    )


def table(routes: dict[str, tuple[str, tuple[HashPolicy, ...]]]) -> RouteConfiguration:
    """A virtual host per name: to a cluster, hashed as told. A header is added on the way."""
    edits = HeaderOperations(changes=(HeaderChange("x-edited", "edited-%REQ(x-key)%"),))
    hosts = tuple(
        VirtualHost(
            name,
            (f"{name}.test",),
            (
                Route(
                    ForwardAction((WeightedCluster(to),), hash_policy=policies),
                    request_headers=edits,
                ),
            ),
        )
        for name, (to, policies) in routes.items()
    )
    return RouteConfiguration("hash", hosts)
