"""Global rate limits: the same question to a real gRPC service, and the same use of its answer."""

from __future__ import annotations

from typing import Any

import grpc
from servers.rate_limit import OK, OVER_LIMIT, RateLimitServer, Script, response, status

from .limiting_world import Sides, World
from .traffic import Request, Side, Step
from .upstream import Upstreams

Json = dict[str, Any]

_ACTIONS: list[list[Json]] = [
    [{"generic_key": {"descriptor_value": "shop"}}],
    [
        {"request_headers": {"header_name": "x-user", "descriptor_key": "user"}},
        {"request_headers": {"header_name": ":path", "descriptor_key": "path"}},
    ],
]
_OURS = [
    {"generic_key": "shop"},
    [{"request_header": "x-user", "key": "user"}, {"request_header": ":path", "key": "path"}],
]


def world(name: str, theirs: Json | None = None, ours: Json | None = None, first: int = 0) -> World:
    """``first``: leave out so many lists of actions."""
    service = {"grpc_service": {"envoy_grpc": {"cluster_name": "ratelimit"}}}
    settings = {
        "domain": "parity",
        "timeout": "3s",
        "rate_limit_service": service | {"transport_api_version": "V3"},
        **(theirs or {}),
    }
    policy = {
        "service": "ratelimit",
        "domain": "parity",
        "timeout": "3s",
        "actions": _OURS[first:],
        **(ours or {}),
    }
    filters = (("envoy.filters.http.ratelimit", "ratelimit.v3.RateLimit", settings),)
    limits = tuple({"actions": actions} for actions in _ACTIONS[first:])
    return World(name, filters, {"global_rate_limit": policy}, limits)


WORLDS = [
    world("open"),
    world("user", first=1),
    world("closed", {"failure_mode_deny": True}, {"failure_mode_deny": True}),
    world(
        "custom",
        {
            "failure_mode_deny": True,
            "status_on_error": {"code": "ServiceUnavailable"},
            "rate_limited_status": {"code": "ServiceUnavailable"},
            "disable_x_envoy_ratelimited_header": True,
            "rate_limited_as_resource_exhausted": True,
        },
        {
            "failure_mode_deny": True,
            "status_on_error": 503,
            "status": 503,
            "x_envoy_ratelimited": False,
            "resource_exhausted": True,
        },
    ),
    world(
        "standing",
        {"enable_x_ratelimit_headers": "DRAFT_VERSION_03"},
        {"x_ratelimit_headers": True},
    ),
    world("hasty", {"timeout": "0.1s"}, {"timeout": "100ms"}),
    world(
        "hasty-closed",
        {"timeout": "0.1s", "failure_mode_deny": True},
        {"timeout": "100ms", "failure_mode_deny": True},
    ),
]
_OVER = response(OVER_LIMIT, {"retry-after": "7", "x-why": "shop"}, body=b"slow down")
_TYPED = response(OVER_LIMIT, {"content-type": "application/json"}, body=b"{}")
_ADDED = response(OK, {"x-seen": "1"}, {"x-tier": "gold"})
_STANDING = tuple(
    status(OK, 10 * unit, unit, 50 - unit, 100 + unit, f"per-{unit}" if unit % 2 else "")
    for unit in range(1, 8)
)
_ANSWERS = {
    "ok": Script(response(OK)),
    "unknown": Script(response(0)),
    "added": Script(_ADDED),
    "over": Script(_OVER),
    "over-typed": Script(_TYPED),
    "over-bare": Script(response(OVER_LIMIT)),
    "standing": Script(response(OK, statuses=(*_STANDING, status(OK, 0, 0, 3, 1)))),
    "standing-over": Script(
        response(OVER_LIMIT, statuses=(status(OVER_LIMIT, 5, 2, 0, 31), status(OK, 9, 1, 4, 1)))
    ),
    "failed": Script(failure=grpc.StatusCode.UNAVAILABLE),
    "denied": Script(failure=grpc.StatusCode.PERMISSION_DENIED),
    "nonsense": Script(b"\xff\xff\xff"),
}
_PLAIN = Request("any", "/a?b=1", headers=(("x-user", "ann"),))
_NOBODY = Request("any", "/a")
_RPC = Request("any", "/s/M", "POST", (("content-type", "application/grpc"),))


class Game:
    """Both sides, one service, one upstream."""

    def __init__(self, sides: Sides, service: RateLimitServer, upstreams: Upstreams) -> None:
        self.sides = sides
        self.service = service
        self.upstreams = upstreams

    def play(self, side: Side, name: str, request: Request) -> tuple[object, ...]:
        """The answer, what was asked, and what reached the upstream."""
        self.service.asked.clear()
        case = f"{name}-{side}"
        key = self.upstreams.prepare(side, case, (Step(),))
        send = self.sides.theirs if side == "envoy" else self.sides.ours
        answer = send(name, request, key)
        arrived = self.upstreams.take(side, case)
        added = [dict(one.headers).get("x-tier") for one in arrived]
        return answer, list(self.service.asked), added


def test_questions_answers_and_failures_are_as_envoys() -> None:
    asked = refused = 0
    with (
        Upstreams(("u0",)) as upstreams,
        RateLimitServer() as service,
        Sides(WORLDS, upstreams.ports["u0"], service.port) as sides,
    ):
        game = Game(sides, service, upstreams)
        for one in ("open", "user", "closed", "custom", "standing"):
            for answer, script in _ANSWERS.items():
                service.script = script
                for request in (_PLAIN, _NOBODY, _RPC):
                    theirs = game.play("envoy", one, request)
                    assert game.play("ours", one, request) == theirs, (one, answer, request)
                    asked += len(theirs[1])  # type: ignore[arg-type]
                    refused += not theirs[2]
            _compare_counts(sides, one)
        service.script = Script(delay_s=0.3)
        for one in ("hasty", "hasty-closed"):
            theirs = game.play("envoy", one, _PLAIN)
            assert game.play("ours", one, _PLAIN) == theirs, one
        service.close()
        for one in ("open", "closed"):
            assert game.play("ours", one, _PLAIN) == game.play("envoy", one, _PLAIN), one
    assert asked >= 120
    assert refused >= 50


_SEEN: dict[str, int] = {}


def _compare_counts(sides: Sides, name: str) -> None:
    """Envoy counts on the cluster of the upstream, which all worlds share."""
    prefix = "cluster.upstream.ratelimit."
    stats = sides.stats(prefix)
    theirs = {key.removeprefix(prefix): value for key, value in stats.items()}
    counted = _counted(sides, name)
    for word in ("ok", "error", "over_limit", "failure_mode_allowed"):
        before = _SEEN.get(word, 0)
        assert counted[word] == theirs.get(word, 0) - before, (name, word)
        _SEEN[word] = theirs.get(word, 0)


def _counted(sides: Sides, name: str) -> Json:
    (ours,) = sides.filters(f"service {name}")
    described: Json = ours.describe()
    return described
