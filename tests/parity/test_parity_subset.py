"""Subsets, sessions and reported weights: the same endpoints as through the real Envoy."""

from __future__ import annotations

import random
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator

import pytest

from meshclient.balancing import carry_over
from meshclient.balancing.session import SessionAffinity, by_address
from meshclient.model.cluster import Cluster, ClusterPolicy, LoadBalancing
from meshclient.model.endpoint import Endpoint, Labels, labels_of
from meshclient.model.headers import HeaderMap
from meshclient.model.load_balancing import (
    OrcaWeights,
    StatefulSession,
    SubsetSelection,
    SubsetSelector,
)
from meshclient.model.matching import PathMatch, RouteMatch
from meshclient.model.routes import (
    ForwardAction,
    Route,
    RouteConfiguration,
    VirtualHost,
    WeightedCluster,
)

from .balancing_envoy import balancing_bootstrap
from .envoy import Envoy, EnvoyClient
from .ours import Ours
from .traffic import Exchange, Request, Side, Step
from .upstream import Upstreams

_NAMES = ("a", "b", "c", "d", "e")
_LABELS: dict[str, dict[str, str]] = {
    "a": {"stage": "prod", "version": "1"},
    "b": {"stage": "prod", "version": "2"},
    "c": {"stage": "dev", "version": "2"},
    "d": {"stage": "dev"},
    "e": {},
}
_ASKED: tuple[dict[str, str], ...] = (
    {},
    {"stage": "prod"},
    {"stage": "dev"},
    {"stage": "none"},
    {"version": "2"},
    {"zone": "z"},
    {"stage": "prod", "version": "2"},
    {"stage": "dev", "version": "9"},
    {"stage": "none", "version": "9"},
    {"stage": "prod", "zone": "z"},
)


def _selectors() -> dict[str, tuple[SubsetSelector, ...]]:
    stage = SubsetSelector(("stage",))
    both = SubsetSelector(("version", "stage"))
    fewer = SubsetSelector(("stage", "version"), "keys_subset", ("stage",))
    return {
        "one": (stage,),
        "two": (stage, both),
        "fewer": (stage, fewer),
        "none": (SubsetSelector(("stage",), "no_fallback"), both),
        "any": (SubsetSelector(("stage",), "any_endpoint"), fewer),
        "default": (SubsetSelector(("stage",), "default_subset"), fewer),
        # The begin of a selector that stands before it.
        "late": (both, SubsetSelector(("stage",), "any_endpoint")),
        "single": (SubsetSelector(("stage",), single_host_per_subset=True), both),
    }


def _selections() -> Iterator[tuple[str, SubsetSelection]]:
    default: Labels = (("version", "2"),)
    for name, selectors in _selectors().items():
        yield f"{name}-no", SubsetSelection(selectors, default_subset=default)
        yield f"{name}-any", SubsetSelection(selectors, "any_endpoint")
        yield f"{name}-default", SubsetSelection(selectors, "default_subset", default)
        panic = SubsetSelection(selectors, "default_subset", (("stage", "x"),), True)
        yield f"{name}-panic", panic


def _cluster(
    name: str, settings: LoadBalancing, upstreams: Upstreams, sick: str, panic: int
) -> Cluster:
    endpoints = tuple(
        Endpoint(
            "127.0.0.1",
            upstreams.ports[upstream],
            labels=labels_of(_LABELS[upstream]),
            health="unhealthy" if upstream in sick else "healthy",
        )
        for upstream in _NAMES
    )
    policy = ClusterPolicy(load_balancing=settings, panic_threshold_percent=panic)
    return Cluster(name, endpoints=endpoints, policy=policy)


def _host(name: str, asked: tuple[dict[str, str], ...] = ({},)) -> VirtualHost:
    """Path /<n> asks for the n-th labels."""
    routes = tuple(
        Route(
            ForwardAction((WeightedCluster(name),), subset=labels_of(labels)),
            RouteMatch(path=PathMatch("exact", f"/{number}")),
        )
        for number, labels in enumerate(asked)
    )
    return VirtualHost(name, (f"{name}.test",), routes)


