"""Back-off as a rate-limiting upstream asks for it (``Retry-After`` and the like).

Source: Envoy ``retry_policy_impl.cc`` ``ResetHeaderParserImpl`` and
``backoff_strategy.cc`` ``JitteredLowerBoundBackOffStrategy``. Beyond Envoy: an
HTTP date in ``Retry-After`` (RFC 9110 section 10.2.3).
"""

from __future__ import annotations

from collections.abc import Callable

from meshclient.model.headers import HeaderMap
from meshclient.model.retry import RateLimitedBackOff, ResetHeader


def rate_limited_wait_s(
    settings: RateLimitedBackOff,
    headers: HeaderMap,
    rand: Callable[[], int],
    unix_now: float | None = None,
) -> float | None:
    """Seconds to wait, or None: the upstream did not say, use the exponential one.

    The first of ``reset_headers`` with a usable time t (at most ``max_s``)
    decides; the wait is t + r mod t/2 in milliseconds, if t is over 1 ms.
    Points in time are compared with ``unix_now`` (seconds since 1970) or,
    without it, with the response's own Date header, which no difference
    between two clocks can spoil; past ones are ignored.
    """
    for header in settings.reset_headers:
        wait_s = _parse(header, headers, unix_now)
        if wait_s is not None and wait_s <= settings.max_s:
            wait_ms = round(wait_s * 1000)
            return (wait_ms + rand() % (wait_ms // 2)) / 1000 if wait_ms > 1 else None
    return None


def _parse(header: ResetHeader, headers: HeaderMap, unix_now: float | None) -> float | None:
    text = (headers.get(header.name.lower()) or "").strip()
    # Twelve digits outlast every max_s; longer texts are not times.
    if text.isascii() and text.isdigit() and len(text) <= 12:
        if header.format == "seconds":
            return float(text)
        return _until(float(text), headers, unix_now)
    if header.format == "seconds" and header.name.lower() == "retry-after":
        moment = _http_date(text)
        return None if moment is None else _until(moment, headers, unix_now)
    return None


def _until(moment: float, headers: HeaderMap, unix_now: float | None) -> float | None:
    if unix_now is None:
        unix_now = _http_date(headers.get("date") or "")
    if unix_now is None or moment < unix_now:
        return None
    return moment - unix_now


def _http_date(text: str) -> float | None:
    # Loads half of the email package, for a header that few upstreams send.
    from email.utils import parsedate_to_datetime

    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
