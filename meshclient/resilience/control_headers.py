"""``x-envoy-*`` request headers that change retries and timeouts of one call.

They are read, merged into the route's policy and never sent on. The caller is
the application itself, so they are always trusted. Source: Envoy
``retry_state_impl.cc``, ``router.cc``; docs ``router_filter``.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from meshclient.model.headers import HeaderMap
from meshclient.model.matching import HeaderMatch
from meshclient.model.retry import RETRY_ON_GRPC, RETRY_ON_HTTP, RetryPolicy

#: Every control header, the ones without effect here included: an upstream
#: never sees them. Lower-case, as on the wire.
CONTROL_HEADERS = frozenset(
    {
        "x-envoy-retry-on",
        "x-envoy-retry-grpc-on",
        "x-envoy-max-retries",
        "x-envoy-retriable-status-codes",
        "x-envoy-retriable-header-names",
        "x-envoy-upstream-rq-timeout-ms",
        "x-envoy-upstream-rq-per-try-timeout-ms",
        "x-envoy-upstream-rq-timeout-alt-response",
        "x-envoy-upstream-alt-stat-name",
        "x-envoy-upstream-stream-duration-ms",
        "x-envoy-hedge-on-per-try-timeout",
    }
)
#: Those that Envoy reads (and removes) before it edits the headers of a request;
#: the others it reads after, so that an added one counts.
_TIMEOUT_HEADERS = frozenset(
    {
        "x-envoy-upstream-rq-timeout-ms",
        "x-envoy-upstream-rq-per-try-timeout-ms",
        "x-envoy-hedge-on-per-try-timeout",
    }
)
_FLAGS = {"true": True, "false": False}
_PREFIX = b"x-envoy-"
_SHORTEST = min(map(len, CONTROL_HEADERS))
_RAW = frozenset(name.encode("latin-1") for name in CONTROL_HEADERS)


class Overrides:
    """What the control headers of one request ask for.

    ``timeout_s`` and ``per_try_timeout_s``: None: not given; 0: no timeout.
    ``max_retries`` and ``hedge_on_per_try_timeout`` None: not given. Texts that are not what
    they should be are ignored, as in Envoy.
    """

    __slots__ = (
        "header_names",
        "hedge_on_per_try_timeout",
        "max_retries",
        "per_try_timeout_s",
        "retry_on",
        "status_codes",
        "timeout_s",
    )

    def __init__(self, headers: HeaderMap) -> None:
        http = RETRY_ON_HTTP.intersection(_tokens(headers, "x-envoy-retry-on"))
        grpc = RETRY_ON_GRPC.intersection(_tokens(headers, "x-envoy-retry-grpc-on"))
        self.retry_on = http | grpc
        self.max_retries = _number(_joined(headers, "x-envoy-max-retries"), 2**32)
        codes = _tokens(headers, "x-envoy-retriable-status-codes")
        numbers = (_number(code, 2**32) for code in codes)
        self.status_codes = frozenset(number for number in numbers if number is not None)
        names = _tokens(headers, "x-envoy-retriable-header-names")
        self.header_names = tuple(name.lower() for name in names)
        self.timeout_s = _seconds(headers, "x-envoy-upstream-rq-timeout-ms")
        self.per_try_timeout_s = _seconds(headers, "x-envoy-upstream-rq-per-try-timeout-ms")
        hedge = headers.get("x-envoy-hedge-on-per-try-timeout")
        self.hedge_on_per_try_timeout = None if hedge is None else _FLAGS.get(hedge)

    def strip_timeouts(self, headers: HeaderMap) -> None:
        """Take the timeout headers off the request, before its header edits.

        One that an edit adds comes too late: it has no effect and goes upstream.
        """
        for name in _TIMEOUT_HEADERS.intersection(headers.index()):
            headers.remove(name)

    def strip(self, headers: HeaderMap) -> None:
        """Take every other control header off the request, after its header edits."""
        for name in (CONTROL_HEADERS - _TIMEOUT_HEADERS).intersection(headers.index()):
            headers.remove(name)

    def __repr__(self) -> str:
        given = ((name, getattr(self, name)) for name in self.__slots__)
        words = " ".join(
            f"{name}={value!r}" for name, value in given if value not in (None, (), frozenset())
        )
        return f"<Overrides {words}>"


def read_overrides(headers: HeaderMap) -> Overrides | None:
    """The request's control headers, or None if it has none.

    The raw list is scanned, so a request without them gets no index built.
    """
    for name, _ in headers.raw:
        if len(name) >= _SHORTEST and name[:8].lower() == _PREFIX and name.lower() in _RAW:
            return Overrides(headers)
    return None


def merge_policy(policy: RetryPolicy | None, overrides: Overrides) -> RetryPolicy | None:
    """The route's retry policy with the request's own wishes.

    Tokens, status codes and header names add to the policy's; the number of
    retries replaces it, if any token is set at all. A route without a policy gets
    Envoy's defaults (1 retry, 25-250 ms). None: nothing is retried. The
    ``retriable-status-codes`` and ``retriable-headers`` tokens are still
    needed. Equal arguments give the same object.
    """
    return _merge(
        policy,
        overrides.retry_on,
        overrides.max_retries,
        overrides.status_codes,
        overrides.header_names,
    )


@lru_cache(maxsize=256)
def _merge(
    policy: RetryPolicy | None,
    retry_on: frozenset[str],
    max_retries: int | None,
    status_codes: frozenset[int],
    header_names: tuple[str, ...],
) -> RetryPolicy | None:
    base = policy if policy is not None else RetryPolicy(frozenset())
    if not (base.retry_on or retry_on):
        return policy
    present = tuple(HeaderMatch(name) for name in header_names)
    return replace(
        base,
        retry_on=base.retry_on | retry_on,
        num_retries=base.num_retries if max_retries is None else max_retries,
        status_codes=base.status_codes | status_codes,
        headers=base.headers + present,
    )


def _joined(headers: HeaderMap, name: str) -> str:
    """Repeated lines are one comma-separated list (RFC 9110 section 5.3)."""
    return ",".join(headers.get_all(name))


def _tokens(headers: HeaderMap, name: str) -> list[str]:
    return [token for part in _joined(headers, name).split(",") if (token := part.strip())]


def _number(text: str, limit: int) -> int | None:
    digits = text.strip().removeprefix("+")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 40:
        return None
    number = int(digits)
    return number if number < limit else None


def _seconds(headers: HeaderMap, name: str) -> float | None:
    milliseconds = _number(_joined(headers, name), 2**64)
    return None if milliseconds is None else milliseconds / 1000


__all__ = ["CONTROL_HEADERS", "Overrides", "merge_policy", "read_overrides"]
