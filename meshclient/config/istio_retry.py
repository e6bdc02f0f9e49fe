"""``retries`` of VirtualService routes, and Istio's default when there is none.

Reads and translates; when a retry happens is decided elsewhere. Source of the
rules: Istio ``pilot/pkg/networking/core/route/retry/retry.go``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from http import HTTPStatus

from meshclient.config.reader import Reader
from meshclient.model.retry import RETRY_ON_GRPC, RETRY_ON_HTTP, BackOff, RetryPolicy
from meshclient.model.source import Diagnostic

#: Istio adds ``retriable-status-codes`` without any code, which matches nothing.
DEFAULT_RETRY_ON = frozenset({"connect-failure", "refused-stream", "unavailable", "cancelled"})
_HOST_ATTEMPTS = 5
_STATUS_NUMBERS = frozenset(int(status) for status in HTTPStatus)
_KNOWN = RETRY_ON_HTTP | RETRY_ON_GRPC

#: What a route without ``retries`` does: two extra tries.
DEFAULT_RETRIES = RetryPolicy(
    retry_on=DEFAULT_RETRY_ON, num_retries=2, previous_hosts=True, host_attempts=_HOST_ATTEMPTS
)


@dataclass(frozen=True, slots=True)
class Retries:
    """``policy`` None: retries are off. ``explicit_hosts`` says that the document
    itself decided about previous hosts, so that a hash policy does not."""

    policy: RetryPolicy | None
    explicit_hosts: bool = False
    notes: tuple[Diagnostic, ...] = ()

    def effective(self, *, consistent_hash: bool) -> RetryPolicy | None:
        """The policy for a route whose single destination is (not) hashed."""
        if self.policy is None or self.explicit_hosts or not consistent_hash:
            return self.policy
        return replace(self.policy, previous_hosts=False, host_attempts=1)


def parse_retry_on(text: str) -> tuple[list[str], list[int]]:
    """Conditions and status codes of the comma list, in order, without blanks.

    A number that is no HTTP status stays among the conditions. Codes add the
    condition ``retriable-status-codes`` unless it is there.
    """
    words: list[str] = []
    codes: list[int] = []
    for part in text.split(","):
        word = part.strip()
        if word.isascii() and word.isdigit() and int(word) in _STATUS_NUMBERS:
            codes.append(int(word))
        elif word:
            words.append(word)
    if codes and "retriable-status-codes" not in words:
        words.append("retriable-status-codes")
    return words, codes


def read_retries(block: Reader) -> Retries:
    """One ``retries`` block. Without ``attempts``, or with 0, retries are off."""
    attempts_field = block.field("attempts")
    attempts = (attempts_field.integer(0, 2**31 - 1) or 0) if attempts_field else 0
    per_try = _duration(block.field("perTryTimeout"))
    retry_on, codes = _read_retry_on(block.field("retryOn"))
    notes, remote = _read_remote(block)
    previous_field = block.field("retryIgnorePreviousHosts")
    previous = previous_field.boolean() if previous_field else None
    back_off = _duration(block.field("backoff"))
    block.finish("retries")
    if attempts == 0:
        _check_disabled(block, per_try is not None or remote)
        return Retries(None, notes=notes)
    avoid = previous is not False
    policy = RetryPolicy(
        retry_on=retry_on,
        num_retries=attempts,
        per_try_timeout_s=per_try,
        status_codes=codes,
        back_off=BackOff() if back_off is None else BackOff(back_off, 10 * back_off),
        previous_hosts=avoid,
        host_attempts=_HOST_ATTEMPTS if avoid else 1,
        source=block.source,
    )
    return Retries(policy, explicit_hosts=previous is not None, notes=notes)


def _duration(field: Reader | None) -> float | None:
    return field.go_duration() if field is not None else None


def _read_remote(block: Reader) -> tuple[tuple[Diagnostic, ...], bool]:
    field = block.field("retryRemoteLocalities")
    if field is None or not field.boolean():
        return (), False
    return (field.not_honoured("retries into other localities"),), True


def _check_disabled(block: Reader, configured: bool) -> None:
    if configured or block.has("retryOn"):
        block.error(
            "http retry policy configured when attempts are set to 0 (disabled)",
            code="retries-disabled",
            suggestion="set attempts",
        )
    elif not block.has("attempts"):
        block.warning(
            "a retries block without attempts switches retries off",
            code="retries-disabled",
            suggestion="set attempts, or remove the block for the default of 2",
        )


def _read_retry_on(field: Reader | None) -> tuple[frozenset[str], frozenset[int]]:
    text = field.string() if field is not None else None
    if field is None or not text:
        return DEFAULT_RETRY_ON, frozenset()
    words, codes = parse_retry_on(text)
    for word in words:
        if word not in _KNOWN:
            field.error(f'"{word}" is not a valid retryOn policy', code="retry-on")
    if any(part != part.strip() for part in text.split(",")):
        field.warning("Istio's validation refuses blanks in this list", code="retry-on")
    return frozenset(words), frozenset(codes)
