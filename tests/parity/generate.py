"""The common ground of the seeded generators: draws, vocabulary, clusters.

Everything random comes from one ``random.Random(seed)``, so a seed is a run.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from meshclient.model.cluster import (
    Cluster,
    ClusterPolicy,
    ConnectionOptions,
    Limits,
    LoadBalancing,
)
from meshclient.model.endpoint import Endpoint
from meshclient.model.matching import PathMatch
from meshclient.model.routes import HeaderChange, HeaderOperations, RouteConfiguration

from .traffic import Case, Pairs
from .upstream import Upstreams

T = TypeVar("T")

UPSTREAMS = ("u0", "u1", "u2", "u3")

#: Text beyond ASCII as the model holds it: one character per byte of its UTF-8.
ACCENT = "café".encode().decode("latin-1")
#: Paths without a query, that every part of the generator draws from.
PATHS = (
    "/", "/api", "/api/", "/api/v1", "/api/v1/users", "/apix", "/API/v1", "/a/b/c", "/a//b",
    "/static/x.js", "/static/", "/user/42", "/user/abc", "/a;p=1/b;q", "/a%20b", "/x.y-z_~/1",
)  # fmt: skip
QUERIES = (
    "", "", "", "?a=1", "?a=", "?a", "?b=x&a=1", "?a=1&a=2", "?a=%31", "?v=beta&debug",
    "?debug=true", "?v=BETA", "?b=a=1",
)  # fmt: skip
#: Regexes of a path, each with one path that it matches as a whole.
PATH_REGEXES = (
    ("/user/[0-9]+", "/user/7"),
    ("/api/.*", "/api/v1"),
    ("/api", "/api"),
    ("/(static|user)/.+", "/static/x.js"),
    (r"/api/v\d+(/.*)?", "/api/v12/users"),
    ("(?i)/API/.*", "/aPi/v1"),
    ("/[^/]*", "/apix"),
    ("/a.*", "/a/b/c"),
)


@dataclass
class Plan:
    """Configuration and the requests that try it."""

    clusters: dict[str, Cluster]
    tables: list[RouteConfiguration] = field(default_factory=list)
    cases: list[Case] = field(default_factory=list)


class Draw:
    """Short names for what a generator asks of chance."""

    def __init__(self, seed: int, salt: str) -> None:
        self.random = random.Random(f"{seed}/{salt}")

    def one(self, options: Sequence[T]) -> T:
        """Any one of ``options``."""
        return self.random.choice(options)

    def some(self, options: Sequence[T], low: int, high: int) -> list[T]:
        """``low`` to ``high`` different ones, in random order."""
        return self.random.sample(list(options), min(self.number(low, high), len(options)))

    def number(self, low: int, high: int) -> int:
        """A whole number, both ends included."""
        return self.random.randint(low, high)

    def chance(self, share: float) -> bool:
        """True in ``share`` of all draws."""
        return self.random.random() < share

    def target(self) -> str:
        """A path with or without a query."""
        return self.one(PATHS) + self.one(QUERIES)


def plain_clusters(upstreams: Upstreams) -> dict[str, Cluster]:
    """One cluster with one endpoint per upstream, under the upstream's name."""
    return {name: cluster(name, [upstreams.ports[name]]) for name in UPSTREAMS}


def cluster(
    name: str, ports: Sequence[int], limits: Limits | None = None, at_random: bool = False
) -> Cluster:
    """A static cluster on 127.0.0.1."""
    return Cluster(
        name,
        endpoints=tuple(
            Endpoint("127.0.0.1", port, hostname=f"{name}-{index}.internal")
            for index, port in enumerate(ports)
        ),
        policy=ClusterPolicy(
            load_balancing=LoadBalancing("random" if at_random else "round_robin"),
            limits=limits or Limits(),
            connection=ConnectionOptions(connect_timeout_s=2.0),
        ),
    )


def path_match(draw: Draw) -> tuple[PathMatch | None, str]:
    """A condition, and a path that fulfils it."""
    kind = draw.one(("none", "prefix", "exact", "regex", "segment_prefix"))
    ignore_case = draw.chance(0.25)
    if kind == "none":
        return None, draw.one(PATHS)
    if kind == "regex":
        pattern, path = draw.one(PATH_REGEXES)
        return PathMatch("regex", pattern, ignore_case), path
    if kind == "exact":
        path = draw.one(PATHS)
        return PathMatch("exact", path, ignore_case), _recase(draw, path, ignore_case)
    if kind == "segment_prefix":
        prefix = draw.one(("/api", "/api/v1", "/a/b", "/user", "/static", "/API"))
        path = prefix + draw.one(("", "/", "/v1", "/v1/users"))
        return PathMatch("segment_prefix", prefix, ignore_case), _recase(draw, path, ignore_case)
    prefix = draw.one(("/", "/api", "/api/", "/a", "/user/", "/API/v"))
    path = prefix + draw.one(("", "x", "/v1", "1/users"))
    return PathMatch("prefix", prefix, ignore_case), _recase(draw, path, ignore_case)


def recase(text: str) -> str:
    """Letters of ASCII in the other case; Envoy knows no other letters."""
    return "".join(c.swapcase() if c.isascii() else c for c in text)


def _recase(draw: Draw, path: str, ignore_case: bool) -> str:
    return recase(path) if ignore_case and draw.chance(0.5) else path


def tag(value: str) -> HeaderOperations:
    """A request header that tells which virtual host and route were chosen."""
    return HeaderOperations(changes=(HeaderChange("x-route", value, "overwrite"),))


def pairs(items: dict[str, str]) -> Pairs:
    """A mapping as header lines."""
    return tuple(items.items())
