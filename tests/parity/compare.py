"""Run cases through both sides, and say how they differ.

Normalisation is here and nowhere else; ``docs/envoy-parity.md`` lists and
justifies every line of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, is_dataclass

from meshclient.model.cluster import Cluster
from meshclient.model.routes import RouteConfiguration

from .envoy import Envoy, EnvoyClient
from .ours import Ours
from .traffic import CASE_HEADER, Case, Exchange, Pairs, Received
from .upstream import Upstreams

#: A proxy in the path adds these, or they belong to one connection only.
_REQUEST_IGNORED = frozenset(
    {
        "connection",
        "transfer-encoding",
        "x-forwarded-proto",
        "x-envoy-internal",
        "traceparent",
        "tracestate",
        "baggage",
        CASE_HEADER,
    }
)
_RESPONSE_IGNORED = frozenset(
    {
        "connection",
        "transfer-encoding",
        "date",
        "server",
        "x-envoy-upstream-service-time",
    }
)
_EXPECTED_TIMEOUT = "x-envoy-expected-rq-timeout-ms"
_EXPECTED_TIMEOUT_SLACK_MS = 400
_THREADS = 12


@dataclass
class World:
    """Everything one comparison needs, already running."""

    upstreams: Upstreams
    tables: Sequence[RouteConfiguration]
    clusters: Mapping[str, Cluster]
    envoy: Envoy
    ours: Ours


@dataclass
class Tally:
    """What a run saw. ``statuses`` and ``attempts`` (tries per case) are Envoy's, and
    show that the cases did exercise something; ``differences`` are readable texts."""

    cases: int = 0
    differences: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    attempts: Counter[int] = field(default_factory=Counter)


def run(world: World, cases: Sequence[Case], in_parallel: bool = False) -> Tally:
    """Send every case through both sides. ``in_parallel`` is for cases that mostly wait."""
    tally = Tally(len(cases))
    if in_parallel:
        with ThreadPoolExecutor(_THREADS) as pool:
            for _ in pool.map(lambda case: _run_all(world, [case], tally), cases):
                pass
    else:
        _run_all(world, cases, tally)
    return tally


def _run_all(world: World, cases: Sequence[Case], tally: Tally) -> None:
    client = EnvoyClient(world.envoy.ports)
    try:
        for case in cases:
            _run_case(world, client, case, tally)
    finally:
        client.close()


def _run_case(world: World, client: EnvoyClient, case: Case, tally: Tally) -> None:
    key = world.upstreams.prepare("envoy", case.name, case.script)
    theirs = client.send(case.table, case.request, key)
    theirs.attempts = world.upstreams.take("envoy", case.name)
    key = world.upstreams.prepare("ours", case.name, case.script)
    ours = world.ours.send(case.table, case.request, key)
    ours.attempts = world.upstreams.take("ours", case.name)
    tally.statuses[theirs.status] += 1
    tally.attempts[len(theirs.attempts)] += 1
    differences = list(differences_of(case, theirs, ours))
    if differences:
        tally.differences.append(_describe(world, case, differences))


def differences_of(case: Case, theirs: Exchange, ours: Exchange) -> Iterable[str]:
    """One line per difference."""
    if ours.error:
        yield f"ours raised {ours.error}; Envoy answered {theirs.status}"
        return
    yield from _differ("status", theirs.status, ours.status)
    yield from _differ("response body", theirs.body, ours.body)
    yield from _headers_differ(
        "response header", theirs.headers, _answer_headers(case, ours), _RESPONSE_IGNORED
    )
    yield from _attempts_differ(case, theirs.attempts, ours.attempts)
    yield from _times_differ(case, theirs, ours)


def _answer_headers(case: Case, ours: Exchange) -> Pairs:
    """A local answer to HEAD may or may not say that a GET would have no body."""
    empty = ("content-length", "0")
    if case.request.method == "HEAD" and not ours.attempts:
        return tuple(pair for pair in ours.headers if pair != empty)
    return ours.headers


def _differ(what: str, theirs: object, ours: object) -> Iterable[str]:
    if theirs != ours:
        yield f"{what}: Envoy {theirs!r}, ours {ours!r}"


def _headers_differ(
    what: str, theirs: Pairs, ours: Pairs, ignored: frozenset[str]
) -> Iterable[str]:
    left, right = _by_name(theirs, ignored), _by_name(ours, ignored)
    for name in sorted(left.keys() | right.keys()):
        mine, other = right.get(name, []), left.get(name, [])
        if name == _EXPECTED_TIMEOUT and _about_equal(other, mine):
            continue
        yield from _differ(f"{what} {name}", other, mine)


def _by_name(pairs: Pairs, ignored: frozenset[str]) -> dict[str, list[str]]:
    out: dict[str, list[str]] = {}
    for name, value in pairs:
        if name not in ignored:
            out.setdefault(name, []).append(value)
    return out


def _about_equal(theirs: list[str], ours: list[str]) -> bool:
    """Milliseconds that are left: the same count of numbers, close to each other."""
    return len(theirs) == len(ours) and all(
        abs(int(a) - int(b)) <= _EXPECTED_TIMEOUT_SLACK_MS
        for a, b in zip(theirs, ours, strict=True)
    )


def _attempts_differ(case: Case, theirs: list[Received], ours: list[Received]) -> Iterable[str]:
    left, right = _places(case, theirs), _places(case, ours)
    if left != right:
        yield f"attempts per upstream: Envoy {left}, ours {right}"
        return
    for number, (a, b) in enumerate(zip(theirs, ours, strict=True), 1):
        where = f"attempt {number}"
        yield from _differ(f"{where} method", a.method, b.method)
        yield from _differ(f"{where} path", a.path, b.path)
        yield from _differ(f"{where} body", a.body, b.body)
        yield from _headers_differ(f"{where} header", a.headers, b.headers, _REQUEST_IGNORED)


def _places(case: Case, attempts: list[Received]) -> list[object]:
    names = [attempt.upstream for attempt in attempts]
    return sorted(Counter(names).values()) if case.spread else list(names)  # type: ignore[return-value]


def _times_differ(case: Case, theirs: Exchange, ours: Exchange) -> Iterable[str]:
    if case.window_s is None:
        return
    low, high = case.window_s
    for side, exchange in (("Envoy", theirs), ("ours", ours)):
        if not low <= exchange.elapsed_s <= high:
            yield f"{side} took {exchange.elapsed_s:.3f} s, outside {low:g}..{high:g} s"


def _describe(world: World, case: Case, differences: list[str]) -> str:
    request = case.request
    lines = [
        f"case {case.name}: {request.method} http://{request.authority}{request.path}",
        f"  request headers: {list(request.headers)}",
        f"  upstream script: {'; '.join(map(str, case.script))}",
    ]
    lines += [f"  DIFFERENT {text}" for text in differences]
    table = world.tables[case.table]
    prefix = case.name.split("/")[0]
    for host in table.virtual_hosts:
        if host.name == prefix:
            lines.append(f"  {compact(host)}")
    return "\n".join(lines)


def compact(value: object) -> str:
    """``repr`` of a model value without the fields that have their default."""
    if isinstance(value, tuple):
        return f"({', '.join(map(compact, value))})"
    if not is_dataclass(value) or isinstance(value, type):
        return repr(value)
    shown = [
        f"{part.name}={compact(getattr(value, part.name))}"
        for part in fields(value)
        if part.compare and getattr(value, part.name) != part.default
    ]
    return f"{type(value).__name__}({', '.join(shown)})"


def report(seed: int, tally: Tally) -> str:
    """The text of a failing assertion."""
    shown = "\n\n".join(tally.differences[:10])
    return (
        f"{len(tally.differences)} of {tally.cases} cases differ from Envoy "
        f"(repeat with MESHCLIENT_PARITY_SEED={seed}); the first ones:\n\n{shown}"
    )