class World:
    """Upstreams, Envoy and ours under one configuration."""

    def __init__(
        self,
        settings: dict[str, LoadBalancing],
        asked: tuple[dict[str, str], ...],
        sick: str = "",
        panic: int = 0,
    ) -> None:
        self.upstreams = Upstreams(_NAMES)
        self.clusters = {
            name: _cluster(name, setting, self.upstreams, sick, panic)
            for name, setting in settings.items()
        }
        hosts = tuple(_host(name, asked) for name in settings)
        table = RouteConfiguration("table", hosts, ignore_port=False)
        self.envoy = Envoy([], {}, balancing_bootstrap(table, self.clusters))
        self.ours = Ours([table], self.clusters)
        self.client = EnvoyClient(self.envoy.ports)

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.ours.close()
        self.envoy.close()
        self.upstreams.close()

    def send(self, side: Side, request: Request, key: str) -> Exchange:
        if side == "envoy":
            return self.client.send(0, request, key)
        # An httpx client would send the session back by itself.
        self.ours._clients[0].cookies.clear()
        return self.ours.send(0, request, key)

    def reached(self, side: Side, name: str, path: str, calls: int) -> tuple[str, set[int]]:
        """The endpoints that ``calls`` calls reach, and the statuses they get."""
        key = self.upstreams.prepare(side, f"{name}{path}", (Step(),))
        request = Request(f"{name}.test", path)
        statuses = {self.send(side, request, key).status for _ in range(calls)}
        received = self.upstreams.take(side, f"{name}{path}")
        return "".join(sorted({r.upstream for r in received})), statuses


def test_subsets_and_their_fallbacks_reach_the_same_endpoints() -> None:
    """Round robin over at most five endpoints: ten calls reach all of them."""
    settings = {n: LoadBalancing("round_robin", subsets=s) for n, s in _selections()}
    seen: Counter[str] = Counter()
    with World(settings, _ASKED) as world:
        for name in settings:
            for number in range(len(_ASKED)):
                theirs = world.reached("envoy", name, f"/{number}", 6)
                mine = world.reached("ours", name, f"/{number}", 6)
                assert mine == theirs, (name, _ASKED[number])
                seen[theirs[0]] += 1
    assert len(settings) * len(_ASKED) == 320
    assert {"", "ab", "cd", "bc", "b", "abcde"} <= seen.keys()
    assert all(seen[names] >= 8 for names in ("", "ab", "abcde"))


@pytest.mark.parametrize(("sick", "panic"), [("ab", 0), ("ab", 50), ("b", 0), ("abcde", 0)])
def test_sick_endpoints_of_subsets_are_avoided_alike(sick: str, panic: int) -> None:
    """A subset in panic, one without a healthy endpoint, and one host kept whatever its health."""
    settings = {
        name: LoadBalancing("round_robin", subsets=selection)
        for name, selection in _selections()
        if name.partition("-")[0] in ("two", "single")
    }
    seen: set[str] = set()
    with World(settings, _ASKED, sick, panic) as world:
        for name in settings:
            for number in range(len(_ASKED)):
                theirs = world.reached("envoy", name, f"/{number}", 6)
                mine = world.reached("ours", name, f"/{number}", 6)
                assert mine == theirs, (name, _ASKED[number])
                seen.add(theirs[0])
    assert len(seen) >= 2


_SESSIONS = {
    "cookie": StatefulSession("cookie", "sticky"),
    "timed": StatefulSession("cookie", "sticky", "/", 120.0),
    "path": StatefulSession("cookie", "sticky", "/0"),
    "elsewhere": StatefulSession("cookie", "sticky", "/nowhere"),
    "header": StatefulSession("header", "x-sticky"),
    "strict": StatefulSession("header", "x-sticky", strict=True),
}


def _request(name: str, session: StatefulSession, value: str | None) -> Request:
    header = "cookie" if session.kind == "cookie" else session.name
    headers = () if value is None else ((header, value),)
    return Request(f"{name}.test", "/0", headers=headers)


