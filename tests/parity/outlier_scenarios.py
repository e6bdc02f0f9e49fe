"""What the endpoints of a world do, call by call, and how long it takes. Values only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from meshclient.model.headers import HeaderMap
from meshclient.model.health import OutlierDetection
from meshclient.model.outcome import Outcome, ResetReason

from .traffic import Pairs, Step

#: No sweep within a test.
NEVER_S = 3600.0
INTERVAL_S = 0.5

#: Host number of a port that refuses connections.
REFUSED = -1


@dataclass(frozen=True)
class Call:
    """How one call ends: what the endpoint does, and what a driver would report of it.

    ``broken``: the response is a success that breaks off in its body.
    """

    step: Step
    outcome: Callable[[], Outcome]
    headers: Pairs = ()
    broken: Outcome | None = None


def _respond(status: int, *headers: tuple[str, str]) -> Call:
    raw = [(name.encode(), value.encode()) for name, value in headers]
    return Call(Step(status, headers), lambda: Outcome(status, HeaderMap(raw)))


def _grpc(status: int, code: int) -> Call:
    headers = (("grpc-status", str(code)), ("content-type", "application/grpc"))
    asks = (("content-type", "application/grpc"), ("te", "trailers"))
    return Call(Step(status, headers), lambda: Outcome(status, grpc_status=code), asks)


def _reset(reason: ResetReason, step: Step, headers: Pairs = (), sent: bool = True) -> Call:
    return Call(step, lambda: Outcome(reset=reason, sent=sent), headers)


_TERMINATED = Outcome(reset=ResetReason.CONNECTION_TERMINATION)
_DEGRADED = ("x-envoy-degraded", "false")

CALLS: dict[str, Call] = {
    **{str(status): _respond(status) for status in (200, 404, 429, 500, 502, 503, 504, 505)},
    "degraded": _respond(200, _DEGRADED),
    "degraded 404": _respond(404, _DEGRADED),
    "degraded 429": _respond(429, _DEGRADED),
    "degraded 503": _respond(503, _DEGRADED),
    **{f"grpc {code}": _grpc(200, code) for code in range(17)},
    "grpc 99": _grpc(200, 99),
    "grpc 0 with 503": _grpc(503, 0),
    "reset": _reset(ResetReason.CONNECTION_TERMINATION, Step(action="reset")),
    "close": _reset(ResetReason.CONNECTION_TERMINATION, Step(action="close")),
    "garbage": _reset(ResetReason.PROTOCOL_ERROR, Step(action="garbage")),
    "refused": _reset(ResetReason.CONNECTION_FAILURE, Step(), sent=False),
    "timeout": _reset(
        ResetReason.ROUTE_TIMEOUT, Step(delay_s=0.3), (("x-envoy-upstream-rq-timeout-ms", "30"),)
    ),
    "per try timeout": _reset(
        ResetReason.PER_TRY_TIMEOUT,
        Step(delay_s=0.3),
        (("x-envoy-upstream-rq-per-try-timeout-ms", "30"),),
    ),
    "cut": Call(Step(action="cut"), lambda: Outcome(200), broken=_TERMINATED),
}

Sent = tuple[int, str]


@dataclass(frozen=True)
class Steady:
    """Calls without a sweep; both sides are compared after every one of them."""

    name: str
    settings: OutlierDetection
    calls: tuple[Sent, ...]
    hosts: int = 3


@dataclass(frozen=True)
class Timed:
    """Bursts of calls, each right after a sweep, and the sweeps that pass until the next.

    Both sides are compared after each burst and after each sweep. Host 0 only marks sweeps.
    Whether the first sweep after an ejection's end shortens the next one is a matter of
    microseconds in Envoy; so a burst follows the end at once, or after many sweeps.
    """

    name: str
    settings: OutlierDetection
    bursts: tuple[tuple[tuple[Sent, ...], int], ...]
    hosts: int = 6


def settings(**changes: Any) -> OutlierDetection:
    """No sweep, and no limit of ejections, unless ``changes`` say so."""
    return OutlierDetection(**{"interval_s": NEVER_S, "max_ejection_percent": 100, **changes})


def timed(**changes: Any) -> OutlierDetection:
    """Short intervals; one call is enough to show a rate, which marks the sweeps."""
    return settings(
        **{
            "interval_s": INTERVAL_S,
            # Wide of every sweep, for bursts that come late.
            "base_ejection_time_s": 1.3 * INTERVAL_S,
            "max_ejection_time_s": 2.2 * INTERVAL_S,
            "failure_percentage_request_volume": 1,
            "failure_percentage_minimum_hosts": 1,
            "failure_percentage_threshold": 100,
            "success_rate_minimum_hosts": 4,
            "success_rate_request_volume": 5,
            **changes,
        }
    )


def on(host: int, *names: str) -> tuple[Sent, ...]:
    """Calls to one host."""
    return tuple((host, name) for name in names)


def _mix(*parts: tuple[Sent, ...]) -> tuple[Sent, ...]:
    return tuple(call for part in parts for call in part)


_SPLIT = {"split_external_local_origin_errors": True}
_TWO_AND_THREE = {"consecutive_5xx": 3, "consecutive_gateway_failure": 2}

STEADY: tuple[Steady, ...] = (
    Steady("five-in-a-row", settings(), on(0, *["500"] * 4, "200", *["500"] * 7)),
    Steady("every-5xx", settings(), on(1, "500", "502", "503", "504", "505", "200", "500")),
    Steady(
        "not-errors", settings(consecutive_5xx=2), on(0, "500", "404", "500", "429", "500", "200")
    ),
    Steady("one-each", settings(consecutive_5xx=1), ((0, "500"), (1, "503"), (2, "500"))),
    Steady(
        "gateway",
        settings(**_TWO_AND_THREE),
        _mix(on(0, "503", "502", "500"), on(1, "502", "500", "504", "200"), on(2, *["500"] * 3)),
    ),
    Steady(
        "gateway-detected-only",
        settings(**_TWO_AND_THREE, enforcing_consecutive_gateway_failure=0),
        _mix(on(0, *["503"] * 5), on(1, *["504"] * 2, "200", *["502"] * 2)),
    ),
    Steady(
        "gateway-and-5xx-at-once",
        settings(**{**_TWO_AND_THREE, "consecutive_5xx": 2}),
        on(0, "502", "503", "503", "200"),
    ),
    Steady("5xx-off", settings(consecutive_5xx=None), on(0, *["500"] * 7)),
    Steady(
        "never-enforced",
        settings(consecutive_5xx=2, enforcing_consecutive_5xx=0),
        on(0, *["500"] * 7, "200", *["500"] * 3),
    ),
    Steady(
        "default-percent-of-three-hosts",
        settings(consecutive_5xx=2, max_ejection_percent=10),
        _mix(on(0, *["500"] * 5), on(1, *["503"] * 4)),
    ),
    Steady(
        "third-of-three-is-34-percent",
        settings(consecutive_5xx=2, max_ejection_percent=34),
        _mix(on(0, *["500"] * 2), on(1, *["503"] * 4), on(2, *["500"] * 2)),
    ),
    Steady(
        "33-percent-of-three-is-none",
        settings(consecutive_5xx=2, max_ejection_percent=33),
        on(0, *["500"] * 4),
    ),
    Steady(
        "half-of-four",
        settings(consecutive_5xx=2, max_ejection_percent=50),
        _mix(*(on(host, *["500"] * 2) for host in (2, 0, 3, 1))),
        hosts=4,
    ),
    Steady(
        "always-one",
        settings(consecutive_5xx=2, max_ejection_percent=10, always_eject_one_host=True),
        _mix(on(0, *["500"] * 3), on(1, *["503"] * 4), on(0, "200")),
    ),
    Steady(
        "no-percent-but-one",
        settings(consecutive_5xx=2, max_ejection_percent=0, always_eject_one_host=True),
        _mix(on(2, *["500"] * 3), on(1, *["503"] * 4)),
    ),
    Steady(
        "local-errors-count-as-503-and-504",
        settings(consecutive_5xx=3, consecutive_gateway_failure=3),
        _mix(
            on(REFUSED, "refused", "refused", "refused"),
            on(0, "reset", "close", "garbage"),
            on(1, "timeout", "per try timeout", "500", "200"),
            on(1, "reset", "200", "close", "garbage", "timeout"),
        ),
    ),
    Steady(
        "split-refused",
        settings(**_SPLIT, consecutive_local_origin_failure=2, consecutive_5xx=2),
        _mix(on(REFUSED, *["refused"] * 4), on(0, "500", "500"), on(1, "500", "200", "500")),
    ),
    Steady(
        "split-after-connecting",
        settings(**_SPLIT, consecutive_local_origin_failure=2, consecutive_5xx=2),
        _mix(on(0, *["reset"] * 3, "timeout", "timeout"), on(1, "500", "reset", "500")),
    ),
    Steady(
        "split-one-local-failure",
        settings(**_SPLIT, consecutive_local_origin_failure=1),
        _mix(on(0, "reset"), on(1, "timeout"), on(REFUSED, "refused"), on(2, "404", "cut")),
    ),
    Steady(
        "split-detected-only",
        settings(
            **_SPLIT,
            consecutive_local_origin_failure=2,
            enforcing_consecutive_local_origin_failure=0,
        ),
        on(REFUSED, *["refused"] * 5),
    ),
    Steady(
        "broken-bodies",
        settings(consecutive_5xx=2),
        _mix(on(0, "cut", "cut", "500"), on(1, "500", "cut", "500", "500")),
    ),
    Steady(
        "grpc-statuses",
        settings(consecutive_5xx=1),
        _mix(
            *(on(code, f"grpc {code}") for code in range(17)),
            on(17, "grpc 99"),
            on(18, "grpc 0 with 503"),
        ),
        hosts=19,
    ),
    Steady(
        "grpc-gateway",
        settings(consecutive_5xx=4, consecutive_gateway_failure=2),
        _mix(on(0, "grpc 14", "grpc 4"), on(1, "grpc 14", "grpc 13", "grpc 4", "grpc 5")),
    ),
    Steady(
        "own-codes",
        settings(http_error_codes=(429, 503), **{**_TWO_AND_THREE, "consecutive_5xx": 4}),
        _mix(
            on(0, "500", "500", "502", "502", "429", "503", "429", "429"),
            on(1, "503", "503"),
            on(2, "429", "429", "500", *["429"] * 4),
            on(REFUSED, "refused", "refused"),
        ),
    ),
    Steady(
        "own-codes-and-grpc",
        settings(http_error_codes=(503,), consecutive_5xx=1),
        _mix(on(0, "grpc 14"), on(1, "grpc 0 with 503"), on(2, "500")),
    ),
    Steady(
        "degraded",
        settings(detect_degraded_hosts=True, consecutive_5xx=2),
        _mix(
            on(0, "degraded 503", "degraded", "degraded", "200"),
            on(1, "500", "degraded 404", "500", "500"),
            on(2, "500", "500", "degraded"),
        ),
    ),
    Steady("degraded-is-off", settings(), on(0, "degraded", "degraded 404")),
    Steady(
        "degraded-and-split",
        settings(detect_degraded_hosts=True, **_SPLIT),
        on(1, "degraded 503", "degraded"),
    ),
    Steady(
        "degraded-and-own-codes",
        settings(detect_degraded_hosts=True, http_error_codes=(429,), consecutive_5xx=2),
        _mix(on(0, "degraded 429"), on(1, "degraded 503")),
    ),
)

_GOOD = _mix(*(on(host, *["200"] * 6) for host in (1, 2, 3)))
_BAD_FOUR = on(4, *["500", "200"] * 3)

TIMED: tuple[Timed, ...] = (
    Timed(
        "uneject-and-grow",
        timed(consecutive_5xx=2),
        (
            (on(1, "500", "500"), 2),
            (on(1, "500", "500"), 3),
            (on(1, "500", "500"), 3 + 5),
            (on(1, "500", "500"), 2),
        ),
    ),
    Timed(
        "one-ejection-more-does-not-wait",
        timed(consecutive_5xx=2),
        (((*on(1, "500"), *on(2, "500", "500"), *on(1, "500")), 3),),
    ),
    Timed(
        "success-rate",
        timed(consecutive_5xx=None, success_rate_stdev_factor=1200),
        ((_mix(_GOOD, _BAD_FOUR), 3), (_mix(_GOOD, on(4, *["200"] * 6)), 1)),
    ),
    Timed(
        "success-rate-too-few-hosts",
        timed(consecutive_5xx=None, success_rate_stdev_factor=1200, success_rate_minimum_hosts=5),
        ((_mix(_GOOD, _BAD_FOUR), 1),),
    ),
    Timed(
        "success-rate-too-few-calls",
        timed(consecutive_5xx=None, success_rate_stdev_factor=1200, success_rate_request_volume=7),
        ((_mix(_GOOD, _BAD_FOUR), 1),),
    ),
    Timed(
        "failure-percentage",
        timed(
            consecutive_5xx=None,
            enforcing_success_rate=0,
            enforcing_failure_percentage=100,
            failure_percentage_threshold=50,
        ),
        ((_mix(_GOOD, on(4, "500", "200"), on(5, "500", "200", "200")), 3),),
    ),
    Timed(
        "failure-percentage-detected-only",
        timed(consecutive_5xx=None, failure_percentage_threshold=60),
        ((_mix(on(1, "200"), on(4, *["500"] * 2)), 2),),
    ),
    Timed(
        "local-success-rate",
        timed(
            **_SPLIT,
            consecutive_5xx=None,
            consecutive_local_origin_failure=100,
            success_rate_stdev_factor=1200,
        ),
        ((_mix(_GOOD, on(4, *["500"] * 5), on(REFUSED, *["refused"] * 6)), 3),),
    ),
    Timed(
        "local-failure-percentage",
        timed(
            **_SPLIT,
            consecutive_local_origin_failure=100,
            enforcing_failure_percentage_local_origin=100,
        ),
        ((_mix(on(1, "200", "500"), on(2, "reset"), on(REFUSED, *["refused"] * 2)), 3),),
    ),
    Timed(
        "degraded-for-a-while",
        timed(detect_degraded_hosts=True),
        ((on(1, "degraded"), 2), (on(1, "degraded"), 3)),
    ),
    Timed(
        "one-in-two-statistics-at-most",
        timed(
            consecutive_5xx=None,
            max_ejection_percent=20,
            success_rate_stdev_factor=1000,
        ),
        ((_mix(_GOOD, _BAD_FOUR), 1), (_mix(_GOOD, on(5, *["500", "200"] * 3)), 3)),
    ),
)
