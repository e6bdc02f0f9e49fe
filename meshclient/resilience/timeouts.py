"""The arithmetic of the time limits of a call. Nothing here reads a clock or waits.

None means no limit everywhere. Source: Envoy ``router.cc``
``FilterUtility::finalTimeout`` and ``setTimeoutHeaders``.
"""

from __future__ import annotations

from meshclient.resilience.control_headers import Overrides


def per_try_timeout_s(timeout_s: float | None, per_try_s: float | None) -> float | None:
    """The per-try timeout in force: one that is not below the route's is dropped."""
    if not per_try_s or (timeout_s and per_try_s >= timeout_s):
        return None
    return per_try_s


def merge_timeouts(
    timeout_s: float | None, per_try_s: float | None, overrides: Overrides | None
) -> tuple[float | None, float | None]:
    """Route timeout and per-try timeout with the request's own headers applied.

    A header replaces its setting; 0 means none. Then :func:`per_try_timeout_s`.
    """
    if overrides is not None:
        if overrides.timeout_s is not None:
            timeout_s = overrides.timeout_s or None
        if overrides.per_try_timeout_s is not None:
            per_try_s = overrides.per_try_timeout_s or None
    return timeout_s, per_try_timeout_s(timeout_s, per_try_s)


def expected_timeout_ms(
    timeout_s: float | None,
    per_try_s: float | None,
    elapsed_s: float,
    hedging: bool = False,
) -> int | None:
    """Value of ``x-envoy-expected-rq-timeout-ms`` for the try about to be sent.

    The per-try timeout, or the route's if there is none or when hedging; never
    more than what the route's timeout has left after ``elapsed_s``, and 1 when
    nothing is left. None: the header is absent.
    """
    timeout_ms = _milliseconds(timeout_s)
    expected_ms = timeout_ms if hedging else _milliseconds(per_try_s) or timeout_ms
    if expected_ms <= 0:
        return None
    if timeout_ms > 0:
        left_ms = timeout_ms - int(elapsed_s * 1000)
        expected_ms = min(expected_ms, left_ms) if left_ms > 0 else 1
    return expected_ms


def ends_in_time(now: float, delay_s: float, deadline: float | None) -> bool:
    """Whether a wait of ``delay_s`` leaves any time for a try before ``deadline``
    (on ``now``'s scale); if not, the retry is not made."""
    return deadline is None or now + delay_s < deadline


def _milliseconds(seconds: float | None) -> int:
    """Whole milliseconds, at least 1 for a limit that exists; 0 for none."""
    if seconds is None or seconds <= 0:
        return 0
    return max(1, round(seconds * 1000))


__all__ = ["ends_in_time", "expected_timeout_ms", "merge_timeouts", "per_try_timeout_s"]
