"""Generated virtual hosts and route matchers, and requests that try them.

Every route marks the request with its own name, so that what arrives upstream
tells which one was chosen.
"""

from __future__ import annotations

from meshclient.model.matching import (
    CookieMatch,
    Fraction,
    HeaderMatch,
    QueryMatch,
    RouteMatch,
    StringMatch,
)
from meshclient.model.routes import (
    ForwardAction,
    Route,
    RouteConfiguration,
    VirtualHost,
    WeightedCluster,
)

from .generate import ACCENT, UPSTREAMS, Draw, Plan, path_match, plain_clusters, recase, tag
from .traffic import Case, Request
from .upstream import Upstreams

DOMAINS = (
    "a.test", "b.a.test", "a.test:8080", "x.org", "*.a.test", "*-x.org", "*.test", "*.b.a.test",
    "*.test:8080", "a.*", "b.a.*", "foo.example.*", "x*", "b.a.test:*", "*t", "foo*",
)  # fmt: skip
HOSTS = (
    "a.test", "b.a.test", "c.b.a.test", "a.test:8080", "b.a.test:8080", "b.a.test:9", "x.org",
    "my-x.org", "-x.org", "x.org:8080", "A.Test", "B.A.TEST:8080", "foo.example.com", "c.test",
    "foo.example.com:81", "foo.example", "a.example", "xyz", "other", "t", "127.0.0.1:81", "foo",
)  # fmt: skip

_VALUES = ("abc", "ABC", "abcdef", "xabc", "user,admin", "1", ACCENT, "a b", "")
_NUMBERS = ("0", "5", "9", "10", "-5", "+5", "5x", "0x5", "9223372036854775807",
            "9223372036854775808", "", "5.0", "007")  # fmt: skip
_RANGES = ((0, 10), (-10, 0), (5, 6), (0, 9223372036854775807), (5, 5))
_COOKIES = ("s=abc", "s=abc; t=1", "t=1;s=ABC", 's="abc"', "t=abc", "s=", "sx=abc; s=abcdef",
            "s=1; s=abc")  # fmt: skip
_REGEXES = (("a.c", "abc"), ("abc", "abc"), ("[a-z]+", "abcdef"), ("(?i)abc.*", "ABCx"),
            (r"\d*", "1"), (".*", "user,admin"), ("caf..", ACCENT),
            ("caf.", "cafe"))  # fmt: skip


def build(seed: int, upstreams: Upstreams) -> Plan:
    """About 90 host cases and 300 matcher cases."""
    plan = Plan(plain_clusters(upstreams))
    draw = Draw(seed, "matches")
    for ignore_port in (False, True):
        for catch_all in (False, True):
            _host_table(plan, draw, ignore_port, catch_all)
    _matcher_table(plan, draw)
    return plan


def _forward(draw: Draw) -> ForwardAction:
    return ForwardAction((WeightedCluster(draw.one(UPSTREAMS)),))


# --- virtual hosts ------------------------------------------------------------------------------


def _host_table(plan: Plan, draw: Draw, ignore_port: bool, catch_all: bool) -> None:
    number = len(plan.tables)
    domains = draw.some(DOMAINS, 9, 14) + (["*"] if catch_all else [])
    hosts: list[VirtualHost] = []
    while domains:
        name = f"h{number}-{len(hosts)}"
        own, domains = domains[: draw.number(1, 2)], domains[2:]
        route = Route(_forward(draw), name=name, request_headers=tag(name))
        hosts.append(VirtualHost(name, tuple(own), (route,)))
    plan.tables.append(RouteConfiguration(f"hosts{number}", tuple(hosts), ignore_port))
    for index, authority in enumerate(HOSTS):
        plan.cases.append(Case(f"hosts{number}/{index}", number, Request(authority, draw.target())))


# --- matchers -----------------------------------------------------------------------------------


def _matcher_table(plan: Plan, draw: Draw) -> None:
    number = len(plan.tables)
    hosts = []
    for index in range(50):
        name = f"m{index}"
        aims = [_condition(draw) for _ in range(draw.number(1, 5))]
        routes = [
            Route(_forward(draw), match, f"{name}-{n}", tag(f"{name}-{n}"))
            for n, (match, _) in enumerate(aims)
        ]
        if any(match.grpc for match, _ in aims) or draw.chance(0.3):
            routes.append(Route(_forward(draw), name="rest", request_headers=tag("rest")))
        hosts.append(VirtualHost(name, (f"{name}.test",), tuple(routes)))
        grpc = any(match.grpc for match, _ in aims)
        for n in range(6):
            request = _request(draw, f"{name}.test", draw.one(aims), grpc)
            plan.cases.append(Case(f"{name}/{n}", number, request))
    plan.tables.append(RouteConfiguration("matchers", tuple(hosts), ignore_port=False))