def _given(exchange: Exchange, session: StatefulSession) -> str | None:
    """What the response says, as the next request says it back."""
    header = "set-cookie" if session.kind == "cookie" else session.name
    value = dict(exchange.headers).get(header)
    return value.partition(";")[0] if value and session.kind == "cookie" else value


def test_sessions_are_named_alike_and_found_back_both_ways() -> None:
    settings = {n: LoadBalancing("round_robin", session=s) for n, s in _SESSIONS.items()}
    with World(settings, ({},)) as world:
        ports = {str(port): name for name, port in world.upstreams.ports.items()}
        for name, session in _SESSIONS.items():
            mine = SessionAffinity(session)
            states = by_address(carry_over((), world.clusters[name]))
            key = world.upstreams.prepare("envoy", name, (Step(),))
            for _ in range(5):
                first = world.send("envoy", _request(name, session, None), key)
                reached = world.upstreams._records[key][-1].upstream
                state = next(s for a, s in states.items() if ports[a.rpartition(":")[2]] == reached)
                now = time.time()
                # Envoy's name for the endpoint is ours, and we find the endpoint by it.
                value = _given(first, session)
                made = mine.response_header(state, HeaderMap([]), "/0", now)
                assert (value is None) == (made is None) == (name == "elsewhere")
                if made is None:
                    continue
                full = dict(first.headers)[made[0]]
                if not session.ttl_s:
                    assert full == made[1]
                else:
                    assert full.partition(";")[2] == made[1].partition(";")[2]
                back = _request(name, session, value)
                headers = HeaderMap.of(back.headers)
                assert mine.find(headers, "/0", states, now) is state
                assert mine.response_header(state, headers, "/0", now) is None
                # And Envoy finds it by ours, and says nothing then.
                own = made[1].partition(";")[0] if session.kind == "cookie" else made[1]
                again = world.send("envoy", _request(name, session, own), key)
                assert world.upstreams._records[key][-1].upstream == reached, (name, own, value)
                assert _given(again, session) is None


def test_a_session_through_a_client_moves_between_the_two() -> None:
    """Made by one side and taken up by the other: the same endpoint, and nothing more to say.
    A name that is gone is answered alike, the refusal of a strict session included."""
    settings = {n: LoadBalancing("round_robin", session=s) for n, s in _SESSIONS.items()}
    sides: tuple[Side, Side] = ("envoy", "ours")
    with World(settings, ({},)) as world:
        for name, session in _SESSIONS.items():
            keys = {side: world.upstreams.prepare(side, name, (Step(),)) for side in sides}
            for here, there in (sides, sides[::-1]):
                for _ in range(6):
                    first = world.send(here, _request(name, session, None), keys[here])
                    reached = first.body
                    value = _given(first, session)
                    assert (value is None) == (name == "elsewhere")
                    if value is None:
                        continue
                    second = world.send(there, _request(name, session, value), keys[there])
                    assert second.body == reached, (name, here)
                    assert _given(second, session) is None
            gone = b64encode(b"127.0.0.1:1").decode()
            value = f"sticky={gone}" if session.kind == "cookie" else gone
            answers = [
                world.send(side, _request(name, session, value), keys[side]) for side in sides
            ]
            assert answers[0].status == answers[1].status == (503 if session.strict else 200)
            if session.strict:
                assert answers[0].body == answers[1].body
            elif name != "elsewhere":
                assert all(_given(answer, session) for answer in answers)