def _condition(draw: Draw) -> tuple[RouteMatch, str]:
    path, example = path_match(draw)
    headers = tuple(_header(draw) for _ in range(draw.one((0, 0, 1, 1, 2))))
    query = tuple(_query(draw) for _ in range(draw.one((0, 0, 0, 1, 2))))
    cookies = tuple(
        CookieMatch(draw.one("st"), _string(draw)[0], draw.chance(0.3))
        for _ in range(draw.one((0, 0, 0, 0, 1)))
    )
    fraction = None
    if draw.chance(0.15):
        scale = draw.one((100, 10_000, 1_000_000))
        fraction = Fraction(draw.one((0, scale, scale)), scale)
    grpc = draw.chance(0.06)
    return RouteMatch(path, headers, query, cookies, fraction, grpc), example


def _string(draw: Draw) -> tuple[StringMatch, str]:
    """A condition on text, and a text that fulfils it."""
    kind = draw.one(("exact", "prefix", "suffix", "contains", "regex"))
    if kind == "regex":
        pattern, example = draw.one(_REGEXES)
        return StringMatch("regex", pattern), example
    value = draw.one([v for v in _VALUES if v or kind == "exact"])
    ignore_case = draw.chance(0.3)
    example = recase(value) if ignore_case else value
    if kind == "exact":
        return StringMatch("exact", value, ignore_case), example
    if kind == "prefix":
        return StringMatch("prefix", value, ignore_case), example + "tail"
    if kind == "suffix":
        return StringMatch("suffix", value, ignore_case), "head" + example
    return StringMatch("contains", value, ignore_case), f"in{example}side"


def _header(draw: Draw) -> HeaderMatch:
    name = draw.one(("x-a", "x-b", "x-n", ":method", ":path", ":authority"))
    invert, empty = draw.chance(0.3), draw.chance(0.25)
    if name == ":method":
        return HeaderMatch(name, StringMatch("exact", draw.one(("GET", "POST"))), invert=invert)
    if name == ":path":
        prefix = StringMatch("prefix", draw.one(("/api", "/a", "/user")))
        regex = StringMatch("regex", draw.one((r".*\?.*", "/api[^?]*", "/.*a=1")))
        return HeaderMatch(name, draw.one((prefix, regex)), invert=invert)
    if name == ":authority":
        suffix = StringMatch("suffix", draw.one((".test", "1.test")))
        return HeaderMatch(name, suffix, invert=invert)
    if name == "x-n":
        return HeaderMatch(
            name, range=draw.one(_RANGES), invert=invert, treat_missing_as_empty=empty
        )
    if draw.chance(0.3):
        return HeaderMatch(
            name, present=draw.chance(0.6), invert=invert, treat_missing_as_empty=empty
        )
    return HeaderMatch(name, _string(draw)[0], invert=invert, treat_missing_as_empty=empty)


def _query(draw: Draw) -> QueryMatch:
    name = draw.one(("a", "b", "v", "debug"))
    if draw.chance(0.4):
        return QueryMatch(name, present=draw.chance(0.6))
    if draw.chance(0.5):
        return QueryMatch(name, StringMatch("exact", draw.one(("1", "", "x", "beta", "true"))))
    return QueryMatch(name, _string(draw)[0])


# --- requests -----------------------------------------------------------------------------------


def _request(draw: Draw, authority: str, aim: tuple[RouteMatch, str], grpc: bool) -> Request:
    """Mostly one that should reach the route aimed at, with some chance in it."""
    match, example = aim
    target = example if draw.chance(0.8) else draw.target()
    if "?" not in target:
        target += _aimed_query(draw, match)
    headers: list[tuple[str, str]] = []
    for name in ("x-a", "x-b"):
        headers += [(name, draw.one(_VALUES)) for _ in range(draw.one((0, 0, 1, 1, 2)))]
    if draw.chance(0.6):
        headers.append(("x-n", draw.one(_NUMBERS)))
    headers += [
        (condition.name, fulfilling(condition.value))
        for condition in match.headers
        if condition.value is not None and condition.name[0] != ":" and draw.chance(0.8)
    ]
    if match.cookies or draw.chance(0.2):
        headers += [("cookie", draw.one(_COOKIES)) for _ in range(draw.number(0, 2))]
    if grpc:
        kinds = ("application/grpc", "application/grpc+proto", "application/grpc-web", "text/plain")
        headers.append(("content-type", draw.one(kinds)))
    method = draw.one(("GET", "GET", "GET", "POST", "PUT", "DELETE", "HEAD", "PATCH"))
    body = b"body" if method in ("POST", "PUT", "PATCH") else b""
    return Request(authority, target, method, tuple(headers), body)


def _aimed_query(draw: Draw, match: RouteMatch) -> str:
    parts = []
    for condition in match.query:
        if draw.chance(0.2):
            continue
        text = "1" if condition.value is None else fulfilling(condition.value)
        plain = text.isalnum() and text.isascii()
        parts.append(f"{condition.name}={text}" if plain else condition.name)
    return f"?{'&'.join(parts)}" if parts else ""


def fulfilling(condition: StringMatch) -> str:
    """A text that fulfils the condition."""
    if condition.kind == "regex":
        return dict(_REGEXES)[condition.value]
    value = condition.value
    if condition.ignore_case:
        value = recase(value)
    return {
        "exact": value,
        "prefix": value + "tail",
        "suffix": "head" + value,
        "contains": f"in{value}side",
    }[condition.kind]