def _odd_names(address: bytes) -> list[str]:
    """Old, expired, malformed and foreign names of an endpoint, in base64 or nearly so."""
    message = b"\x0a" + bytes([len(address)]) + address
    raw = (
        address,
        b"127.0.0.1:1",
        b"10.0.0.1:80",
        message,
        message + b"\x10\x01",
        message + b"\x10" + b"\xff" * 8 + b"\x7f",
        b"\x12\x01x" + message,
        b"",
        b"\x0a\xff",
    )
    texts = [b64encode(item).decode() for item in raw]
    bare = texts[0].rstrip("=")
    # Bits behind the end of the text, of one byte and of two.
    spilled = b64encode(message + b"\x00").decode(), b64encode(message).decode()
    for text in spilled:
        end = text.rstrip("=")
        texts.append(end[:-1] + chr(ord(end[-1]) + 1) + text[len(end) :])
    texts.append(b64encode(message[:4]).decode() + b64encode(message[4:]).decode())
    return [*texts, bare + "!", "#", f'"{texts[0]}"', " " + texts[0], texts[0] + "=="]


def test_odd_names_of_a_session_mean_the_same() -> None:
    """Whether one endpoint is named, any may serve, or none: three calls of round robin tell."""
    settings = {n: LoadBalancing("round_robin", session=s) for n, s in _SESSIONS.items()}
    with World(settings, ({},)) as world:
        kinds: Counter[str] = Counter()
        for name, session in _SESSIONS.items():
            mine = SessionAffinity(session)
            states = by_address(carry_over((), world.clusters[name]))
            state = next(iter(states.values()))
            key = world.upstreams.prepare("envoy", name, (Step(),))
            for text in _odd_names(state.key.encode()):
                value = f"sticky={text}" if session.kind == "cookie" else text
                request = _request(name, session, value)
                refused = {world.send("envoy", request, key).status for _ in range(3)} == {503}
                last = world.upstreams._records[key][-3:]
                one = len({r.upstream for r in last}) == 1
                theirs = "refused" if refused else "named" if one else "any"
                found = mine.find(HeaderMap.of(request.headers), "/0", states, time.time())
                own = "any" if found is None else "named" if found is state else "refused"
                assert own == theirs, (name, text)
                kinds[own] += 1
        assert min(kinds[kind] for kind in ("any", "named", "refused")) >= 4


_LOADS = {"a": (100, 0.5), "b": (100, 0.25), "c": (300, 0.5), "d": (100, 1.0)}
#: Chi-square critical value at p = 1e-6 with 4 degrees of freedom.
_CRITICAL = 33.4
_CALLS = 600


def test_reported_weights_share_calls_alike() -> None:
    """rps / utilization, and the median for the one that reports nothing. Weighted round
    robin deals out exactly, so the bound is generous; a wrong weight breaks it."""
    draws = random.Random(9)
    orca = OrcaWeights(0.0, 180.0, 0.1)
    settings = {"w": LoadBalancing("client_side_weighted_round_robin", orca=orca)}
    weights = {name: rps / use for name, (rps, use) in _LOADS.items()}
    weights["e"] = (200 + 400) / 2
    total = sum(weights.values())
    with World(settings, ({},)) as world:
        for side in ("envoy", "ours"):
            counts = _dealt(world, side, draws)
            chi = sum(
                (counts[n] - _CALLS * w / total) ** 2 / (_CALLS * w / total)
                for n, w in weights.items()
            )
            assert chi < _CRITICAL, (side, counts)


def _dealt(world: World, side: Side, draws: random.Random) -> Counter[str]:
    """Calls per endpoint once each of them has reported."""
    request = Request("w.test", "/0")
    for phase in ("learn", "count"):
        key = world.upstreams.prepare(side, phase, (Step(),))
        world.upstreams.headers_by_name = {
            name: (("endpoint-load-metrics", _report(name, draws)),) for name in _LOADS
        }
        for _ in range(25 if phase == "learn" else _CALLS):
            assert world.send(side, request, key).status == 200
        if phase == "learn":
            time.sleep(0.35)  # more than three update periods of real time
    return Counter(r.upstream for r in world.upstreams.take(side, "count"))


def _report(name: str, draws: random.Random) -> str:
    rps, use = _LOADS[name]
    return draws.choice(
        (
            f"TEXT rps_fractional={rps},application_utilization={use}",
            f'JSON {{"rps_fractional": {rps}, "cpu_utilization": {use}}}',
        )
    )
